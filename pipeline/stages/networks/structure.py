"""Structure: condition and seed -> which voxels of the coarse grid are occupied."""

from __future__ import annotations

import logging

import torch

from ...errors import EmptyResultError
from ...models.flow import Context
from ...runtime import Runtime
from ...sampling import dense_spread
from ...sparse import Voxels
from ...spec import STRUCTURE_DECODER, STRUCTURE_FLOW, SamplerSettings
from ...views import carve, stretched, stretches
from ...weights import Models
from ..provenance import check_condition, made_with, recipe
from ..types import Condition, Structure
from .sampler import Mix, run_sampler

log = logging.getLogger(__name__)


def sample_structure(
    runtime: Runtime, models: Models, condition: Condition, seed: int, settings: SamplerSettings | None = None
) -> Structure:
    """Sample the coarse structure. settings: the checkpoint's if not given.

    Raises:
        EmptyResultError: no voxel is occupied. SettingsError: the condition is another checkpoint's.
    """
    check_condition(models, condition, [(STRUCTURE_FLOW, 1)])
    settings = settings or models.spec.structure_sampler
    networks = [models.fingerprint(role) for role in (STRUCTURE_FLOW, STRUCTURE_DECODER)]
    made = recipe(*networks, condition.origin.recipe, seed, settings)
    random = torch.Generator().manual_seed(seed)
    with runtime.stage("structure", settings.steps, "Choose a device with more memory, or the CPU."):
        z = _structure_latent(runtime, models, condition, random, settings)
        with runtime.use(models, STRUCTURE_DECODER, z[0, 0].numel()) as decoder:
            logits = decoder(z)
        runtime.check_finite("structure", logits)
        occupied = logits[0, 0] > 0
        runtime.count(voxels=int(occupied.count_nonzero()))
    if not occupied.any():
        raise EmptyResultError(
            "The structure is empty: no voxel is occupied. Try another seed, and check that the picture shows the "
            "whole object on a transparent background."
        )
    if condition.mixing.proportions and len(condition.views) > 1:
        occupied = _in_proportion(occupied, condition)
    if condition.mixing.carve:
        occupied = _carved(occupied, condition)
    return Structure(occupied, random.get_state(), made_with(models, STRUCTURE_DECODER, made, f"seed {seed}"))


def _in_proportion(occupied: torch.Tensor, condition: Condition) -> torch.Tensor:
    """[R, R, R] bool, as wide, deep and tall as the pictures say."""
    voxels = Voxels.single(occupied.nonzero())
    factors = stretches(voxels, len(occupied), condition.views, condition.masks)
    if bool((factors == 1).all()):
        return occupied
    told = ", ".join(f"{factor:.2f}" for factor in factors.tolist())
    log.info(f"The structure takes on the proportions of the pictures: {told} along x, y and z.")
    return stretched(occupied, factors)


def _carved(occupied: torch.Tensor, condition: Condition) -> torch.Tensor:
    """[R, R, R] bool without the voxels that the pictures show to be outside."""
    left = carve(Voxels.single(occupied.nonzero()), condition.views, condition.masks)
    kept = torch.zeros_like(occupied)
    kept[tuple(left.xyz.long().unbind(1))] = True
    return kept


def _structure_latent(runtime, models, condition: Condition, random: torch.Generator, settings) -> torch.Tensor:
    positions = models.config(STRUCTURE_FLOW)["args"]["resolution"] ** 3
    with runtime.use(models, STRUCTURE_FLOW, positions, condition.count(1)) as flow:
        noise = torch.randn(1, flow.in_channels, *(flow.resolution,) * 3, generator=random).to(runtime.device)

        def velocity(x: torch.Tensor, t: torch.Tensor, context: Context) -> torch.Tensor:
            return flow(x, t, context, runtime.backends)

        # which voxels a view sees is not known yet
        mix = Mix(condition.mixing.structure, None, condition.mixing.weights)
        return run_sampler(
            runtime, "structure", flow, velocity, condition.tokens[1], noise, settings, dense_spread, mix=mix
        )
