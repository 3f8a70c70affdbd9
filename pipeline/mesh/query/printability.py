"""What a printer asks of a mesh beside its topology: crossing faces, walls and overhangs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...sums import running_sums
from ..mesh import Mesh

OVERHANG = 45.0  # degrees from the vertical beyond which printers need supports, as slicers have it by default
_ON_THE_BED = 5e-3  # of the height: faces this low lie on the bed and hang over nothing
_MOST_RAYS = 1 << 18  # faces whose wall is measured, spread evenly over the mesh's
_THIN = 0.01  # share of the measured area: thinner walls than the reported one may be chance at sharp edges


@dataclass(frozen=True)
class Printability:
    """Lengths and areas in units of the mesh.

    crossing_faces: faces that go through others; those that share a vertex with all of them, or lie in one plane with
        them, do not count.
    wall_min, wall_thin: thickness inward from the middles of faces: the least, and the one below which 1 % of the area
        lies; None where no ray met the other side of a wall.
    overhang_area: of faces that look down by more than OVERHANG degrees and do not lie on the bed. area: of all.
    """

    crossing_faces: int
    wall_min: float | None
    wall_thin: float | None
    overhang_area: float
    area: float


def printability(
    mesh: Mesh,
    crossing: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    wall_thickness: Callable[[Mesh, torch.Tensor], torch.Tensor],
) -> Printability:
    """Measure a mesh with faces, Z up. crossing, wall_thickness: rows of the backend table for these operations."""
    normals, areas = mesh.face_normals
    walls = _walls(mesh, areas, wall_thickness)
    crossed = int(crossing(mesh.vertices, mesh.faces).count_nonzero())
    return Printability(crossed, *walls, _overhang(mesh, normals, areas), float(areas.sum()))


def _overhang(mesh: Mesh, normals: torch.Tensor, areas: torch.Tensor) -> float:
    heights = mesh.vertices[:, 2].double()[mesh.faces.long()]  # [F, 3]
    lowest = heights.min()
    on_the_bed = heights.amax(1) <= lowest + _ON_THE_BED * (heights.max() - lowest)
    down = normals[:, 2] < -math.sin(math.radians(OVERHANG)) - 1e-9
    return float(areas[down & ~on_the_bed].sum())


def _walls(mesh: Mesh, areas: torch.Tensor, wall_thickness: Callable) -> tuple[float | None, float | None]:
    """(least, 1 % by area) thickness."""
    chosen = (areas > 0).nonzero()[:, 0]
    chosen = chosen[:: max(1, -(-len(chosen) // _MOST_RAYS))]
    if len(chosen) == 0:
        return None, None
    thickness = wall_thickness(mesh, chosen).double()
    met = thickness.isfinite()
    if not bool(met.any()):
        return None, None
    thickness, order = thickness[met].sort()
    weight = areas[chosen][met][order]
    share = running_sums(weight) / weight.sum()
    return float(thickness[0]), float(thickness[int((share < _THIN).count_nonzero())])
