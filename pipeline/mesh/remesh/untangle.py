"""Faces that go through others, drawn apart: their vertices move towards the middle of their neighbours; and vertices
at one place, which a reader of a file without connections takes for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ..mesh import Mesh
from ..repair.repair import weld
from .project import moved

_ROUNDS = 8  # of moves: after so many the walls lie too close for it
_SHARE = 0.5  # of the way to that middle, in a round
_AWAY = 0.1  # of the shortest edge at a vertex, by which it moves from another at the same place,
_FARTHEST = 1e-4  # of the mesh's longest side, at most: less than what is printed


def untangled(mesh: Mesh, crossing: Callable[..., torch.Tensor]) -> tuple[Mesh, int]:
    """A mesh with fewer faces that go through others, and how many are left. Nothing else moves, connections stay, and
    so do the heights of the lowest vertices, on which it stands. crossing: a row of CROSSING.

    What crosses is mostly a few faces of two walls that turn sharply; each round draws their vertices a little into the
    wall. The round with the fewest counts.
    """
    points, faces = mesh.vertices.float(), mesh.faces
    crossed = crossing(points, faces)
    best, left = mesh, int(crossed.count_nonzero())
    for _ in range(_ROUNDS):
        if left == 0:
            break
        points, touched = _drawn(points, faces, crossed)
        crossed = crossing(points, faces, touched | crossed)
        found = int(crossed.count_nonzero())
        if found < left:
            best, left = Mesh.known(points, faces, kernels=mesh.kernels), found
    return best, left


def parted(mesh: Mesh) -> Mesh:
    """A mesh whose vertices at one place are moved apart, as far as no face turns over or goes through another.

    Where simplifying lets two parts touch, each has its own vertices there; in STL, which knows places alone, an edge
    of both has four faces. Each vertex moves towards the middle of its own neighbours and away from the others'.
    """
    points, faces = mesh.vertices.float(), mesh.faces
    _, welded, merged = weld(points, faces)
    if merged == 0:
        return mesh
    pairs = torch.stack([welded.reshape(-1), faces.reshape(-1)], 1).long().unique(dim=0)
    alike = pairs[:, 0].bincount()
    double = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    double[pairs[alike[pairs[:, 0]] > 1, 1]] = True
    place = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    place[pairs[:, 1]] = pairs[:, 0]
    near = _Near.of(points, faces, double)
    shortest = torch.full((len(near.at),), torch.inf, dtype=near.at.dtype)
    for k in range(3):
        one, other = near.corner[:, k], near.corner[:, (k + 1) % 3]
        length = (near.at[one] - near.at[other]).norm(dim=1)
        for end in (one, other):
            shortest.scatter_reduce_(0, end, length, "amin")
    own, middle = near.moving, near.middle[near.moving]
    _, group = place[near.rows].cpu()[own].unique(return_inverse=True)
    shared = torch.zeros(int(group.max()) + 1, 3, dtype=middle.dtype).index_add_(0, group, middle)
    way = middle - (shared / torch.bincount(group)[:, None])[group]
    side = float((points.amax(0) - points.amin(0)).max())
    step = (_AWAY * shortest[own]).clamp_max(_FARTHEST * side)
    move = torch.zeros_like(points)
    way = torch.nn.functional.normalize(way, dim=1, eps=1e-30) * step[:, None]
    move[near.rows[own.to(points.device)]] = way.float().to(points.device)
    lowest = points[:, 2].amin()  # on which it stands
    move[:, 2] = torch.where(points[:, 2] <= lowest, 0.0, torch.maximum(move[:, 2], lowest - points[:, 2]))
    return replace(mesh, vertices=moved(points, move, faces, True).vertices)


def _drawn(points: torch.Tensor, faces: torch.Tensor, crossed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The points [V, 3] with the corners of crossed [F] faces moved, and [F] bool the faces that have one of these."""
    moving = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    moving[faces[crossed].reshape(-1).long()] = True
    near = _Near.of(points, faces, moving)
    moved = near.at + _SHARE * (near.middle - near.at)
    lowest = float(points[:, 2].amin())
    moved[:, 2] = torch.where(near.at[:, 2] <= lowest, near.at[:, 2], moved[:, 2].clamp_min(lowest))
    points = points.clone()
    points[near.rows[near.moving.to(points.device)]] = moved[near.moving].float().to(points.device)
    return points, moving[faces.long()].any(1)


@dataclass(frozen=True)
class _Near:
    """The corners of faces with a vertex that moves: few, on the CPU, and added up in one order on any device.

    rows: [N] int64 vertices, on the points' device. at: [N, 3] float64 where they are. corner: [F', 3] int64 the faces,
    in numbers of rows. moving: [N] bool. middle: [N, 3] of their neighbours, whole for those that move.
    """

    rows: torch.Tensor
    at: torch.Tensor
    corner: torch.Tensor
    moving: torch.Tensor
    middle: torch.Tensor

    @staticmethod
    def of(points: torch.Tensor, faces: torch.Tensor, moving: torch.Tensor) -> _Near:
        """points: [V, 3]. faces: [F, 3]. moving: [V] bool."""
        some = faces[moving[faces.long()].any(1)].long().cpu()
        rows, corner = some.unique(return_inverse=True)
        rows = rows.to(points.device)
        at = points[rows].cpu().double()
        total, uses = torch.zeros_like(at), torch.bincount(corner.reshape(-1), minlength=len(at))
        for k in range(3):
            total.index_add_(0, corner[:, k], at[corner[:, (k + 1) % 3]] + at[corner[:, (k + 2) % 3]])
        return _Near(rows, at, corner, moving[rows].cpu(), total / (2 * uses.clamp_min(1))[:, None])
