"""Simplifying to a number of faces, and what to say where a mesh's topology does not allow so few."""

from __future__ import annotations

from collections.abc import Sequence

from ..mesh import CLEAN, SIMPLIFY, Mesh
from ..mesh.repair.clean import AFTER_SIMPLIFYING
from ..runtime import Runtime

_NEW_LEVEL = 0.9  # of the faces of the level before, that one which misses its target may have at most
_ROOMY = 1.3  # times the faces that its holes and handles need, below which a shape suffers


def simplify_levels(
    runtime: Runtime, mesh: Mesh, goals: Sequence[int], row: str | None
) -> tuple[dict[int, Mesh], list[str]]:
    """Levels of detail, each made of the one before: {goal: mesh}, and what to warn of.

    goals: maximum numbers of faces, descending. Those after the first that cannot be told from the level before are
    left out. mesh, row: as for simplify_mesh.
    """
    first, *lods = goals
    level, warnings = simplify_mesh(runtime, mesh, first, row)
    levels = {first: level}
    for goal in lods:
        before = len(level.faces)
        if goal >= before:
            warnings.append(f"No level of {goal:,} faces: the one before it has no more.")
            continue
        coarser, said = simplify_mesh(runtime, level, goal, row)
        if len(coarser.faces) > max(goal, _NEW_LEVEL * before):
            warnings.append(f"No level of {goal:,} faces: {len(coarser.faces):,} were reached from {before:,} before.")
            continue
        levels[goal] = level = coarser
        warnings += said
    return levels, warnings


def simplify_mesh(runtime: Runtime, mesh: Mesh, target: int, row: str | None) -> tuple[Mesh, list[str]]:
    """At most target faces, clean, on the mesh's device, or the least that can be reached; and what to warn of.

    mesh: clean; returned as it is where it has no more faces than that.
    row: of the backend table, if not the first that works.
    """
    if len(mesh.faces) <= target:
        return mesh, []
    whole, result = mesh.report, _simplified(runtime, mesh, target, row)
    reached = len(result.faces)
    kept = f"{whole.boundary_loops:,} holes and {whole.handles:,} handles"
    advice = "Ask for more faces" + (', or for shells "solid", which closes holes.' if whole.boundary_loops else ".")
    if reached > target:
        return result, [f"{target:,} faces were asked for, {reached:,} were reached: {kept} need them. {advice}"]
    if target < _ROOMY * whole.least_faces:
        return result, [
            f"{target:,} faces are few: {kept} need about {whole.least_faces:,} of them, so that some of these are "
            f"gone and the shape suffers. {advice}"
        ]
    return result, []


def _simplified(runtime: Runtime, mesh: Mesh, target: int, row: str | None) -> Mesh:
    """At most target faces, or as few as a row of the backend table can do; clean."""

    def tick() -> None:  # repeats the current progress, so that a callback can cancel
        runtime.step("process mesh", 2, 4)

    device = mesh.vertices.device
    goal = target - target // 2000  # a few faces over it would cost a second round
    while len(mesh.faces) > target and goal > 0:
        simplify = runtime.backends.pick(SIMPLIFY, device, row)
        before = len(mesh.faces)
        mesh = simplify(mesh, goal, tick).to(device)
        tick()
        mesh = runtime.backends.pick(CLEAN, device)(mesh, AFTER_SIMPLIFYING)
        if len(mesh.faces) >= before:  # as far as it goes
            break
        goal -= 2 * max(len(mesh.faces) - target, 1)  # parting what touches takes some faces more
    return mesh
