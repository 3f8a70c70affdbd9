"""Pictures of meshes, by a software rasteriser on Warp."""

from .operations import OPERATIONS, RENDER
from .scene import (
    ALPHA_MODES,
    MODES,
    Camera,
    Softbox,
    Studio,
    Subject,
    check_picture,
    render,
    turntable,
    turntable_frames,
)

__all__ = [
    "ALPHA_MODES",
    "MODES",
    "OPERATIONS",
    "RENDER",
    "Camera",
    "Softbox",
    "Studio",
    "Subject",
    "check_picture",
    "render",
    "turntable",
    "turntable_frames",
]
