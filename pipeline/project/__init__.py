"""Pictures onto the texture of an object: their cameras, what they show of it, and how both are put together."""

from .align import Aligned, aligned
from .blend import COLOURS
from .fit import MIN_IOU, Fit, angle, fit_camera, measured
from .paint import texels_a_unit
from .painted import Painted, Seen, Sheet
from .photo import Photo, photo
from .picture import Picture
from .project import Projected, decided, enlarged, fitting_size, project
from .settings import DEFAULT_PROJECTION, LARGEST, Projection

__all__ = [
    "COLOURS",
    "DEFAULT_PROJECTION",
    "LARGEST",
    "MIN_IOU",
    "Aligned",
    "Fit",
    "Painted",
    "Photo",
    "Picture",
    "Projected",
    "Projection",
    "Seen",
    "Sheet",
    "aligned",
    "angle",
    "decided",
    "enlarged",
    "fit_camera",
    "fitting_size",
    "measured",
    "photo",
    "project",
    "texels_a_unit",
]
