"""Files appear whole or not at all, and none of them in the place of another that is still wanted."""

from __future__ import annotations

import os
import stat
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError
from ..temporary import replacing


def check_writable(path: Path) -> Path:
    """Where a file would really be written: a link stays, and what it leads to is written.

    Raises:
        OutputError: it could not be created there.
    """
    target, folder, kind = path, path.parent, stat.S_IFREG
    try:
        target = Path(os.path.realpath(path))
        folder = target.parent if path.is_symlink() else path.parent
        if not folder.is_dir():
            raise OutputError(f"The folder {folder} does not exist; create it or choose another output.")
        kind = target.stat().st_mode
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # a name that is too long, links that lead in a circle, a zero byte
        raise OutputError(f"{path} cannot be written: {_reason(error)}. Choose another output.") from error
    if stat.S_ISDIR(kind):
        raise OutputError(f"{path} is a folder; name a file.")
    if not stat.S_ISREG(kind):
        raise OutputError(f"{path} is a device or a pipe; name a file.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be written to: {_reason(error)}.") from error
    return target


def check_outputs(outputs: Sequence[tuple[str, Path]], inputs: Iterable[tuple[str, Path]]) -> None:
    """Refuse outputs that would overwrite each other or what is read, under whatever names and links.

    Args:
        outputs, inputs: (what it is, path). Inputs may be folders, which are read whole, and need not exist.

    Raises:
        OutputError: one of them cannot be written, see check_writable, or would overwrite another.
    """
    taken: dict[tuple, str] = {}
    for what, path in outputs:
        name = _identity(check_writable(path))
        if name in taken:
            raise OutputError(f"{taken[name]} and {what} both name {path}; give each a file of its own.")
        taken[name] = what
    for what, path in inputs:
        for file in _files(path):
            if output := taken.get(_identity(file)):
                raise OutputError(f"{output} would overwrite {file}, the {what}; choose another name.")


def _files(path: Path) -> list[Path]:
    """A file, or those in a folder, which in a checkpoint lie one folder deep."""
    try:
        if not path.is_dir():
            return [path] if path.exists() else []
        return [each for pattern in ("*", "*/*") for each in path.glob(pattern) if each.is_file()]
    except (OSError, ValueError):  # whoever reads it will say what is wrong with it
        return []


def _identity(path: Path) -> tuple:
    """Equal for two paths to one file. A file that does not exist yet is told by its folder and its name; letters' case
    and form do not count, as file systems differ in that."""
    path = Path(os.path.realpath(path))
    try:
        found = path.stat()
        return found.st_dev, found.st_ino
    except OSError:
        folder = path.parent.stat()
        return folder.st_dev, folder.st_ino, unicodedata.normalize("NFC", path.name).casefold()


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; moved to `path` when the block ends, removed if it fails.

    Raises:
        OutputError: `path` cannot be written; see check_writable.
    """
    target = check_writable(path)
    try:
        with replacing(target) as temporary:
            yield temporary
    except OSError as error:
        raise OutputError(f"{path} could not be written: {_reason(error)}.") from error


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
