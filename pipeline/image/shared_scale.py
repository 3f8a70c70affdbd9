"""Pictures of named views on one scale: the object is as tall in all of them, and as wide in front and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..errors import ImageError
from .masks import opaque

_TELL = 0.02  # share by which a view must be larger or smaller before it is worth a line


@dataclass(frozen=True)
class Scaled:
    """pictures: square RGBA, all of one size. scales: factor of each. residuals: which
    extents do not agree and by how much, in words; near cameras alone make some per cent."""

    pictures: tuple[Image.Image, ...]
    scales: tuple[float, ...]
    residuals: tuple[str, ...]


def to_one_scale(cuts: Sequence[Image.Image], azimuths: Sequence[float], names: Sequence[str]) -> Scaled:
    """Cut-outs of level views, scaled so that extents which two of them share agree as well as they can.

    All views share the height; views from opposite sides (azimuths 180 degrees apart) share the width. The scales are
    the least squares solution in the logarithms of the extents, with mean 1 over the views.

    Args:
        cuts: RGBA, N of them, any size.
        azimuths: degrees, of each.
        names: of each, for the residuals.

    Raises:
        ImageError: a cut-out is empty.
    """
    extents = np.array([_extent(cut, name) for cut, name in zip(cuts, names)], dtype=np.float64)  # [N, 2] width, height
    logs = np.log(extents)
    equations, values, tellers = _equations(logs, azimuths, names)
    if equations:
        shifts = np.linalg.lstsq(np.array([*equations, np.ones(len(cuts))]), np.array([*values, 0.0]), rcond=None)[0]
    else:
        shifts = np.zeros(len(cuts))
    scales = np.exp(shifts)
    residuals = [residual for tell in tellers if (residual := tell(shifts))]
    side = math.ceil((extents * scales[:, None]).max())
    pictures = tuple(_placed(cut, scale, side) for cut, scale in zip(cuts, scales))
    return Scaled(pictures, tuple(scales.tolist()), tuple(residuals))


def _equations(logs: np.ndarray, azimuths: Sequence[float], names: Sequence[str]):
    """Rows s_i - s_j = log extent_j - log extent_i over pairs of views that share it, and what to say of each."""
    equations, values, tellers = [], [], []
    for i in range(len(logs)):
        for j in range(i):
            opposite = abs((azimuths[i] - azimuths[j]) % 360 - 180) < 1
            for axis, word in ((1, "taller"), (0, "wider")):
                if axis == 0 and not opposite:
                    continue
                row = np.zeros(len(logs))
                row[i], row[j] = 1, -1
                value = logs[j, axis] - logs[i, axis]
                equations.append(row)
                values.append(value)
                tellers.append(_teller(i, j, value, word, names))
    return equations, values, tellers


def _teller(i: int, j: int, value: float, word: str, names: Sequence[str]):
    def tell(shifts: np.ndarray) -> str:
        more = math.exp((shifts[i] - shifts[j]) - value) - 1
        if abs(more) < _TELL:
            return ""
        first, second = (i, j) if more > 0 else (j, i)
        return f"{names[first]} is {100 * (math.exp(abs(math.log1p(more))) - 1):.0f} % {word} than {names[second]}"

    return tell


def _extent(cut: Image.Image, name: str) -> tuple[int, int]:
    box = _box(cut)
    if box is None:
        raise ImageError(f"The picture of the view {name} is empty: no pixel is opaque.")
    return box[2] - box[0], box[3] - box[1]


def _box(cut: Image.Image) -> tuple[int, int, int, int] | None:
    return opaque(cut.getchannel("A")).getbbox()


def _placed(cut: Image.Image, scale: float, side: int) -> Image.Image:
    """The object at a scale, in the middle of a square."""
    box = _box(cut)
    assert box is not None
    piece = cut.crop(box)
    size = (max(1, round(piece.width * scale)), max(1, round(piece.height * scale)))
    if size != piece.size:
        piece = piece.resize(size, Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (side, side))
    square.paste(piece, ((side - size[0]) // 2, (side - size[1]) // 2))
    return square
