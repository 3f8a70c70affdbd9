"""Reports what this Python, torch, GPU and ComfyUI offer the pack, and installs optional packages on request.

    python install.py                     report only
    python install.py --install rembg     run the pip command that the report shows for it
    python install.py --json              the same facts as JSON

Nothing is ever compiled (pip gets wheels only), torch is never exchanged, and an optional package that is
absent, broken or cannot be installed is one line of the report: the exit code stays 0.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

PACK = Path(os.path.abspath(__file__)).parent  # not resolved: the pack may be linked into custom_nodes
REQUIREMENTS = PACK / "requirements.txt"
OLDEST_PYTHON = (3, 10)
OLDEST_COMFYUI = (0, 3, 64)
TIMEOUT = 60  # seconds for one import
_KEEP = "trellis2-keep-torch-"
USABLE, ABSENT, BROKEN = "usable", "absent", "broken"

# ---------------------------------------------------------------- what a package is, found by importing it

_MARK = "trellis2-probe:"
# argv: module, code. The code may fill `facts`; raising SystemExit("text") calls the package broken for that reason.
_PROBE = f"""
import importlib.metadata, importlib.util, json, sys
sys.path[:] = [entry for entry in sys.path if entry]  # not the current folder
module, code = sys.argv[1:]
facts, version = {{}}, ""
state = "absent" if importlib.util.find_spec(module) is None else "usable"
if state == "usable":
    exec(code)
    try:
        version = importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        version = str(getattr(sys.modules[module], "__version__", ""))
print("\\n{_MARK}" + json.dumps({{"state": state, "version": version, "facts": facts}}))
"""


@dataclass(frozen=True)
class Found:
    """What importing a package in a process of its own showed."""

    state: str
    version: str = ""
    reason: str = ""
    facts: Mapping = field(default_factory=dict)


def probe(module: str, code: str = "", timeout: float = TIMEOUT) -> Found:
    """Import a package in another process, so that a crash, an exit or a hang stays there."""
    command = [sys.executable, "-c", _PROBE, module, code or f"import {module}"]
    quiet = {"stdin": subprocess.DEVNULL, "capture_output": True, "encoding": "utf-8", "errors": "replace"}
    try:
        ended = subprocess.run(command, timeout=timeout, **quiet)
    except subprocess.TimeoutExpired:
        return Found(BROKEN, reason=f"importing it takes more than {timeout:g} seconds")
    except OSError as error:
        return Found(BROKEN, reason=f"Python could not be started: {error}")
    last = (ended.stdout.strip().splitlines() or [""])[-1]
    if last.startswith(_MARK):  # whatever happens after that, at exit, is not our business
        return Found(**json.loads(last[len(_MARK) :]))
    return Found(BROKEN, reason=_why(ended))


def _why(ended: subprocess.CompletedProcess) -> str:
    """One line telling why a process ended early."""
    code = ended.returncode
    if code < 0:
        return f"crashed with signal {-code}"
    if code > 0xFFFF:  # Windows: an NTSTATUS such as 0xC0000005
        return f"crashed with code 0x{code:08X}"
    # whoever exits on purpose says why in the first line it prints, an exception in the last of the traceback
    lines = ended.stderr.strip().splitlines()[-1:] or ended.stdout.strip().splitlines()[:1]
    return lines[0].strip() if lines else f"importing it ends Python with code {code}"


# ---------------------------------------------------------------- the machine

_TORCH = """
import torch
facts.update(build=torch.__version__, cuda=torch.version.cuda or "", hip=getattr(torch.version, "hip", None) or "")
facts["mps"] = torch.backends.mps.is_available()
facts["gpus"] = []
for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
    gpu = torch.cuda.get_device_properties(index)
    facts["gpus"].append({"name": gpu.name, "memory": gpu.total_memory, "capability": [gpu.major, gpu.minor]})
"""

# torch -> triton, from the requirements of torch's Linux wheels; its Windows wheels name none
_TRITON = {"2.6": "3.2", "2.7": "3.3", "2.8": "3.4", "2.9": "3.5", "2.10": "3.6", "2.11": "3.6", "2.12": "3.7"}
_TRITON |= {"2.13": "3.7", "2.14": "3.8"}


@dataclass(frozen=True)
class Machine:
    """What decides which packages fit."""

    python: tuple[int, ...]
    system: str  # Linux, Windows, Darwin
    processor: str
    torch: Found
    driver: str = ""  # NVIDIA's
    executable: str = sys.executable
    has_pip: bool = True
    installed: Mapping[str, str] = field(default_factory=dict)  # package -> version
    triton: tuple[str, ...] = ()  # the package that matches torch, for pip
    has_compiler: bool = True  # what Triton needs at run time

    @property
    def gpus(self) -> list[dict]:
        return self.torch.facts.get("gpus", [])

    @property
    def cuda(self) -> str:
        """The CUDA version of torch, if it sees an NVIDIA GPU."""
        return self.torch.facts.get("cuda", "") if self.gpus else ""

    @property
    def capability(self) -> tuple[int, ...]:
        return tuple(self.gpus[0]["capability"]) if self.cuda else (0, 0)

    @property
    def is_x86(self) -> bool:
        return self.processor.lower() in ("x86_64", "amd64") and self.system in ("Linux", "Windows")


def look_at_machine(torch: Found, driver: str) -> Machine:
    installed = {}
    for package in importlib.metadata.distributions():
        if name := package.metadata["Name"]:  # None for the remains of an interrupted installation
            installed.setdefault(canonical(name), package.version)
    system = platform.system()
    # Triton builds a small launcher with gcc or clang when it first runs; triton-windows brings a compiler along
    headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return Machine(
        python=tuple(sys.version_info[:3]),
        system=system,
        processor=platform.machine(),
        torch=torch,
        driver=driver,
        has_pip=importlib.util.find_spec("pip") is not None,
        installed=installed,
        triton=matching_triton(system, torch.facts.get("build", "")),
        has_compiler=system != "Linux" or bool(headers and compiler),
    )


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def matching_triton(system: str, torch: str) -> tuple[str, ...]:
    """The Triton that belongs to a torch version, as pip takes it; () if none is known."""
    if system == "Linux":
        with suppress(importlib.metadata.PackageNotFoundError):
            for line in importlib.metadata.requires("torch") or ():
                if wanted := re.match(r"triton\s*\(?([~=]=[\w.]+)", line):
                    return (f"triton{wanted[1]}",)
    short = ".".join(torch.split(".")[:2])
    return (f"triton-windows=={_TRITON[short]}.*",) if system == "Windows" and short in _TRITON else ()


def nvidia_driver() -> str:
    """The version of the NVIDIA driver and its first GPU, or "" if nvidia-smi does not tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        ended = subprocess.run(command, capture_output=True, timeout=20, encoding="utf-8", errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ended.stdout.strip().splitlines()[0] if ended.returncode == 0 and ended.stdout.strip() else ""


# ---------------------------------------------------------------- optional packages


@dataclass(frozen=True)
class Need:
    """Something a package asks of the machine, and what to say where it is not so."""

    met: Callable[[Machine], bool]
    why: str


@dataclass(frozen=True)
class Option:
    """An optional package that this version really uses."""

    name: str  # of the module, and on our command line
    use: str = ""
    code: str = ""  # the probe's; without it a plain import
    needs: tuple[Need, ...] = ()  # for running it
    wheels: tuple[Need, ...] = ()  # for installing it
    packages: Callable[[Machine], tuple[str, ...]] = lambda machine: ()  # what pip has to bring


def rembg_packages(machine: Machine) -> tuple[str, ...]:
    # The two builds of onnxruntime share a folder, so the one that is there stays. Those on PyPI for GPUs are made
    # for CUDA 13; they borrow the libraries that torch has loaded.
    build = next((name for name in ("onnxruntime", "onnxruntime-gpu") if name in machine.installed), "")
    if build and "rembg" in machine.installed:
        return ()
    fits = machine.is_x86 and machine.cuda.startswith("13.") and machine.python >= (3, 11)
    return ("rembg[gpu]",) if build == "onnxruntime-gpu" or (not build and fits) else ("rembg[cpu]",)


def missing(machine: Machine, *packages: str) -> tuple[str, ...]:
    """Those that are not installed: one that is there but broken would only be "already satisfied"."""
    return tuple(package for package in packages if _name(package) not in machine.installed)


def _name(requirement: str) -> str:
    """The package that a line of requirements asks for."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


_GPU = Need(lambda machine: bool(machine.gpus), "needs a GPU that torch can use")
_NVIDIA = Need(lambda machine: bool(machine.cuda), "needs an NVIDIA GPU and a CUDA build of torch")
_AMPERE = Need(lambda machine: machine.capability >= (8, 0), "needs an NVIDIA GPU of the RTX 30 generation or newer")
_LAUNCHER = Need(
    lambda machine: machine.has_compiler,
    "needs gcc or clang and Python's headers (python3-dev) for Triton's first run",
)
_TRITON_KNOWN = Need(lambda machine: bool(machine.triton), "no Triton on PyPI is known to match this torch")
_X86 = Need(lambda machine: machine.is_x86, "no wheel on PyPI for this platform")
_CUDA_12 = Need(lambda machine: machine.cuda.startswith("12."), "its wheels on PyPI are made for CUDA 12 only")
_SOURCE_ONLY = Need(lambda machine: False, "no wheel on PyPI, only its source, which would have to be compiled")

_ATTENTION = "attention kernel for the loader's attention = comfyui"
OPTIONS = (
    Option(
        "rembg",
        "removes the background of a picture that has neither transparency nor a mask",
        "import onnxruntime, rembg",  # without onnxruntime rembg ends the process
        packages=rembg_packages,
    ),
    Option(
        "sageattention",
        f"{_ATTENTION}, when ComfyUI is started with --use-sage-attention",
        "from sageattention import sageattn",
        needs=(_GPU, _LAUNCHER),
        wheels=(_NVIDIA, _AMPERE, _TRITON_KNOWN),
        packages=lambda machine: missing(machine, "sageattention", *machine.triton),
    ),
    Option(
        "triton",
        "runs sageattention's kernels",
        "import triton, triton.language",
        needs=(_GPU, _LAUNCHER),
        wheels=(_NVIDIA, _TRITON_KNOWN),
        packages=lambda machine: missing(machine, *machine.triton),
    ),
    Option(
        "xformers",
        f"{_ATTENTION}; ComfyUI prefers it when it is installed",
        "import xformers, xformers.ops\n"
        "if not xformers._has_cpp_library:\n"  # what ComfyUI asks too
        "    raise SystemExit('its compiled part does not load with this torch')",
        needs=(_GPU,),
        wheels=(_NVIDIA, _X86, _CUDA_12),
        packages=lambda machine: missing(machine, "xformers"),
    ),
    Option(
        "flash_attn",
        f"{_ATTENTION}, when ComfyUI is started with --use-flash-attention",
        "from flash_attn import flash_attn_func",
        wheels=(_SOURCE_ONLY,),
    ),
)
# Microsoft's compiled packages: people ask for them, and this version uses none of them.
REFERENCE = (
    Option(
        "cumesh",
        code="import cumesh\nif not hasattr(cumesh, 'CuMesh'):\n    raise SystemExit('placeholder, not CuMesh')",
    ),
    Option("nvdiffrast", code="import nvdiffrast.torch"),
    Option("o_voxel"),
    Option("flex_gemm"),
)


# ---------------------------------------------------------------- the report


@dataclass(frozen=True)
class Row:
    """One package in the report."""

    name: str
    state: str
    version: str = ""
    reason: str = ""  # why it is not usable, or does not fit
    use: str = ""
    command: tuple[str, ...] = ()  # what would install it; () if it is here or does not fit


@dataclass(frozen=True)
class Report:
    machine: Machine
    comfyui: Found  # with facts["folder"]
    required: tuple[Row, ...]
    fix: tuple[str, ...]  # the command that brings what is required
    optional: tuple[Row, ...]
    reference: tuple[Row, ...]


def make_report() -> Report:
    """Look at everything; the imports run side by side."""
    options = OPTIONS + REFERENCE
    with ThreadPoolExecutor(len(options) + 2) as pool:
        torch = pool.submit(probe, "torch", _TORCH)
        driver = pool.submit(nvidia_driver)
        found = list(pool.map(lambda option: probe(option.name, option.code), options))
    machine = look_at_machine(torch.result(), driver.result())
    rows = tuple(optional_row(option, seen, machine) for option, seen in zip(options, found))
    required = required_rows(machine)
    complete = all(row.state == USABLE for row in required)
    return Report(
        machine=machine,
        comfyui=find_comfyui(),
        required=required,
        fix=() if complete else pip_install("-r", str(REQUIREMENTS)),
        optional=rows[: len(OPTIONS)],
        reference=rows[len(OPTIONS) :],
    )


def optional_row(option: Option, found: Found, machine: Machine) -> Row:
    usable = found.state == USABLE
    needs = option.needs if usable else option.wheels + option.needs
    unmet = [need.why for need in needs if not need.met(machine)][:1]
    packages = () if usable or unmet else option.packages(machine)
    reason = "; ".join([found.reason] * bool(found.reason) + unmet)
    return Row(option.name, found.state, found.version, reason, option.use, pip_install(*packages) if packages else ())


def pip_install(*packages: str) -> tuple[str, ...]:
    """The command that installs wheels and leaves torch alone."""
    return (sys.executable, "-m", "pip", "install", "--only-binary", ":all:", *_keep_torch(), *packages)


def _keep_torch() -> tuple[str, ...]:
    """Options of pip that hold torch and its companions: constraints, or requirements where no file can be written."""
    held = []
    for name in ("torch", "torchvision", "torchaudio"):
        with suppress(importlib.metadata.PackageNotFoundError):
            held.append(f"{name}=={importlib.metadata.version(name)}")
    try:
        return ("--constraint", _constraints("".join(f"{line}\n" for line in held))) if held else ()
    except OSError:
        return tuple(held)


@cache
def _constraints(text: str) -> str:
    """A file of this text that nobody else can have made or can change, for pip obeys what it says. It outlives us, as
    users copy the command; hence one of an earlier run serves again."""
    for old in Path(tempfile.gettempdir()).glob(f"{_KEEP}*.txt"):
        with suppress(OSError):
            found = old.lstat()
            private = os.name == "nt" or (found.st_uid == os.getuid() and not found.st_mode & 0o022)
            if stat.S_ISREG(found.st_mode) and private and old.read_text(encoding="utf-8") == text:
                return str(old)
    descriptor, path = tempfile.mkstemp(".txt", _KEEP)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:  # a full disk: what is there of it must not be used
        os.unlink(path)
        raise
    return path


def required_rows(machine: Machine) -> tuple[Row, ...]:
    """A row for every line of requirements.txt."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        try:
            from pip._vendor.packaging.requirements import Requirement
        except ImportError:
            Requirement = None
    rows = []
    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        if not line:
            continue
        name = _name(line)
        version = machine.installed.get(canonical(name), "")
        if Requirement is None:
            state, reason = (USABLE, "version not checked, as pip is missing") if version else (ABSENT, "")
        else:
            state, reason = _judge(Requirement(line), version)
        rows.append(Row(name, state, version, reason))
    return tuple(rows)


def _judge(wanted, version: str) -> tuple[str, str]:
    """State and reason of a requirement of which a version ("" for none) is installed."""
    if wanted.marker and not wanted.marker.evaluate() and not version:
        return USABLE, "no wheel for this Python and platform: the pack does that with code of its own"
    if not version:
        return ABSENT, f"needs {wanted.specifier}" if wanted.specifier else ""
    if not wanted.specifier.contains(version, prereleases=True):
        return BROKEN, f"does not fit, needs {wanted.specifier}"
    return USABLE, ""


def find_comfyui() -> Found:
    """The ComfyUI round this folder, or the one that COMFYUI_PATH names; its folder is facts["folder"]."""
    oldest = ".".join(map(str, OLDEST_COMFYUI))
    named = os.environ.get("COMFYUI_PATH", "")
    starts = [PACK, PACK.resolve()]
    if os.path.realpath(os.environ.get("PWD", "")) == str(PACK.resolve()):
        starts.append(Path(os.environ["PWD"]))  # the only trace of a link by which the shell came here
    for folder in [Path(named)] if named else [folder for start in starts for folder in start.parents]:
        with suppress(OSError):
            text = (folder / "comfyui_version.py").read_text(encoding="utf-8", errors="replace")
            if version := re.search(r"__version__\s*=\s*[\"']([^\"']+)", text):
                new = tuple(int(part) for part in re.findall(r"\d+", version[1])[:3]) >= OLDEST_COMFYUI
                reason = "" if new else f"too old, update ComfyUI to {oldest} or newer"
                return Found(USABLE if new else BROKEN, version[1], reason, {"folder": str(folder)})
    hint = f"no comfyui_version.py in {named}" if named else "name its folder in COMFYUI_PATH to have it checked"
    return Found(ABSENT, reason=f"{hint}; the nodes need ComfyUI {oldest} or newer", facts={"folder": named})


# ---------------------------------------------------------------- as text


def shown(command: tuple[str, ...]) -> str:
    """A command as one types it."""
    return subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)


def as_lines(report: Report) -> list[str]:
    lines = [f"{name:<9} {text}" for name, text in _facts(report)]
    lines += ["", "Required packages"]
    for row in report.required:
        state = row.version or ("not needed" if row.state == USABLE else row.state)
        lines.append(f"  {row.name:<20} {state}{_aside(row.reason)}")
    if report.fix:
        lines += ["  This command brings them:", f"    {shown(report.fix)}"]
    lines += ["", "Optional packages (the pack works without them)"]
    for row in report.optional:
        lines.append(f"  {row.name:<14} {row.state:<7} {row.version}{_aside(row.reason)}".rstrip())
        lines.append(f"    {row.use}")
        if row.command:
            lines.append(f"    {shown(row.command)}")
    lines += ["", "Microsoft's compiled packages (not used by this version, not needed)"]
    lines.append("  " + ", ".join(f"{row.name} {row.state}{_aside(row.reason)}" for row in report.reference))
    return lines


def _facts(report: Report) -> list[tuple[str, str]]:
    """The lines about the machine: (what, what was found)."""
    machine, comfyui = report.machine, report.comfyui
    facts, version = machine.torch.facts, ".".join(map(str, machine.python))
    too_old = "" if machine.python >= OLDEST_PYTHON else _aside("too old, the pack needs 3.10 or newer")
    lines = [("Python", f"{version}{too_old}, {machine.system} {machine.processor}, {sys.executable}")]
    if not machine.has_pip:
        lines.append(("pip", "absent: python -m ensurepip, or give the commands below to uv (uv pip install ...)"))
    if machine.torch.state == USABLE:
        builds = {"cuda": f"CUDA {facts['cuda']}", "hip": f"ROCm {facts['hip']}", "mps": "Apple MPS"}
        build = next((text for key, text in builds.items() if facts[key]), "CPU only")
        lines.append(("torch", f"{facts['build']} ({build})"))
    else:
        cure = "take the build for your GPU from https://pytorch.org/get-started/locally; ComfyUI's Python has one"
        lines.append(("torch", f"{machine.torch.state}{_aside(machine.torch.reason)}: {cure}"))
    for gpu in machine.gpus:
        capability = "" if facts["hip"] else f", compute capability {'.'.join(map(str, gpu['capability']))}"
        lines.append(("GPU", f"{gpu['name']}, {gpu['memory'] / 2**30:.1f} GiB{capability}"))
    if not machine.gpus:
        lines.append(("GPU", "Apple" if facts.get("mps") else "none that torch can use"))
    if machine.driver:
        unused = "" if machine.cuda else _aside("torch does not use this GPU: take a CUDA build of torch")
        lines.append(("NVIDIA", f"driver {machine.driver}{unused}"))
    found = f"{comfyui.version}, {comfyui.facts['folder']}" if comfyui.version else "not found"
    lines.append(("ComfyUI", found + _aside(comfyui.reason)))
    return lines


def _aside(text: str) -> str:
    return f" ({text})" if text else ""


# ---------------------------------------------------------------- installing


def install(row: Row, option: Option, log) -> Row:
    """Run the command of a row, whose output goes to `log`; returns the row as it is afterwards."""
    if not row.command:
        return row
    print(f"\n> {shown(row.command)}", file=log, flush=True)
    try:
        ended = subprocess.run(row.command, stdout=log, stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
    except OSError as error:
        return Row(row.name, row.state, reason=f"pip could not be started: {error}", use=row.use)
    if ended.returncode != 0:
        return Row(row.name, row.state, reason=f"pip failed: {pip_error(ended.stderr)}", use=row.use)
    found = probe(option.name, option.code)
    return Row(row.name, found.state, found.version, found.reason, row.use)


def pip_error(text: str) -> str:
    """The last line of pip's errors that tells something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:") and "ResolutionImpossible" not in line]
    return (errors or lines or ["it printed nothing"])[-1].removeprefix("ERROR:").strip()


def main(arguments: list[str] | None = None) -> int:
    installable = [option for option in OPTIONS if _SOURCE_ONLY not in option.wheels]
    names = [option.name for option in installable]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--install", nargs="+", default=[], choices=[*names, "all"], metavar="NAME")
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")
    parser.epilog = f"NAME is {', '.join(names)}, or all for everything that fits this machine."
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console that lacks a letter of a path is no reason to fail
            stream.reconfigure(errors="replace")

    report = make_report()
    log = sys.stderr if options.json else sys.stdout
    if not options.json:
        print("\n".join(as_lines(report)), flush=True)
    rows = {row.name: row for row in report.optional}
    wanted = [option for option in installable if {option.name, "all"} & set(options.install)]
    after = [install(rows[option.name], option, log) for option in wanted]
    if options.json:
        facts = asdict(report)
        del facts["machine"]["installed"]
        for row in (*facts["required"], *facts["optional"], *facts["reference"]):
            row["command"] = shown(row["command"])
        print(json.dumps({**facts, "fix": shown(report.fix), "installed": [asdict(row) for row in after]}, indent=2))
    elif after:
        print()
        for row in after:
            print(f"{row.name}: {row.state}{' ' * bool(row.version)}{row.version}{_aside(row.reason)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
