"""The stub of ComfyUI against a real one, which COMFYUI_PATH names: what it has is there, and is called alike."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from comfy_server import COMFYUI, needs_comfyui

ROOT = Path(__file__).resolve().parent.parent
COMPARE = """
import inspect
import sys
from enum import EnumMeta
from importlib import import_module

tests, comfyui, base = sys.argv[1:]
sys.argv = ["compare", "--cpu", "--base-directory", base]
sys.path[:0] = [comfyui]
import comfy.options

comfy.options.enable_args_parsing()
sys.path.append(tests)
import host_modules

OWN = {"messages", "instance"}  # of the stub, for tests; set by a server that runs
problems = []


def compare(where, stub, real):
    if isinstance(stub, EnumMeta):
        problems.extend(f"{where}.{each.name}" for each in stub if real[each.name].value != each.value)
    elif inspect.isclass(stub):
        for name, member in vars(stub).items():
            if name == "__init__" or (callable(getattr(stub, name)) and not name.startswith("_")):
                compare(f"{where}.{name}", getattr(stub, name), getattr(real, name, None))
            elif not name.startswith("_") and not hasattr(real, name) and name not in OWN:
                problems.append(f"{where}.{name} is missing")
    elif inspect.isfunction(stub) or inspect.ismethod(stub):
        if real is None:
            problems.append(f"{where} is missing")
            return
        ours, theirs = (list(inspect.signature(each).parameters.values()) for each in (stub, real))
        if any(each.kind is each.VAR_KEYWORD for each in ours):  # keeps what it is given
            return
        # what has no default is given by position: backends of attention call it otherwise
        same = all(a.name == b.name or a.default is a.empty for a, b in zip(ours, theirs)) and len(ours) <= len(theirs)
        needed = [each.name for each in theirs[len(ours) :] if each.default is each.empty and each.kind < 2]  # no *, **
        same &= all((a.default is a.empty) == (b.default is b.empty) for a, b in zip(ours, theirs))
        if not same or needed:
            problems.append(f"{where}{inspect.signature(stub)} is {inspect.signature(real)}")
    elif real is None:
        problems.append(f"{where} is missing")


for module in host_modules.MODULES:
    real = import_module(module.__name__)
    for name, stub in vars(module).items():
        if name.startswith("__"):
            continue
        values = vars(stub) if name in ("io", "Types", "args") else {"": stub}
        for part, each in values.items():
            where = ".".join(filter(None, (module.__name__, name, part)))
            there = getattr(real, name, None)
            compare(where, each, getattr(there, part, None) if part and there is not None else there)
    print("compared", module.__name__)
print(*problems, sep="\\n")
sys.exit(len(problems))
"""


@needs_comfyui
def test_the_stub_is_as_comfyui_is(tmp_path):
    version = re.search(r'"(\d+)\.(\d+)', (Path(COMFYUI) / "comfyui_version.py").read_text())
    if tuple(map(int, version.groups())) < (0, 33):
        pytest.skip("the stub is as ComfyUI 0.33")
    command = [sys.executable, "-c", COMPARE, str(ROOT / "tests"), COMFYUI, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=dict(os.environ), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count("compared") == len(module_names())


def module_names():
    import host_modules

    return [each.__name__ for each in host_modules.MODULES]


def test_what_the_nodes_import_of_comfyui_is_in_the_stub(root):
    """Every module of ComfyUI that the nodes name, and every attribute of it."""
    import ast

    import host_modules

    known = host_modules.by_name()
    for path in sorted((root / "nodes").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level and node.module in known:
                for alias in node.names:
                    assert hasattr(known[node.module], alias.name), (path.name, node.module, alias.name)


@pytest.mark.parametrize("name", ["comfy.model_management", "folder_paths"])
def test_a_name_that_the_stub_lacks_is_an_error(name):
    import host_modules

    with pytest.raises(AttributeError):
        host_modules.by_name()[name].cannot_be_there  # noqa: B018
