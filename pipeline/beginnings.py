"""What a file is that is not what its name says, by how it begins."""

from __future__ import annotations

import stat
from pathlib import Path

LONGEST = 64  # bytes that are enough
GLB, ZIP, UNKNOWN = "a GLB", "a ZIP archive", "something else"

_BEGINNINGS = {
    "a PostScript file": b"%!PS",
    "a PDF file": b"%PDF",
    "a Photoshop file": b"8BPS",
    "a JPEG 2000 picture": b"\0\0\0\x0cjP  ",
    "a JPEG XL picture": b"\xff\x0a",
    "a PNG picture": b"\x89PNG",
    "a JPEG picture": b"\xff\xd8\xff",
    "an SVG drawing": b"<svg",
    GLB: b"glTF",
    "a Blender file": b"BLENDER",
    "an FBX file": b"Kaydara FBX",
    "a git-lfs pointer (git lfs pull brings the file itself)": b"version https://git-lfs",
    "a web page": b"<!doctype html",
    "a web page ": b"<html",
    ZIP: b"PK\3\4",
}


def beginning(start: bytes) -> str:
    """What begins with these bytes, in words: "empty" for none, "something else" for what is not known."""
    if not start:
        return "empty"
    lower = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((what.strip() for what, sign in _BEGINNINGS.items() if lower.startswith(sign.lower())), UNKNOWN)


def irregular(path: Path) -> str:
    """What is there in place of a file, in words: a folder, a pipe or a device; "" for a file, and where nothing is or
    can be seen. Opening a pipe waits for its other end, for ever if there is none, and a device may never end."""
    try:
        kind = path.stat().st_mode
    except (OSError, ValueError):
        return ""
    if stat.S_ISREG(kind):
        return ""
    return "a folder" if stat.S_ISDIR(kind) else "a pipe or a device, not a regular file"
