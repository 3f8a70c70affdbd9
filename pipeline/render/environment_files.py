"""Pictures of surroundings from files: Radiance .hdr, OpenEXR, and any picture that Pillow reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..beginnings import irregular
from ..errors import ImageError, near_path
from ..image import read_picture
from ..srgb import srgb_to_linear

_MOST = 1 << 25  # pixels
_OLD_RUN = (1, 1, 1)  # RGB of a pixel that repeats the one before it, in files of before 1991


def read_environment(path: str | Path) -> np.ndarray:
    """[H, W, 3] float32 linear radiance of a picture.

    Raises:
        ImageError: unreadable, damaged, or OpenEXR without the package OpenEXR.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if what := irregular(path):
        raise ImageError(f"{path} is {what}. Give the path of a picture file.")
    if suffix in (".hdr", ".pic", ".rgbe"):
        return read_hdr(path)
    if suffix == ".exr":
        return _read_exr(path)
    return srgb_to_linear(np.asarray(read_picture(path).convert("RGB"), dtype=np.float32) / 255)


def read_hdr(path: Path) -> np.ndarray:
    """[H, W, 3] float32 of a Radiance RGBE file (Ward, "Real pixels", Graphics Gems II, 1991), run-length encoded or
    not.

    Raises:
        ImageError: see read_environment.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}.") from error
    head, blank, rest = data.partition(b"\n\n")
    size, newline, body = rest.partition(b"\n")
    words = size.split()
    if not (head.startswith((b"#?RADIANCE", b"#?RGBE")) and blank and newline and len(words) == 4):
        raise ImageError(f"{path} is no Radiance picture: it does not begin with #?RADIANCE, a header and a size.")
    if b"32-bit_rle_xyze" in head:
        raise ImageError(f"{path} holds XYZ colours; convert it to RGB (32-bit_rle_rgbe).")
    if words[0] != b"-Y" or words[2] != b"+X" or not (words[1].isdigit() and words[3].isdigit()):
        raise ImageError(f"{path} is turned or mirrored ({size.decode('ascii', 'replace')}); save it as -Y H +X W.")
    rows, columns = int(words[1]), int(words[3])
    if not 0 < rows * columns <= _MOST:
        raise ImageError(f"{path} has {columns} x {rows} pixels; 1 to {_MOST:,} can be read.")
    try:
        pixels = _pixels(body, rows, columns)
    except IndexError as error:
        raise ImageError(f"{path} is damaged: it ends before its {columns} x {rows} pixels do.") from error
    scale = np.ldexp(1.0, pixels[..., 3:].astype(np.int32) - 136)
    return np.where(pixels[..., 3:] == 0, 0, (pixels[..., :3] + 0.5) * scale).astype(np.float32)


def _pixels(body: bytes, rows: int, columns: int) -> np.ndarray:
    """[H, W, 4] uint8. Raises IndexError if the data end early or a run is too long."""
    found = np.empty((rows, columns, 4), np.uint8)
    at = 0
    for row in found:
        start = body[at : at + 4]
        if 8 <= columns < 1 << 15 and start == bytes((2, 2, columns >> 8, columns & 255)):
            at = _runs(body, at + 4, row)
        else:
            at = _flat(body, at, row)
    return found


def _runs(body: bytes, at: int, row: np.ndarray) -> int:
    """A scan line whose channels are run-length encoded one after the other; returns where it ends."""
    for channel in range(4):
        column = 0
        while column < len(row):
            count = body[at]
            run = count > 128
            count -= 128 if run else 0
            values = body[at + 1 : at + 2] * count if run else body[at + 1 : at + 1 + count]
            if count == 0 or len(values) < count or column + count > len(row):
                raise IndexError("a run does not fit")
            row[column : column + count, channel] = np.frombuffer(values, np.uint8)
            column += count
            at += 2 if run else 1 + count
    return at


def _flat(body: bytes, at: int, row: np.ndarray) -> int:
    """A scan line of plain pixels, or of repeated ones as old files have them; returns where it ends."""
    column, shift = 0, 0
    while column < len(row):
        pixel = body[at : at + 4]
        if len(pixel) < 4:
            raise IndexError("the data end")
        at += 4
        if tuple(pixel[:3]) == _OLD_RUN and column:
            count = pixel[3] << shift
            row[column : column + count] = row[column - 1]
            column, shift = column + count, shift + 8
        else:
            row[column] = np.frombuffer(pixel, np.uint8)
            column, shift = column + 1, 0
    return at


def _read_exr(path: Path) -> np.ndarray:
    try:
        import OpenEXR
    except ImportError as error:
        raise ImageError(
            f"{path.name} needs the package OpenEXR: pip install OpenEXR. Or save the picture as .hdr."
        ) from error
    if not path.is_file():
        raise ImageError(f"{path} cannot be read: there is no such file{near_path(path)}")
    try:
        channels = OpenEXR.File(str(path)).channels()
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise ImageError(f"{path} cannot be read as OpenEXR: {error}") from error
    if "RGB" in channels or "RGBA" in channels:
        return np.asarray(channels.get("RGB", channels.get("RGBA")).pixels[..., :3], dtype=np.float32)
    if not {"R", "G", "B"} <= set(channels):
        raise ImageError(f"{path} holds the channels {', '.join(channels)}; R, G and B are needed.")
    return np.stack([np.asarray(channels[name].pixels, dtype=np.float32) for name in "RGB"], 2)
