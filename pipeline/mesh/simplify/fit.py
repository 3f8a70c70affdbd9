"""Nearer to the surface that a mesh was made of: its distance from the faces is measured, vertices make up for it.

A quadric knows the planes round a vertex only; what it puts nearest to them leaves the middles of faces off the surface
on one side, round things inside, which is a tenth or more of the mean distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..query.surface import Surface
from .stars import find_stars

_ALIKE = 0.7  # cosine of the angle between a face and the one that is nearest to it, or that is another wall's
_FAR = 1e6  # farther than anything: no limit
_CHECKS = 2  # rounds of holding vertices of faces that would turn over


class Source:
    """The surface that is simplified, in units in which about its size is 1. Made ready for queries when needed."""

    def __init__(self, vertices: torch.Tensor, faces: torch.Tensor) -> None:
        self._vertices, self._faces = vertices, faces
        self._surface: Surface | None = None

    def offsets(self, points: torch.Tensor, faces: torch.Tensor, limit: float) -> torch.Tensor:
        """[3 F] float32 distances along their face's normal from points near corners of faces [F, 3] to the surface; 0
        where that looks another way or is farther than the limit."""
        if self._surface is None:
            self._surface = Surface(self._vertices, self._faces)
        corners = points[faces.long()]  # [F, 3, 3]
        normals = torch.nn.functional.normalize(_doubled(corners), dim=1)[:, None]
        samples = 0.5 * (corners + corners.mean(1, keepdim=True))
        hits = self._surface.closest(samples.reshape(-1, 3), limit)
        there = self._vertices[self._faces[hits.face.clamp_min(0)].long()]  # [3 F, 3, 3]
        alike = (torch.nn.functional.normalize(_doubled(there), dim=1).view_as(samples) * normals).sum(2) > _ALIKE
        nearest = (there * hits.weights[:, :, None]).sum(1).view_as(samples)
        offset = ((nearest - samples) * normals).sum(2)
        return torch.where(alike & (hits.face >= 0).view_as(alike), offset, 0.0).reshape(-1)


@dataclass(frozen=True)
class FitConfig:
    """What a fit weighs. rounds: of moves. least_move: shorter ones are left out. good_shape: of a face, as in
    CollapseConfig; no move makes a worse one much worse. limit: what of the surface lies farther does not count."""

    rounds: int
    least_move: float
    good_shape: float
    limit: float = _FAR


def fit(
    points: torch.Tensor, faces: torch.Tensor, source: Source, config: FitConfig, quadrics: torch.Tensor | None = None
) -> None:
    """Move vertices in place, and their quadrics with them.

    Args:
        points: [V, 3] float32, all used by faces. faces: [3 F] int32. quadrics: [V, 10] float32, see quadric_kernels.
    """
    from ...warp.launch import launch_parallel
    from . import fit_kernels as kernels
    from .relax_kernels import move_vertices

    count, corners = len(points), faces.reshape(-1, 3)
    if config.rounds < 1 or len(corners) == 0:
        return
    if quadrics is None:
        quadrics = points.new_zeros(count, 10)
    stars = find_stars(faces, count)
    goals, picked = torch.empty_like(points), torch.empty(count, dtype=torch.uint8, device=points.device)
    for _ in range(config.rounds):
        offset = source.offsets(points, corners, config.limit)
        around = faces, stars.offsets, stars.corners, stars.feature
        weights = config.least_move, config.good_shape
        launch_parallel(kernels.find_goals, count, *weights, offset, points, *around, goals, picked)
        for _ in range(_CHECKS):
            held = torch.zeros_like(picked)
            launch_parallel(kernels.hold_turned, len(corners), points, goals, faces, held)
            launch_parallel(kernels.let_go, count, held, points, goals, picked)
        launch_parallel(move_vertices, count, picked, goals, points, quadrics)


def _doubled(corners: torch.Tensor) -> torch.Tensor:
    """[N, 3] normals of triangles [N, 3, 3], twice the area long."""
    a, b, c = corners.unbind(1)
    return torch.linalg.cross(b - a, c - a)
