"""Library calls in a killable process: start, wait, cancel, read the result."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...errors import BackendError

_WORKER = Path(__file__).with_name("worker.py")
_WAIT = 0.05  # seconds


def run_job(job: str, tick: Callable[[], None] = lambda: None, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    """Run a job of worker.py on arrays and return its arrays; see run_jobs."""
    return run_jobs(job, tick, [arrays])[0]


def run_jobs(job: str, tick: Callable[[], None], inputs: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Run a job of worker.py on several sets of arrays at once, each in a process, and return the arrays of each.

    Args:
        tick: called twenty times a second while waiting; if it raises, the processes are killed.

    Raises:
        BackendError: a process failed; with the last line it printed.
    """
    with tempfile.TemporaryDirectory(prefix="trellis2-") as folder, ExitStack() as stack:
        running = []
        stack.callback(lambda: [each.process.kill() for each in running if each.process.poll() is None])
        for i, arrays in enumerate(inputs):
            place = Path(folder, str(i))
            place.mkdir()
            np.savez(place / "in.npz", **arrays)
            running.append(_start(job, place, stack))
        while any(each.process.poll() is None for each in running):
            time.sleep(_WAIT)
            tick()
        return [each.result(job) for each in running]


@dataclass(frozen=True)
class _Running:
    """A process that works, or has worked."""

    process: subprocess.Popen
    place: Path
    log: BinaryIO

    def result(self, job: str) -> dict[str, np.ndarray]:
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        if self.process.returncode != 0 or not (self.place / "out.npz").exists():
            last = lines[-1] if lines else "it printed nothing"
            raise BackendError(f"The job {job!r} ended with code {self.process.returncode}: {last}.")
        with np.load(self.place / "out.npz") as result:
            return dict(result)


def _start(job: str, place: Path, stack: ExitStack) -> _Running:
    log = stack.enter_context((place / "log").open("w+b"))
    command = [sys.executable, str(_WORKER), job, str(place / "in.npz"), str(place / "out.npz")]
    return _Running(stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log)), place, log)
