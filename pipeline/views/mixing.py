"""Strategies that make one velocity of several views': functions of callables, a row each.

Names as in ReconViaGen v0.5 (github.com/GAP-LAB-CUHK-SZ/ReconViaGen), which has the first six; `primary` takes the
first view alone and `visibility` is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from ..errors import SettingsError
from ..sampling import Spread, Velocity, guided, rescaled, times
from ..spec import SamplerSettings

# The time by which the difference of the velocities is divided does not go below this: ReconViaGen's t + 1e-3 makes
# one view win everything in the last steps, and neighbouring voxels then follow different views.
_LOWEST_TEMPERATURE = 0.15
_LARGEST_RATIO = 2.0  # of a rescaled x_0's spread, in fixed_guidance_rescale


@dataclass(frozen=True)
class Views:
    """What a strategy mixes.

    velocities: of each of N views; x is [T, C] (packed) or [B, C, ...] (dense), channels second.
    nothing: velocity without a condition.
    weights: [N, T, 1] shares of each view at each voxel that do not change with time, for `visibility`, or None.
    importance: above 0, how much each view counts as a whole; empty: all alike.
    """

    velocities: tuple[Velocity, ...]
    nothing: Velocity
    settings: SamplerSettings
    spread: Spread
    weights: torch.Tensor | None = None
    importance: tuple[float, ...] = ()

    def parts(self) -> list[float]:
        """Each view's part of the whole, N numbers whose sum is 1."""
        importance = self.importance or (1.0,) * len(self.velocities)
        return [each / sum(importance) for each in importance]

    def guide(self, conditional: Velocity) -> Velocity:
        return guided(conditional, self.nothing, self.settings, self.spread)


def mixed(strategy: str, views: Views) -> Velocity:
    """The velocity of several views, guidance and rescale included.

    Raises:
        SettingsError: no strategy of that name, or no view.
    """
    if strategy not in STRATEGIES:
        raise SettingsError(f"No strategy is called {strategy!r}; there are {', '.join(STRATEGIES)}.")
    if not views.velocities:
        raise SettingsError("Mixing views needs at least one.")
    if len(views.velocities) == 1:
        return views.guide(views.velocities[0])
    return STRATEGIES[strategy](replace(views, nothing=_remembered(views.nothing)))


def primary(views: Views) -> Velocity:
    """The first view alone; costs what one view costs."""
    return views.guide(views.velocities[0])


def sequential(views: Views) -> Velocity:
    """One view a step in turn: "stochastic" of TRELLIS's run_multi_image; costs what one view costs."""
    starts = times(views.settings.steps, views.settings.time_shift)
    turns = _turns(views.parts(), len(starts))

    def conditional(x: torch.Tensor, t: float) -> torch.Tensor:
        step = sum(start > t + 1e-9 for start in starts)
        return views.velocities[turns[min(step, len(turns) - 1)]](x, t)

    return views.guide(conditional)


def average(views: Views) -> Velocity:
    """Guidance and rescale for each view, then the mean. Euler steps are linear: their mean is the mean's step."""
    return _mean([views.guide(velocity) for velocity in views.velocities], views)


def average_right(views: Views) -> Velocity:
    """The mean of the velocities, then guidance and rescale once (MultiDiffusion, arXiv 2302.08113)."""
    return views.guide(_mean(views.velocities, views))


def weighted_average(views: Views) -> Velocity:
    """Views that differ from the mean count less: softmax of -||v_i - mean|| at each voxel."""

    def share(found: torch.Tensor, x: torch.Tensor, t: float) -> torch.Tensor:
        parts = _parts(views, found)
        return (-_lengths(found - (parts * found).sum(0))).softmax(0)

    return views.guide(partial(_weighted, views, share))


def adaptive_guidance_weight(views: Views) -> Velocity:
    """Views that say more than no view at all count more: softmax of ||v_i - v_0|| / t at each voxel.

    The length is divided by its mean over voxels and views, and t is kept above a floor, which ReconViaGen does not.
    """
    return views.guide(partial(_weighted, views, partial(_adaptive, views)))


def fixed_guidance_rescale(views: Views) -> Velocity:
    """Product of experts: guidance of strength / N for each view, each rescaled, summed without counting v_0 twice."""
    settings, count, parts = views.settings, len(views.velocities), views.parts()
    low, high = settings.guidance_interval

    def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
        strength = settings.guidance_scale if low <= t <= high else 1.0
        nothing = views.nothing(x, t)
        total = (1 - count) * nothing
        for one, part in zip(views.velocities, parts):
            seen = one(x, t)
            v = nothing + strength * part * (seen - nothing)
            if settings.guidance_rescale > 0 and strength != 1:
                v = rescaled(x, t, v, seen, settings, views.spread, _LARGEST_RATIO)
            total = total + v
        return total

    return velocity


def visibility(views: Views) -> Velocity:
    """Shares by what each view sees (views.visibility.view_weights) times the adaptive ones; guidance once."""
    if views.weights is None:
        return adaptive_guidance_weight(views)
    seen = views.weights

    def share(found: torch.Tensor, x: torch.Tensor, t: float) -> torch.Tensor:
        return seen * _adaptive(views, found, x, t)

    return views.guide(partial(_weighted, views, share))


def _mean(velocities: Sequence[Velocity], views: Views) -> Velocity:
    """The mean of velocities, one of each view, by how much each view counts."""
    importance = views.importance or (1.0,) * len(velocities)

    def mean(x: torch.Tensor, t: float) -> torch.Tensor:
        total = importance[0] * velocities[0](x, t)
        for weight, velocity in zip(importance[1:], velocities[1:]):
            total = total + weight * velocity(x, t)
        return total / sum(importance)

    return mean


def _weighted(
    views: Views,
    share: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor],
    x: torch.Tensor,
    t: float,
) -> torch.Tensor:
    """The velocities summed by shares [N, T, 1] of any scale, times how much each view counts."""
    found = torch.stack([velocity(x, t) for velocity in views.velocities])  # [N, T, C]
    shares = share(found, x, t) * _parts(views, found)
    return ((shares / shares.sum(0)).to(found.dtype) * found).sum(0)


def _parts(views: Views, found: torch.Tensor) -> torch.Tensor:
    """[N, 1, 1, ...] of as many axes as `found`."""
    return found.new_tensor(views.parts()).reshape(-1, *(1,) * (found.ndim - 1))


def _turns(parts: Sequence[float], steps: int) -> list[int]:
    """Which view each step takes: always the one that is furthest behind its part."""
    turns: list[int] = []
    for step in range(1, steps + 1):
        behind = [part * step - turns.count(view) for view, part in enumerate(parts)]
        turns.append(behind.index(max(behind)))
    return turns


def _adaptive(views: Views, found: torch.Tensor, x: torch.Tensor, t: float) -> torch.Tensor:
    """Shares [N, T, 1] by how far each view's velocity is from the unconditional one."""
    lengths = _lengths(found - views.nothing(x, t))
    return (lengths / (lengths.mean().clamp(min=1e-12) * max(t, _LOWEST_TEMPERATURE))).softmax(0)


def _lengths(found: torch.Tensor) -> torch.Tensor:
    """Norm over channels: [N, T, C] -> [N, T, 1]; dense [N, B, C, ...] -> [N, B, 1, ...]."""
    return found.float().norm(dim=2, keepdim=True)


def _remembered(velocity: Velocity) -> Velocity:
    """A velocity that is not computed again for the x and t that it was just asked for."""
    kept: list[tuple[torch.Tensor, float, torch.Tensor]] = []

    def remembered(x: torch.Tensor, t: float) -> torch.Tensor:
        if not (kept and kept[0][0] is x and kept[0][1] == t):
            kept[:] = [(x, t, velocity(x, t).clone())]  # a replayed network returns the same memory every time
        return kept[0][2]

    return remembered


STRATEGIES: dict[str, Callable[[Views], Velocity]] = {
    "primary": primary,
    "sequential": sequential,
    "average": average,
    "average_right": average_right,
    "weighted_average": weighted_average,
    "adaptive_guidance_weight": adaptive_guidance_weight,
    "fixed_guidance_rescale": fixed_guidance_rescale,
    "visibility": visibility,
}
