"""Files: a format-neutral scene, and writers by suffix."""

from .files import writing
from .printing import TrueSize, check_flat_base, for_print, true_length
from .scene import AlphaMode, Geometry, Material, Scene
from .writers import WRITERS, level_path, write, write_levels, writer, written_paths

__all__ = [
    "WRITERS",
    "AlphaMode",
    "Geometry",
    "Material",
    "Scene",
    "TrueSize",
    "check_flat_base",
    "for_print",
    "level_path",
    "true_length",
    "write",
    "write_levels",
    "writer",
    "writing",
    "written_paths",
]
