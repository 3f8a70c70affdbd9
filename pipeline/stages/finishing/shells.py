"""Shells: the treatment of inner surfaces, open surfaces and holes."""

from __future__ import annotations

import math
from collections.abc import Callable

from ...budget import device_bytes
from ...errors import SettingsError
from ...mesh import OUTER_SHELL, SOLID, WINDING, Mesh
from ...mesh.remesh import RESOLUTIONS, faces_in, own_resolution
from ...mesh.remesh.closedness import closedness
from ...mesh.remesh.hollow_settings import Hollow
from ...runtime import Runtime
from ...words import counted
from ..hollowing import cells_for
from .simplify import Look

_LEAST = 128  # cells for "solid" of a mesh with few faces, whose parts may be thin nevertheless
# A raw mesh of a grid that "auto" makes solid is simplified as long as it looks the same: finer detail comes from the
# grid, not from the object.
_DISTANCE = 0.25  # voxels that its surface may move
_SHARE = 0.999  # of either surface that stays within it; the rest are tips and flakes, which move farthest
_LEAST_FACES = 20_000  # below which it is not simplified
_FACE = 350  # peak bytes for each face while a hollow solid is made (ball of 1.07 M faces: 328)


def same_look(grid: int) -> Look:
    """Of the raw mesh of a grid, and without its steps."""
    return Look(_DISTANCE / grid, _SHARE, _LEAST_FACES)


def choose_shells(runtime: Runtime, mesh: Mesh, shells: str, needed: str = "") -> tuple[str, dict, list[str]]:
    """What to make of a clean mesh: the name of the shells, facts about the choice, warnings.

    "auto" is "solid" if the mesh has holes and is meant to be closed (see closedness), or if something else needs it
    (`needed` says what), else "outer"; "outer" is "surface" where Warp is absent.
    """
    device, facts = mesh.vertices.device, {}
    if shells == "auto":
        shells, reason = ("solid", needed) if needed else _chosen(runtime, mesh)
        facts = {"chosen": shells, "because": reason}
    if shells == "outer" and (reason := runtime.backends.reason(OUTER_SHELL, device)):
        return "surface", facts, [f"Inner shells stay: {reason}"]
    return shells, facts, []


def _chosen(runtime: Runtime, mesh: Mesh) -> tuple[str, str]:
    device, border = mesh.vertices.device, len(mesh.edges.border())
    if not border:
        return "outer", "the mesh is closed as it is"
    if reason := runtime.backends.reason(SOLID, device):
        return "outer", f"solid is not possible: {reason}"
    found = closedness(mesh, runtime.backends.pick(WINDING, device))
    meant = "closed" if found.closed else "open"
    return (
        "solid" if found.closed else "outer",
        f"{counted(border, 'boundary edge')}, and the mesh is meant to be {meant}: {found}",
    )


def make_shells(
    runtime: Runtime,
    mesh: Mesh,
    shells: str,
    resolution: int,
    grid: int,
    tick: Callable[[], None],
    wall: float = 0.0,
    cavities: str = "fill",
    hollow: Hollow | None = None,
) -> tuple[Mesh, dict]:
    """As process_mesh says, of a clean mesh; grid: voxels along a side of the world cube, 0 if there is none. Hollowing
    makes the lattice finer where its wall needs that."""
    device = mesh.vertices.device
    if shells == "surface":
        return mesh, {}
    if shells == "outer":
        return runtime.backends.pick(OUTER_SHELL, device)(mesh, resolution)
    longest = (mesh.vertices.amax(0) - mesh.vertices.amin(0)).max().item()
    own = max(RESOLUTIONS[0], int(longest * grid)) if grid else max(_LEAST, own_resolution(mesh))
    own = cells = min(resolution, own)
    if hollow is not None:
        cells = max(cells, cells_for(hollow, longest))
        _check_room(mesh, cells)
    made, facts = runtime.backends.pick(SOLID, device)(mesh, cells, tick, wall, cavities == "keep", hollow)
    if hollow is not None:
        facts["hollow"] |= {"cells": cells, "own_cells": own}
    return made, facts


def _check_room(mesh: Mesh, cells: int) -> None:
    """Raises SettingsError if making a mesh hollow in so many cells along its longest side takes more memory than is
    free: the surface and that of the cavities have as many faces as it has cells."""
    needed = _FACE * 2 * faces_in(mesh, cells)
    free = device_bytes(mesh.vertices.device)
    if needed > free:
        times = math.ceil(10 * math.sqrt(needed / max(free, 1))) / 10
        raise SettingsError(
            f"For a wall or a drain so thin the object would be looked at in {cells:,} cells along its longest side, "
            f"which takes about {needed / 1e9:.1f} GB; {free / 1e9:.1f} GB are free. Make both at least {times:g} "
            "times as thick."
        )
