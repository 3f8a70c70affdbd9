"""The picture side: read, cut out, crop to a square on black, and show it to the encoder.

Pictures are PIL images, 8-bit RGB(A), row 0 at the top.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ImageError

MAX_SIDE = 1024  # pixels; larger pictures are reduced before they are cropped
OPAQUE_ENOUGH = 0.8  # the object's box is drawn round alpha above this
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, as DINOv3 was trained


def read_picture(path: str | Path) -> Image.Image:
    """A picture file as RGB or RGBA, turned upright by its EXIF tag.

    CMYK and palette pictures are converted, 16-bit ones reduced to 8 bits.

    Raises:
        ImageError: missing, unreadable, truncated or animated.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise ImageError(
                    f"{path} is animated ({frames} frames). Save the frame you want as a PNG and use that."
                )
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise ImageError(f"There is no picture {path}.") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} cannot be read as a picture: {error}. Save it again as PNG or JPEG.") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL mode -> RGBA if the picture has transparency, else RGB."""
    if image.mode in ("RGB", "RGBA"):
        return image if "transparency" not in image.info else image.convert("RGBA")
    if image.mode.startswith(("I", "F")):  # PIL clips these when it converts; scale them instead
        values = np.asarray(image, dtype=np.float64)
        top = 65535 if values.max() > 255 else 255 if values.max() > 1 or image.mode != "F" else 1
        image = Image.fromarray(np.round(np.clip(values / top, 0, 1) * 255).astype(np.uint8))
    transparent = "transparency" in image.info or image.mode in ("LA", "PA", "La", "RGBa")
    return image.convert("RGBA" if transparent else "RGB")


def read_mask(path: str | Path, image: Image.Image) -> Image.Image:
    """A mask file (white: object) as 8-bit grey; a transparent picture's alpha counts as its mask.

    Raises:
        ImageError: unreadable, or another size than the picture.
    """
    mask = read_picture(path)
    mask = mask.getchannel("A") if has_transparency(mask) else mask.convert("L")
    return _same_size(mask, image)


def _same_size(mask: Image.Image, image: Image.Image) -> Image.Image:
    if mask.size != image.size:
        raise ImageError(
            f"The mask is {mask.width} x {mask.height} pixels, the picture {image.width} x {image.height}; "
            "they must have the same size."
        )
    return mask


def has_transparency(image: Image.Image) -> bool:
    """Whether a picture has an alpha channel that says something."""
    return image.mode == "RGBA" and image.getchannel("A").getextrema()[0] < 255


def prepare(
    image: Image.Image,
    mask: Image.Image | None = None,
    remove_background: Callable[[Image.Image], Image.Image] | None = None,
) -> Image.Image:
    """The object alone: cut out, cropped to a square round it, on black. Arguments and errors as cut_out.

    Returns:
        Square RGB picture.
    """
    return on_black(cut_out(image, mask, remove_background))


def cut_out(
    image: Image.Image,
    mask: Image.Image | None = None,
    remove_background: Callable[[Image.Image], Image.Image] | None = None,
) -> Image.Image:
    """The object cut out and cropped to a square round it.

    Args:
        image: RGB or RGBA. Its alpha is the cut-out if any of it is below 255; otherwise
        mask: 8-bit grey of the same size is; otherwise
        remove_background: is called with the RGB picture, at most MAX_SIDE large, and gives an RGBA one.

    Returns:
        Square RGBA picture.

    Raises:
        ImageError: nothing to cut out with, or nothing left after it.
    """
    cut_out = has_transparency(image)
    if not cut_out and mask is not None:
        image = image.convert("RGB")
        image.putalpha(_same_size(mask, image))
        cut_out = True
    scale = min(1, MAX_SIDE / max(image.size))
    if scale < 1:
        size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    if not cut_out:
        if remove_background is None:
            raise ImageError(
                "The picture has no transparent background. Give a mask of the object, cut it out yourself and save it "
                "as a PNG with transparency, or let it be removed: pip install 'rembg[cpu]'."
            )
        image = remove_background(image.convert("RGB"))
    return _crop(image)


def _crop(image: Image.Image) -> Image.Image:
    rgba = np.asarray(image)
    rows, columns = np.nonzero(rgba[:, :, 3] > OPAQUE_ENOUGH * 255)
    if len(rows) == 0:
        raise ImageError(
            "The picture is empty: no pixel is more than 80 % opaque. "
            "Check its alpha channel or the mask (white: object)."
        )
    left, top, right, bottom = (int(v) for v in (columns.min(), rows.min(), columns.max(), rows.max()))
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


def rembg_remover(model: str = "birefnet-general-lite") -> Callable[[Image.Image], Image.Image]:
    """Background removal through the optional package rembg (ONNX, no remote code).

    Args:
        model: a rembg model. The default is MIT-licensed (BiRefNet); rembg's own default, bria-rmbg,
            is not free for commercial use.

    Raises:
        ImageError: rembg is not installed, does not know the model or cannot get its weights.
    """
    try:
        import rembg
    except (ImportError, SystemExit) as error:  # rembg exits the process when it finds no onnxruntime
        problem = "onnxruntime is missing" if isinstance(error, SystemExit) else error
        raise ImageError(
            "The picture has no transparent background and rembg is not usable here "
            f"({problem}). pip install 'rembg[cpu]', or give a mask, or a PNG with transparency."
        ) from error
    try:
        session = rembg.new_session(model)
    except (ValueError, OSError) as error:
        raise ImageError(
            f"rembg cannot load the model {model!r}: {error}. Give a mask or a PNG with transparency."
        ) from error
    return lambda image: rembg.remove(image, session=session).convert("RGBA")


def to_pixels(images: Sequence[Image.Image], size: int) -> torch.Tensor:
    """Pictures -> [B, 3, size, size] fp32, Lanczos-resized and normalised as the encoder expects."""
    resized = [image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS) for image in images]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in resized])).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std
