"""From a picture file's pixels to a picture that can be projected, and whether its mask is its own."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from ..image import Remover, matte, misfit
from ..views import PictureCamera, View


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
    cut = matte(image, mask, remove_background)
    remark = "" if mask is None else misfit(cut)
    return Photo(cut, camera, view, name, (f"{name}: {remark}.",) if remark else ())
