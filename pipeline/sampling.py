"""Flow-matching sampling: times, guidance and solvers as pure functions of a velocity callable.

x_t = (1 - t) x_0 + (sigma_min + (1 - sigma_min) t) noise, velocity = d x_t / d t, t from 1 to 0.
Guidance interval: Kynkaanniemi et al., arXiv 2404.07724. Guidance rescale: Lin et al., arXiv 2305.08891.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from .errors import SettingsError, unknown
from .spec import SamplerSettings

Velocity = Callable[[torch.Tensor, float], torch.Tensor]  # (x_t, t in 0-1) -> d x_t / d t, same shape
Spread = Callable[[torch.Tensor], torch.Tensor]  # x -> its standard deviation per sample, broadcastable to x


class Sample(NamedTuple):
    """Where a sampler is: x at the end of a step, and the x_0 that the step predicts."""

    x: torch.Tensor
    x_0: torch.Tensor


def times(steps: int, time_shift: float) -> list[float]:
    """The steps + 1 times from 1 to 0, pushed towards 1 by time_shift: s t / (1 + (s - 1) t)."""
    t = np.linspace(1, 0, steps + 1)
    return (time_shift * t / (1 + (time_shift - 1) * t)).tolist()


def data_from_velocity(x: torch.Tensor, t: float, v: torch.Tensor, sigma_min: float) -> torch.Tensor:
    """The x_0 that a velocity at (x, t) points to."""
    return (1 - sigma_min) * x - (sigma_min + (1 - sigma_min) * t) * v


def velocity_from_data(x: torch.Tensor, t: float, x_0: torch.Tensor, sigma_min: float) -> torch.Tensor:
    """Inverse of data_from_velocity."""
    return ((1 - sigma_min) * x - x_0) / (sigma_min + (1 - sigma_min) * t)


def guided(conditional: Velocity, unconditional: Velocity, settings: SamplerSettings, spread: Spread) -> Velocity:
    """Classifier-free guidance as a wrapper of two velocities.

    Inside settings.guidance_interval the result is g * conditional + (1 - g) * unconditional, with its x_0
    rescaled towards the conditional one's standard deviation; outside it is the conditional one.
    """
    strength, rescale = settings.guidance_scale, settings.guidance_rescale
    low, high = settings.guidance_interval

    def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
        if strength == 1 or not low <= t <= high:
            return conditional(x, t)
        if strength == 0:
            return unconditional(x, t)
        positive = conditional(x, t)
        v = strength * positive + (1 - strength) * unconditional(x, t)
        return rescaled(x, t, v, positive, settings, spread) if rescale > 0 else v

    return velocity


def rescaled(
    x: torch.Tensor,
    t: float,
    v: torch.Tensor,
    conditional: torch.Tensor,
    settings: SamplerSettings,
    spread: Spread,
    largest: float | None = None,
) -> torch.Tensor:
    """A velocity whose x_0 is brought, by settings.guidance_rescale, to the spread of the conditional one's.

    largest: the most that the spread may grow by; None: no bound.
    """
    rescale, sigma_min = settings.guidance_rescale, settings.sigma_min
    x_0 = data_from_velocity(x, t, v, sigma_min)
    ratio = spread(data_from_velocity(x, t, conditional, sigma_min)) / spread(x_0)
    if largest is not None:
        ratio = ratio.clamp(max=largest)
    return velocity_from_data(x, t, rescale * (x_0 * ratio) + (1 - rescale) * x_0, sigma_min)


@dataclass(frozen=True)
class Start:
    """Data to begin with in place of noise alone (SDEdit, Meng et al., arXiv 2108.01073).

    data: what is known, of the shape of the noise. strength: the time to begin at, 1 from noise alone, 0 keeps data.
    keep: [T] bool, rows of a packed latent that stay what they are: after each step they are the data, noised for its
    time (RePaint, Lugmayr et al., arXiv 2201.09865); None keeps none.
    """

    data: torch.Tensor
    strength: float = 1.0
    keep: torch.Tensor | None = None

    def __post_init__(self) -> None:
        check_strength(self.strength)

    def at(self, t: float, noise: torch.Tensor, sigma_min: float) -> torch.Tensor:
        """The data noised for a time; at 0 as they are."""
        return (1 - t) * self.data + (sigma_min + (1 - sigma_min) * t) * noise if t > 0 else self.data

    def held(self, x: torch.Tensor, t: float, noise: torch.Tensor, sigma_min: float) -> torch.Tensor:
        """x with the kept rows put back."""
        return x if self.keep is None else torch.where(self.keep[:, None], self.at(t, noise, sigma_min), x)


def check_strength(strength: float) -> None:
    """Raises SettingsError unless a strength lies in 0-1."""
    if not 0 <= strength <= 1:  # so NaN does not
        raise SettingsError(f"The strength must lie in 0-1, got {strength:g}.")


def step_times(settings: SamplerSettings, start: Start | None = None) -> list[float]:
    """The times of a run's steps and its end, falling to 0."""
    moments = times(settings.steps, settings.time_shift)
    if start is None or start.strength == 1:
        return moments
    return [start.strength, *(t for t in moments if t < start.strength)]


def beginning(noise: torch.Tensor, settings: SamplerSettings, start: Start | None) -> tuple[torch.Tensor, list[float]]:
    """What a solver begins with, and its times."""
    moments = step_times(settings, start)
    if start is None or start.strength == 1:
        return noise, moments
    return start.at(start.strength, noise, settings.sigma_min), moments


def stepped(
    x: torch.Tensor,
    t: float,
    t_next: float,
    v: torch.Tensor,
    noise: torch.Tensor,
    settings: SamplerSettings,
    start: Start | None,
) -> torch.Tensor:
    """x after a straight step along a velocity; rows that a start keeps are what it says."""
    x = x - (t - t_next) * v
    return start.held(x, t_next, noise, settings.sigma_min) if start else x


def euler(
    velocity: Velocity, noise: torch.Tensor, settings: SamplerSettings, start: Start | None = None
) -> Iterator[Sample]:
    """Integrate from noise (t = 1), or from a start, to data (t = 0); yields after every step, the last x is the
    result. Nothing is yielded for a start of strength 0, which is its own result."""
    x, moments = beginning(noise, settings, start)
    for t, t_next in pairwise(moments):
        v = velocity(x, t)
        x_0 = data_from_velocity(x, t, v, settings.sigma_min)
        x = stepped(x, t, t_next, v, noise, settings, start)
        yield Sample(x, x_0)


def heun(
    velocity: Velocity, noise: torch.Tensor, settings: SamplerSettings, start: Start | None = None
) -> Iterator[Sample]:
    """As euler, with the mean of the velocities at both ends of a step: second order, two passes a step.

    Karras et al., arXiv 2206.00364, algorithm 1, with Euler for the last step: a flow is not evaluated at t = 0, where
    its x_0 is x itself and guidance would divide by sigma_min. One such step keeps the order.
    """
    x, moments = beginning(noise, settings, start)
    for t, t_next in pairwise(moments):
        v = velocity(x, t)
        x_0 = data_from_velocity(x, t, v, settings.sigma_min)
        if t_next > 0:
            v = (v + velocity(x - (t - t_next) * v, t_next)) / 2
        x = stepped(x, t, t_next, v, noise, settings, start)
        yield Sample(x, x_0)


Integrator = Callable[[Velocity, torch.Tensor, SamplerSettings, "Start | None"], Iterator[Sample]]


class Solver(NamedTuple):
    """A row of SOLVERS. description: what it does, for the help of options and for tooltips."""

    run: Integrator
    description: str


SOLVERS = {  # the first is the default of SamplerSettings
    "euler": Solver(euler, "one pass of the network a step, as the checkpoints are meant"),
    "heun": Solver(heun, "two passes a step, more accurate; try half the steps"),
}
SOLVERS_IN_WORDS = " ".join(f"{name}: {row.description}." for name, row in SOLVERS.items())


def solver(name: str) -> Integrator:
    """The solver of that name, or a SettingsError that lists the names."""
    if name not in SOLVERS:
        raise SettingsError(unknown("solver", name, SOLVERS))
    return SOLVERS[name].run


def dense_spread(x: torch.Tensor) -> torch.Tensor:
    """Unbiased standard deviation over all dims but the first: what the reference takes for dense latents."""
    return x.std(dim=tuple(range(1, x.ndim)), keepdim=True)


def packed_spread(lengths: tuple[int, ...]) -> Spread:
    """Population standard deviation per packed sample [T, C] -> [T, 1]: what the reference takes for sparse latents."""

    def spread(x: torch.Tensor) -> torch.Tensor:
        per_sample = []
        for rows in x.split(lengths):
            std = (rows.square().mean() - rows.mean().square()).sqrt()
            per_sample.append(std.expand(len(rows), 1))
        return torch.cat(per_sample)

    return spread
