"""The house: imports go downhill only, and rules that a machine can check."""

import ast
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter

import pytest

# Rooms by height; a module may import what stands lower, and its own room.
HEIGHT = {
    "errors": 0,
    "schema": 0.5,  # checks of JSON, for the spec too
    "packing": 0,  # formats of quantised weights
    "beginnings": 0,  # of files that are not what their names say
    "signals": 0,
    "srgb": 0,
    "sums": 0,
    "temporary": 0,
    "words": 0,
    "spec": 1,
    "backends": 1,
    "budget": 1,
    "sampling": 2,
    "speed": 2.5,
    "warp": 2,
    "runtime": 3,
    "streaming": 2,
    "weights": 3,
    "image": 3,
    "triton_launch": 2,
    "foreign": 2,
    "replay": 2,
    "views": 4,
    "sparse": 3,
    "models": 4,
    "mesh": 4,
    "plan": 5,
    "record": 5.5,
    "export": 5,
    "render": 5,
    "project": 5,
    "console": 4,
    "stages": 6,
    "make": 6.5,
    "batch": 7,
    "bench": 7,
    "cli": 8,
    "__main__": 9,
    "": 10,  # the package itself: its version
}

IMPORTS = ast.Import, ast.ImportFrom


@cache
def walked(path):
    """A file's imports, the lines on which literals are unpacked into calls, and whether it prints, from one walk. The
    syntax tree is not kept: a million objects would slow every garbage collection after it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    calls = (node.func for node in nodes if isinstance(node, ast.Call))
    prints = any(isinstance(function, ast.Name) and function.id == "print" for function in calls)
    return tuple(node for node in nodes if isinstance(node, IMPORTS)), unpacked_literals(nodes), prints


def import_nodes(path):
    return walked(path)[0]


@cache
def rooms(path, root):
    """(room of the file, rooms it imports from the pipeline, other modules it imports)."""
    parts = path.relative_to(root / "pipeline").with_suffix("").parts
    package = parts[:-1]
    own = parts[0] if parts != ("__init__",) else ""
    ours, others = set(), set()
    for node in import_nodes(path):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            full = (*base, *(node.module.split(".") if node.module else ()))
            ours |= {full[0]} if full else {alias.name for alias in node.names if alias.name in HEIGHT}
        elif isinstance(node, ast.ImportFrom):
            others.add(node.module.split(".")[0])
        else:
            others |= {alias.name.split(".")[0] for alias in node.names}
    return own, ours, others


@pytest.fixture
def sources(root):
    return sorted((root / "pipeline").rglob("*.py"))


def test_imports_go_downhill(sources, root):
    uphill = []
    for path in sources:
        own, ours, _ = rooms(path, root)
        uphill += [
            f"{path.relative_to(root)} imports {room}" for room in ours if room != own and HEIGHT[room] >= HEIGHT[own]
        ]
    assert not uphill


def imports(root, folder):
    """{module: the modules of the same top folder that it imports, lazily or not}, as dotted names."""
    paths = {}
    for path in (root / folder).rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph = {}
    for module, path in paths.items():
        package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        graph[module] = targets = set()
        for node in import_nodes(path):
            if not isinstance(node, ast.ImportFrom):
                continue
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                targets |= {name for name in (f"{source}.{alias.name}", source) if name in paths and name != module}
                if f"{source}.{alias.name}" in paths:  # a module of a package, which itself is not what is wanted
                    targets.discard(source)
    return graph


def circle(graph):
    """The modules of a circle, or ()."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return tuple(error.args[1])
    return ()


@pytest.mark.parametrize("folder", ["pipeline", "training", "nodes", "serving", "installation"])
def test_no_circle_of_modules_even_inside_a_room(root, folder):
    assert not circle(imports(root, folder))


@pytest.mark.parametrize("folder", ["pipeline", "nodes", "training"])
def test_nothing_imports_what_stands_above_it(root, folder):
    """The service is on top: what it serves knows nothing of it, nor of what it is made with."""
    above = {"serving", "ray", "fastapi", "uvicorn", "starlette", "sqlalchemy", "prometheus_client"}
    for path in (root / folder).rglob("*.py"):
        for node in import_nodes(path):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *names] if not node.level else names
            assert not {name.partition(".")[0] for name in names} & above, path


def test_nothing_imports_what_serves(root):
    """It stands on the pipeline alone, and only its own files name it."""
    for path in root.rglob("*.py"):
        room = path.relative_to(root).parts[0]
        if room in ("serving", "deploy", "tests") or room.startswith("."):
            continue
        assert not re.search(r"^\s*(from|import) \.*serving\b", path.read_text(encoding="utf-8"), re.MULTILINE), path
    for path in (root / "serving").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(from|import) (nodes|training|comfy|folder_paths)\b", text, re.MULTILINE), path


def folders_inside(root, room):
    """{folder or module of a room of the pipeline: those of the same room that it imports}."""

    def folder(module):
        return ".".join(module.split(".")[:3]) if module.count(".") > 2 else module

    steps = {}
    for module, targets in imports(root, "pipeline").items():
        if module.startswith(f"pipeline.{room}."):
            steps.setdefault(folder(module), set()).update(
                folder(each) for each in targets if folder(each) != folder(module)
            )
    return steps


@pytest.mark.parametrize("room", ["mesh", "stages"])
def test_no_circle_of_folders_inside_a_room(root, room):
    steps = folders_inside(root, room)
    assert len(steps) > 8 and not circle(steps)


def test_stages_on_meshes_need_no_networks(root):
    steps = folders_inside(root, "stages")
    assert {"pipeline.stages.networks", "pipeline.stages.finishing"} <= steps["pipeline.stages.user_mesh"]
    assert "pipeline.stages.networks" not in steps["pipeline.stages.finishing"]
    assert "pipeline.stages.finishing" not in steps["pipeline.stages.networks"]


@pytest.mark.parametrize("room", ["pipeline", "nodes", "training", "serving", "deploy", "benchmarks"])
def test_a_folder_can_be_read_at_a_glance(root, room):
    """25 files at most; tests/ mirrors all rooms at once."""
    folders = [root / room, *(path for path in (root / room).rglob("*") if path.is_dir())]
    counts = {
        str(folder.relative_to(root)): sum(path.is_file() for path in folder.iterdir())
        for folder in folders
        if folder.name != "__pycache__"
    }
    assert not {folder: count for folder, count in counts.items() if count > 25}


def test_a_circle_is_seen(tmp_path):
    for name, text in {"__init__": "", "a": "def f():\n    from .b import g", "b": "from . import a"}.items():
        (tmp_path / "room").mkdir(exist_ok=True)
        (tmp_path / "room" / f"{name}.py").write_text(text, encoding="utf-8")
    assert set(circle(imports(tmp_path, "room"))) == {"room.a", "room.b"}


def test_every_room_has_a_height(sources, root):
    assert {rooms(path, root)[0] for path in sources} == set(HEIGHT)


def test_the_library_knows_neither_comfyui_nor_its_own_name(sources, root):
    for path in sources:
        assert not rooms(path, root)[2] & {"comfy", "folder_paths", "nodes", "pipeline"}, path


@pytest.mark.parametrize(
    "phrase", ["os.environ", "os.getenv", "except Exception", "strict=False", "trust_remote_code=True", "torch.load("]
)
def test_refused_phrases(sources, phrase):
    assert not [path for path in sources if phrase in path.read_text(encoding="utf-8")]


def unpacked_literals(nodes):
    """Lines on which a tuple or list that is written out is unpacked into a call: f(*(a, b)), which is f(a, b)."""
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    stars = [each for call in calls for each in call.args if isinstance(each, ast.Starred)]
    return [star.lineno for star in stars if isinstance(star.value, (ast.Tuple, ast.List))]


def test_an_unpacked_literal_is_seen():
    text = "f(*(1, 2))\ng(*[x], y)\nh(*x, *(k for k in y))\n(*a, *b)"
    assert unpacked_literals(ast.walk(ast.parse(text))) == [1, 2]


def own_files(root):
    """Every Python file of the repository; an environment may lie beside them."""
    folders = ("pipeline", "nodes", "training", "serving", "deploy", "installation", "tests", "workflows", "benchmarks")
    return [*root.glob("*.py"), *(path for folder in folders for path in (root / folder).rglob("*.py"))]


def test_arguments_are_written_as_arguments(root):
    found = {path: walked(path)[1] for path in own_files(root)}
    assert not {path: lines for path, lines in found.items() if lines}


def test_only_the_command_line_prints(sources, root):
    for path in sources:
        if rooms(path, root)[0] in ("cli", "bench", "console"):
            continue
        assert not walked(path)[2], path


def numbers_in(value):
    """The numbers that an expression is written with: alone, in tuples, sums and Warp's constants."""
    if isinstance(value, ast.Constant):
        return [value.value] if type(value.value) in (int, float) else []
    if isinstance(value, ast.Call) and not ast.unparse(value.func).startswith("wp."):
        return []
    inside = (ast.Tuple, ast.UnaryOp, ast.BinOp, ast.Call)
    return [n for each in ast.iter_child_nodes(value) for n in numbers_in(each)] if isinstance(value, inside) else []


def uncommented_numbers(text):
    """Lines of module-level constants that hold a number, without a comment on them or on the lines just above."""
    lines, found = text.splitlines(), []
    for node in ast.parse(text).body:
        if not isinstance(node, ast.Assign) or not numbers_in(node.value):
            continue
        first = next(n for n in range(node.lineno - 1, -1, -1) if n == 0 or not lines[n - 1].strip())
        if not any("#" in line for line in lines[first : node.end_lineno]):
            found.append(node.lineno)
    return found


def test_a_number_without_a_reason_is_seen():
    assert uncommented_numbers('A = 1\n\nB = 2  # pixels\n\n# Degrees.\nC = 3\nD = 4, 5\n\nE = "6"\n\nF = f(7)\n') == [
        1
    ]


@pytest.mark.parametrize("folder", ["pipeline", "nodes", "serving", "training"])
def test_constants_say_what_they_are(root, folder):
    """A comment with the unit, the reason or the source, on the line or above a block of them."""
    found = {path: uncommented_numbers(path.read_text(encoding="utf-8")) for path in (root / folder).rglob("*.py")}
    assert not {str(path.relative_to(root)): lines for path, lines in found.items() if lines}


def test_a_file_has_one_subject_and_says_which(root):
    """Fewer than 400 lines, and what it is about in its first line; an empty one marks a folder."""
    for path in own_files(root):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 400, path
        assert not text or re.match(r'("""|#!|# )', text), path
