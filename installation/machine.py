"""The machine: Python, torch, GPU, driver, and the Triton and compiler that belong to them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .probe import Found

TORCH = """
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
