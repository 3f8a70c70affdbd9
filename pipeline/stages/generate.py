"""Generate: all stages that need networks, in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from PIL import Image

from .. import __version__
from ..runtime import Runtime
from ..spec import CHECKPOINTS_OWN, MAX_TOKENS, PipelineType, Samplers
from ..views import PosedPictures
from ..weights import Models
from .checks import preflight
from .decode import decode_shape, decode_texture
from .encode import encode_images
from .latents import grid_size
from .shape import sample_shape
from .structure import sample_structure
from .texture import sample_texture
from .types import Generation


def generate(
    runtime: Runtime,
    models: Models,
    images: Sequence[Image.Image] | PosedPictures,
    pipeline_type: PipelineType,
    seed: int,
    texture: bool = True,
    max_tokens: int = MAX_TOKENS,
    samplers: Samplers = CHECKPOINTS_OWN,
) -> Generation:
    """From prepared pictures (views of one object, whose directions may be known) to the raw mesh and its PBR voxels.

    Args:
        texture: False stops after the shape: no texture latent, no voxels.
        samplers: the checkpoint's where not given.
    """
    preflight(models.checkpoint, pipeline_type, texture=texture, max_tokens=max_tokens)
    models.expect(pipeline_type.roles(texture))
    condition = encode_images(runtime, models, images, pipeline_type.image_scales(texture))
    structure = sample_structure(runtime, models, condition, seed, samplers.structure)
    shape = sample_shape(runtime, models, condition, structure, pipeline_type, samplers.shape, max_tokens)
    texture_latent = (
        sample_texture(runtime, models, condition, shape, pipeline_type, samplers.texture) if texture else None
    )
    mesh, subdivisions = decode_shape(runtime, models, shape)
    voxels = decode_texture(runtime, models, texture_latent, subdivisions) if texture_latent else None
    return Generation(structure.voxels(grid_size(models, pipeline_type.shape[0])), shape, mesh, texture_latent, voxels)


def generation_settings(
    runtime: Runtime,
    models: Models,
    pipeline_type: PipelineType,
    seed: int,
    max_tokens: int,
    samplers: Samplers,
    made: Generation,
) -> dict:
    """What led to a generation, for the files that are made of it."""
    changed = {stage: sampler for stage, sampler in asdict(samplers).items() if sampler}
    return {
        "checkpoint": models.checkpoint.name,
        "pipeline_type": pipeline_type.name,
        "seed": seed,
        "resolution": made.shape.resolution,
        "max_num_tokens": max_tokens,
        "speed": runtime.speed.name,
        "version": __version__,
        **({"samplers": changed} if changed else {}),
    }
