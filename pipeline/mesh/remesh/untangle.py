"""Faces that go through others, drawn apart: their vertices move towards the middle of their neighbours."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..mesh import Mesh

_ROUNDS = 8  # of moves: after so many the walls lie too close for it
_SHARE = 0.5  # of the way to that middle, in a round


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


def _drawn(points: torch.Tensor, faces: torch.Tensor, crossed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The points [V, 3] with the corners of crossed [F] faces moved, and [F] bool the faces that have one of these."""
    moving = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    moving[faces[crossed].reshape(-1).long()] = True
    touched = moving[faces.long()].any(1)
    # few, and added up in one order on any device
    some = faces[touched].long().cpu()
    rows, place = some.unique(return_inverse=True)
    at = points[rows.to(points.device)].cpu().double()
    total, uses = torch.zeros_like(at), torch.bincount(place.reshape(-1), minlength=len(rows))
    for k in range(3):
        others = at[place[:, (k + 1) % 3]] + at[place[:, (k + 2) % 3]]
        total.index_add_(0, place[:, k], others)
    middle = total / (2 * uses.clamp_min(1))[:, None]
    moved = at + _SHARE * (middle - at)
    lowest = float(points[:, 2].amin())
    moved[:, 2] = torch.where(at[:, 2] <= lowest, at[:, 2], moved[:, 2].clamp_min(lowest))
    own = moving[rows.to(points.device)].cpu()
    points = points.clone()
    points[rows[own].to(points.device)] = moved[own].float().to(points.device)
    return points, touched
