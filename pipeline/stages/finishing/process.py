"""Process: raw mesh -> cleaned, shells as asked, simplified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from ... import mesh as geometry
from ...errors import EmptyResultError
from ...mesh import CLEAN, CROSSING, QUADS, SOLID, WALL_THICKNESS
from ...mesh.remesh.hollow_walls import Hollowed
from ...mesh.remesh.untangle import parted, untangled
from ...mesh.repair.clean import Cleaned, CleanSettings
from ...runtime import Runtime
from ...words import counted
from ..checks import check_shells, geometry_device
from ..hollowing import Hollowing
from ..length import Length
from ..types import LOWER, Mesh, Origin, check_levels, check_quads
from .shells import choose_shells, make_shells, same_look
from .simplify import simplify_levels

_FINE = 512  # voxels along a side from which on sizes are meant as they are given


def process_mesh(
    runtime: Runtime,
    mesh: Mesh,
    target_faces: int,
    max_hole_perimeter: float = 3e-2,
    shells: str = "outer",
    resolution: int = 512,
    lods: Sequence[int] = (),
    wall: float = 0.0,
    max_error: Length | None = None,
    cavities: str = "fill",
    hollow: Hollowing | None = None,
    quads: int = 0,
) -> Mesh:
    """Raw mesh -> cleaned, shells as asked, at most target_faces faces, cleaned again; on the CPU. Colours and UVs that
    it has stay behind. Where its holes and handles need more faces, facts["warnings"] says so, and how many.

    Args:
        max_hole_perimeter: world units; holes with a shorter boundary loop are filled, 0 fills nothing. Of the raw mesh
            of a grid coarser than 512 voxels correspondingly longer ones, so that it means the same holes in it.
        shells: "surface" keeps every face that is not broken, open sheets and inner shells too; "outer" drops what
            cannot be reached from outside (nothing, with a warning, where Warp is absent); "solid" remeshes to one
            closed manifold surface, holes closed, and moves its vertices onto the raw one; "auto" is "solid" where the
            mesh has holes and is meant to be closed, else "outer"; facts["shells"] says which and why.
        resolution: cells along the longest side in which "outer" and "solid" see; narrower gaps count as closed.
            "solid" sees no finer than the grid is of which it is the raw mesh, and a mesh from elsewhere no finer than
            its faces are, or 128 cells.
        lods: face counts of coarser levels of detail, descending from below target_faces. Those that would equal
            the one before are left out.
        wall: world units; how thick "solid" makes open sheets at least.
        cavities: what "solid" makes of cavities without a way out: "fill" or "keep" them; "auto" is "solid" then.
        hollow: how "solid" is hollowed out, and "auto", which is "solid" then; facts["shells"]["hollow"] says what that
            saves.
        quads: about so many quads in place of at most target_faces triangles, each as two faces of the result, see
            Mesh.quads; 0: none. Needs the package pynanoinstantmeshes.
        max_error: how far simplifying may move the surface, if that allows fewer faces than target_faces. None: as far
            as target_faces ask; and where "auto" makes the raw mesh of a grid solid, until a thousandth of it would
            move by a quarter of a voxel, down to 20,000 faces.

    Raises:
        EmptyResultError: the mesh has no faces. BackendError: "solid" without Warp, quads without their package.
        SettingsError: unknown shells, a wall that has no effect or is thicker than half of the mesh, the same of a
            hollow or one that is too thin, a max_error so large or in voxels for a mesh without, fewer than 4 faces, or
            levels that do not descend.
    """
    check_shells(shells, wall, cavities, hollow)
    bound = max_error.units(mesh.resolution) if max_error else 0.0
    check_levels([target_faces, *lods])
    check_quads(quads, lods, max_error)
    if len(mesh.faces) == 0:
        raise EmptyResultError(
            f"The mesh has no faces: no crossed edge has all four voxels round it "
            f"({counted(len(mesh.vertices), 'voxel')}). Try another seed or resolution."
        )
    device = geometry_device(runtime.device)
    with runtime.stage("process mesh", 4, LOWER):
        shell = cleaned = _clean(runtime, mesh, device, max_hole_perimeter)
        if max_error:
            side = (cleaned.vertices.amax(0) - cleaned.vertices.amin(0)).max().item()
            max_error.check_error(side, mesh.resolution)
        facts: dict = {"cleaned": cleaned.changes}
        needed = "it is to be hollow" if hollow else "cavities are to be kept" if cavities == "keep" else ""
        made, why, warnings = choose_shells(runtime, cleaned, shells, needed)
        lean = shells == "auto" and made == "solid" and mesh.resolution and max_error is None
        look = same_look(mesh.resolution) if lean else None
        runtime.step("process mesh", 1, 4)
        tick = partial(runtime.step, "process mesh", 1, 4)  # so that a callback can interrupt
        inner = hollow and hollow.in_units(cleaned)
        shell, found = make_shells(runtime, cleaned, made, resolution, mesh.resolution, tick, wall, cavities, inner)
        hollowed = found.pop("hollowed", None)  # of a hollow one
        facts |= {"shells": why | found} if why or found else {}
        del cleaned
        shell = shell.without_topology()  # simplifying needs none, and is where most memory is taken
        runtime.step("process mesh", 2, 4)
        # fast-simplification would open what solid closed
        closed = {"cuda": "warp", "cpu": "warp-cpu"}[device.type] if made == "solid" else None
        if quads:
            levels, said = {2 * quads: _quads(runtime, shell, quads)}, []
        else:
            levels, said = simplify_levels(runtime, shell, [target_faces, *lods], closed, bound, look)
        if made == "solid":
            levels = {goal: parted(level) for goal, level in levels.items()}
        facts |= {"max_error": bound} if bound else {}
        if hollow and inner:
            hollowed = replace(hollowed, wall=hollow.as_made(next(iter(levels.values())), inner).wall)
            levels, measured = _walled(runtime, levels, hollowed)
            found["hollow"] |= measured
        first, *rest = (_reported(runtime, level, goal, shell, mesh.origin) for goal, level in levels.items())
        warnings += [*said, *first.facts["warnings"], *mesh.origin.notes.splitlines()]
        if hollow and inner:
            facts["shells"]["hollow"], more = hollow.facts(found["hollow"], first, inner)
            warnings += more
        if first.facts["mesh"]["boundary_edges"] and made != "solid" and runtime.backends.offers(SOLID, device):
            warnings.append('Shells "solid" would make one closed surface of it.')
        if quads:
            facts["quads"] = len(first.faces) // 2
            if shell.report.watertight and not first.report.watertight:
                warnings.append("Making quads opened the mesh: parts of it are finer than a quad. Ask for more quads.")
        facts |= {**first.facts, "warnings": warnings}
        if rest:
            facts["lods"] = [level.facts for level in rest]
        runtime.step("process mesh", 4, 4)
        runtime.count(raw_faces=len(mesh.faces), faces=len(first.faces))
        return first.replace(facts=facts, lods=tuple(rest), quads=bool(quads))


def _walled(
    runtime: Runtime, levels: dict[int, geometry.Mesh], hollowed: Hollowed
) -> tuple[dict[int, geometry.Mesh], dict]:
    """The levels of a hollow object with walls as thick as asked, and what came of that in the worst of them."""
    device = hollowed.body.vertices.device
    crossing, thickness = (runtime.backends.pick(op, device) for op in (CROSSING, WALL_THICKNESS))
    made, crossed, facts = {}, 0, []
    for goal, level in levels.items():
        sides = hollowed.sides(level)
        made[goal], left = untangled(hollowed.thickened(level, sides), crossing)
        crossed = max(crossed, left)
        facts.append(hollowed.measured(made[goal], sides, thickness))
        runtime.step("process mesh", 2, 4)
    worst = dict(facts[0])
    for name in ("wall_min", "drains_open", "drain_min"):
        worst[name] = min((each[name] for each in facts if each[name] is not None), default=None)
    return made, {**worst, "crossing_faces": crossed}


def _quads(runtime: Runtime, mesh: geometry.Mesh, quads: int) -> geometry.Mesh:
    """Raises BackendError without the package."""
    device = mesh.vertices.device
    make = runtime.backends.pick(QUADS, device)
    return make(mesh, quads, partial(runtime.step, "process mesh", 2, 4)).to(device)


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
