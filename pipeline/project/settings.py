"""Settings of the projection of pictures."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SettingsError, unknown
from .blend import COLOURS
from .fit import MIN_IOU

LARGEST = 8192  # texels along a side that a picture may ask for


@dataclass(frozen=True)
class Projection:
    """How pictures are put on a texture.

    colours: see blend.blended; "auto": "texture" if a picture has light in it, otherwise "picture". feather: picture
    sides over which a picture fades in from outlines. min_iou: overlap of silhouettes (intersection over union) below
    which a picture is refused. remove_light: divide a low-order estimate of the light out of the pictures that have
    light in them; where the texture keeps its tone only if the estimate explains what they show. largest: texels along
    a side up to which the texture is enlarged where a picture has more detail than it holds.

    Raises:
        SettingsError: a number out of range, or no such colours.
    """

    colours: str = "auto"
    feather: float = 0.002
    min_iou: float = MIN_IOU
    remove_light: bool = False
    largest: int = LARGEST

    def __post_init__(self) -> None:
        if self.colours not in COLOURS:
            raise SettingsError(unknown("colours", self.colours, COLOURS))
        if not 0 < self.feather <= 0.2:
            raise SettingsError(f"The feather must lie above 0 and up to 0.2 picture sides, got {self.feather:g}.")
        if not 0 <= self.min_iou <= 1:
            raise SettingsError(f"The least overlap of silhouettes must lie in 0 to 1, got {self.min_iou:g}.")
        if self.largest < 1:
            raise SettingsError(f"The largest texture must have at least 1 texel a side, got {self.largest}.")


DEFAULT_PROJECTION = Projection()
