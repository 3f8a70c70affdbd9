"""Generate: all stages that need networks, in a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from .. import __version__
from ..plan import Plan
from ..runtime import Runtime
from ..spec import CHECKPOINTS_OWN, MAX_TOKENS, PipelineType, Samplers
from ..views import PosedPictures
from ..weights import Models
from .checks import preflight, prepare_networks
from .networks.decode import decode_shape, decode_texture
from .networks.encode import encode_images
from .networks.latents import grid_size
from .networks.shape import sample_shape
from .networks.structure import sample_structure
from .networks.texture import sample_texture
from .types import Generation


class Finished:
    """What the stages of a run made, for a second try of it: the same inputs are not worked on again."""

    def __init__(self) -> None:
        self._made: dict[tuple, Any] = {}

    def once(self, made: tuple, make: Callable[[], Any]) -> Any:
        """The value of that name, made if it is not there. made: the stage and every setting that may differ."""
        if made not in self._made:
            self._made[made] = make()
        return self._made[made]

    def only(self, made: tuple, value: Any) -> Any:
        """The value, which takes the place of all that it was made from: that may take memory no longer."""
        self._made = {made: value}
        return value

    def get(self, made: tuple) -> Any:
        """The value of that name, None if it is not there."""
        return self._made.get(made)


def generate(
    runtime: Runtime,
    models: Models,
    images: Sequence[Image.Image] | PosedPictures,
    pipeline_type: PipelineType,
    seed: int,
    texture: bool = True,
    max_tokens: int = MAX_TOKENS,
    samplers: Samplers = CHECKPOINTS_OWN,
    finished: Finished | None = None,
) -> Generation:
    """From prepared pictures (views of one object, whose directions may be known) to the raw mesh and its PBR voxels.

    Args:
        texture: False stops after the shape: no texture latent, no voxels.
        samplers: the checkpoint's where not given.
        finished: of an earlier try with the same models, pictures, seed and samplers; this one's stages go into it.
    """
    preflight(models.checkpoint, pipeline_type, texture=texture, max_tokens=max_tokens)
    models.expect(pipeline_type.roles(texture))
    prepare_networks(models, pipeline_type.roles(texture), runtime.backends, runtime.device, runtime.dtype)
    finished = finished or Finished()
    once, scales, how = finished.once, pipeline_type.image_scales(texture), (pipeline_type, max_tokens)
    if (made := finished.get(("generation", *how))) is not None:
        return made
    condition = once(("encode", scales), lambda: encode_images(runtime, models, images, scales))
    structure = once(
        ("structure", scales), lambda: sample_structure(runtime, models, condition, seed, samplers.structure)
    )
    shape = once(
        ("shape", *how),
        lambda: sample_shape(runtime, models, condition, structure, pipeline_type, samplers.shape, max_tokens),
    )
    texture_latent = voxels = None
    if texture:
        texture_latent = once(
            ("texture", *how),
            lambda: sample_texture(runtime, models, condition, shape, pipeline_type, samplers.texture),
        )
    mesh, subdivisions = once(("decode shape", *how), lambda: decode_shape(runtime, models, shape))
    if texture_latent is not None:
        voxels = once(("decode texture", *how), lambda: decode_texture(runtime, models, texture_latent, subdivisions))
    first = structure.voxels(grid_size(models, pipeline_type.shape[0]))
    return finished.only(("generation", *how), Generation(first, shape, mesh, texture_latent, voxels))


def generation_settings(
    runtime: Runtime, models: Models, plan: Plan, seed: int, samplers: Samplers, made: Generation
) -> dict:
    """What led to a generation, and how large it is, for the files that are made of it."""
    changed = samplers.changed()
    settings = {
        "checkpoint": models.checkpoint.name,
        "pipeline_type": plan.pipeline_type.name,
        "seed": seed,
        "resolution": made.shape.resolution,
        "max_num_tokens": plan.max_tokens,
        "speed": runtime.speed.name,
        "version": __version__,
        "tokens": len(made.shape.sparse.voxels),
        "voxels": len(made.mesh.vertices),
        "raw_vertices": len(made.mesh.vertices),
        "raw_faces": len(made.mesh.faces),
        **({"samplers": changed} if changed else {}),
    }
    return plan.noted(settings)
