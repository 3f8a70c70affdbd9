"""Any mode and colour profile that a picture file can have -> 8-bit sRGB, with alpha if there is transparency."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

_SAME = 2  # levels; a profile that moves no colour by more is sRGB under some name
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}  # mode of Pillow -> colour space of an ICC profile
_WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


def converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """What makes RGB(A) of a picture, or of parts cut from it.

    The scale of deep values and the profile are those of the whole picture. A profile that cannot be used (damaged,
    or of another colour space than the pixels) is left out.
    """
    deep = image.mode.startswith(("I", "F"))  # PIL clips these when it converts; scale them instead
    top = _top(image) if deep else 0
    key = _transparent_value(image)
    transforms = {mode: _to_srgb(image.info.get("icc_profile"), mode) for mode in _SPACES}

    def convert(part: Image.Image) -> Image.Image:
        colours, alpha = _deep(part, top, key) if deep else _split(part, key)
        transform = transforms.get(colours.mode)
        colours = transform.apply(colours) if transform else colours.convert("RGB")
        if alpha is not None:
            colours.putalpha(alpha)
        return colours

    return convert


def _top(image: Image.Image) -> int:
    """The value of a deep picture that stands for white."""
    highest = np.nan_to_num(np.asarray(image)).max()
    return 65535 if highest > 255 else 255 if highest > 1 or image.mode != "F" else 1


def _transparent_value(image: Image.Image) -> int | tuple[int, ...] | bytes | None:
    """The value or values of a picture that stand for transparency. Pillow keeps the high bytes of 16-bit colours,
    but their transparent colour whole."""
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:
        return tuple(value >> 8 for value in key)
    return key


def _deep(image: Image.Image, top: int, key: object) -> tuple[Image.Image, Image.Image | None]:
    """Integers or floats -> 8-bit grey, and alpha if there is a transparent value."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    grey = Image.fromarray(np.round(np.clip(values / top, 0, 1) * 255).astype(np.uint8))
    return grey, Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)) if isinstance(key, int) else None


def _split(image: Image.Image, key: object) -> tuple[Image.Image, Image.Image | None]:
    """Colours in a mode that a profile can speak of, and alpha if there is any."""
    if image.mode not in _WITH_ALPHA and key is None:
        return image if image.mode in _SPACES else image.convert("RGB"), None
    if key is not None:
        image = image.copy()
        image.info["transparency"] = key
    alpha = image.convert("RGBA").getchannel("A")
    return image.getchannel("L") if image.mode == "LA" else image.convert("RGBA").convert("RGB"), alpha


def _to_srgb(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from a profile to sRGB; None if there is none to go."""
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        known: Any = source.profile  # of littleCMS; declared as a file by Pillow
        if known.xcolor_space.strip() != _SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ImportError):  # damaged, or a Pillow without LittleCMS
        return None
    return None if mode != "CMYK" and _changes(transform, mode) <= _SAME else transform


def _changes(transform: ImageCms.ImageCmsTransform, mode: str) -> int:
    """By how many levels a transform moves a colour at most."""
    levels = np.linspace(0, 255, 9 if mode == "RGB" else 256).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3) if mode == "RGB" else levels[None]
    probe = Image.fromarray(colours)
    before, after = (np.asarray(image.convert("RGB"), dtype=int) for image in (probe, transform.apply(probe)))
    return int(np.abs(before - after).max())
