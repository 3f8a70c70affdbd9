"""What may be wrong with a cut-out, in words: an object that is cut off, several objects, a mask of another picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from ..errors import ImageError
from .masks import opaque
from .plain import plain_background

_BORDER = 0.02  # share of a side of the picture that an object may cover before it counts as cut off
_PIECE = 0.15  # of the object; a separate piece that is larger may be an object of its own
_SIDE = 256  # pixels at which pictures are looked at
# Before a plain background a mask of another view both leaves out some of the object and takes some background in. One
# of the two alone may be meant: one of two objects, or an object of the background's colour.
_BOTH = 0.05  # geometric mean of the shares that it leaves out and takes in
_TOGETHER = 0.12  # their sum


def remarks_on(cut: Image.Image, masked: bool = False) -> tuple[str, ...]:
    """What may be wrong with an object that is about to be cropped to; empty if nothing.

    Args:
        cut: RGBA, the whole picture.
        masked: the alpha comes from a mask that was given beside the picture, so that it may be another's.
    """
    found = [cut_off(cut), _several(cut), misfit(cut) if masked else ""]
    return tuple(filter(None, found))


def cut_off(cut: Image.Image) -> str:
    """That the object touches the picture's border; not of pictures that are cropped to it already."""
    alpha = np.asarray(opaque(cut.getchannel("A"))) > 0
    box = opaque(cut.getchannel("A")).getbbox()
    if box is None or box[2] - box[0] == cut.width or box[3] - box[1] == cut.height:
        return ""
    sides = {"top": alpha[0], "bottom": alpha[-1], "left edge": alpha[:, 0], "right edge": alpha[:, -1]}
    touched = [word for word, border in sides.items() if border.mean() > _BORDER]
    return f"the object touches the picture's {' and '.join(touched)}: it may be cut off there" if touched else ""


def _several(cut: Image.Image) -> str:
    alpha = np.asarray(opaque(_reduced(cut.getchannel("A")))) > 0
    found: Any = ndimage.label(alpha, np.ones((3, 3)))
    labels, count = found
    if count < 2:
        return ""
    sizes = np.bincount(labels.ravel())[1:]
    large = int((sizes > _PIECE * sizes.sum()).sum())
    if large < 2:
        return ""
    return f"the cut-out has {large} separate pieces: if these are several objects, give each a run of its own"


def misfit(cut: Image.Image) -> str:
    """That a mask, the alpha of `cut`, is not of this picture; "" if it may be, or if the background is not plain."""
    small = _reduced(cut)
    mask = np.asarray(opaque(small.getchannel("A"))) > 0
    try:
        own = np.asarray(plain_background(small.convert("RGB")).getchannel("A")) > 127
    except ImageError:
        return ""
    missing, more = _outside(own, mask), _outside(mask, own)
    if missing * more < _BOTH**2 or missing + more < _TOGETHER:
        return ""
    return "the mask does not fit the picture: it may belong to another picture or another view"


def _outside(one: np.ndarray, other: np.ndarray) -> float:
    """The share of a silhouette that is more than a few pixels outside another one."""
    grown = np.asarray(ndimage.binary_dilation(other, iterations=3), dtype=bool)
    return float((one & ~grown).sum() / max(1, one.sum()))


def _reduced(image: Image.Image) -> Image.Image:
    scale = _SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if scale >= 1 else image.resize(size, Image.Resampling.BOX)
