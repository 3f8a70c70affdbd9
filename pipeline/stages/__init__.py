"""READ FIRST. The pipeline: picture -> condition -> structure -> shape -> texture -> mesh and voxels -> GLB.

Each stage is a function from dataclass to dataclass, in a file of its own:

networks/   encode, structure, shape, texture, decode: from picture to raw mesh and voxels; encode_mesh: the way back
finishing/  process, bake or color, preview, export: from there to a file; needs no checkpoint
user_mesh/  texture_mesh, project_texture, refine: jobs on a mesh that the user brings

generate.py calls those of networks/ in a row, finishing/finish.py those of finishing/. All take a Runtime (device,
precision, backends, progress) and, where they need networks, the Models of a checkpoint. types.py has the dataclasses,
checks.py what can be refused before the first stage, state.py a file of what stages made.

Frames: a grid of R voxels a side fills the cube -0.5 .. 0.5, Z up; voxel (i, j, k) is [i, i + 1] / R - 0.5.
"""

from .backend_table import default_backends
from .checks import (
    PICTURE_BUDGET,
    check_export,
    check_finish,
    check_frames,
    check_maps,
    check_pictures,
    check_shells,
    check_tokens,
    geometry_device,
    preflight,
    prepare_texturing,
)
from .finishing.bake import bake_texture
from .finishing.color import color_vertices
from .finishing.export import export_mesh
from .finishing.finish import finish_mesh, save_views, write_finished, write_views
from .finishing.preview import STUDIO, draw, draw_each, draw_views
from .finishing.process import process_mesh
from .generate import Finished, generate, generation_settings
from .hollowing import CAVITIES, Hollowing, Thickness, hollow_lines
from .inspection import PLA, Inspection, check_density, inspect_file, inspect_mesh
from .length import Length
from .networks.decode import decode_shape, decode_texture
from .networks.encode import encode_images
from .networks.encode_mesh import (
    Encoded,
    encode_mesh,
    encode_texture,
    frame_of,
    in_unit_cube,
    shape_resolution,
    texture_resolution,
)
from .networks.shape import sample_shape
from .networks.structure import sample_structure
from .networks.texture import sample_texture
from .presets import PRESETS, Preset
from .state import State, held_in, open_state, pipeline_type_of, write_generation, write_state
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
from .user_mesh.existing import base_color_image
from .user_mesh.keep import Keep, Mask
from .user_mesh.project_texture import project_scene, project_texture
from .user_mesh.refine import refine_mesh, refine_shape, refining_roles, resample_shape, tokens_to_keep
from .user_mesh.scene_preview import scene_subject
from .user_mesh.texture_mesh import SceneTextures, bake_scene, scene_mesh, texture_scene, texturing_roles

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
    "geometry_device",
    "held_in",
    "hollow_lines",
    "in_unit_cube",
    "inspect_file",
    "inspect_mesh",
    "open_state",
    "pipeline_type_of",
    "preflight",
    "prepare_texturing",
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
    "save_views",
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
