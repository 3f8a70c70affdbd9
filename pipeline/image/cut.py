"""An object cut out by a mask, by transparency or by what removes backgrounds, and cropped to a square on black."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ..errors import ImageError
from .masks import border_mean, fitted, has_transparency, opaque
from .remarks import remarks_on
from .remover import Remover, background_remover

log = logging.getLogger(__name__)

MAX_SIDE = 1024  # pixels; larger pictures are reduced
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, as DINOv3 was trained

_LEAST = 8  # pixels a side; in fewer there is no object to be found
_MARGIN = 0.25  # of a small object's side, left round it when its background is removed a second time
_SMALL = 0.6  # of the picture's side; a smaller object is looked at again with more of its pixels


def prepare(
    image: Image.Image,
    mask: Image.Image | None = None,
    remove_background: Remover | None = None,
    *,
    reduce_first: bool = False,
) -> Image.Image:
    """The object alone: cut out, cropped to a square round it, on black. Arguments and errors as cut_out.

    Returns:
        Square RGB picture, at most MAX_SIDE large.
    """
    return on_black(cut_out(image, mask, remove_background, reduce_first=reduce_first))


def cut_out(
    image: Image.Image,
    mask: Image.Image | None = None,
    remove_background: Remover | None = None,
    *,
    reduce_first: bool = False,
) -> Image.Image:
    """The object cut out and cropped to a square round it.

    Args:
        image: RGB or RGBA.
        mask: 8-bit grey, white: object; it is brought to the picture's size. Without one the picture's alpha is the
            cut-out, if has_transparency; otherwise
        remove_background: is called with RGB pictures, at most MAX_SIDE large, and gives RGBA ones; by default it
            takes plain backgrounds only.
        reduce_first: reduce a picture above MAX_SIDE before it is cropped, as the reference implementation does, which
            leaves little of a small object. By default the crop is made first and then reduced: the same for pictures
            up to MAX_SIDE, more of the object's own pixels for larger ones.

    Returns:
        Square RGBA picture, at most MAX_SIDE large. Its info may have "remarks", texts of what may be wrong with it,
        which are logged too.

    Raises:
        ImageError: nothing to cut out with, or nothing left after it.
    """
    if mask is not None:
        image = _masked(image, mask)
    if reduce_first:
        image = _reduced(image)
    if mask is None and not has_transparency(image):
        image = _removed(_opaque(image), remove_background or background_remover("plain"))
        _tell(image)
    remarks = remarks_on(image, mask is not None)
    for remark in remarks:
        log.warning(f"{remark[0].upper()}{remark[1:]}.")
    found = _reduced(_crop(image))
    found.info["remarks"] = remarks
    return found


def matte(image: Image.Image, mask: Image.Image | None = None, remove_background: Remover | None = None) -> Image.Image:
    """The picture as it is, with the object's cut-out as alpha: neither cropped nor reduced. A background is removed at
    no more than MAX_SIDE, and the cut-out enlarged. Arguments and errors as cut_out; RGBA."""
    if mask is not None:
        return _masked(image, mask)
    if has_transparency(image):
        return image
    whole = _opaque(image)
    found = (remove_background or background_remover("plain"))(_reduced(whole))
    _tell(found)
    if found.size == whole.size:
        return found
    whole.putalpha(found.getchannel("A").resize(whole.size, Image.Resampling.BILINEAR))
    return whole


def _masked(image: Image.Image, mask: Image.Image) -> Image.Image:
    image = image.convert("RGB")
    image.putalpha(fitted(mask, image))
    if border_mean(image.getchannel("A")) > 0.5:
        log.warning("The mask marks most of the picture's border as object. Is it the wrong way round?")
    return image


def _opaque(image: Image.Image) -> Image.Image:
    """A picture without a cut-out as RGB. Raises ImageError if it is too small for a background to be found."""
    if max(image.size) < _LEAST:
        raise ImageError(f"The picture is only {image.width} x {image.height} pixels. Use a larger picture.")
    if image.mode == "RGBA" and np.asarray(image.getchannel("A")).min() < 255:
        log.warning("The picture's alpha leaves nearly everything, which is no cut-out; it is not used.")
    return image.convert("RGB")


def _tell(image: Image.Image) -> None:
    """What removing a background had to remark."""
    if "remark" in image.info:
        log.warning(image.info["remark"])


def _removed(image: Image.Image, remove_background: Remover) -> Image.Image:
    """A picture without its background, at most MAX_SIDE large; a small object in a larger picture is found first and
    then cut out from the full picture."""
    small = _reduced(image)
    found = remove_background(small)
    box = opaque(found.getchannel("A")).getbbox()
    if small.size == image.size or box is None:
        return found
    scale = image.width / small.width
    margin = 1 + _MARGIN * max(box[2] - box[0], box[3] - box[1])
    area = (box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin)
    left, top = (max(0, round(value * scale)) for value in area[:2])
    right, bottom = (min(round(value * scale), most) for value, most in zip(area[2:], image.size))
    if max(right - left, bottom - top) > _SMALL * max(image.size):
        return found
    try:
        return remove_background(_reduced(image.crop((left, top, right, bottom))))
    except ImageError:  # the object's surroundings are less plain than the whole picture's border
        return found


def _reduced(image: Image.Image) -> Image.Image:
    scale = min(1, MAX_SIDE / max(image.size))
    if scale == 1:
        return image
    size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _crop(image: Image.Image) -> Image.Image:
    box = opaque(image.getchannel("A")).getbbox()
    if box is None:
        raise ImageError(
            "The picture is empty: no pixel is more than 80 % opaque. "
            "Check its alpha channel, or which side of the mask is the object."
        )
    left, top, right, bottom = box[0], box[1], box[2] - 1, box[3] - 1
    half = max(right - left, bottom - top) // 2
    if half == 0:
        raise ImageError(
            f"The object in the picture is only {right - left + 1} x {bottom - top + 1} pixels. Use a larger picture."
        )
    centre_x, centre_y = (left + right) / 2, (top + bottom) / 2
    return image.crop((centre_x - half, centre_y - half, centre_x + half, centre_y + half))


def on_black(image: Image.Image) -> Image.Image:
    """RGBA -> RGB, composited on black."""
    values = np.asarray(image).astype(np.float32) / 255
    return Image.fromarray((values[:, :, :3] * values[:, :, 3:4] * 255).astype(np.uint8))


def to_pixels(images: Sequence[Image.Image], size: int) -> torch.Tensor:
    """Pictures -> [B, 3, size, size] fp32, Lanczos-resized and normalised as the encoder expects."""
    resized = [image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS) for image in images]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in resized])).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std
