"""The errors a user can meet. Every message says what was found, what was expected and what to try."""

import difflib
import math
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

_LOOKED_AT = 2000  # entries of a folder that are searched for a similar name


class PipelineError(Exception):
    """Base of every error that the pipeline raises on purpose; its text is meant for a user."""


class CheckpointError(PipelineError):
    """A checkpoint is missing, incomplete, damaged or does not fit the models."""


class ImageError(PipelineError):
    """A picture or a mask cannot be used."""


class MissingPackageError(ImageError):
    """A picture needs a package, or its weights, that are not installed; it may be usable once they are."""


class MeshError(PipelineError):
    """A mesh cannot be used."""


class SettingsError(PipelineError):
    """A setting has a value that cannot work."""


class EmptyResultError(PipelineError):
    """A stage succeeded, but its result is empty."""


class NotFiniteError(PipelineError):
    """A stage produced NaN or infinity."""


class OutOfMemoryError(PipelineError):
    """A stage, whose name it carries ("" if not known), did not fit into the device's memory."""

    def __init__(self, message: str, stage: str = "") -> None:
        super().__init__(message)
        self.stage = stage


class BackendError(PipelineError):
    """A chosen backend is absent or gave a wrong answer."""


class StateError(PipelineError):
    """A state file cannot be opened, or does not hold what is asked for."""


class OutputError(PipelineError):
    """A result cannot be written where it was asked for."""


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """The message for an unknown name, with the most similar known one if there is one."""
    known = list(known)
    return f"Unknown {what} {name!r}; choose one of {', '.join(known)}{did_you_mean(str(name), known) or '.'}"


def check_finite(whose: str, **numbers: float) -> None:
    """Raises SettingsError naming the first of the numbers that is NaN or infinite. whose: "A camera's"."""
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise SettingsError(f"{whose} {name.replace('_', ' ')} must be a finite number, got {number:g}.")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message with the most similar known word; "" if none is similar."""
    near = (each for each in difflib.get_close_matches(word, list(known), 3, cutoff=0.7) if _misspelt(word, each))
    return "".join(f"; did you mean {each}?" for each in islice(near, 1))


def _misspelt(word: str, known: str) -> bool:
    """Whether words with dashes are near in each part: --texture-steps is another option than --texture-size."""
    parts, others = word.split("-"), known.split("-")
    alike = (difflib.SequenceMatcher(None, *pair).ratio() >= 0.6 for pair in zip(parts, others))
    return len(parts) != len(others) or all(alike)


def near_path(path: Path) -> str:
    """The end of a message about a path that is not there: names what is in its folder and called nearly so, if
    anything is."""
    folder = path.parent
    try:
        # a dangling link has exactly this name
        here = [each.name for each in islice(folder.iterdir(), _LOOKED_AT) if each.name != path.name]
    except OSError:
        return f": there is no folder {folder}." if not folder.is_dir() else "."
    return did_you_mean(path.name, here) or "."
