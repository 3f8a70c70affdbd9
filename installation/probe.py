"""What a package is, found by importing it in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec

TIMEOUT = 60  # seconds for one import
USABLE, ABSENT, BROKEN = "usable", "absent", "broken"
_MARK = "trellis2-probe:"
# argv: module, code, package. The code may fill `facts`; SystemExit("text") calls the package broken for that reason.
_PROBE = f"""
import importlib.metadata, importlib.util, json, sys
sys.path[:] = [entry for entry in sys.path if entry]  # not the current folder
module, code, package = sys.argv[1:]
facts, version = {{}}, ""
state = "absent" if importlib.util.find_spec(module) is None else "usable"
if state == "usable":
    exec(code)
    try:
        version = importlib.metadata.version(package)
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


def probe(module: str, code: str = "", package: str = "", timeout: float = TIMEOUT) -> Found:
    """Import a module in another process, so that a crash, an exit or a hang stays there. package: whose version is
    told; default: of the module's name."""
    with suppress(ValueError):  # something without a specification lies under this name: a process of its own tells
        if find_spec(module) is None:
            return Found(ABSENT)
    command = [sys.executable, "-c", _PROBE, module, code or f"import {module}", package or module]
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
