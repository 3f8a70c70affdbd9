"""Simplifying within an error bound: how far two surfaces lie apart, and the fewest faces that keep within it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from ...errors import SettingsError
from ..mesh import Mesh
from ..query.farthest import Measure

_POINTS = 2_000_000  # of a surface from which distances are measured at most, evenly taken
_LEGS = 5  # of the way down, each with a bound of its own; the result lies within max_error whatever they find
# Of max_error, the root of the mean square distance from a vertex's planes that is allowed at first: the largest
# distance is about twice that.
_FIRST_BOUND = 0.5
_AIM = 0.85  # of max_error that a looser bound is to reach: distances do not shrink in proportion
_SLACK = 0.7  # of max_error below which a looser bound is tried
_TIGHTER = 0.7  # times the bound that goes too far, if none is known that does not
_STEP = 0.7  # of its faces that a mesh keeps from one copy on the way down to the next


@dataclass(frozen=True)
class ErrorBound:
    """How far a mesh and what it is simplified to may lie apart, both ways (see `deviation`).

    max_error: in the mesh's units. measure: what distances are measured by, as rows for FARTHEST do.

    Raises:
        SettingsError: max_error is no distance above 0.
    """

    max_error: float
    measure: Measure

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_error) and self.max_error > 0):
            raise SettingsError(f"max_error is {self.max_error}; expected a distance above 0, in the mesh's units.")


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


def within(mesh: Mesh, bound: ErrorBound, way: Descent, target_faces: int) -> Mesh:
    """The result with the fewest faces, at least target_faces, that lies within a bound; the mesh itself if none does.

    The way down is gone once, to where the bound of its own measure ends it. What then lies within max_error goes on
    with a looser bound; else the last place that does is sought among copies kept on the way, and from there it goes on
    with a tighter one. If there is none it begins anew, once.

    Args:
        way: begins at the mesh.
    """
    near, max_error = _Near(mesh, bound), bound.max_error
    best = mesh
    kept, broken, own = 0.0, math.inf, _FIRST_BOUND * max_error
    step = _STEP
    for leg in range(_LEGS):
        steps = _steps(way, own, target_faces, step)
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
            kept = own
            if found >= _SLACK * max_error or way.count <= target_faces:
                break
        else:
            broken = own
        if good < 0:  # what is next goes too far however tight the bound: nearer ones may not
            step = math.sqrt(step)
        looser = own * _AIM * max_error / max(found, 0.2 * max_error)
        own = math.sqrt(kept * broken) if kept > 0 and broken < math.inf else looser if kept else _TIGHTER * own
    return best


def _steps(way: Descent, bound: float, target_faces: int, step: float) -> list[Descent]:
    """Copies on the way down within a bound, each with so much of the faces of the one before, the last of them where
    it ends."""
    steps, way = [], way.copy()
    way.bound(bound)
    while way.count > target_faces:
        before = way.count
        way.reduce(max(target_faces, int(step * before)))
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
    """How far other meshes lie from one, as far as a bound allows."""

    def __init__(self, mesh: Mesh, bound: ErrorBound) -> None:
        self.mesh, self._bound = mesh, bound
        self._points, self._to_mesh = _points(mesh), bound.measure(mesh)

    def farthest(self, other: Mesh) -> float:
        """As `deviation`, but inf beyond the bound, which is known with the first such point."""
        if len(other.faces) == 0:
            return math.inf
        limit = self._bound.max_error
        return max(self._to_mesh(_points(other), limit), self._bound.measure(other)(self._points, limit))


def by_halves(mesh: Mesh, target_faces: int, bound: ErrorBound, to_count: Callable[[Mesh, int], Mesh]) -> Mesh:
    """For what simplifies to a number of faces and knows no distance: the number is halved towards the target as long
    as the result lies within the bound, the last step halved once more.

    to_count: simplifies a mesh to about so many faces.
    """
    near, best, count = _Near(mesh, bound), mesh, len(mesh.faces)
    while count > target_faces:
        count = max(target_faces, count // 2)
        result = to_count(best, count)
        if near.farthest(result) > bound.max_error:
            between = to_count(best, (count + len(best.faces)) // 2)
            return between if near.farthest(between) <= bound.max_error else best
        if len(result.faces) >= len(best.faces):
            break
        best = result
    return best


def deviation(one: Mesh, other: Mesh, measure: Measure) -> float:
    """The largest distance from vertices and centres of faces of either mesh to the surface of the other; inf if one of
    them has no faces and the other has. measure: as of ErrorBound."""
    if len(one.faces) == 0 or len(other.faces) == 0:
        return 0.0 if len(one.faces) == len(other.faces) else math.inf
    return max(measure(other)(_points(one), math.inf), measure(one)(_points(other), math.inf))


def _points(mesh: Mesh) -> torch.Tensor:
    """[N, 3] vertices in use and centres of faces."""
    used = torch.zeros(len(mesh.vertices), dtype=torch.bool, device=mesh.vertices.device)
    used[mesh.faces.reshape(-1).long()] = True
    points = torch.cat([mesh.vertices[used].float(), mesh.vertices.float()[mesh.faces.long()].mean(1)])
    return points[:: 1 + len(points) // _POINTS]
