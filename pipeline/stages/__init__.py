"""READ FIRST. The pipeline: picture -> condition -> structure -> shape -> texture -> mesh and voxels -> GLB.

Each stage is a function from dataclass to dataclass; `generate` calls them in a row. All take a Runtime
(device, precision, backends, progress) and, where they need networks, the Models of a checkpoint.

Frames: a grid of R voxels a side fills the cube -0.5 .. 0.5, Z up; voxel (i, j, k) is [i, i + 1] / R - 0.5.
"""

from .checks import (
    PICTURE_BUDGET,
    check_export,
    check_frames,
    check_maps,
    check_pictures,
    check_shells,
    check_tokens,
    preflight,
)
from .drawing import draw, draw_each
from .finish import bake_texture, color_vertices, export_glb, process_mesh
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
    MIN_FACES,
    ROUGHNESS,
    SHELLS,
    TEXTURE_SIZES,
    Condition,
    ExportSettings,
    Generation,
    Latent,
    Mesh,
    Origin,
    PBRVoxels,
    Structure,
    Subdivisions,
    TexturedMesh,
    Unwrapped,
    check_levels,
    check_texture_size,
)

__all__ = [
    "ALPHA",
    "BASE_COLOR",
    "METALLIC",
    "MIN_FACES",
    "PICTURE_BUDGET",
    "ROUGHNESS",
    "SHELLS",
    "TEXTURE_SIZES",
    "Condition",
    "ExportSettings",
    "Generation",
    "Latent",
    "Mesh",
    "Origin",
    "PBRVoxels",
    "Structure",
    "Subdivisions",
    "TexturedMesh",
    "Unwrapped",
    "bake_texture",
    "check_export",
    "check_frames",
    "check_levels",
    "check_maps",
    "check_pictures",
    "check_shells",
    "check_texture_size",
    "check_tokens",
    "color_vertices",
    "decode_shape",
    "decode_texture",
    "draw",
    "draw_each",
    "encode_images",
    "export_glb",
    "generate",
    "preflight",
    "process_mesh",
    "sample_shape",
    "sample_structure",
    "sample_texture",
    "table",
]
