"""Pictures of a material as files: PNG, or WebP that never smears values which must not mix.

By hand because a library leaves no choice of encoding: lossy WebP would mix metallic and roughness.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image


def encode_images(pictures: Mapping[str, np.ndarray], kind: str, lossy: Collection[str] = ()) -> dict[str, bytes]:
    """Pictures [H, W] or [H, W, C] uint8 as files, under the same names.

    Args:
        kind: "png" or "webp". lossy: names of those that WebP may compress with loss.
    """
    with ThreadPoolExecutor() as pool:  # the encoders release Python's lock
        files = pool.map(lambda name: _encode(Image.fromarray(pictures[name]), kind, name not in lossy), pictures)
        return dict(zip(pictures, files))


def _encode(image: Image.Image, kind: str, lossless: bool) -> bytes:
    """PNG level 4, or WebP of quality 92, lossless where values must not mix: each a third of the time that the next
    few per cent of the size would cost."""
    buffer = io.BytesIO()
    if kind == "png":
        image.save(buffer, "PNG", compress_level=4)
    elif lossless:
        image.save(buffer, "WEBP", lossless=True, quality=0, method=0)
    else:
        image.save(buffer, "WEBP", quality=92, method=2)
    return buffer.getvalue()
