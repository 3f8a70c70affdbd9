"""How a job ended: its files and report, or its error, whatever it was."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..errors import OutputError, PipelineError

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

# What libraries raise for an input that nobody has thought of: it must cost one object, not the batch.
_UNFORESEEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_LOST = "CUDA error"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}  # the disk takes no other file either


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    files: what was written, below the output folder. report: facts of the object, for the manifest.
    error: for people, "" if it was made; kind: the error's class.
    stop: the next job would fail in the same way: the disk is full, or the device is out of order.
    """

    files: tuple[str, ...] = ()
    report: dict = field(default_factory=dict)
    error: str = ""
    kind: str = ""
    stop: bool = False


def guarded(step: Callable[..., _Result], *arguments: Any) -> _Result | Outcome:
    """Call a step of a job; its error, if it has one, becomes the job's outcome."""
    try:
        return step(*arguments)
    except PipelineError as error:
        return Outcome(error=str(error), kind=type(error).__name__, stop=_is_final(error))
    except _UNFORESEEN as error:
        log.exception("An error that was not foreseen")
        message = f"An error that was not foreseen, please report it: {type(error).__name__}: {error}"
        return Outcome(error=message, kind=type(error).__name__, stop=_is_final(error))


def device_lost(outcome: Outcome) -> bool:
    """Whether a job ended since the device answers nothing more to this process; to a new one it may."""
    return outcome.stop and _LOST in outcome.error


def _is_final(error: BaseException) -> bool:
    """Whether the next job would fail in the same way."""
    cause = error.__cause__ if isinstance(error, OutputError) else error
    # an illegal access or an assertion on the device, after which CUDA answers nothing else
    return (isinstance(cause, OSError) and cause.errno in _NO_ROOM) or _LOST in str(error)
