"""Files appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError


def check_writable(path: Path) -> None:
    """Raises OutputError if a file could not be created there."""
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"The folder {folder} does not exist; create it or choose another output.")
    if path.is_dir():
        raise OutputError(f"{path} is a folder; name a file.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be written to: {error.strerror}.") from error


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; moved to `path` when the block ends, removed if it fails."""
    check_writable(path)
    # not tempfile: its files are private, ours get the permissions that a new file gets
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
