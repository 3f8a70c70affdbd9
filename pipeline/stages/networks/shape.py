"""Shape: condition and structure -> the shape latent, coarse to fine in a cascade."""

from __future__ import annotations

import torch

from ...errors import EmptyResultError
from ...runtime import Runtime
from ...sparse import SparseTensor, Voxels
from ...spec import MAX_TOKENS, SHAPE_DECODER, Pass, PipelineType, SamplerSettings
from ...weights import Models
from ..checks import check_tokens
from ..provenance import check_condition, check_structure, made_with, recipe
from ..types import LOWER, Condition, Latent, LatentStart, Origin, Structure
from .decode import level_done
from .latents import denormalise, grid_size, normalised_start, subdivision_levels, voxels_per_token
from .sampler import Mix, mix_of, sample_packed

CASCADE_STEP = 8  # latent voxels by which a cascade lowers its grid when there are too many tokens


def sample_shape(
    runtime: Runtime,
    models: Models,
    condition: Condition,
    structure: Structure,
    pipeline_type: PipelineType,
    settings: SamplerSettings | None = None,
    max_tokens: int = MAX_TOKENS,
) -> Latent:
    """Sample the shape latent, coarse to fine if the pipeline type is a cascade.

    Args:
        settings: the checkpoint's if not given.
        max_tokens: a cascade lowers its resolution, down to that of its model, until it has fewer tokens.

    Raises:
        EmptyResultError: the coarse shape decodes to nothing.
        SettingsError: condition or structure are another checkpoint's.
    """
    check_tokens(max_tokens)
    check_condition(models, condition, [(one_pass.model, one_pass.image_scale) for one_pass in pipeline_type.shape])
    check_structure(models, structure)
    settings = settings or models.spec.shape_sampler
    origin = _shape_origin(models, condition, structure, pipeline_type, settings, max_tokens)
    random = torch.Generator()
    random.set_state(structure.random)
    latent, resolution, said = None, 0, ""
    for number, one_pass in enumerate(pipeline_type.shape):
        grid = grid_size(models, one_pass)
        if latent is None:
            voxels = structure.voxels(grid)
        else:
            voxels, grid, said = finer_voxels(runtime, models, latent, resolution, one_pass, max_tokens)
        stage = "shape" if number == 0 else f"shape {grid * voxels_per_token(models)}"
        mix = mix_of(condition, condition.mixing.shape, voxels, grid)
        latent = sample_shape_pass(runtime, models, stage, condition, one_pass, voxels, random, settings, mix)
        resolution = grid * voxels_per_token(models)
    assert latent is not None  # every pipeline type has a pass
    return Latent(latent, resolution, random.get_state(), origin.noted(said))


def _shape_origin(
    models, condition: Condition, structure: Structure, pipeline_type: PipelineType, settings, max_tokens
) -> Origin:
    networks = [
        models.fingerprint(role) for role in (SHAPE_DECODER, *(one_pass.model for one_pass in pipeline_type.shape))
    ]
    most = max_tokens if len(pipeline_type.shape) > 1 else 0  # which no other pipeline type heeds
    made = recipe(*networks, condition.origin.recipe, structure.origin.recipe, pipeline_type.shape, settings, most)
    before = structure.origin.description or "a structure from elsewhere"
    description = f"{before}, {pipeline_type.name}, {models.checkpoint.name}"
    return made_with(models, SHAPE_DECODER, made, description)


def sample_shape_pass(
    runtime,
    models,
    stage,
    condition,
    one_pass: Pass,
    voxels,
    random,
    settings,
    mix: Mix,
    start: LatentStart | None = None,
) -> SparseTensor:
    """The shape latent on given voxels, denormalised; from noise, or from a start on the same voxels."""
    seen = condition.count(one_pass.image_scale)
    with (
        runtime.stage(stage, settings.steps, LOWER),
        runtime.use(models, one_pass.model, len(voxels), seen) as flow,
    ):
        runtime.count(tokens=len(voxels))
        noise = torch.randn(len(voxels), flow.in_channels, generator=random).to(runtime.device)
        tokens = condition.tokens[one_pass.image_scale]
        begin = normalised_start(start, voxels, models.spec.shape_normalisation)
        normalised = sample_packed(runtime, stage, flow, tokens, voxels, noise, settings, mix=mix, start=begin)
        return SparseTensor(voxels, denormalise(normalised, models.spec.shape_normalisation))


def finer_voxels(runtime, models, latent, resolution, one_pass: Pass, max_tokens) -> tuple[Voxels, int, str]:
    """Decode the coarse shape's voxels and quantise them to the next pass's grid: the voxels, its side, and what is to
    be told where it had to be lowered."""
    tokens = len(latent.voxels)
    with (
        runtime.stage("upsample", subdivision_levels(models), LOWER),
        runtime.use(models, SHAPE_DECODER, tokens) as decoder,
    ):
        call = level_done(runtime, "upsample", decoder, decoder.levels)
        fine = decoder.upsample(latent, decoder.levels, runtime.backends, call, runtime.budget())
        if len(fine) == 0:
            raise EmptyResultError("The coarse shape decodes to nothing. Try another seed.")
        smallest, grid = models.config(one_pass.model)["args"]["resolution"], grid_size(models, one_pass)
        asked, too_many = grid, 0
        while True:
            coords = ((fine.xyz + 0.5) / resolution * grid).int().unique(dim=0)
            if len(coords) < max_tokens or grid <= smallest:
                runtime.count(tokens=tokens, voxels=len(fine), next_tokens=len(coords))
                sizes = (asked * voxels_per_token(models), grid * voxels_per_token(models))
                return Voxels.single(coords), grid, lowered(runtime, *sizes, too_many, len(coords), max_tokens)
            too_many = too_many or len(coords)
            grid = max(smallest, grid - CASCADE_STEP)


def lowered(runtime: Runtime, asked: int, made: int, tokens: int, left: int, max_tokens: int) -> str:
    """Say, in the log and in the stage's record too, that a shape gets fewer voxels a side than was asked for, or more
    latent voxels; "" where neither is so.

    Args:
        asked, made: voxels a side. tokens, left: latent voxels that it would have had, and has.
    """
    said = []
    if made != asked:
        said.append(
            f"The shape has {made} voxels a side in place of {asked}, which would take {tokens:,} latent voxels where "
            f"fewer than {max_tokens:,} are asked for (max tokens)."
        )
    if left >= max_tokens:
        said.append(
            f"It has {left:,} latent voxels, not fewer than {max_tokens:,} (max tokens): {made} voxels a side are the "
            "least that its network makes."
        )
    if said:
        runtime.warn(" ".join(said))
    return " ".join(said)
