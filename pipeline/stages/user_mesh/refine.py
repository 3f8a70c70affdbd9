"""Refine a mesh that one has: its voxels stay, its shape latent is sampled anew as far as asked."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...mesh.io import Scene
from ...runtime import Runtime
from ...sampling import check_strength
from ...spec import CHECKPOINTS_OWN, MAX_TOKENS, SHAPE_DECODER, SHAPE_ENCODER, PipelineType, Samplers, SamplerSettings
from ...weights import Models
from ..checks import check_tokens
from ..networks.decode import decode_shape, decode_texture
from ..networks.encode_mesh import Encoded, encode_mesh_within
from ..networks.latents import grid_size, voxels_per_token
from ..networks.sampler import mix_of
from ..networks.shape import CASCADE_STEP, lowered, sample_shape_pass
from ..networks.texture import sample_texture
from ..provenance import check_condition, check_latent, made_with, recipe
from ..types import Condition, Generation, Latent, LatentStart, Mesh
from .keep import NOTHING, Keep, kept_tokens, places_of


def refine_shape(
    runtime: Runtime,
    models: Models,
    condition: Condition,
    mesh: Mesh,
    pipeline_type: PipelineType,
    strength: float,
    *,
    seed: int = 42,
    max_tokens: int = MAX_TOKENS,
    samplers: Samplers = CHECKPOINTS_OWN,
    scene: Scene | None = None,
    keep: Keep = NOTHING,
) -> Latent:
    """The shape latent on the voxels of a mesh, sampled by the finest flow of a pipeline type.

    The latent voxels are those of the mesh itself at the target resolution: what a cascade guesses from a coarse
    latent is known here.

    Args:
        mesh: in the unit cube. strength: 1 samples from noise alone, lower values from the mesh's own latent, noised
            for that time; 0 returns it as it is.
        max_tokens: the resolution is lowered, down to that of the flow, until there are fewer.
        scene, keep: what the mesh is of, and what of it keeps its shape, as far as encoder and decoder do.

    Raises:
        CheckpointError: the checkpoint lacks the shape encoder. SettingsError: the strength is not in 0-1, or what is
        to be kept is not in the scene.
    """
    check_tokens(max_tokens)
    check_strength(strength)
    if scene is not None:
        keep.changed_parts(scene)  # what is wrong with it is said first
    one_pass = pipeline_type.shape[-1]
    check_condition(models, condition, [(one_pass.model, one_pass.image_scale)])
    grid, smallest = grid_size(models, one_pass), models.config(one_pass.model)["args"]["resolution"]
    scale = voxels_per_token(models)
    sides = [*range(grid, smallest, -CASCADE_STEP), smallest] if grid > smallest else [grid]
    resolutions = [side * scale for side in sides]
    encoded, tokens = encode_mesh_within(runtime, models, mesh, resolutions, max_tokens, seed)
    start = encoded.shape
    said = lowered(runtime, resolutions[0], start.resolution, tokens, len(start.sparse.voxels), max_tokens)
    start = replace(start, origin=start.origin.noted(said))
    kept = tokens_to_keep(runtime, scene, keep, encoded) if scene is not None else None
    return resample_shape(runtime, models, condition, start, pipeline_type, strength, samplers.shape, kept)


def tokens_to_keep(runtime: Runtime, scene: Scene, keep: Keep, encoded: Encoded) -> torch.Tensor | None:
    """[T] bool: the latent voxels of an encoded scene that keep their shape; None if nothing is to be kept."""
    if not keep:
        return None
    with runtime.stage("read masks", 1, "Ask for a lower type."):
        places = places_of(scene, scene.frame(), encoded, runtime)
        kept = kept_tokens(scene, keep, places, encoded.subdivisions)
        runtime.step("read masks", 1, 1)
    return kept


def resample_shape(
    runtime: Runtime,
    models: Models,
    condition: Condition,
    shape: Latent,
    pipeline_type: PipelineType,
    strength: float,
    settings: SamplerSettings | None = None,
    kept: torch.Tensor | None = None,
) -> Latent:
    """A shape latent sampled anew on its own voxels by the finest flow of a pipeline type.

    Args:
        strength: as refine_shape. settings: the checkpoint's if not given. kept: [T] bool latent voxels that stay.

    Raises:
        SettingsError: condition or latent are another checkpoint's; the strength is not in 0-1.
    """
    check_strength(strength)
    check_latent(models, shape, SHAPE_DECODER)
    one_pass = pipeline_type.shape[-1]
    check_condition(models, condition, [(one_pass.model, one_pass.image_scale)])
    if strength == 0:
        return shape
    settings = settings or models.spec.shape_sampler
    random = torch.Generator()
    random.set_state(shape.random)
    voxels = shape.sparse.voxels
    mix = mix_of(condition, condition.mixing.shape, voxels, shape.resolution // voxels_per_token(models))
    sparse = sample_shape_pass(
        runtime,
        models,
        f"shape {shape.resolution}",
        condition,
        one_pass,
        voxels,
        random,
        settings,
        mix,
        LatentStart(shape, strength, kept) if strength < 1 or kept is not None else None,
    )
    how = strength, settings, None if kept is None else kept.cpu().numpy().tobytes()
    made = recipe(models.fingerprint(one_pass.model), shape.origin.recipe, condition.origin.recipe, *how)
    description = f"{shape.origin.description}, refined by {strength:g}"
    origin = made_with(models, SHAPE_DECODER, made, description, shape.origin.notes)
    return Latent(sparse, shape.resolution, random.get_state(), origin)


def refine_mesh(
    runtime: Runtime,
    models: Models,
    condition: Condition,
    mesh: Mesh,
    pipeline_type: PipelineType,
    strength: float,
    *,
    seed: int = 42,
    texture: bool = True,
    max_tokens: int = MAX_TOKENS,
    samplers: Samplers = CHECKPOINTS_OWN,
    scene: Scene | None = None,
    keep: Keep = NOTHING,
) -> Generation:
    """A mesh in the unit cube, refined and textured: what generate makes of a picture alone. Arguments and errors as
    refine_shape; texture: False stops after the shape."""
    shape = refine_shape(
        runtime,
        models,
        condition,
        mesh,
        pipeline_type,
        strength,
        seed=seed,
        max_tokens=max_tokens,
        samplers=samplers,
        scene=scene,
        keep=keep,
    )
    latent = sample_texture(runtime, models, condition, shape, pipeline_type, samplers.texture) if texture else None
    raw, subdivisions = decode_shape(runtime, models, shape)
    voxels = decode_texture(runtime, models, latent, subdivisions) if latent is not None else None
    return Generation(shape.sparse.voxels, shape, raw, latent, voxels)


def refining_roles(pipeline_type: PipelineType, texture: bool = True) -> tuple[str, ...]:
    """The models that refine_mesh needs."""
    finest = replace(pipeline_type, shape=pipeline_type.shape[-1:])
    structure = {role for role in finest.roles(texture) if role.startswith("sparse_structure")}
    return (SHAPE_ENCODER, *(role for role in finest.roles(texture) if role not in structure))
