"""From a picture file's pixels to a picture that can be projected, and whether its mask is its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..errors import ImageError
from ..image import Remover, has_transparency, matte, plain_background
from ..image.masks import opaque
from ..views import PictureCamera, View

_OWN = 0.8  # overlap of a mask with what stands out from the picture's background, below which it is another's
_SIDE = 512  # pixels in which this is looked at


@dataclass(frozen=True)
class Photo:
    """A picture to project, cut out (RGBA, of any size), and what is known of where it was taken from: its camera, or
    its direction roughly, or nothing. name: for messages. remarks: what does not fit, in words."""

    picture: Image.Image
    camera: PictureCamera | None = None
    view: View | None = None
    name: str = "The picture"
    remarks: tuple[str, ...] = ()


def photo(
    image: Image.Image,
    mask: Image.Image | None = None,
    remove_background: Remover | None = None,
    camera: PictureCamera | None = None,
    view: View | None = None,
    name: str = "The picture",
) -> Photo:
    """A picture with all of its pixels. Arguments and errors otherwise as image.cut_out."""
    remarks = ()
    if mask is not None and (overlap := _overlap(image, mask)) is not None and overlap < _OWN:
        remarks = (
            f"{name}: its mask overlaps by {overlap:.2f} (intersection over union) with what stands out from its "
            f"background; usual is more than {_OWN}. Is it the mask of another picture?",
        )
    return Photo(matte(image, mask, remove_background), camera, view, name, remarks)


def _overlap(image: Image.Image, mask: Image.Image) -> float | None:
    """Intersection over union of a mask and the cut-out that the picture has by itself; None if it has none."""
    small = image.resize((_SIDE, _SIDE))
    if not has_transparency(small):
        try:
            small = plain_background(small.convert("RGB"))
        except ImageError:
            return None
    own, given = (np.asarray(opaque(each)) > 0 for each in (small.getchannel("A"), mask.resize((_SIDE, _SIDE))))
    return float((own & given).sum() / max(1, (own | given).sum()))
