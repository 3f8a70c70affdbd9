"""Process: raw mesh -> cleaned, shells as asked, simplified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from .. import mesh as geometry
from ..errors import EmptyResultError
from ..mesh import CLEAN, OUTER_SHELL, SOLID
from ..mesh.remesh import RESOLUTIONS, own_resolution
from ..mesh.repair.clean import Cleaned, CleanSettings
from ..runtime import Runtime
from .checks import check_shells, geometry_device
from .simplify import simplify_levels
from .types import LOWER, Mesh, Origin, check_levels

_LEAST = 128  # cells in which "solid" sees a mesh of few faces, whose parts may be thin all the same
_FINE = 512  # voxels along a side from which on sizes are meant as they are given


def process_mesh(
    runtime: Runtime,
    mesh: Mesh,
    target_faces: int,
    max_hole_perimeter: float = 3e-2,
    shells: str = "outer",
    resolution: int = 512,
    lods: Sequence[int] = (),
) -> Mesh:
    """Raw mesh -> cleaned, shells as asked, at most target_faces faces, cleaned again; on the CPU. Colours and UVs that
    it has stay behind. Where its holes and handles need more faces, facts["warnings"] says so, and how many.

    Args:
        max_hole_perimeter: world units; holes with a shorter rim are filled, 0 fills nothing. Of the raw mesh of a grid
            coarser than 512 voxels correspondingly longer ones, so that it means the same holes in it.
        shells: "surface" keeps every face that is not broken, open sheets and inner shells too; "outer" drops what
            cannot be reached from outside (nothing, with a warning, where Warp is absent); "solid" remeshes to one
            closed manifold surface and snaps it to the raw one.
        resolution: cells along the longest side in which "outer" and "solid" see; narrower gaps count as closed.
            "solid" sees no finer than the grid is of which it is the raw mesh, and a mesh from elsewhere no finer than
            its faces are, or 128 cells.
        lods: face counts of coarser levels of detail, descending from below target_faces. Those that cannot be told
            from the one before are left out.

    Raises:
        EmptyResultError: the mesh has no faces. BackendError: "solid" without Warp.
        SettingsError: unknown shells, fewer than 4 faces, or levels that do not descend.
    """
    check_shells(shells)
    check_levels([target_faces, *lods])
    if len(mesh.faces) == 0:
        raise EmptyResultError(
            f"The mesh has no faces: no crossed edge has all four voxels round it ({len(mesh.vertices):,} voxels). "
            "Try another seed or resolution."
        )
    device = geometry_device(runtime.device)
    with runtime.stage("process mesh", 4, LOWER):
        shell = cleaned = _clean(runtime, mesh, device, max_hole_perimeter)
        facts: dict = {"cleaned": cleaned.changes}
        warnings = []
        if shells == "outer" and (reason := runtime.backends.reason(OUTER_SHELL, device)):
            warnings, shells = [f"Inner shells stay: {reason}"], "surface"
        runtime.step("process mesh", 1, 4)
        if shells != "surface":
            tick = partial(runtime.step, "process mesh", 1, 4)  # so that a callback can interrupt
            shell, facts["shells"] = _shells(runtime, cleaned, shells, resolution, mesh.resolution, tick)
        del cleaned
        runtime.step("process mesh", 2, 4)
        # fast-simplification would open what solid closed
        closed = {"cuda": "warp", "cpu": "warp-cpu"}[device.type] if shells == "solid" else None
        levels, said = simplify_levels(runtime, shell, [target_faces, *lods], closed)
        first, *rest = (_reported(runtime, level, goal, shell, mesh.origin) for goal, level in levels.items())
        warnings += [*said, *first.facts["warnings"]]
        if first.facts["mesh"]["boundary_edges"] and shells != "solid" and runtime.backends.offers(SOLID, device):
            warnings.append('Shells "solid" would make one closed surface of it.')
        facts |= {**first.facts, "warnings": warnings}
        if rest:
            facts["lods"] = [level.facts for level in rest]
        runtime.step("process mesh", 4, 4)
        return first.replace(facts=facts, lods=tuple(rest))


def _clean(runtime: Runtime, mesh: Mesh, device: torch.device, max_hole_perimeter: float) -> Cleaned:
    """Raises EmptyResultError if no face is left."""
    settings = _clean_settings(max_hole_perimeter, mesh.resolution)
    cleaned = runtime.backends.pick(CLEAN, device)(mesh.surface(device), settings)
    if len(cleaned.faces) == 0:
        raise EmptyResultError("Every face of the mesh has zero area. Try another seed or resolution.")
    return cleaned


def _reported(runtime: Runtime, level: geometry.Mesh, goal: int, shell: geometry.Mesh, origin: Origin) -> Mesh:
    """A level on the CPU, with its facts; shell: the mesh before it was simplified."""
    runtime.step("process mesh", 3, 4)
    changes = level.changes if isinstance(level, Cleaned) and level is not shell else {}
    facts = {"faces_asked": goal, "cleaned_again": changes, "mesh": level.report.as_dict()}
    facts["warnings"] = level.report.warnings()
    return Mesh.known(level.vertices.cpu(), level.faces.cpu(), facts=facts, origin=origin, report=level.report)


def _clean_settings(max_hole_perimeter: float, resolution: int) -> CleanSettings:
    """For the raw mesh of a grid: the same holes and fragments, counted in voxels, whatever its resolution."""
    coarser = max(1.0, _FINE / resolution) if resolution else 1.0
    share = CleanSettings.min_area_share * coarser**2
    return CleanSettings(max_hole_perimeter=max_hole_perimeter * coarser, min_area_share=share)


def _shells(
    runtime: Runtime, mesh: geometry.Mesh, shells: str, resolution: int, grid: int, tick: Callable[[], None]
) -> tuple[geometry.Mesh, dict]:
    """As process_mesh says; grid: voxels along a side of the world cube, 0 if there is none."""
    device = mesh.vertices.device
    if shells == "outer":
        return runtime.backends.pick(OUTER_SHELL, device)(mesh, resolution)
    longest = (mesh.vertices.amax(0) - mesh.vertices.amin(0)).max().item()
    own = max(RESOLUTIONS[0], int(longest * grid)) if grid else max(_LEAST, own_resolution(mesh))
    return runtime.backends.pick(SOLID, device)(mesh, min(resolution, own), tick)
