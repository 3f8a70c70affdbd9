"""Pictures of meshes, by a software rasteriser on Warp."""

from .camera import Camera
from .operations import OPERATIONS, RENDER
from .pictures import check_picture, render, turntable, turntable_frames
from .studio import Softbox, Studio
from .subject import ALPHA_MODES, MODES, Subject

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
