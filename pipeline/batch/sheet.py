"""Contact sheets: the variations of a picture below each other, each from four sides, to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from ..errors import ImageError
from ..export.files import writing
from ..image import read_picture

_CELL = 256  # pixels a side
_LINE = 20  # pixels of a line of text
_PAPER, _INK = (236, 236, 236), (24, 24, 24)  # sRGB


def write_sheet(path: Path, picture: Path, rows: Sequence[tuple[str, Path | None]]) -> None:
    """Write a contact sheet, PNG: the picture on the left, and on its right a row for each variation.

    Args:
        rows: what is written above a variation, and the PNG with its views side by side (None: there are none).

    Raises:
        OutputError: it cannot be written.
    """
    strips = [(text, _opened(views)) for text, views in rows]
    widths = [strip.width * _CELL // strip.height for _, strip in strips if strip is not None]
    row = _CELL + _LINE
    sheet = Image.new("RGB", (_CELL + max([4 * _CELL, *widths]), row * len(strips)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    shown = _opened(picture)
    if shown is not None:
        _paste(sheet, ImageOps.contain(shown, (_CELL, _CELL)), (0, _LINE))
    draw.text((4, 4), _plain(picture.stem), _INK)
    for number, (text, strip) in enumerate(strips):
        if strip is not None:
            _paste(sheet, strip.resize((strip.width * _CELL // strip.height, _CELL)), (_CELL, number * row + _LINE))
        draw.text((_CELL + 4, number * row + 4), _plain(text), _INK)
    with writing(path) as temporary:
        sheet.save(temporary, "PNG")


def _opened(path: Path | None) -> Image.Image | None:
    try:
        return None if path is None else read_picture(path).convert("RGBA")
    except ImageError:  # the sheet shows what there is
        return None


def _paste(sheet: Image.Image, picture: Image.Image, place: tuple[int, int]) -> None:
    sheet.paste(picture, place, picture)


def _plain(text: str) -> str:
    """What Pillow's built-in font can show."""
    return text.encode("latin-1", "replace").decode("latin-1")[:120]
