"""Rows of the backend table by packages that a user may have installed; none is shipped, and none is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib.metadata import PackageNotFoundError, version

import torch

from .backends import Backend, lazy

# How a package fails whose version has another interface, or whose build does not fit, besides RuntimeError.
_MISFITS = (ImportError, OSError, AttributeError, TypeError, ValueError, LookupError, AssertionError)


def row(
    name: str,
    package: str,
    load: Callable[[], Callable],
    reference: Callable,
    devices: tuple[str, ...] = ("cuda",),
    suits: Callable[..., bool] | None = None,
    check: Callable[[Callable, torch.device], str] | None = None,
) -> Backend:
    """A row whose package is imported when the row first runs, and which yields to the others where it is of no use.

    Versions are not asked for: what counts is the answer to the problem on which every row is tried.

    Args:
        package: as pip names it.
        load: imports it and returns a function with the signature of the reference.
        reference: runs in its place where a gradient is asked for.
        devices, suits, check: as for Backend.

    The row's function raises RuntimeError where the package cannot be imported or does not do what it is meant to.
    """
    try:
        version(package)
    except PackageNotFoundError:
        return Backend(name, None, f"{package} is not installed.", devices)
    return Backend(name, lazy(lambda: _fitting(package, load), reference), "", devices, suits, check, yields=True)


def _fitting(package: str, load: Callable[[], Callable]) -> Callable:
    """What `load` returns, with the errors of a package that does not fit as RuntimeError."""

    def explained(function: Callable) -> Callable:
        @wraps(function)
        def call(*arguments):
            try:
                return function(*arguments)
            except _MISFITS as error:
                found = f"{package} {version(package)}: {type(error).__name__}: {error}"
                raise RuntimeError(found.strip().splitlines()[0]) from error

        return call

    return explained(explained(load)())


@contextmanager
def default_stream(device: torch.device) -> Iterator[None]:
    """For packages that start kernels on CUDA's default stream of the current device, whatever torch's stream is: that
    stream and that device, in order with the work before and behind. Nothing on other kinds of device."""
    if device.type != "cuda":
        yield
        return
    outer, default = torch.cuda.current_stream(device), torch.cuda.default_stream(device)
    default.wait_stream(outer)
    with torch.cuda.device(device), torch.cuda.stream(default):
        yield
    outer.wait_stream(default)
