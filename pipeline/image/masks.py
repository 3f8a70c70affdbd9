"""Masks: what they leave of a picture, and which of their two sides is the object."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .read import read_picture

log = logging.getLogger(__name__)

OPAQUE_ENOUGH = 0.8  # the object's box is drawn round alpha above this
_NEARLY_ALL = 0.95  # of a picture; what leaves more of it, and most of its border, is no cut-out
_BORDER = 0.02  # of the shorter side
_CLEAR = 0.6  # of the corners or of the border, on one side of a mask, make it the background


def read_mask(path: str | Path, image: Image.Image) -> Image.Image:
    """A mask file (white: object) as 8-bit grey of the picture's size; a transparent picture's alpha is its mask.

    Raises:
        ImageError: unreadable.
    """
    mask = read_picture(path)
    mask = mask.getchannel("A") if has_transparency(mask) else mask.convert("L")
    return fitted(mask, image)


def fitted(mask: Image.Image, image: Image.Image) -> Image.Image:
    """A mask brought to the picture's size; one of another shape is stretched, as models that work at a square size
    of their own mean it, which is said."""
    if mask.size == image.size:
        return mask
    if abs(mask.width * image.height - mask.height * image.width) > max(*mask.size, *image.size):
        log.warning(
            "The mask is %d x %d pixels, the picture %d x %d: it is stretched. See that they belong together.",
            *mask.size,
            *image.size,
        )
    return mask.resize(image.size, Image.Resampling.BILINEAR)


def has_transparency(image: Image.Image) -> bool:
    """Whether a picture has an alpha channel that cuts an object out.

    It does not if it is opaque all over, nor if it leaves nearly everything: a single pixel of 254 or the round
    corners of a screenshot would make the whole picture the object.
    """
    return image.mode == "RGBA" and not leaves_all(image.getchannel("A"))


def leaves_all(mask: Image.Image) -> bool:
    """Whether a mask (white: object) leaves more than 95 % of the pixels and most of the border, or all of them."""
    if mask.getextrema()[0] == 255:
        return True
    solid = opaque(mask)
    share = solid.histogram()[255] / (mask.width * mask.height)
    return share > _NEARLY_ALL and border_mean(solid, 1) > 0.5


def marks_nothing(mask: Image.Image) -> bool:
    """Whether fewer than 16 pixels of a mask are more than faint."""
    return sum(mask.histogram()[int((1 - OPAQUE_ENOUGH) * 255) + 1 :]) < 16


def opaque(mask: Image.Image) -> Image.Image:
    """255 where a mask counts as object, else 0."""
    return mask.point([255 * (level > OPAQUE_ENOUGH * 255) for level in range(256)])


def border_mean(mask: Image.Image, wide: int | None = None) -> float:
    """The mean of a grey picture's outermost pixels, by default 2 % on every side, in 0-1."""
    values = np.asarray(mask)
    wide = wide or max(1, round(_BORDER * min(values.shape)))
    middle = values[wide:-wide, wide:-wide]
    bands = values[:wide], values[wide:][-wide:], values[wide:-wide, :wide], values[wide:-wide, wide:][:, -wide:]
    return sum(int(band.sum(dtype=np.int64)) for band in bands) / (values.size - middle.size) / 255


def white_is_background(masks: Sequence[Image.Image], images: Sequence[Image.Image]) -> bool:
    """Whether white in masks stands for the background. The rule: a picture's corners are background.

    White is the background if it has more than 60 % of all corners, the object if it has less than 40 %. In between
    the whole border decides in the same way; then what is one single colour in the pictures, as a file has it under
    transparent pixels, is background; then the larger part of the border is.

    Args:
        masks: 8-bit grey, of the size of the pictures.
        images: RGB or RGBA, as many.
    """
    corners, border = (float(np.mean([of(mask) for mask in masks])) for of in (_corners, border_mean))
    for share in (corners, border):
        if abs(share - 0.5) > _CLEAR - 0.5:
            return share > 0.5
    white, black = (
        all(_one_colour(image, np.asarray(mask) > 127, side) for mask, image in zip(masks, images))
        for side in (True, False)
    )
    return white if white != black else border > 0.5


def _corners(mask: Image.Image) -> float:
    """The share of a mask's corners that are white."""
    values, side = np.asarray(mask), max(1, min(mask.size) // 64)
    ends = (slice(None, side), slice(-side, None))
    return float(np.mean([values[rows, columns].mean() > 127 for rows in ends for columns in ends]))


def _one_colour(image: Image.Image, white: np.ndarray, side: bool) -> bool:
    """Whether the picture has a single colour on one side of a mask."""
    pixels = np.asarray(image.convert("RGB"))[white == side]
    return len(pixels) > 0 and int(np.ptp(pixels, axis=0).max()) == 0
