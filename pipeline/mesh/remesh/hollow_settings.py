"""How to hollow out a solid: numbers alone, for callers that must not import Warp."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import SettingsError

# cells at least, as less cannot be told from the lattice's steps
THIN = 2  # of a wall: no cell, whose diagonal is 1.73, meets both of its sides
NARROW = 3  # of a drain, across


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
    most = longest / 2
    named = {"wall": (hollow.wall, THIN), **({"drain": (hollow.drain, NARROW)} if hollow.drain else {})}
    for name, (value, cells) in named.items():
        least = cells * longest / resolution
        if not least <= value < most:  # NaN too
            raise SettingsError(
                f"The {name} of a hollow is {value:.4g}; choose from {least:.4g}, {cells} cells at shell resolution "
                f"{resolution}, to below {most:.4g}, half of the longest side."
            )
