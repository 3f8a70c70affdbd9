"""A camera's error as far as a picture can determine it: an object that looks the same from several sides
leaves open which of them was meant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.project import Painted, Seen, angle
from pipeline.views import PictureCamera

_SIDE = 128  # pixels of the pictures that are compared
_STEP = 15.0  # degrees between the turns that are tried
_OVERLAP, _COLOUR = 0.995, 0.005  # of silhouettes, and mean difference of base colours (0-1), of pictures that are one


def told_angle(painted: Painted, true: PictureCamera, found: PictureCamera) -> float:
    """Degrees from a camera's direction to the nearest one from which the object looks as it does from the true one.

    Turns about the vertical axis are tried, 15 degrees apart and without light. If all of them show the same picture
    the object is a solid of revolution: only the elevation counts. Otherwise the true direction and those of the turns
    that show the same count: two for a house without a door, one for nearly everything.
    """
    wanted = painted.seen(true, _SIDE)
    count = round(360 / _STEP)
    turned = [_turned(true, number * _STEP) for number in range(count)]
    same = [each for each in turned if _one_picture(wanted, painted.seen(each, _SIDE))]
    if len(same) == count:
        return abs(found.elevation - true.elevation)
    return min(angle(found, each) for each in (true, *same))


def _turned(camera: PictureCamera, degrees: float) -> PictureCamera:
    """The camera carried round the world's vertical axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    x, y, z = camera.target
    return replace(camera, azimuth=camera.azimuth + degrees, target=(float(c * x - s * y), float(s * x + c * y), z))


def _one_picture(one: Seen, other: Seen) -> bool:
    both = one.mask & other.mask
    whole = int((one.mask | other.mask).sum())
    if not whole or int(both.sum()) < _OVERLAP * whole:
        return False
    return float((one.colour - other.colour)[both].abs().mean()) < _COLOUR
