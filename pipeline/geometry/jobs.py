"""Library calls in a killable process: start, wait, cancel, read the result."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..errors import BackendError

_WORKER = Path(__file__).with_name("worker.py")


def run_job(job: str, tick: Callable[[], None] = lambda: None, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    """Run a job of worker.py on arrays and return its arrays.

    Args:
        tick: called ten times a second while waiting; if it raises, the process is killed.

    Raises:
        BackendError: the process failed; with the last line it printed.
    """
    with tempfile.TemporaryDirectory(prefix="trellis2-") as folder:
        source, target = Path(folder, "in.npz"), Path(folder, "out.npz")
        np.savez(source, **arrays)
        command = [sys.executable, str(_WORKER), job, str(source), str(target)]
        with open(Path(folder, "log"), "w+b") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                while True:
                    try:
                        process.wait(0.1)
                        break
                    except subprocess.TimeoutExpired:
                        tick()
            except BaseException:
                process.kill()
                raise
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
        if process.returncode != 0 or not target.exists():
            last = lines[-1] if lines else "it printed nothing"
            raise BackendError(f"The job {job!r} ended with code {process.returncode}: {last}.")
        with np.load(target) as result:
            return dict(result)


def missing(package: str, why: str) -> str:
    """ "" if a package can be imported, else the reason to show."""
    return "" if find_spec(package) else f"{package} is not installed; {why}"
