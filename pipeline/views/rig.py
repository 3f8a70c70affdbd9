"""Where a picture was taken from: four names, or any azimuth and elevation.

Frame: the object's, Z up; its front looks along -Y. Azimuth 0 is the front view, taken from -Y; "left" is the object's
own left (+X, azimuth 90), which is on the right hand side of the front view. ComfyUI's own multi-view nodes and
`render.Camera` count in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import SettingsError, did_you_mean
from ..words import counted

NAMED = {"front": 0.0, "left": 90.0, "back": 180.0, "right": 270.0}  # degrees of azimuth
_TURN = 360.0  # degrees; a direction that is typed as more than a turn is a slip


@dataclass(frozen=True)
class View:
    """The direction that a picture was taken from.

    azimuth: degrees, 0 in front, growing anticlockwise seen from above; brought to 0-360.
    elevation: degrees above the horizon, -90 to 90.
    """

    azimuth: float
    elevation: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.azimuth) and math.isfinite(self.elevation)):
            raise SettingsError(f"A view needs finite angles, got azimuth {self.azimuth}, elevation {self.elevation}.")
        if not -90 <= self.elevation <= 90:
            raise SettingsError(f"A view's elevation must lie in -90 to 90 degrees, got {self.elevation:g}.")
        object.__setattr__(self, "azimuth", self.azimuth % 360)

    @property
    def name(self) -> str:
        """Its name, or its angles."""
        for name, azimuth in NAMED.items():
            if azimuth == self.azimuth and self.elevation == 0:
                return name
        return f"{self.azimuth:g},{self.elevation:g}"

    def axes(self) -> torch.Tensor:
        """[3, 3] float64: see camera_axes."""
        return torch.from_numpy(camera_axes(self.azimuth, self.elevation))


def camera_axes(azimuth: float, elevation: float) -> np.ndarray:
    """[3, 3] float64 of an upright camera at angles in degrees: rows are the picture's right, its up and the direction
    from the object to the camera."""
    a, e = math.radians(azimuth), math.radians(elevation)
    return np.array(axes_from((math.cos(a), math.sin(a)), (math.cos(e), math.sin(e)), 0.0))


def axes_from(azimuth: tuple, elevation: tuple, zero) -> tuple[tuple, tuple, tuple]:
    """The rows of camera_axes from cosine and sine of each angle; numbers, or tensors and a zero of their shape."""
    (cos_a, sin_a), (cos_e, sin_e) = azimuth, elevation
    return (cos_a, sin_a, zero), (-sin_e * sin_a, sin_e * cos_a, cos_e), (cos_e * sin_a, -cos_e * cos_a, sin_e)


def parse_view(text: str) -> View:
    """A view from its name ("left"), its azimuth ("45") or azimuth and elevation ("45,20").

    Raises:
        SettingsError: the text is none of these, or more than a turn.
    """
    word = text.strip().lower()
    if word in NAMED:
        return View(NAMED[word])
    try:
        angles = [float(number) for number in word.split(",")]
    except ValueError:
        angles = []
    if len(angles) not in (1, 2):
        raise SettingsError(
            f"A view is {', '.join(NAMED)}, an azimuth such as 45, or azimuth and elevation such as 45,20; "
            f"got {text!r}{did_you_mean(word, NAMED) or '.'}"
        )
    if not abs(angles[0]) <= _TURN:
        raise SettingsError(
            f"A view's azimuth must lie in -{_TURN:g} to {_TURN:g} degrees, got {angles[0]:g}; 0 is the front, 90 the "
            "object's own left."
        )
    return View(*angles)


def named_views(names: Sequence[str], pictures: int) -> tuple[View, ...]:
    """The views of a list of pictures.

    Raises:
        SettingsError: not one view for each picture, or two pictures of the same view.
    """
    if len(names) != pictures:
        named = f" ({' '.join(map(str.strip, names))})" if names else ""
        raise SettingsError(
            f"Got {counted(pictures, 'picture')} and {counted(len(names), 'view')}{named}; name one view a picture."
        )
    views = tuple(map(parse_view, names))
    if len(set(views)) < len(views):
        raise SettingsError(f"Two pictures have the same view: {', '.join(view.name for view in views)}.")
    return views
