"""Warp's warning that there is no CUDA driver, which says nothing new to a run on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

_LIBRARIES = ("nvcuda.dll",) if os.name == "nt" else ("libcuda.so.1", "libcuda.so")  # as Warp looks for it
_WARNING = b"Could not find or load the NVIDIA CUDA driver"


def is_loadable() -> bool:
    """Whether a driver is here, working or not: Warp finds the same one."""
    for name in _LIBRARIES:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def warning_silenced() -> AbstractContextManager[None]:
    """For the start of Warp. Where there is a driver, whatever Warp says of it is said."""
    return nullcontext() if is_loadable() else without_lines(_WARNING)


@contextmanager
def without_lines(words: bytes) -> Iterator[None]:
    """Standard error of this process, native code's too, without lines that hold some words: Warp prints them itself,
    past Python and its own log level. All other lines come when the block ends, those of other threads too."""
    try:
        caught, kept = tempfile.TemporaryFile(), os.dup(2)  # noqa: SIM115 - it is closed below
    except OSError:  # no standard error, or no place for a file
        yield
        return
    with caught:
        _flush()
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            _flush()
            os.dup2(kept, 2)
            caught.seek(0)
            if rest := b"".join(line for line in caught if words not in line):
                os.write(kept, rest)
            os.close(kept)


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()
