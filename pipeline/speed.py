"""Opt-in speed-ups of sampling: velocities that are predicted from earlier ones in place of a pass of the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

import torch

from .errors import SettingsError, unknown
from .sampling import Sample, Start, Velocity, beginning, data_from_velocity, stepped
from .spec import SamplerSettings

_EARLIEST = 0.999  # time taken for pure noise, whose SNR is 0, by log_snr


@dataclass(frozen=True)
class Passes:
    """The steps at which a network runs, as shares 0-1 of a run's steps; the first step and the last always are some.

    So a run of more steps costs no more passes, and one of a few has them all.
    """

    shares: tuple[float, ...]

    def times(self, moments: Sequence[float]) -> frozenset[float]:
        """The times at which the network runs. moments: times of a run's steps and its end, falling."""
        steps = len(moments) - 1
        return frozenset(moments[min(round(share * steps), steps - 1)] for share in (0.0, *self.shares, 1.0))


@dataclass(frozen=True)
class Speed:
    """When a setting of speed runs the networks; None: at every step.

    unconditional: for the velocity without the picture, of every sampler. structure, shape, texture: for both
    velocities, with the picture and without.
    """

    name: str = "exact"
    unconditional: Passes | None = None
    structure: Passes | None = None
    shape: Passes | None = None
    texture: Passes | None = None

    def of_stage(self, stage: str) -> Passes | None:
        """When a sampler's stage runs its network; a cascade's passes are "shape", "shape 1024" and so on."""
        return {"structure": self.structure, "shape": self.shape, "texture": self.texture}[stage.partition(" ")[0]]


EXACT = Speed()
# Of 12 steps. `python -m training speed` measures them. A shape's last three steps may not be predicted: the last but
# one alone takes the latent's error from 1 to 6 % (bundled small checkpoint).
_OFTEN = Passes(tuple(step / 12 for step in (2, 5, 7, 9, 10)))
_SELDOM = Passes(tuple(step / 12 for step in (3, 7, 9)))
SPEEDS = {
    speed.name: speed
    for speed in (
        EXACT,
        Speed("balanced", _OFTEN),
        Speed("fast", _OFTEN, structure=_OFTEN, shape=_OFTEN, texture=_SELDOM),
    )
}


def speed_named(name: str) -> Speed:
    """The speed of that name, or a SettingsError that lists the names."""
    if name not in SPEEDS:
        raise SettingsError(unknown("speed", name, SPEEDS))
    return SPEEDS[name]


def check_solver(speed: Speed, settings: SamplerSettings) -> None:
    """Raises SettingsError for a solver that evaluates the network elsewhere than at its steps' times."""
    if speed != EXACT and settings.solver != "euler":
        raise SettingsError(
            f"The speed {speed.name!r} works with the solver euler only, not with {settings.solver!r}: choose the "
            "speed exact, or euler."
        )


def log_snr(t: float) -> float:
    """Logarithm of signal to noise at a time."""
    t = min(t, _EARLIEST)
    return log((1 - t) / t)


class Reusing:
    """A velocity of one run that is predicted at some of its steps, by the line through its last two passes.

    Lines and parabolas are over log_snr, over which velocities are straighter than over time or the number of the
    step. Features are predicted so by TaylorSeer (arXiv 2503.06923); keeping the last value, its x_0 or its difference
    from x (EasyCache, arXiv 2507.02860) was two to five times as far from the exact latent (bundled small checkpoint).

    Asked again for a time that it has answered, it runs nothing: it answers as it did if that was a pass, and by the
    parabola through the last three passes if a pass has come since.

    Args:
        velocity: what is called.
        runs: times of the steps at which it is.
        base: a velocity whose difference to this one is predicted in place of this one; it is asked before.
    """

    def __init__(self, velocity: Velocity, runs: frozenset[float], base: Reusing | None = None) -> None:
        self._velocity, self._runs, self._base = velocity, runs, base
        self._passes: list[tuple[float, torch.Tensor]] = []  # times, falling, and values or their differences from base
        self._asked = 2.0  # last time
        self._since: float | None = None  # time of the first prediction since the last pass
        self._revised: float | None = None  # the same before the last pass
        self.calls = self.passes = 0  # of steps

    def __call__(self, x: torch.Tensor, t: float) -> torch.Tensor:
        base = self._base(x, t) if self._base else None
        if t < self._asked:
            self._step(x, t, base)
        value = self._value(t)
        return value if base is None else base + value

    def _step(self, x: torch.Tensor, t: float, base: torch.Tensor | None) -> None:
        """Run the network at a new time, or note that it is predicted."""
        self._asked, self._revised = t, None
        self.calls += 1
        if self._passes and t not in self._runs:
            self._since = t if self._since is None else self._since
            return
        value = self._velocity(x, t)
        self._passes.append((t, value if base is None else value - base))
        self._revised, self._since = self._since, None
        self.passes += 1

    def _value(self, t: float) -> torch.Tensor:
        for time, value in self._passes:
            if time == t:
                return value
        return _through(self._passes[-2:] if t < self._passes[-1][0] else self._passes[-3:], t)

    def revised(self, t: float) -> float | None:
        """The earliest time whose answer has changed by a pass at t, if any has."""
        return self._revised if self._asked == t else None

    def pending(self, t: float) -> float:
        """The earliest time whose answer may yet change; t: that of the last step."""
        return t if self._since is None or self._asked != t else self._since

    def forget(self, before: float) -> None:
        """Drop passes that no answer from a time on needs."""
        old = sum(time > before for time, _ in self._passes)
        del self._passes[: max(0, old - 3)]


def _through(points: Sequence[tuple[float, torch.Tensor]], t: float) -> torch.Tensor:
    """The polynomial through points (time, value) at a time. Times near pure noise count as one, and the last of
    their values counts: a large time shift has several passes there."""
    at, values = log_snr(t), {log_snr(time): value for time, value in points}
    total = torch.zeros_like(points[0][1])
    for here, value in values.items():
        weight = 1.0
        for other in values:
            weight *= 1.0 if other == here else (at - other) / (here - other)
        total = total.add_(value, alpha=weight)
    return total


def euler(
    velocity: Velocity,
    reusing: Sequence[Reusing],
    noise: torch.Tensor,
    settings: SamplerSettings,
    start: Start | None = None,
) -> Iterator[Sample]:
    """As sampling.euler; a pass corrects the steps that were predicted before it.

    Where a pass has shown how a velocity went on, its predictions are known better, and their steps are taken again
    without any pass, as a predictor and corrector do (UniPC, arXiv 2302.04867, which leaves the new pass where it is as
    well). That halves the error of the latent.

    Args:
        velocity: of the x and t that it is given alone, made of those in `reusing`.
    """
    x, moments = beginning(noise, settings, start)
    steps: list[tuple[torch.Tensor, float, float]] = []  # x, time and end of those that may be taken again
    for t, t_next in pairwise(moments):
        v = velocity(x, t)
        changed = [time for each in reusing if (time := each.revised(t)) is not None]
        if changed:
            again = [step for step in steps if step[1] <= max(changed)]
            x = again[0][0]
            for number, (_, earlier, later) in enumerate(again, len(steps) - len(again)):
                steps[number] = x, earlier, later
                x = stepped(x, earlier, later, velocity(x, earlier), noise, settings, start)
            v = velocity(x, t)
        x_0 = data_from_velocity(x, t, v, settings.sigma_min)
        steps.append((x, t, t_next))
        first = max(each.pending(t) for each in reusing)
        steps = [step for step in steps if step[1] <= first]
        for each in reusing:
            each.forget(first)
        x = stepped(x, t, t_next, v, noise, settings, start)
        yield Sample(x, x_0)
