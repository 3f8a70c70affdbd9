"""One object from its settings to what a file is written of: the stages in a row, along a memory plan, with a log.

The command line, batches and the service make their objects here; they differ in where pictures come from and where
files go. settings.py says what can be asked for, planned.py is the run, and each other file one way to make an object.
"""

from .from_mesh import refine_object, texture_object
from .from_pictures import make_object, picture_notes, several_views
from .from_state import finish_object
from .planned import Made, PlannedRun
from .settings import ObjectSettings, RefineSettings, TextureSettings

__all__ = [
    "Made",
    "ObjectSettings",
    "PlannedRun",
    "RefineSettings",
    "TextureSettings",
    "finish_object",
    "make_object",
    "picture_notes",
    "refine_object",
    "several_views",
    "texture_object",
]
