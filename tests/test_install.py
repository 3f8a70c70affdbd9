"""install.py: what it finds and says, on machines and packages made up here, and what it tells pip. No network."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

import pytest

from installation import comfyui, commands
from installation import report as reports
from installation.machine import Machine, matching_triton
from installation.packages import OPTIONS
from installation.probe import Found, probe

# A pip that writes down what it was asked and fails if it is told to.
PIP = """
import json, os, sys
from pathlib import Path
arguments = sys.argv[1:]
constraints = Path(arguments[arguments.index("--constraint") + 1]).read_text()
with open(os.environ["PIP_LOG"], "a") as log:
    log.write(json.dumps({"command": [sys.executable, "-m", "pip", *arguments], "constraints": constraints}) + "\\n")
print("Collecting something")
if "PIP_FAILS" in os.environ:
    sys.exit("WARNING: slow\\nERROR: No matching distribution found for it\\n[notice] a new release of pip\\n")
"""
NAMES = tuple(option.name for option in OPTIONS)


@pytest.fixture
def packages(tmp_path):
    """Makes packages that shadow the real ones: packages(name=source); returns their folder.

    Some are among them unless they are made otherwise: importing the real ones takes seconds.
    """
    folder = tmp_path / "some packages"

    def make(**sources):
        slow = {"torch": "raise ImportError('made up')", "trimesh": "", "pynanoinstantmeshes": ""}
        for name, source in {**slow, **sources}.items():
            (folder / name).mkdir(parents=True)
            (folder / name / "__init__.py").write_text(source)
        return folder

    return make


@pytest.fixture
def report(root, tmp_path):
    """Runs install.py as a user does, from a foreign folder; returns the finished process, which must succeed."""

    def run(*arguments, path="", script=root / "install.py", python=sys.executable, code=0, **environment):
        environment = {**os.environ, "PYTHONPATH": str(path), **environment}
        command = [str(python), str(script), *arguments]
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert ended.returncode == code, ended.stderr
        return ended

    return run


@pytest.fixture
def machine():
    """Makes up a machine; without arguments Linux with an RTX 4090 and torch for CUDA 13."""

    def make(cuda="13.0", hip="", capability=(8, 9), system="Linux", processor="x86_64", build="2.12.0", **more):
        gpus = [{"name": "made up", "memory": 24 << 30, "capability": list(capability)}] if cuda or hip else []
        torch = Found("usable", build, facts={"build": build, "cuda": cuda, "hip": hip, "mps": 0, "gpus": gpus})
        more = {"triton": ("triton==3.7.0",), "python": (3, 12, 0), **more}
        return Machine(system=system, processor=processor, torch=torch, **more)

    return make


def test_report(report, root):
    text = report().stdout
    torch_version = __import__("torch").__version__
    for fact in (sys.executable, "Python ", f"torch     {torch_version}", "GPU ", "ComfyUI ", "not needed)"):
        assert fact in text
    for line in (root / "requirements.txt").read_text().splitlines():
        if not line.startswith("#"):
            name = re.match(r"[\w.-]+", line)[0]
            assert re.search(rf"^  {name} ", text, re.M)
    for name in NAMES:
        assert re.search(rf"^  {name} +(usable|absent|broken)", text, re.M)


def test_packages_that_misbehave_are_broken_for_their_reason(report, packages):
    folder = packages(
        triton="raise ImportError('DLL load failed')",
        sageattention="import sys\nprint('No backend found.')\nprint('See there.')\nsys.exit(1)",
        flash_attn="import os, signal\nos.kill(os.getpid(), signal.SIGKILL if os.name == 'posix' else 9)",
        xformers="import sys\nsys.exit(0)",
        cumesh="__version__ = '0.1.0'",
        o_voxel="__version__ = '1.2'\nprint('noise')",
        rembg="import absent_package_of_rembg",
        onnxruntime="",
    )
    found = json.loads(report("--json", path=folder).stdout)
    rows = {row["name"]: row for row in found["optional"] + found["reference"]}
    reasons = {
        "triton": "ImportError: DLL load failed",
        "sageattention": "No backend found.",
        "flash_attn": "crashed with signal 9" if os.name == "posix" else "code 9",
        "xformers": "ends Python with code 0",
        "cumesh": "placeholder, not CuMesh",
        "rembg": "No module named 'absent_package_of_rembg'",
    }
    for name, reason in reasons.items():
        assert rows[name]["state"] == "broken" and reason in rows[name]["reason"], rows[name]
    assert (rows["o_voxel"]["state"], rows["o_voxel"]["version"]) == ("usable", "1.2")
    assert rows["nvdiffrast"]["state"] == "absent"
    assert not any(row["command"] for row in found["reference"])


def test_package_that_hangs_is_broken(packages, monkeypatch):
    folder = packages(sleeper="import time\ntime.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(folder)
    found = probe("sleeper", timeout=0.5)
    assert found.state == "broken" and "0.5 seconds" in found.reason


def test_what_is_absent_costs_no_process(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *given, **more: pytest.fail("a process"))
    assert probe("not_installed_anywhere").state == "absent"


def test_a_module_of_another_name_is_found_and_its_version_told(report, packages):
    folder = packages(pxr="")
    (folder / "usd_core-24.11.dist-info").mkdir()
    (folder / "usd_core-24.11.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: usd-core\nVersion: 24.11"
    )
    rows = {row["name"]: row for row in json.loads(report("--json", path=folder).stdout)["optional"]}
    assert (rows["usd-core"]["state"], rows["usd-core"]["version"]) == ("usable", "24.11")


def test_bare_python(report, tmp_path):
    """No torch, no pip, no packaging: still a report that tells what to do."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=os.name != "nt")
    folder = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    text = report(python=tmp_path / "bare" / folder).stdout
    assert re.search(r"^torch +absent.*pytorch\.org", text, re.M)
    assert re.search(r"^pip +absent", text, re.M)
    assert re.search(r"^  safetensors +absent", text, re.M)
    assert "-m pip install --only-binary :all: -r " in text


def test_python_that_does_not_look_beside_the_script(report, packages):
    """As the embedded one of ComfyUI for Windows; and a package of the same name comes later."""
    folder = packages(installation="raise ImportError('another one')")
    assert report(path=folder, PYTHONSAFEPATH="1").stdout.startswith("Python ")


def test_broken_torch(report, packages):
    text = report(path=packages(torch="raise OSError('libcudart.so.12: cannot open shared object file')")).stdout
    assert re.search(r"^torch +broken \(OSError: libcudart.*pytorch\.org", text, re.M)


@pytest.mark.parametrize("version, fine", [("0.3.40", False), ("0.3.64", True), ("0.33.0", True), ("1.0", True)])
def test_comfyui(monkeypatch, tmp_path, version, fine):
    (tmp_path / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    found = comfyui.find_comfyui()
    assert (found.version, found.facts["folder"]) == (version, str(tmp_path))
    assert found.state == ("usable" if fine else "broken") and ("0.3.64" in found.reason) != fine


def test_comfyui_is_found_round_the_pack(monkeypatch, root, tmp_path):
    (tmp_path / "comfyui_version.py").write_text("__version__ = '0.33.0'")
    (tmp_path / "custom_nodes").mkdir()
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(comfyui, "PACK", tmp_path / "custom_nodes" / "pack")
    assert comfyui.find_comfyui().version == "0.33.0"
    monkeypatch.setattr(comfyui, "PACK", root)
    link = tmp_path / "custom_nodes" / "link"
    try:
        link.symlink_to(root, target_is_directory=True)
    except OSError:  # Windows, without the right to make links
        return
    monkeypatch.setenv("PWD", str(link))
    assert comfyui.find_comfyui().version == "0.33.0"
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "nowhere"))
    assert comfyui.find_comfyui().state == "absent"


def test_too_old_comfyui_in_the_report(report, packages, root, tmp_path):
    """From a copy below custom_nodes, in a path with spaces."""
    pack = tmp_path / "Comfy UI" / "custom_nodes" / "the pack"
    pack.mkdir(parents=True)
    for name in ("install.py", "requirements.txt"):
        shutil.copy(root / name, pack)
    shutil.copytree(root / "installation", pack / "installation")
    (tmp_path / "Comfy UI" / "comfyui_version.py").write_text('__version__ = "0.3.40"')
    text = report(script=pack / "install.py", path=packages(), COMFYUI_PATH="").stdout
    assert re.search(r"^ComfyUI +0\.3\.40, .*Comfy UI \(too old, update ComfyUI to 0\.3\.64", text, re.M)


def test_requirements(machine, monkeypatch, tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text("# a comment\nfirst\nsecond>=2\nthird_one>=2\nfourth>=1; python_version < '3'\n")
    monkeypatch.setattr(reports, "REQUIREMENTS", file)
    rows = reports.required_rows(machine(installed={"second": "1.9", "third-one": "2.1"}))
    assert [(row.name, row.state) for row in rows] == [
        ("first", "absent"),
        ("second", "broken"),
        ("third_one", "usable"),
        ("fourth", "usable"),
    ]
    assert ">=2" in rows[1].reason and "no wheel" in rows[3].reason


FITS = {
    "nvidia": ({}, {"rembg": "rembg[gpu]", "sageattention": "sageattention triton==3.7.0", "triton": "triton==3.7.0"}),
    "cuda 12": ({"cuda": "12.8", "installed": {"triton": "3.7.0"}}, {"rembg": "rembg[cpu]", "xformers": "xformers"}),
    "turing": ({"capability": (7, 5)}, {"sageattention": "", "triton": "triton==3.7.0"}),
    "amd": ({"cuda": "", "hip": "7.0"}, {"rembg": "rembg[cpu]", "sageattention": "", "triton": "", "xformers": ""}),
    "mac": ({"cuda": "", "system": "Darwin", "processor": "arm64"}, {"rembg": "rembg[cpu]", "triton": ""}),
    "no compiler": ({"has_compiler": False}, {"sageattention": "", "triton": ""}),
    "other onnxruntime": ({"installed": {"onnxruntime": "1.31"}}, {"rembg": "rembg[cpu]"}),
}


@pytest.mark.parametrize("facts, commands", FITS.values(), ids=FITS.keys())
def test_what_fits(machine, facts, commands):
    rows = {}
    for option in OPTIONS:
        row = reports.optional_row(option, Found("absent"), machine(**facts))
        rows[option.name] = " ".join(row.command).split(".txt ")[-1]
        if option.name not in facts.get("installed", ()):
            assert bool(row.command) != bool(row.reason)  # a command, or why there is none
    assert {name: rows[name] for name in commands} == commands
    assert rows["flash_attn"] == ""


def test_triton_for_windows():
    assert matching_triton("Windows", "2.9.1+cu130") == ("triton-windows==3.5.*",)
    assert matching_triton("Windows", "9.9.0") == matching_triton("Darwin", "2.9.1") == ()


@pytest.fixture
def constraints(monkeypatch, tmp_path):
    """Makes the file of constraints; returns what it says, in an empty folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(commands.tempfile, "tempdir", str(folder))

    def make():
        commands._constraints.cache_clear()
        option, path = commands._keep_torch()
        assert option == "--constraint" and Path(path).parent == folder
        return Path(path)

    return make


def test_nobody_else_can_choose_what_pip_installs(constraints, tmp_path):
    """Another local user knows the names: of the file, and of what it must hold."""
    mine = constraints()
    text = mine.read_text()
    assert f"torch=={version('torch')}\n" in text
    assert constraints() == mine  # an earlier run's serves again
    if os.name != "nt":
        assert mine.stat().st_mode & 0o777 == 0o600
        mine.chmod(0o666)
        assert constraints() != mine
        mine.unlink()
    for old in mine.parent.iterdir():
        old.write_text("torch==0.0.1\n")
    assert constraints().read_text() == text
    for old in mine.parent.iterdir():
        old.unlink()
    (tmp_path / "theirs.txt").write_text(text)
    try:
        (mine.parent / "trellis2-keep-torch-1.txt").symlink_to(tmp_path / "theirs.txt")
    except OSError:  # Windows, without the right to make links
        return
    assert constraints().name != "trellis2-keep-torch-1.txt"


def test_no_room_for_the_constraints(constraints, monkeypatch):
    """Torch is held all the same, and no half-written file stays."""
    folder = constraints().parent
    for old in folder.iterdir():
        old.unlink()
    commands._constraints.cache_clear()

    class Full:
        def __init__(self, descriptor, *options, **more):
            os.close(descriptor)

        def __enter__(self):
            raise OSError(28, "No space left on device")

        def __exit__(self, *exception):
            pass

    monkeypatch.setattr(commands, "open", Full, raising=False)
    command = commands.pip_install("rembg[cpu]")
    assert f"torch=={version('torch')}" in command and "--constraint" not in command
    assert command[-1] == "rembg[cpu]" and not list(folder.iterdir())


@pytest.mark.parametrize("fails", [False, True])
def test_install_runs_the_shown_command(report, packages, tmp_path, fails):
    folder = packages(pip="")
    (folder / "pip" / "__main__.py").write_text(PIP)
    log = tmp_path / "log"
    environment = {"PIP_LOG": str(log), **({"PIP_FAILS": "1"} if fails else {})}
    text = report("--install", "rembg", "xformers", path=folder, **environment).stdout
    (asked,) = map(json.loads, log.read_text().splitlines())  # xformers does not fit a CPU
    shown = [line.strip() for line in text.splitlines() if line.startswith("    ") and "rembg[" in line]
    assert [shlex.split(line) for line in shown] == [asked["command"]] or os.name == "nt"
    assert asked["command"][:6] == [sys.executable, "-m", "pip", "install", "--only-binary", ":all:"]
    assert f"torch=={version('torch')}" in asked["constraints"].splitlines()
    outcome = text.splitlines()[-2:]
    reason = r" \(pip failed: No matching distribution found for it\)" if fails else ""
    assert re.fullmatch(rf"rembg: absent{reason}", outcome[0])
    assert outcome[1].startswith("xformers: absent (needs an NVIDIA GPU")


def test_install_as_json(report, packages, tmp_path):
    folder = packages(pip="")
    (folder / "pip" / "__main__.py").write_text(PIP)
    ended = report("--install", "all", "--json", path=folder, PIP_LOG=str(tmp_path / "log"))
    assert [row["name"] for row in json.loads(ended.stdout)["installed"]] == [
        name for name in NAMES if name != "flash_attn"
    ]
    assert "Collecting something" in ended.stderr


@pytest.mark.parametrize("name", ["nonsense", "flash_attn", "cumesh", "torch"])
def test_names_that_cannot_be_installed(report, name):
    assert "invalid choice" in report("--install", name, code=2).stderr


def test_pip_error():
    text = "ERROR: Cannot install a and b\nERROR: ResolutionImpossible: for help visit\n[notice] x"
    assert commands.pip_error(text) == "Cannot install a and b"
    assert commands.pip_error("/usr/bin/python: No module named pip") == "/usr/bin/python: No module named pip"
    assert commands.pip_error("") == "it printed nothing"
