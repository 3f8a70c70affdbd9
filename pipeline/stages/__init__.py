"""READ FIRST. The pipeline: picture -> condition -> structure -> shape -> texture -> mesh and voxels -> GLB.

Each stage is a function from dataclass to dataclass, in a file of its own: encode, structure, shape, texture, decode,
process, bake or color, preview, export; `generate` calls those that need networks in a row. All take a Runtime (device,
precision, backends, progress) and, where they need networks, the Models of a checkpoint. types.py has the dataclasses.

Frames: a grid of R voxels a side fills the cube -0.5 .. 0.5, Z up; voxel (i, j, k) is [i, i + 1] / R - 0.5.
"""

from .backend_table import default_backends
from .bake import bake_texture
from .checks import (
    PICTURE_BUDGET,
    check_export,
    check_finish,
    check_frames,
    check_maps,
    check_pictures,
    check_shells,
    check_tokens,
    preflight,
)
from .color import color_vertices
from .decode import decode_shape, decode_texture
from .encode import encode_images
from .encode_mesh import (
    Encoded,
    encode_mesh,
    encode_texture,
    frame_of,
    in_unit_cube,
    shape_resolution,
    texture_resolution,
)
from .existing import base_color_image
from .export import export_mesh
from .finish import finish_mesh, write_finished, write_views
from .generate import Finished, generate, generation_settings
from .hollowing import CAVITIES, Hollowing, Thickness, hollow_lines
from .inspection import PLA, Inspection, check_density, inspect_file, inspect_mesh
from .keep import Keep, Mask
from .presets import PRESETS, Preset
from .preview import STUDIO, draw, draw_each, draw_views
from .process import process_mesh
from .project_texture import project_scene, project_texture
from .refine import refine_mesh, refine_shape, refining_roles, resample_shape, tokens_to_keep
from .scene_preview import scene_subject
from .shape import sample_shape
from .state import State, held_in, open_state, pipeline_type_of, write_generation, write_state
from .structure import sample_structure
from .texture import sample_texture
from .texture_mesh import SceneTextures, bake_scene, scene_mesh, texture_scene, texturing_roles
from .types import (
    ALPHA,
    BASE_COLOR,
    METALLIC,
    MIN_FACES,
    MIN_QUADS,
    ROUGHNESS,
    SEAMS,
    SHELLS,
    TEXTURE_SIZES,
    Condition,
    ExportSettings,
    Generation,
    Latent,
    LatentStart,
    Length,
    Mesh,
    Origin,
    PBRVoxels,
    Structure,
    Subdivisions,
    TexturedMesh,
    Unwrapped,
    check_levels,
    check_quads,
    check_texture_size,
)

table = default_backends  # its name in 0.1
export_glb = export_mesh  # likewise

__all__ = [
    "ALPHA",
    "BASE_COLOR",
    "CAVITIES",
    "METALLIC",
    "MIN_FACES",
    "MIN_QUADS",
    "PICTURE_BUDGET",
    "PLA",
    "PRESETS",
    "ROUGHNESS",
    "SEAMS",
    "SHELLS",
    "STUDIO",
    "TEXTURE_SIZES",
    "Condition",
    "Encoded",
    "ExportSettings",
    "Finished",
    "Generation",
    "Hollowing",
    "Inspection",
    "Keep",
    "Latent",
    "LatentStart",
    "Length",
    "Mask",
    "Mesh",
    "Origin",
    "PBRVoxels",
    "Preset",
    "SceneTextures",
    "State",
    "Structure",
    "Subdivisions",
    "TexturedMesh",
    "Thickness",
    "Unwrapped",
    "bake_scene",
    "bake_texture",
    "base_color_image",
    "check_density",
    "check_export",
    "check_finish",
    "check_frames",
    "check_levels",
    "check_maps",
    "check_pictures",
    "check_quads",
    "check_shells",
    "check_texture_size",
    "check_tokens",
    "color_vertices",
    "decode_shape",
    "decode_texture",
    "default_backends",
    "draw",
    "draw_each",
    "draw_views",
    "encode_images",
    "encode_mesh",
    "encode_texture",
    "export_glb",
    "export_mesh",
    "finish_mesh",
    "frame_of",
    "generate",
    "generation_settings",
    "held_in",
    "hollow_lines",
    "in_unit_cube",
    "inspect_file",
    "inspect_mesh",
    "open_state",
    "pipeline_type_of",
    "preflight",
    "process_mesh",
    "project_scene",
    "project_texture",
    "refine_mesh",
    "refine_shape",
    "refining_roles",
    "resample_shape",
    "sample_shape",
    "sample_structure",
    "sample_texture",
    "scene_mesh",
    "scene_subject",
    "shape_resolution",
    "table",
    "texture_resolution",
    "texture_scene",
    "texturing_roles",
    "tokens_to_keep",
    "write_finished",
    "write_generation",
    "write_state",
    "write_views",
]
