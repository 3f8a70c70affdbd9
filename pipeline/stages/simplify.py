"""Simplifying to a number of faces, and what to say where a mesh's topology does not allow so few."""

from __future__ import annotations

from ..mesh import CLEAN, SIMPLIFY, Mesh
from ..mesh.repair.clean import AFTER_SIMPLIFYING
from ..runtime import Runtime

_ROOMY = 1.3  # times the faces that its holes and handles need, below which a shape suffers


def reduced(runtime: Runtime, mesh: Mesh, target: int, row: str | None) -> tuple[Mesh, list[str]]:
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
