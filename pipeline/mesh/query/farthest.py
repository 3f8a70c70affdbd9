"""How far points lie from a mesh at most: by Warp's tree of its faces, or by faces whose centres are near."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.spatial import KDTree

from ..mesh import Mesh
from .surface import Surface

_NEAREST = 12  # faces by their centres among which the nearest point is sought without Warp
_CHUNK = 1 << 17  # points that are asked together, by the tree
_ROWS = 1 << 16  # the same without one: each point has _NEAREST triangles of fp64

# (points [N, 3], limit) -> their largest distance to one mesh, in its units; inf where one is farther than the limit
Farthest = Callable[[torch.Tensor, float], float]
Measure = Callable[[Mesh], Farthest]  # what the rows for FARTHEST are


def farthest_by_centres(mesh: Mesh) -> Farthest:
    """The reference implementation: the distance to the nearest of the faces whose centres are nearest, which is no
    less than the true one. mesh: with faces."""
    corners = mesh.vertices.cpu().double().numpy()[mesh.faces.cpu().long().numpy()]  # [F, 3, 3]
    tree, count = KDTree(corners.mean(1)), min(_NEAREST, len(corners))

    def farthest(points: torch.Tensor, limit: float = math.inf) -> float:
        largest = 0.0
        for some in points.cpu().double().split(_ROWS):
            at = some.numpy()
            near = tree.query(at, count)[1].reshape(len(at), count)
            square = np.min([_square_distance(at, corners[near[:, k]]) for k in range(count)], axis=0)
            largest = max(largest, math.sqrt(square.max()))
            if largest > limit:
                return math.inf
        return largest

    return farthest


def farthest_by_tree(mesh: Mesh) -> Farthest:
    """farthest_by_centres, but exact, by Warp's tree of the faces."""
    surface = Surface(mesh.vertices, mesh.faces)

    def farthest(points: torch.Tensor, limit: float = math.inf) -> float:
        largest = 0.0
        for some in points.split(_CHUNK):
            hits = surface.closest(some, limit) if limit < math.inf else surface.closest(some)
            if float(hits.face.amin()) < 0:
                return math.inf
            largest = max(largest, float(hits.distance.max()))
        return largest

    return farthest


def _square_distance(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """[N] squared distances of points [N, 3] to a triangle each, [N, 3, 3]: to its plane where the foot of the point is
    inside it, else to the nearest of its edges."""
    to_edges = []
    for k in range(3):
        a, along = corners[:, k], corners[:, (k + 1) % 3] - corners[:, k]
        share = ((points - a) * along).sum(1) / np.maximum((along**2).sum(1), 1e-300)
        to_edges.append(((points - a - share.clip(0, 1)[:, None] * along) ** 2).sum(1))
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.maximum(np.linalg.norm(normal, axis=1), 1e-300)
    sides = [
        (np.cross(corners[:, (k + 1) % 3] - corners[:, k], points - corners[:, k]) * normal).sum(1) for k in range(3)
    ]
    inside = np.min(sides, axis=0) >= 0
    height = ((points - corners[:, 0]) * normal).sum(1) / length
    return np.where(inside, height**2, np.min(to_edges, axis=0))
