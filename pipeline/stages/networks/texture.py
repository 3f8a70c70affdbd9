"""Texture: condition and shape latent -> the texture latent on the same voxels."""

from __future__ import annotations

import torch

from ...runtime import Runtime
from ...spec import SHAPE_DECODER, TEXTURE_DECODER, PipelineType, SamplerSettings
from ...weights import Models
from ..provenance import check_condition, check_latent, made_with
from ..types import LOWER, Condition, Latent, LatentStart
from .latents import denormalise, normalise, normalised_start, voxels_per_token
from .sampler import mix_of, sample_packed


def sample_texture(
    runtime: Runtime,
    models: Models,
    condition: Condition,
    shape: Latent,
    pipeline_type: PipelineType,
    settings: SamplerSettings | None = None,
    start: LatentStart | None = None,
) -> Latent:
    """Sample the texture latent on the shape's voxels, conditioned on the shape latent.

    Args:
        settings: the checkpoint's if not given.
        start: a texture latent on the same voxels to begin from.

    Raises:
        SettingsError: condition, shape or start are another checkpoint's, or the start lies on other voxels.
    """
    check_condition(models, condition, [(pipeline_type.texture.model, pipeline_type.texture.image_scale)])
    check_latent(models, shape, SHAPE_DECODER)
    if start is not None:
        check_latent(models, start.latent, TEXTURE_DECODER)
    settings = settings or models.spec.texture_sampler
    origin = made_with(models, TEXTURE_DECODER, shape.origin.recipe, shape.origin.description, shape.origin.notes)
    random = torch.Generator()
    random.set_state(shape.random)
    seen = condition.count(pipeline_type.texture.image_scale)
    with (
        runtime.stage("texture", settings.steps, LOWER),
        runtime.use(models, pipeline_type.texture.model, len(shape.sparse.voxels), seen) as flow,
    ):
        runtime.count(tokens=len(shape.sparse.voxels))
        shape_feats = normalise(shape.sparse.feats, models.spec.shape_normalisation)
        channels = flow.in_channels - shape_feats.shape[1]
        noise = torch.randn(len(shape_feats), channels, generator=random).to(runtime.device)
        tokens = condition.tokens[pipeline_type.texture.image_scale]
        voxels = shape.sparse.voxels
        begin = normalised_start(start, voxels, models.spec.texture_normalisation)
        mix = mix_of(condition, condition.mixing.texture, voxels, shape.resolution // voxels_per_token(models))
        normalised = sample_packed(runtime, "texture", flow, tokens, voxels, noise, settings, shape_feats, mix, begin)
        feats = denormalise(normalised, models.spec.texture_normalisation)
    return Latent(shape.sparse.replace(feats), shape.resolution, random.get_state(), origin)
