"""Simplifying within an error bound: how far two surfaces lie apart, and the fewest faces that keep within it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.spatial import KDTree

from ...errors import SettingsError
from ...warp import unavailable_reason
from ..mesh import Mesh

_POINTS = 2_000_000  # of a surface from which distances are measured at most, evenly taken
_NEAREST = 12  # faces by their centres among which the nearest point is sought without Warp
_TRIES = 4  # bounds that are tried; the result lies within max_error whatever they find
_AIM = 0.85  # of max_error that a new bound is to reach: distances do not shrink in proportion
_SLACK = 0.7  # of max_error below which a looser bound is tried


def check_max_error(max_error: float | None) -> None:
    """Raises SettingsError unless it is None or a distance above 0."""
    if max_error is not None and not (math.isfinite(max_error) and max_error > 0):
        raise SettingsError(f"max_error is {max_error}; expected a distance above 0, in the mesh's units.")


def within(mesh: Mesh, max_error: float, reduce: Callable[[float], Mesh], first: float) -> Mesh:
    """The result of `reduce` with the fewest faces that lies within max_error of the mesh, both ways (see `deviation`);
    the mesh itself if none does.

    Args:
        max_error: in the mesh's units.
        reduce: simplifies the mesh to within a bound that its own measure of error keeps, in the mesh's units.
        first: the bound to begin with.
    """
    best, kept, broken, bound = mesh, 0.0, math.inf, first
    for _ in range(_TRIES):
        result = reduce(bound)
        found = deviation(mesh, result)
        if found > max_error:
            broken = bound
        elif len(result.faces) < len(best.faces):
            best, kept = result, bound
            if found >= _SLACK * max_error:
                break
        else:
            break
        if kept > 0 and broken < math.inf:
            bound = math.sqrt(kept * broken)
        else:
            bound *= _AIM * max_error / min(max(found, 0.2 * max_error), 10 * max_error)
    return best


def by_halves(mesh: Mesh, target_faces: int, max_error: float, to_count: Callable[[Mesh, int], Mesh]) -> Mesh:
    """For what simplifies to a number of faces and knows no distance: the number is halved towards the target as long
    as the surfaces stay within max_error of each other (both ways, see `deviation`), the last step halved once more.

    to_count: simplifies a mesh to about so many faces.
    """
    best, count = mesh, len(mesh.faces)
    while count > target_faces:
        count = max(target_faces, count // 2)
        result = to_count(best, count)
        if deviation(mesh, result) > max_error:
            between = to_count(best, (count + len(best.faces)) // 2)
            return between if deviation(mesh, between) <= max_error else best
        if len(result.faces) >= len(best.faces):
            break
        best = result
    return best


def deviation(one: Mesh, other: Mesh) -> float:
    """The largest distance from vertices and centres of faces of either mesh to the surface of the other; inf if one of
    them has no faces and the other has. Without Warp an upper bound of it."""
    if len(one.faces) == 0 or len(other.faces) == 0:
        return 0.0 if len(one.faces) == len(other.faces) else math.inf
    there, back = _farthest(_points(one), other), _farthest(_points(other), one)
    return max(there, back)


def _points(mesh: Mesh) -> torch.Tensor:
    """[N, 3] vertices in use and centres of faces."""
    used = torch.zeros(len(mesh.vertices), dtype=torch.bool, device=mesh.vertices.device)
    used[mesh.faces.reshape(-1).long()] = True
    points = torch.cat([mesh.vertices[used].float(), mesh.vertices.float()[mesh.faces.long()].mean(1)])
    return points[:: 1 + len(points) // _POINTS]


def _farthest(points: torch.Tensor, mesh: Mesh) -> float:
    if unavailable_reason():
        return _farthest_by_centres(points.cpu().double().numpy(), mesh)
    from ..query.surface import Surface

    return Surface(mesh.vertices, mesh.faces).closest(points).distance.max().item()


def _farthest_by_centres(points: np.ndarray, mesh: Mesh) -> float:
    """The largest distance to the nearest of the faces whose centres are nearest, which is no less than the true one.
    points: [N, 3]."""
    corners = mesh.vertices.cpu().double().numpy()[mesh.faces.cpu().long().numpy()]  # [F, 3, 3]
    tree, largest = KDTree(corners.mean(1)), 0.0
    count = min(_NEAREST, len(corners))
    for start in range(0, len(points), 1 << 16):
        some = points[start : start + (1 << 16)]
        near = tree.query(some, count)[1].reshape(len(some), count)
        square = np.min([_square_distance(some, corners[near[:, k]]) for k in range(count)], axis=0)
        largest = max(largest, float(square.max()))
    return math.sqrt(largest)


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
