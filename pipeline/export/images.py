"""Pictures of a material as files: PNG, or WebP that never smears values which must not mix.

By hand because a library leaves no choice of encoding: lossy WebP would mix metallic and roughness.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..errors import OutputError
from .png import check_rows, encode_pngs

MAX_WEBP = 16383  # pixels a side, by the format
_DECODED = 4096**2  # pixels; decoding larger pictures takes seconds and up to a gigabyte


def encode_images(pictures: Mapping[str, np.ndarray], kind: str, lossy: Collection[str] = ()) -> dict[str, bytes]:
    """Pictures [H, W] or [H, W, C] uint8 as files, under the same names.

    Args:
        kind: "png" or "webp". lossy: names of those that WebP may compress with loss.

    Raises:
        OutputError: a picture is larger than WebP can be.
    """
    most = max((max(each.shape[:2]) for each in pictures.values()), default=0)
    if kind == "webp" and most > MAX_WEBP:
        raise OutputError(f"WebP holds at most {MAX_WEBP} pixels a side, got {most}; choose png or a smaller texture.")
    if kind == "png":
        return encode_pngs(pictures)
    with ThreadPoolExecutor() as pool:  # the encoder releases Python's lock
        return dict(zip(pictures, pool.map(lambda name: _webp(pictures[name], name not in lossy), pictures)))


def decoded_size(data: bytes) -> tuple[int, int]:
    """(width, height) of an encoded picture that decodes: PNG, WebP or JPEG.

    Pillow's limit on the number of pixels does not count, as textures may have more. Of PNG the checksums are compared
    and the rows inflated, unless they are interlaced; other large ones are not decoded.

    Raises:
        ValueError: it is none of these, or damaged.
    """
    kinds = {b"\x89PNG": PngImageFile, b"RIFF": WebPImageFile, b"\xff\xd8\xff": JpegImageFile}
    try:
        kind = next(kind for magic, kind in kinds.items() if data.startswith(magic))
        with kind(io.BytesIO(data)) as image:
            if kind is PngImageFile and not image.tile:
                raise ValueError("it has no rows")
            inflated = kind is PngImageFile and not image.info.get("interlace")
            if inflated or image.width * image.height > _DECODED:
                image.verify()
            else:
                image.load()
        if inflated:
            check_rows(data)
        return image.size
    except StopIteration:
        raise ValueError("it is neither PNG nor WebP nor JPEG") from None
    except (OSError, SyntaxError) as error:
        raise ValueError(str(error)) from error


def _webp(picture: np.ndarray, lossless: bool) -> bytes:
    """Quality 92, lossless where values must not mix: each a third of the time that the next few per cent of the size
    would cost."""
    image, buffer = Image.fromarray(picture), io.BytesIO()
    if lossless:
        image.save(buffer, "WEBP", lossless=True, quality=0, method=0)
    else:
        image.save(buffer, "WEBP", quality=92, method=2)
    return buffer.getvalue()
