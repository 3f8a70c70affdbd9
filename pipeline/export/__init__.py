"""Files: GLB with PBR materials. The only place that turns the world's Z-up into glTF's Y-up."""

from .files import writing
from .glb import AlphaMode, Geometry, Material, level_path, srgb_to_linear, write_glb, write_levels

__all__ = [
    "AlphaMode",
    "Geometry",
    "Material",
    "level_path",
    "srgb_to_linear",
    "write_glb",
    "write_levels",
    "writing",
]
