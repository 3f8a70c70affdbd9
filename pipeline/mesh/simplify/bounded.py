"""Simplifying within an error bound: how far two surfaces lie apart, and the fewest faces that keep within it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from scipy.spatial import KDTree

from ...errors import SettingsError
from ...warp import unavailable_reason
from ..mesh import Mesh

if TYPE_CHECKING:
    from ..query.surface import Surface

_POINTS = 2_000_000  # of a surface from which distances are measured at most, evenly taken
_NEAREST = 12  # faces by their centres among which the nearest point is sought without Warp
_LEGS = 4  # of the way down, each with a bound of its own; the result lies within max_error whatever they find
# Of max_error, the root of the mean square distance from a vertex's planes that is allowed at first: the largest
# distance is about twice that.
_FIRST_BOUND = 0.5
_AIM = 0.85  # of max_error that a looser bound is to reach: distances do not shrink in proportion
_SLACK = 0.7  # of max_error below which a looser bound is tried
_TIGHTER = 0.7  # times the bound that goes too far, if none is known that does not
_STEP = 0.7  # of its faces that a mesh keeps from one copy on the way down to the next
_CHUNK = 1 << 17  # points that are asked together


def check_max_error(max_error: float | None) -> None:
    """Raises SettingsError unless it is None or a distance above 0."""
    if max_error is not None and not (math.isfinite(max_error) and max_error > 0):
        raise SettingsError(f"max_error is {max_error}; expected a distance above 0, in the mesh's units.")


class Descent(Protocol):
    """A mesh on its way to fewer faces."""

    @property
    def count(self) -> int:
        """Its faces."""
        ...

    def bound(self, distance: float) -> None:
        """Go on with another bound of its own measure of error, in the mesh's units."""
        ...

    def reduce(self, target_faces: int) -> None:
        """Go on to so many faces, or as far as the bound allows."""
        ...

    def copy(self) -> Descent:
        """The same, on a way of its own from here on."""
        ...

    def finished(self) -> Mesh:
        """What would be the result here. It goes on as if that had not been asked."""
        ...


def within(mesh: Mesh, max_error: float, way: Descent, target_faces: int) -> Mesh:
    """The result with the fewest faces, at least target_faces, that lies within max_error of the mesh, both ways (see
    `deviation`); the mesh itself if none does.

    The way down is gone once, to where the bound of its own measure ends it. What then lies within max_error goes on
    with a looser bound; else the last place that does is sought among copies kept on the way, and from there it goes on
    with a tighter one. If there is none it begins anew, once.

    Args:
        max_error: in the mesh's units.
        way: begins at the mesh.
    """
    near = _Near(mesh, max_error)
    best = mesh
    kept, broken, bound = 0.0, math.inf, _FIRST_BOUND * max_error
    for leg in range(_LEGS):
        steps = _steps(way, bound, target_faces)
        if not steps:
            break
        good, result, found = _last_within(steps, near)
        if len(result.faces) < len(best.faces):
            best = result
        if good >= 0:
            way = steps[good]
        elif best is mesh and leg > 0:
            break
        if good == len(steps) - 1:
            kept = bound
            if found >= _SLACK * max_error or way.count <= target_faces:
                break
        else:
            broken = bound
        looser = bound * _AIM * max_error / max(found, 0.2 * max_error)
        bound = math.sqrt(kept * broken) if kept > 0 and broken < math.inf else looser if kept else _TIGHTER * bound
    return best


def _steps(way: Descent, bound: float, target_faces: int) -> list[Descent]:
    """Copies on the way down within a bound, the last of them where it ends."""
    steps, way = [], way.copy()
    way.bound(bound)
    while way.count > target_faces:
        before = way.count
        way.reduce(max(target_faces, int(_STEP * before)))
        if way.count == before:
            break
        steps.append(way.copy())
    return steps


def _last_within(steps: list[Descent], near: _Near) -> tuple[int, Mesh, float]:
    """The last step that lies near, by halving, what would be the result there, and how far that lies away; -1, the
    mesh itself and 0 if none does."""
    low, high, best, found = -1, len(steps), near.mesh, 0.0
    place = high - 1
    while high - low > 1:
        result = steps[place].finished()
        distance = near.farthest(result)
        if distance < math.inf:
            low, best, found = place, result, distance
        else:
            high = place
        place = (low + high) // 2
    return low, best, found


class _Near:
    """How far other meshes lie from one, up to a limit. Needs Warp."""

    def __init__(self, mesh: Mesh, limit: float) -> None:
        from ..query.surface import Surface

        self.mesh, self._limit = mesh, limit
        self._points, self._surface, self._of = _points(mesh), Surface(mesh.vertices, mesh.faces), Surface

    def farthest(self, other: Mesh) -> float:
        """As `deviation`, but inf beyond the limit, which is known with the first such point."""
        if len(other.faces) == 0:
            return math.inf
        surface = self._of(other.vertices, other.faces)
        return max(self._from(_points(other), self._surface), self._from(self._points, surface))

    def _from(self, points: torch.Tensor, surface: Surface) -> float:
        largest = 0.0
        for some in points.split(_CHUNK):
            hits = surface.closest(some, self._limit)
            if float(hits.face.amin()) < 0:
                return math.inf
            largest = max(largest, float(hits.distance.max()))
        return largest


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
