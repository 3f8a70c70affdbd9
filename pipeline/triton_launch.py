"""Whether Triton kernels can run here, and the rows that launch them.

Triton comes with torch on Linux and as triton-windows on Windows. It is imported when a kernel first runs, not before:
the import takes a third of a second.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from importlib.util import find_spec

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
