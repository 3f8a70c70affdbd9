"""Opt-in speed-ups of sampling: velocities that are predicted from earlier ones in place of a pass of the network."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .errors import SettingsError, unknown
from .sampling import Velocity
from .spec import SamplerSettings


@dataclass(frozen=True)
class Reuse:
    """Which calls of one velocity, at falling times of one run, are predicted.

    first, last: steps at the run's start and end that always run the network, at least two at the start, since a line
    needs two points. Between them one call in `every` runs it.
    """

    first: int = 2
    every: int = 2
    last: int = 2


@dataclass(frozen=True)
class Speed:
    """What a setting of speed reuses; None: nothing.

    unconditional: the velocity without the picture, of every sampler, inside the guidance interval. structure, shape,
    texture: the velocity with the picture.
    """

    name: str = "exact"
    unconditional: Reuse | None = None
    structure: Reuse | None = None
    shape: Reuse | None = None
    texture: Reuse | None = None

    def of_stage(self, stage: str) -> Reuse | None:
        """What a sampler's stage reuses; a cascade's passes are "shape", "shape 1024" and so on."""
        return {"structure": self.structure, "shape": self.shape, "texture": self.texture}[stage.partition(" ")[0]]


EXACT = Speed()
_UNCONDITIONAL = Reuse(last=1)
# `python -m training speed` measures them. The last step but one of a shape may not be predicted: it alone takes the
# latent's error from 3 to 8 % (bundled small checkpoint).
SPEEDS = {
    speed.name: speed
    for speed in (
        EXACT,
        Speed("balanced", _UNCONDITIONAL),
        Speed("fast", _UNCONDITIONAL, structure=Reuse(last=1), shape=Reuse(), texture=Reuse(last=1)),
    )
}


def speed_named(name: str) -> Speed:
    """The speed of that name, or a SettingsError that lists the names."""
    if name not in SPEEDS:
        raise SettingsError(unknown("speed", name, SPEEDS))
    return SPEEDS[name]


def check_solver(speed: Speed, settings: SamplerSettings) -> None:
    """Raises SettingsError for a solver that calls the network where its own next step does not lie."""
    if speed != EXACT and settings.solver != "euler":
        raise SettingsError(
            f"The speed {speed.name!r} works with the solver euler only, not with {settings.solver!r}: choose the "
            "speed exact, or euler."
        )


class Reusing:
    """A velocity of one run that is predicted at some of its calls, by the line through its last two values over time.

    That is a Taylor series' first order, as TaylorSeer (arXiv 2503.06923) takes it of features. Keeping the last
    value, its x_0 or its difference from x (EasyCache, arXiv 2507.02860) was two to five times as far from the exact
    latent (bundled small checkpoint).

    Args:
        velocity: what is called.
        reuse: which calls are predicted.
        times: those of the run's steps and its end, falling.
    """

    def __init__(self, velocity: Velocity, reuse: Reuse, times: list[float]) -> None:
        self._velocity, self._reuse = velocity, reuse
        self._until = times[-1 - min(reuse.last, len(times) - 1)]  # at this time and later ones nothing is predicted
        self._seen: list[tuple[float, torch.Tensor]] = []  # time and value of the last two passes
        self._since = 0  # calls predicted since the last pass
        self.calls = self.passes = 0

    def __call__(self, x: torch.Tensor, t: float) -> torch.Tensor:
        self.calls += 1
        due = self.calls <= max(2, self._reuse.first) or self._since >= self._reuse.every - 1
        if not due and t > self._until:
            self._since += 1
            (t_1, v_1), (t_2, v_2) = self._seen
            return torch.lerp(v_1, v_2, (t - t_1) / (t_2 - t_1))
        v = self._velocity(x, t)
        self.passes, self._since = self.passes + 1, 0
        self._seen = [*self._seen[-1:], (t, v)]
        return v
