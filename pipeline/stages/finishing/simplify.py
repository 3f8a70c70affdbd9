"""Simplifying to a number of faces, and what to say where a mesh's topology does not allow so few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ...mesh import CLEAN, FARTHEST, SIMPLIFY, Mesh
from ...mesh.query.farthest import Farthest
from ...mesh.query.surface import Surface
from ...mesh.repair.clean import AFTER_SIMPLIFYING
from ...mesh.simplify.bounded import ErrorBound, deviation
from ...runtime import Runtime
from ...words import counted
from ..types import MIN_FACES
from .source_mesh import surface_by_row

_NEW_LEVEL = 0.9  # of the faces of the level before, that one which misses its target may have at most
_LOOKED_AT = 50_000  # faces at most, for whether meshes look the same
_GONE = 2 / 3  # of its surface, below which little is left of a shape; noise that an error smooths takes less
_ROOMY = 1.3  # times the faces that its holes and handles need, below which a shape suffers


@dataclass(frozen=True)
class Look:
    """When a simplified mesh looks the same: `share` of either surface lies within `distance` (world units) of the
    other. It is not simplified below `least` faces."""

    distance: float
    share: float
    least: int

    def alike(self, source: Callable[[Mesh], Surface], one: Mesh, other: Mesh) -> bool:
        """source: the row for CLOSEST on the meshes' device."""
        return max(self._far(one, source(other)), self._far(other, source(one))) <= 1 - self.share

    def _far(self, one: Mesh, other: Surface) -> float:
        """The share of one's faces whose centres are farther than that from the other."""
        some = one.faces[:: 1 + len(one.faces) // _LOOKED_AT].long()
        near = other.closest(one.vertices.float()[some].mean(1), self.distance)
        return float((near.face < 0).float().mean())


def simplify_levels(
    runtime: Runtime,
    mesh: Mesh,
    target_faces: Sequence[int],
    row: str | None,
    max_error: float = 0.0,
    look: Look | None = None,
) -> tuple[dict[int, Mesh], list[str]]:
    """Levels of detail, each made of the one before: {target faces: mesh}, and what to warn of.

    target_faces: maximum numbers of faces, descending. Those after the first that would equal the level before are
    left out. mesh, row: as for simplify_mesh. max_error: world units; the first level has as few faces as lie within
    it, however many its target allows; 0: no bound. look: the first level has as few faces as look the same, at most
    its target.
    """
    first, *lods = target_faces
    level, warnings = simplify_mesh(runtime, mesh, first, row)
    if max_error:
        most, level = level, _within(runtime, mesh, level, row, max_error)
        warnings += _told(most, level, max_error)
    if look:
        level = _alike(runtime, mesh, level, row, look)
    levels = {first: level}
    for target in lods:
        before = len(level.faces)
        if target >= before:
            warnings.append(f"No level of {target:,} faces: the one before it has no more.")
            continue
        coarser, said = simplify_mesh(runtime, level, target, row)
        if len(coarser.faces) > max(target, _NEW_LEVEL * before):
            warnings.append(
                f"No level of {target:,} faces: {len(coarser.faces):,} were reached from {before:,} before."
            )
            continue
        levels[target] = level = coarser
        warnings += said
    return levels, warnings


def simplify_mesh(runtime: Runtime, mesh: Mesh, target_faces: int, row: str | None) -> tuple[Mesh, list[str]]:
    """At most target_faces faces, clean, on the mesh's device, or the least that can be reached; and what to warn of.

    mesh: clean; returned as it is where it has no more faces than that.
    row: of the backend table, if not the first that works.
    """
    if len(mesh.faces) <= target_faces:
        return mesh, []
    whole, result = mesh.report, _simplified(runtime, mesh, target_faces, row)
    reached = len(result.faces)
    kept = f"{counted(whole.boundary_loops, 'hole')} and {counted(whole.handles, 'handle')}"
    advice = "Ask for more faces" + (', or for shells "solid", which closes holes.' if whole.boundary_loops else ".")
    if reached > target_faces:
        return result, [f"{target_faces:,} faces were asked for, {reached:,} were reached: {kept} need them. {advice}"]
    if target_faces < _ROOMY * whole.least_faces:
        return result, [
            f"{target_faces:,} faces are few: {kept} need about {whole.least_faces:,} of them, so that some of these "
            f"are gone and the shape suffers. {advice}"
        ]
    return result, []


def _within(runtime: Runtime, whole: Mesh, mesh: Mesh, row: str | None, max_error: float) -> Mesh:
    """A mesh simplified from `whole`, with still fewer faces where that keeps it within max_error of it; clean."""

    def measure(one: Mesh) -> Farthest:
        return runtime.backends.pick(FARTHEST, one.vertices.device)(one)

    left = max_error - (0.0 if mesh is whole else deviation(whole, mesh, measure))
    if left <= 0:
        return mesh
    device = mesh.vertices.device
    simplify = runtime.backends.pick(SIMPLIFY, device, row)
    fewer = simplify(mesh, MIN_FACES, partial(runtime.step, "process mesh", 2, 4), ErrorBound(left, measure)).to(device)
    if len(fewer.faces) == len(mesh.faces):
        return mesh
    return runtime.backends.pick(CLEAN, device)(fewer, AFTER_SIMPLIFYING)


def _told(most: Mesh, level: Mesh, max_error: float) -> list[str]:
    """What to warn of where an error of nearly half of an object, or of more than its thickness, left little of it.

    most: the mesh before it was simplified to `level`, as far as the error allows.
    """
    share = level.report.area / most.report.area if level is not most else 1.0
    if share >= _GONE:
        return []
    left = f"{counted(len(level.faces), 'face')} with {100 * share:.0f} % of the surface"
    return [
        f"A max error of {max_error:g} left {left}: little of the shape. Choose a smaller one; 0.002 or "
        "0.5vox are usual."
    ]


def _alike(runtime: Runtime, whole: Mesh, mesh: Mesh, row: str | None, look: Look) -> Mesh:
    """A mesh simplified from `whole`, halved as long as it looks the same."""
    source = surface_by_row(runtime, whole.vertices.device)
    while len(mesh.faces) > look.least:
        fewer = simplify_mesh(runtime, mesh, max(len(mesh.faces) // 2, look.least), row)[0]
        if len(fewer.faces) >= len(mesh.faces) or not look.alike(source, whole, fewer):
            break
        mesh = fewer
    return mesh


def _simplified(runtime: Runtime, mesh: Mesh, target_faces: int, row: str | None) -> Mesh:
    """At most target_faces faces, or as few as a row of the backend table can do; clean."""

    def tick() -> None:  # repeats the current progress, so that a callback can cancel
        runtime.step("process mesh", 2, 4)

    device = mesh.vertices.device
    asked = target_faces - target_faces // 2000  # a few faces over it would cost a second round
    while len(mesh.faces) > target_faces and asked > 0:
        simplify = runtime.backends.pick(SIMPLIFY, device, row)
        before = len(mesh.faces)
        mesh = simplify(mesh, asked, tick).to(device)
        tick()
        mesh = runtime.backends.pick(CLEAN, device)(mesh, AFTER_SIMPLIFYING)
        if len(mesh.faces) >= before:  # as far as it goes
            break
        asked -= 2 * max(len(mesh.faces) - target_faces, 1)  # parting what touches takes some faces more
    return mesh
