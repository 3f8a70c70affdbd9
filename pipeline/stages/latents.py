"""What the configuration of a checkpoint says of its latents: grids, subdivisions, normalisation."""

from __future__ import annotations

import torch

from ..errors import CheckpointError
from ..spec import SHAPE_DECODER, Normalisation, Pass
from ..weights import Models


def grid_size(models: Models, one_pass: Pass) -> int:
    """Latent voxels along a side."""
    return round(models.config(one_pass.model)["args"]["resolution"] * one_pass.grid_scale)


def subdivision_levels(models: Models) -> int:
    """Subdivisions between a latent voxel and the finest ones."""
    return len(models.config(SHAPE_DECODER)["args"]["model_channels"]) - 1


def voxels_per_token(models: Models) -> int:
    """Fine voxels per latent voxel along a side."""
    return 2 ** subdivision_levels(models)


def denormalise(feats: torch.Tensor, normalisation: Normalisation) -> torch.Tensor:
    mean, std = _statistics(feats, normalisation)
    return feats * std + mean


def normalise(feats: torch.Tensor, normalisation: Normalisation) -> torch.Tensor:
    mean, std = _statistics(feats, normalisation)
    return (feats - mean) / std


def _statistics(feats: torch.Tensor, normalisation: Normalisation) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of every channel [C], where the features [T, C] are."""
    if feats.shape[1] != len(normalisation.mean):
        raise CheckpointError(
            f"The latent has {feats.shape[1]} channels, its normalisation {len(normalisation.mean)}: the models and "
            "pipeline.json belong to different checkpoints (ComfyUI bundles have the released one's)."
        )
    return feats.new_tensor(normalisation.mean), feats.new_tensor(normalisation.std)
