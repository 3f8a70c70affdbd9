"""Files of a checkpoint that cannot be read: named for what they are, with the cure; nothing else guesses."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from ..beginnings import LONGEST, UNKNOWN, beginning
from ..errors import CheckpointError

HEAD = 512  # bytes of a file's beginning that a diagnosis wants

_AGAIN = "download it again with `hf download`"
_LFS = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\s[^\0]*?size (\d+)")
_PAGE = re.compile(rb"\s*<(!doctype html|html|head|body|\?xml)", re.IGNORECASE)
_ACCESS_DENIED = re.compile(rb"(Invalid username or password|Access to .{1,200} is restricted|Entry not found)")

# first bytes -> what such a file is
_OTHER_FORMATS = {
    b"GGUF": "a GGUF file",
    b"PK\x03\x04": "a PyTorch checkpoint or a ZIP archive",
    b"\x80\x02": "a Python pickle",
    b"\x80\x04": "a Python pickle",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
}


def open_regular(path: Path) -> tuple[BinaryIO, int]:
    """A regular file opened for reading, and its size in bytes. Links are followed; pipes, devices and folders are not
    opened, as reading them may never end.

    Raises:
        CheckpointError: it is missing, unreadable or no regular file; the text says which.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
            raise CheckpointError(f"{path} is {kind} instead of a file. Name the complete checkpoint.")
        return path.open("rb"), found.st_size
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.is_symlink():
            raise CheckpointError(
                f"{path} is a link to {os.readlink(path)}, which does not exist. Mend the link or {_AGAIN}."
            ) from error
        raise CheckpointError(
            f"{path} does not exist. Complete the checkpoint with `hf download`, or name another folder."
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(
            f"{path} cannot be read ({reason}). Give yourself read permission, or copy it."
        ) from error


def diagnosis(path: Path, head: bytes, size: int, expected: str) -> str | None:
    """What a file is in place of what it should be, and what to do; None if its beginning tells nothing.

    Args:
        head: its first HEAD bytes.
        size: of the file, in bytes.
        expected: what it should be, e.g. "safetensors".
    """
    if pointer := _LFS.match(head):
        return (
            f"{path} is a git-lfs pointer ({size:,} bytes) in place of the file of {int(pointer[1][:20]):,} bytes, "
            f"which was not downloaded. Run `git lfs pull` in {path.parent}, or {_AGAIN}."
        )
    if size == 0:
        return f"{path} is empty: its download never got anywhere. {deleted(path)}."
    if _PAGE.match(head):
        return (
            f"{path} ({size:,} bytes) is a web page instead of {expected}: a login or error page was saved under its "
            f"name. {deleted(path)}, logged in with `hf auth login` where the repository asks for it."
        )
    if denied := _ACCESS_DENIED.match(head):
        text = denied[1].decode(errors="replace")
        return (
            f"{path} holds the server's answer {text!r} instead of {expected}. {deleted(path)}, logged in with "
            "`hf auth login`."
        )
    for magic, kind in _OTHER_FORMATS.items():
        if head.startswith(magic):
            return f"{path} is {kind}; {expected} is read here. Take the checkpoint's {expected} file."
    if (kind := beginning(head[:LONGEST])) != UNKNOWN:
        return f"{path} is {kind}; {expected} is read here. Take the checkpoint's {expected} file."
    if not head.strip(b"\0"):
        return f"{path} ({size:,} bytes) begins with zeros: its download did not finish. {deleted(path)}."
    return None


def deleted(path: Path) -> str:
    """The cure for a file that is beyond mending. A link's target is named, as a cache would only link it again."""
    target = path.resolve() if path.is_symlink() else path
    return f"Delete {target} and {_AGAIN}"
