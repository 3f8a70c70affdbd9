"""What the configuration of a checkpoint says of its latents: grids, subdivisions, normalisation."""

from __future__ import annotations

import torch

from ...errors import CheckpointError, SettingsError
from ...sampling import Start
from ...sparse import Voxels
from ...spec import SHAPE_DECODER, Normalisation, Pass
from ...weights import Models
from ..types import LatentStart


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


def normalised_start(start: LatentStart | None, voxels: Voxels, normalisation: Normalisation) -> Start | None:
    """A start in the numbers that a flow sees. Raises SettingsError if it lies on other voxels."""
    if start is None:
        return None
    own = start.latent.sparse.voxels.coords
    if own.shape != voxels.coords.shape or not torch.equal(own.to(voxels.device), voxels.coords):
        raise SettingsError(
            f"The latent to start from lies on {len(own):,} voxels that are not the {len(voxels):,} which are sampled. "
            "Encode the same mesh at the same resolution."
        )
    moved = start.to(voxels.device)
    return Start(normalise(moved.latent.sparse.feats, normalisation), start.strength, moved.keep)


def _statistics(feats: torch.Tensor, normalisation: Normalisation) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of every channel [C], where the features [T, C] are."""
    if feats.shape[1] != len(normalisation.mean):
        raise CheckpointError(
            f"The latent has {feats.shape[1]} channels, its normalisation {len(normalisation.mean)}: the models and "
            "pipeline.json belong to different checkpoints (ComfyUI bundles have the released one's)."
        )
    return feats.new_tensor(normalisation.mean), feats.new_tensor(normalisation.std)
