"""The picture side: read, cut out, crop to a square on black, and show it to the encoder.

Pictures are PIL images, 8-bit RGB(A), row 0 at the top.
"""

from .cut import MAX_SIDE, MEAN, STD, cut_out, matte, on_black, prepare, to_pixels
from .masks import OPAQUE_ENOUGH, fitted, has_transparency, leaves_all, marks_nothing, read_mask, white_is_background
from .plain import plain_background
from .read import READ_SIDE, read_picture, without_remarks
from .remarks import misfit
from .remover import CURES, DEFAULT_MODEL, KINDS, Remover, background_remover, rembg_remover

__all__ = [
    "CURES",
    "DEFAULT_MODEL",
    "KINDS",
    "MAX_SIDE",
    "MEAN",
    "OPAQUE_ENOUGH",
    "READ_SIDE",
    "STD",
    "Remover",
    "background_remover",
    "cut_out",
    "fitted",
    "has_transparency",
    "leaves_all",
    "marks_nothing",
    "matte",
    "misfit",
    "on_black",
    "plain_background",
    "prepare",
    "read_mask",
    "read_picture",
    "rembg_remover",
    "to_pixels",
    "white_is_background",
    "without_remarks",
]
