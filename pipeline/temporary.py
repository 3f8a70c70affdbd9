"""Temporary files and folders. Each is locked by the process that made it, so that what a killed process left behind is
told from what somebody uses, and removed by whoever comes next."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed, which does as well
    fcntl = None

_FILE, _FOLDER, _LOCK = ".trellis2-", "trellis2-", "lock"


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A new empty file beside `target`, to be overwritten; it takes the place of `target` when the block ends, and is
    removed if the block fails.

    Not of `tempfile`, whose files are private: this one has the permissions that new files get. Its name has the same
    length whatever the target's, as file systems allow 255 bytes.

    Raises:
        OSError: it cannot be made or moved.
    """
    remove_abandoned(target.parent)
    path = target.parent / f"{_FILE}{secrets.token_hex(8)}.tmp"
    lock = _hold(path)
    try:
        try:
            yield path
        finally:
            if fcntl is None:  # Windows moves no file that is open
                os.close(lock)
        os.replace(path, target)
    finally:
        if fcntl is not None:
            os.close(lock)
        with suppress(OSError):
            path.unlink(missing_ok=True)


def temporary_folder(purpose: str) -> Path:
    """A new private folder in the system's folder for temporary files, which is removed when Python ends.

    Raises:
        OSError: it cannot be made.
    """
    place = Path(tempfile.gettempdir())
    for old in place.glob(f"{_FOLDER}{purpose}-*"):
        if _is_ours(old) and _is_abandoned(old / _LOCK):
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{purpose}-", dir=place))
    lock = _hold(folder / _LOCK)

    def remove() -> None:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files in a folder whose processes are gone."""
    with suppress(OSError):  # a folder that can be written but not listed
        for path in folder.glob(f"{_FILE}*.tmp"):
            if _is_abandoned(path):
                with suppress(OSError):
                    path.unlink()


def _hold(path: Path) -> int:
    """Create a file and lock it; the lock ends with the descriptor, or with the process."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    if fcntl is not None:
        with suppress(OSError):  # file systems without locks: nobody will call it abandoned
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def locked(descriptor: int) -> bool:
    """Lock an open file until its descriptor is closed; False if another process holds it. True where files cannot be
    locked."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass
    return True


def _is_abandoned(path: Path) -> bool:
    """Whether nobody holds a file that _hold made."""
    try:
        if fcntl is None:
            path.unlink()
            return True
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _is_ours(folder: Path) -> bool:
    """Whether a folder in a place that users share is this user's, and no link."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and (os.name == "nt" or found.st_uid == os.getuid())
