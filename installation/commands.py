"""Commands of pip that bring wheels and leave torch alone, as they are run and as they are shown."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

_KEEP = "trellis2-keep-torch-"


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


def shown(command: tuple[str, ...]) -> str:
    """A command as one types it."""
    return subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)


def pip_error(text: str) -> str:
    """The last line of pip's errors that tells something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:") and "ResolutionImpossible" not in line]
    return (errors or lines or ["it printed nothing"])[-1].removeprefix("ERROR:").strip()
