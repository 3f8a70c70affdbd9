"""Ctrl-C and its like (a request to terminate, a closed terminal): they end a run cleanly, whenever they come."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # the last is Windows' Ctrl-Break


def _ours() -> list[signal.Signals]:
    """Those that end a run here: not what the caller chose to ignore (nohup); only the main thread may handle them."""
    if not _is_main():
        return []
    return [
        each for each in _present() if signal.getsignal(each) in (signal.SIG_DFL, signal.default_int_handler, _leave)
    ]


def _present() -> list[signal.Signals]:
    """Those that this system has."""
    return [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def leave_at_once() -> None:
    """From now on such a signal ends the process on the spot: for the seconds of the imports, which can swallow an
    exception (libraries try what they may lack) and leave nothing to clean up."""
    for each in _ours():
        signal.signal(each, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.stderr.write("interrupted\n")
    sys.stderr.flush()
    os._exit(128 + number)


class Interruption:
    """Which signal came, if one did."""

    number = 0

    def check(self) -> None:
        """Raises KeyboardInterrupt if a signal came: again, where a library swallowed the first."""
        if self.number:
            raise KeyboardInterrupt

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        raise KeyboardInterrupt


@contextmanager
def handlers_kept() -> Iterator[None]:
    """While the block runs a library may take these signals for itself, below Python too (Ray's core does, and aborts
    the process); after it they are handled as before."""
    before = {each: signal.getsignal(each) for each in _present()} if _is_main() else {}
    try:
        yield
    finally:
        for each, handler in before.items():
            if handler is not None:  # one that is not Python's cannot be set again
                signal.signal(each, handler)


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """While the block runs, such a signal raises KeyboardInterrupt in it."""
    interruption = Interruption()
    before = {each: signal.getsignal(each) for each in _ours()}
    for each in before:
        signal.signal(each, interruption._receive)
    try:
        yield interruption
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
