"""Whether Triton kernels can run here, and one wrapper for functions that launch them.

Triton comes with torch on Linux and as triton-windows on Windows. It is imported when a kernel first runs, not before:
the import takes a third of a second, and a broken installation must cost nobody who does not use it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from importlib import import_module
from importlib.util import find_spec

import torch

from .backends import Backend

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
    return Backend(NAME, None if reason else _guarded(module, function, reference), reason, devices=("cuda",))


def _guarded(module: str, function: str, reference: Callable) -> Callable:
    @cache
    def kernel() -> Callable:
        try:
            return getattr(import_module(module), function)
        except ImportError as error:
            raise RuntimeError(f"Triton cannot be imported: {error}") from error

    @wraps(reference)
    def call(*arguments):
        tensors = (one for one in arguments if isinstance(one, torch.Tensor))
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return reference(*arguments)
        launch = kernel()
        from triton.errors import TritonError

        try:
            return launch(*arguments)
        except TritonError as error:
            raise RuntimeError(f"Triton: {error}") from error

    return call
