"""Pictures of meshes, by a software rasteriser on Warp."""

from .camera import Camera, turntable_cameras
from .environment import environment_studio
from .environment_files import read_environment
from .operations import OPERATIONS, RENDER
from .pictures import check_picture, render, turntable
from .studio import Softbox, Studio
from .subject import ALPHA_MODES, MODES, Subject
from .videos import check_video, turntable_frame_count, video
from .views import Frame, view_frames

__all__ = [
    "ALPHA_MODES",
    "MODES",
    "OPERATIONS",
    "RENDER",
    "Camera",
    "Frame",
    "Softbox",
    "Studio",
    "Subject",
    "check_picture",
    "check_video",
    "environment_studio",
    "read_environment",
    "render",
    "turntable",
    "turntable_cameras",
    "turntable_frame_count",
    "video",
    "view_frames",
]
