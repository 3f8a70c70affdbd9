"""Files: GLB with PBR materials. The only place that turns the world's Z-up into glTF's Y-up."""

from .files import writing
from .glb import AlphaMode, Material, write_glb

__all__ = ["AlphaMode", "Material", "write_glb", "writing"]
