"""How to hollow out a solid: numbers alone, for callers that must not import Warp."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import SettingsError

THIN = 3  # cells that a wall or a drain has at least: less cannot be told from the lattice's steps


@dataclass(frozen=True)
class Hollow:
    """How to hollow out a solid, in world units.

    wall: its thickness; at least the distance of any point of a cavity from the solid's surface.
    drain: diameter of the hole that leads straight down out of each cavity, from the lowest place in it where a ball
        of this diameter has room. Cavities without such a place stay solid. 0: no holes.
    base: share of the height up to which all is cut off before, to a plane to stand on. 0: nothing.
    """

    wall: float
    drain: float = 0.0
    base: float = 0.0


def check_hollow(hollow: Hollow, longest: float, resolution: int) -> None:
    """Raises SettingsError for what cannot be in an object whose longest side (world units) has so many cells."""
    least, most = THIN * longest / resolution, longest / 2
    named = {"wall": hollow.wall, **({"drain": hollow.drain} if hollow.drain else {})}
    for name, value in named.items():
        if not least <= value < most:  # NaN too
            raise SettingsError(
                f"The {name} of a hollow is {value:.4g}; choose from {least:.4g}, {THIN} cells at shell resolution "
                f"{resolution}, to below {most:.4g}, half of the longest side."
            )
