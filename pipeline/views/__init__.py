"""Several pictures of one object: where they were taken from, and how much each counts where."""

from .camera import PictureCamera
from .hull import carve
from .mixing import STRATEGIES, mixed
from .pictures import posed, unposed
from .proportions import stretched, stretches
from .rig import NAMED, View, named_views, parse_view
from .settings import NAMED as NAMED_MIXING
from .settings import UNNAMED, Mixing, PosedPictures
from .visibility import view_weights

__all__ = [
    "NAMED",
    "NAMED_MIXING",
    "STRATEGIES",
    "UNNAMED",
    "Mixing",
    "PictureCamera",
    "PosedPictures",
    "View",
    "carve",
    "mixed",
    "named_views",
    "parse_view",
    "posed",
    "stretched",
    "stretches",
    "unposed",
    "view_weights",
]
