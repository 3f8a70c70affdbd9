"""Picture files, hostile or merely odd, to 8-bit sRGB: known formats, regular files, bounded reads."""

from __future__ import annotations

import importlib
import logging
import math
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from ..beginnings import beginning, irregular
from ..errors import ImageError, MissingPackageError, near_path
from .colours import converter

log = logging.getLogger(__name__)

MAX_BYTES = 2**30  # of a file
MAX_PIXELS = 2**28  # of a file; 16384 x 16384
MAX_READS = 1_000_000  # calls of read() for one file: some 100 MB of the smallest blocks that a format knows
READ_SIDE = 8192  # pixels; a larger picture is reduced by a whole factor while it is read
_STRIP = 2**24  # pixels that are converted at a time when a picture is reduced

# format: (how a file of it begins, module of Pillow, class, whether more than one frame means that it moves)
_FORMATS = {
    "PNG": (rb"\x89PNG\r\n\x1a\n", "PIL.PngImagePlugin", "PngImageFile", True),
    # a multi-picture JPEG (MPO) begins with its photo; previews, gain maps and the second eye of a pair follow
    "JPEG": (rb"\xff\xd8\xff", "PIL.JpegImagePlugin", "JpegImageFile", False),
    "WebP": (rb"RIFF.{4}WEBP", "PIL.WebPImagePlugin", "WebPImageFile", True),
    "BMP": (rb"BM", "PIL.BmpImagePlugin", "BmpImageFile", False),
    "TIFF": (rb"II[*+]\0|MM\0[*+]", "PIL.TiffImagePlugin", "TiffImageFile", False),
    "GIF": (rb"GIF8", "PIL.GifImagePlugin", "GifImageFile", True),
    "AVIF": (rb".{4}ftyp(avi|.*avif)", "PIL.AvifImagePlugin", "AvifImageFile", True),
    "HEIF": (rb".{4}ftyp(hei|hev|mif1|msf1)", "pillow_heif", "HeifImageFile", False),
}
FORMATS = "PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF or HEIF"

# Loggers of Pillow that remark on what they read
_REMARKING = ("PIL.Image", "PIL.ImageFile", *dict.fromkeys(module for _, module, *_ in _FORMATS.values()))
_thread = threading.local()  # .reading: whether this thread reads a picture

# What Pillow raises for a damaged file
_DAMAGED = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AssertionError),
    *(AttributeError, RuntimeError, MemoryError, struct.error, zlib.error),
)

_TURNS = {  # the EXIF orientation tag
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_picture(path: str | Path) -> Image.Image:
    """A picture file as RGB or RGBA in sRGB, turned upright by its EXIF tag.

    Colour profiles and CMYK are converted to sRGB, 16-bit values reduced to 8 bits. A file that holds several
    pictures which are no animation (TIFF pages, the previews of a phone's JPEG) gives the first. A picture with more
    than READ_SIDE pixels a side is reduced by the smallest whole factor that makes it fit.

    Raises:
        ImageError: missing, not a regular file, of no known format, unreadable, truncated, animated or too large.
    """
    path = Path(path)
    _check(path)
    try:
        with open(path, "rb") as file, without_remarks():
            return _read(path, file)
    except Image.DecompressionBombError as error:  # of a frame or a tile, before ours of the whole
        raise ImageError(f"{path} has too many pixels: {error}. Reduce it or save it again as PNG or JPEG.") from error
    except _DAMAGED as error:
        raise ImageError(
            f"{path} cannot be read as a picture: {str(error) or type(error).__name__}. Save it again as PNG or JPEG."
        ) from error


@contextmanager
def without_remarks() -> Iterator[None]:
    """While the block runs, what Pillow remarks on damaged files in this thread is dropped: nothing that a user can act
    on, beside our own error or a picture that is fine."""
    for name in _REMARKING:
        logger = logging.getLogger(name)
        if _unless_reading not in logger.filters:  # a filter of "PIL" would not see what its children log
            logger.addFilter(_unless_reading)
    before, _thread.reading = getattr(_thread, "reading", False), True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _thread.reading = before


def _unless_reading(record: logging.LogRecord) -> bool:
    return not getattr(_thread, "reading", False)


def _check(path: Path) -> None:
    """Refuse what must not even be opened: opening a pipe waits for its other end, for ever if there is none."""
    try:
        facts = path.stat()
    except FileNotFoundError as error:
        raise ImageError(f"There is no picture {path}{near_path(path)}") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be opened: {error}.") from error
    if what := irregular(path):
        raise ImageError(f"{path} is {what}. Give the path of a picture file.")
    if facts.st_size > MAX_BYTES:
        raise ImageError(
            f"{path} has {facts.st_size:,} bytes; at most {MAX_BYTES:,} are read. "
            "Reduce the picture or save it as PNG or JPEG."
        )


def _read(path: Path, file: BinaryIO) -> Image.Image:
    start = file.read(64)
    name = next((name for name, row in _FORMATS.items() if re.match(row[0], start, re.DOTALL)), None)
    if name is None:
        raise ImageError(
            f"{path} cannot be read as a picture: it is {beginning(start)}. Expected {FORMATS}; save it as one of "
            "these."
        )
    file.seek(0)
    image = _plugin(path, name)(_Counted(file), "")  # no name, so that nothing is opened or mapped a second time
    if _FORMATS[name][3] and getattr(image, "is_animated", False):
        raise ImageError(f"{path} is animated. Save the frame you want as a PNG and use that.")
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{path} has {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are read. "
            f"Reduce it, for instance to {READ_SIDE} pixels a side; the networks see at most 1024."
        )
    before = image.size
    scale = next((scale for scale in (8, 4, 2) if scale <= _factor(image.size)), 1)
    if scale > 1:  # a JPEG is reduced before its pixels exist; for other formats this does nothing
        image.draft(image.mode, (image.width // scale, image.height // scale))
    image.load()
    turn = _TURNS.get(_orientation(image))
    picture = _converted(image)
    if max(before) > READ_SIDE:
        log.info("%s: %d x %d pixels reduced to %d x %d.", path, *before, *picture.size)
    return picture if turn is None else picture.transpose(turn)


def _plugin(path: Path, name: str) -> type:
    _, module, kind, _ = _FORMATS[name]
    try:
        return getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError) as error:
        cure = "pip install pillow-heif" if name == "HEIF" else "pip install --upgrade pillow"
        raise MissingPackageError(
            f"{path} is a {name} picture, which this installation cannot read: {cure}, or save it as PNG or JPEG."
        ) from error


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1-8; 1 where the tags are damaged, which is no reason to refuse a photo."""
    try:
        value = image.getexif().get(0x0112, 1)
    except _DAMAGED:
        return 1
    return value if isinstance(value, int) else 1


def _factor(size: tuple[int, int]) -> int:
    return math.ceil(max(size) / READ_SIDE)


def _converted(image: Image.Image) -> Image.Image:
    """To sRGB, and by strips to READ_SIDE: a copy of the whole in another mode would double what a picture takes."""
    convert, factor = converter(image), _factor(image.size)
    if factor == 1:
        return convert(image)
    height = factor * max(1, _STRIP // image.width // factor)
    whole = Image.new("1", (0, 0))
    for top in range(0, image.height, height):
        box = (0, top, image.width, min(top + height, image.height))
        strip = convert(image.crop(box)).reduce(factor)
        if top == 0:
            whole = Image.new(strip.mode, (strip.width, math.ceil(image.height / factor)))
        whole.paste(strip, (0, top // factor))
    return whole


class _Counted:
    """A file that refuses to be read more than MAX_READS times: damaged files can keep a parser busy for hours."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._left = file, MAX_READS
        self.seek, self.tell, self.fileno, self.close = file.seek, file.tell, file.fileno, file.close

    def read(self, count: int = -1) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise OSError(f"it has not ended after {MAX_READS:,} blocks")
        return self._file.read(count)

    def readline(self, count: int = -1) -> bytes:
        self._left -= 1
        return self._file.readline(count)

    def __enter__(self) -> _Counted:
        return self

    def __exit__(self, *_: object) -> None:
        pass
