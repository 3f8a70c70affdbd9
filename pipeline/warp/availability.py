"""What this machine offers to kernels: Warp, other packages, cores."""

from __future__ import annotations

import os
from importlib.util import find_spec

DEVICES = ("cpu", "cuda")  # kinds of torch's devices on which Warp runs


def missing(package: str, why: str) -> str:
    """ "" if a package can be imported, else the reason to show."""
    return "" if find_spec(package) else f"{package} is not installed; {why}"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def unavailable_reason() -> str:
    """ "" if NVIDIA Warp can be imported, else the reason to show. The answer is asked for where it is needed and never
    kept, so that there is one of it."""
    return missing("warp", "pip install warp-lang (no wheel for Macs with Intel processors).")
