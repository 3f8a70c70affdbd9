"""Whether Triton kernels can run here, the rows that launch them, and what a launch needs to be compiled ahead.

Triton comes with torch on Linux and as triton-windows on Windows. It is imported when a kernel first runs, not before:
the import takes a third of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from .backends import Backend, lazy

NAME = "triton"


def unavailable_reason() -> str:
    """ "" if kernels may be tried, else why not."""
    if find_spec("triton") is None:
        return "Triton is not installed; torch brings it on Linux, on Windows: pip install triton-windows."
    return ""


def row(module: str, function: str, reference: Callable) -> Backend:
    """A row of the backend table whose function is imported from a module of kernels when it first runs.

    Args:
        module: full name of the module.
        function: its function, with the signature of the reference.
        reference: runs in its place where a gradient is asked for, which kernels do not give.

    The row's function raises RuntimeError where Triton cannot be imported, or cannot compile or launch the kernel.
    """
    reason = unavailable_reason()
    return Backend(NAME, None if reason else lazy(lambda: _load(module, function), reference), reason, ("cuda",))


def _load(module: str, function: str) -> Callable:
    return explained(getattr(import_module(module), function))


def explained(launch: Callable) -> Callable:
    """The function, with Triton's own errors (which derive from Exception alone) as RuntimeError. Imports Triton."""
    from triton.errors import TritonError

    @wraps(launch)
    def call(*arguments):
        try:
            return launch(*arguments)
        except TritonError as error:
            raise RuntimeError(f"Triton: {error}") from error

    return call


@dataclass(frozen=True)
class Launch:
    """A launch that did not happen: tensors are their dtypes."""

    kernel: Any  # a triton.JITFunction
    arguments: tuple
    constants: dict[str, Any]

    @property
    def key(self) -> tuple:
        """What a compiled kernel depends on: Triton distinguishes whole numbers by whether they are 1 and divisible by
        16, and those not at all that a kernel names in do_not_specialize."""
        seen = []
        for value, parameter in zip(self.arguments, self.kernel.params):
            if isinstance(value, int):
                value = () if parameter.do_not_specialize else (value == 1, value % 16 == 0)
            seen.append(value)
        return self.kernel, *seen, *sorted(self.constants.items())

    def compile(self) -> None:
        """Compile it for the current device, to Triton's cache in memory and on the disk, with what launches it.
        Raises RuntimeError."""
        from triton.errors import TritonError

        try:
            compiled = self.kernel.warmup(*self.arguments, grid=(1,), **self.constants)
            _ = compiled.run  # its first use loads the kernel and, in some versions, compiles its launcher in C
        except TritonError as error:
            raise RuntimeError(f"Triton: {error}") from error


_collected: ContextVar[list[Launch] | None] = ContextVar("collected", default=None)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """kernel[grid](*arguments, **constants); within `collect` it is only written down."""
    launches = _collected.get()
    if launches is None:
        kernel[grid](*arguments, **constants)
        return
    dtypes = tuple(each.dtype if isinstance(each, torch.Tensor) else each for each in arguments)
    launches.append(Launch(kernel, dtypes, constants))


@contextmanager
def collect() -> Iterator[list[Launch]]:
    """The launches of a block, in this thread, none of which happens: for work on "meta"."""
    launches: list[Launch] = []
    token = _collected.set(launches)
    try:
        yield launches
    finally:
        _collected.reset(token)
