"""JSON of a checkpoint: bounded, strict, with errors that name the file."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError
from ..schema import strict_json
from .damage import HEAD, deleted, diagnosis, open_regular

LARGEST = 1 << 20  # bytes; pipeline.json has 4 kB


def read_json(path: Path) -> dict:
    """A JSON object from a file.

    Raises:
        CheckpointError: the file cannot be read, is too large, or holds something else; the text names what.
    """
    file, size = open_regular(path)
    with file:
        try:
            text = file.read(LARGEST + 1)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror}). Check the disk, or copy it.") from error
    if problem := diagnosis(path, text[:HEAD], size, "JSON"):
        raise CheckpointError(problem)
    if len(text) > LARGEST:
        raise CheckpointError(f"{path} has {size:,} bytes; up to {LARGEST:,} are read. It is no JSON of TRELLIS.2.")
    return parse(path, text)


def parse(path: Path, text: bytes) -> dict:
    """The JSON object in a file's text; NaN and infinity are refused, as JSON has none.

    Raises:
        CheckpointError: it is no JSON object.
    """
    try:
        value = strict_json(text.decode("utf-8-sig"))
    except RecursionError as error:
        raise CheckpointError(f"{path} is nested too deeply to be a checkpoint's. {deleted(path)}.") from error
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {str(error)[:200]}. {deleted(path)}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__} instead of a JSON object. {deleted(path)}.")
    return value
