"""A process that does the CPU's part of one object while this one makes the next on the GPU.

A process, not a thread: threads would share one interpreter lock. It works on the CPU alone, whose cores a GPU leaves
free: two processes on a GPU would hinder each other (finishing.py).

Both ends of the pipe are this program's own and nothing of it is kept, so pickle is safe here. It is called by itself
because a Connection would send torch's tensors through shared memory, of which containers have little.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from ..runtime import free_memory
from ..warp import cores
from .finishing import Processed, Sampled, complete
from .outcome import Outcome, guarded
from .recipe import Recipe

_OWN = 3_000_000_000  # bytes that the process needs itself, and for an object of a million faces
_TIMES = 8  # memory of finishing, as a multiple of the object's size


def pays(sampling: torch.device, processing: torch.device, recipe: Recipe) -> bool:
    """Whether a second process makes a batch faster: not if the CPU samples, which uses all cores, nor
    with fewer than four. A chosen backend may need the GPU, which that process does not use."""
    possible = processing.type != "cpu" or not recipe.backends
    return sampling.type != "cpu" and cores() >= 4 and possible


class Beside:
    """One such process, while the block runs; started when it is first needed."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self._recipe, self._folder = recipe, folder
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._given: Sampled | Processed | None = None

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *exception) -> None:
        self._end()

    def takes(self, made: Sampled | Processed) -> bool:
        """Hand an object over; returns False if the process is busy or memory does not suffice."""
        if self._given is not None or free_memory() < _OWN + _TIMES * made.bytes:
            return False
        try:
            self._started().send_bytes(pickle.dumps(made.packed(), pickle.HIGHEST_PROTOCOL))
        except OSError:  # the process has ended; a new one is started for the next object
            self._end()
            return False
        self._given = made
        return True

    def result(self, wait: bool = False) -> tuple[Sampled | Processed, Outcome | None] | None:
        """The object handed over and its outcome (None if the process has died); None if nothing is finished."""
        if self._given is None or self._pipe is None or not (wait or self._pipe.poll()):
            return None
        given, self._given = self._given, None
        try:
            outcome = pickle.loads(self._pipe.recv_bytes())  # safe: only _work below writes to this pipe
        except (EOFError, OSError):
            self._end()
            return given, None
        return given, outcome

    def _started(self) -> Connection:
        if self._pipe is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, far = context.Pipe()
            process = context.Process(target=_work, args=(far, self._recipe, self._folder), daemon=True)
            process.start()
            self._process = process
            far.close()
        return self._pipe

    def _end(self) -> None:
        if self._process is not None and self._pipe is not None:
            self._process.kill()  # safe: files are written atomically
            self._process.join()
            self._pipe.close()
        self._process = self._pipe = None


def _work(pipe: Connection, recipe: Recipe, folder: Path) -> None:
    """The process's loop: complete objects until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent process
    while True:
        try:
            made = pickle.loads(pipe.recv_bytes())  # safe: only Beside above writes to this pipe
        except EOFError:
            return
        outcome = guarded(complete, recipe, made, folder)
        pipe.send_bytes(pickle.dumps(outcome))
