"""READ FIRST. The pipeline: picture -> condition -> structure -> shape -> texture -> mesh and voxels -> GLB.

Each stage is a function from dataclass to dataclass; `generate` calls them in a row. All take a Runtime
(device, precision, backends, progress) and, where they need networks, the Models of a checkpoint.

Frames: a grid of R voxels a side fills the cube -0.5 .. 0.5, Z up; voxel (i, j, k) is [i, i + 1] / R - 0.5.
"""

from .finish import bake_texture, check_backends, color_vertices, draw, export_glb, process_mesh
from .networks import (
    decode_shape,
    decode_texture,
    encode_images,
    generate,
    sample_shape,
    sample_structure,
    sample_texture,
    table,
)
from .values import (
    ALPHA,
    BASE_COLOR,
    METALLIC,
    ROUGHNESS,
    SHELLS,
    Condition,
    ExportSettings,
    Generation,
    Latent,
    Mesh,
    PBRVoxels,
    Structure,
    TexturedMesh,
    Unwrapped,
)

__all__ = [
    "ALPHA",
    "BASE_COLOR",
    "METALLIC",
    "ROUGHNESS",
    "SHELLS",
    "Condition",
    "ExportSettings",
    "Generation",
    "Latent",
    "Mesh",
    "PBRVoxels",
    "Structure",
    "TexturedMesh",
    "Unwrapped",
    "bake_texture",
    "check_backends",
    "color_vertices",
    "decode_shape",
    "decode_texture",
    "draw",
    "encode_images",
    "export_glb",
    "generate",
    "process_mesh",
    "sample_shape",
    "sample_structure",
    "sample_texture",
    "table",
]
