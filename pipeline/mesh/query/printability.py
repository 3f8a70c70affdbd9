"""What a printer asks of a mesh beside its topology: crossing faces and walls, which need Warp, and overhangs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..mesh import Mesh
from .surface import Surface, along_a_curve

OVERHANG = 45.0  # degrees from the vertical beyond which printers need supports, as slicers have it by default
_ON_THE_BED = 5e-3  # of the height: faces this low lie on the bed and hang over nothing
_MOST_RAYS = 1 << 18  # faces whose wall is measured, spread evenly over the mesh's
_RAY_BIAS = 1e-5  # of the diagonal, by which a ray starts inside, clear of its own face
_THIN = 0.01  # share of the measured area: thinner walls than the reported one may be chance at sharp edges


@dataclass(frozen=True)
class Printability:
    """Lengths and areas in units of the mesh.

    crossing_faces: faces that go through others; those that share a vertex with all of them, or lie in one plane with
        them, do not count. None where Warp is missing, as for the walls.
    wall_min, wall_thin: thickness inward from the middles of faces: the least, and the one below which 1 % of the area
        lies; None also where no ray met the other side of a wall.
    overhang_area: of faces that look down by more than OVERHANG degrees and do not lie on the bed. area: of all.
    """

    crossing_faces: int | None
    wall_min: float | None
    wall_thin: float | None
    overhang_area: float
    area: float


def printability(mesh: Mesh, kernels: bool) -> Printability:
    """Measure a mesh with faces, Z up. kernels: whether Warp is there."""
    normals, areas = _normals(mesh)
    overhang = _overhang(mesh, normals, areas)
    if not kernels:
        return Printability(None, None, None, overhang, float(areas.sum()))
    walls = _walls(mesh, normals, areas)
    return Printability(crossing_faces(mesh), *walls, overhang, float(areas.sum()))


def _normals(mesh: Mesh) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit normals [F, 3] (0 without area) and areas [F], float64."""
    a, b, c = mesh.vertices.double()[mesh.faces.long()].unbind(1)
    normals = torch.linalg.cross(b - a, c - a)
    length = normals.norm(dim=1)
    return normals / length.clamp_min(1e-300)[:, None], length / 2


def _overhang(mesh: Mesh, normals: torch.Tensor, areas: torch.Tensor) -> float:
    heights = mesh.vertices[:, 2].double()[mesh.faces.long()]  # [F, 3]
    lowest = heights.min()
    on_the_bed = heights.amax(1) <= lowest + _ON_THE_BED * (heights.max() - lowest)
    down = normals[:, 2] < -math.sin(math.radians(OVERHANG)) - 1e-9
    return float(areas[down & ~on_the_bed].sum())


def crossing_faces(mesh: Mesh) -> int:
    """How many faces go through others that share no vertex with them."""
    return int(crossing(mesh.vertices, mesh.faces).count_nonzero())


def crossing(vertices: torch.Tensor, faces: torch.Tensor, asked: torch.Tensor | None = None) -> torch.Tensor:
    """[F] bool: faces that go through others that share no vertex with them; of the asked ones [F] bool alone, if they
    are given."""
    from ...warp import launch
    from . import printability_kernels

    order = along_a_curve(vertices[faces[:, 0].long()])
    corners = faces[order].to(torch.int32).contiguous()
    tree = launch.face_tree(vertices.float().contiguous(), corners)
    rows = torch.arange(len(order), device=order.device) if asked is None else asked[order].nonzero().squeeze(1)
    crossed = torch.zeros(len(rows), dtype=torch.uint8, device=faces.device)
    exact = vertices.float().double().contiguous()  # those of the tree
    given = tree.id, exact, corners, rows.int(), crossed
    launch.launch_parallel(printability_kernels.find_crossings, len(rows), *given)
    found = torch.zeros(len(faces), dtype=torch.bool, device=faces.device)
    found[order[rows]] = crossed > 0
    return found


def _walls(mesh: Mesh, normals: torch.Tensor, areas: torch.Tensor) -> tuple[float | None, float | None]:
    """(least, 1 % by area) thickness, by rays inward from the middles of faces to the inside of another face."""
    chosen = (areas > 0).nonzero()[:, 0]
    chosen = chosen[:: max(1, -(-len(chosen) // _MOST_RAYS))]
    middles = mesh.vertices.double()[mesh.faces[chosen].long()].mean(1)
    ray_bias = _RAY_BIAS * float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm())
    inward = -normals[chosen]
    hits = Surface(mesh.vertices, mesh.faces).rays(middles + ray_bias * inward, inward)
    met = hits.face >= 0
    # a ray that meets a face from outside left the body where the mesh is open or crosses itself
    met &= (normals[hits.face.clamp_min(0)] * inward).sum(1) > 0
    if not bool(met.any()):
        return None, None
    thickness, weight = hits.distance[met].double() + ray_bias, areas[chosen][met]
    thickness, order = thickness.sort()
    share = weight[order].cumsum(0) / weight.sum()
    return float(thickness[0]), float(thickness[int((share < _THIN).count_nonzero())])
