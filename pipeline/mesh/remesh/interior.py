"""On which side of a surface a lattice's points lie: by flooding the empty space, and near holes by winding number.

Empty space is flooded through the faces of cells that no face of the mesh touches, so that holes narrower than a cell
let nothing through. Points between touched cells only (in narrow gaps, in thin walls) side with those that they reach
along lattice edges that no face crosses, away from boundary edges; if that is nobody, they are inside. Hence a gap of
more than one cell between closed surfaces is open, a wall of more than one cell is solid, and cavities are inside.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ...warp.launch import CHUNK, launch_atomic, launch_parallel
from ..mesh import Mesh
from . import flood_kernels
from .band import Band, find_band
from .cavities import wound_by_nesting
from .cut import contradicted, part_by_cut
from .lattice import Frame, Lattice, frame_of, rasterise, touched_cells
from .lattice_functions import CUT, INSIDE, OUTSIDE
from .openings import find_openings
from .patches import patch_holes, scraps

_SAMPLES = 8  # points at which a region of free cells is asked for its winding number
_INVERTED = -0.75  # winding number below which a point is inside a body that is wound inward


def outside(mesh: Mesh, resolution: int, margin: int = 2) -> Lattice:
    """The lattice round a mesh with the states of its points by flooding: outside is what can be reached from infinity.

    Args and errors: as frame_of() and rasterise().
    """
    lattice = rasterise(frame_of(mesh, resolution, margin), resolution)
    torn = lattice.along(_ends(mesh, mesh.edges.border()))
    cells = _flood(lattice, lattice.touched)
    return _classified(lattice, *cells, torn)


def enclosed(
    mesh: Mesh, resolution: int, margin: int, cavities: bool = False
) -> tuple[Lattice, torch.Tensor | None, dict]:
    """The lattice with the states of its points, holes closed: outside() where the mesh has none.

    Points within two cells of a hole's edge or its lid have a winding number, of the surface with its lids (see
    patches.py). Where that leaves them undecided, as in gaps between two ends that face each other, which have no lids,
    so have those beside them, and where faces contradict it, a minimum cut parts them; from the others flooding goes
    on. Regions that it does not reach from infinity are inside if their winding number says so, or if nothing leads out
    of them and cavities are filled.

    Args and errors: as frame_of() and rasterise(). The mesh is consistently oriented where it has holes.
        cavities: whether those that have no way out stay empty: they lie in an odd number of components.

    Returns:
        the lattice, [nodes] bool the cells near holes that no open sheet touches (None without holes), and {"undecided"
        (lattice points that were cut)}.
    """
    border = mesh.edges.border()
    if len(border) == 0 and not cavities:
        return outside(mesh, resolution, margin), None, {"undecided": 0}
    openings = find_openings(mesh)
    if cavities:
        mesh = Mesh.known(mesh.vertices, wound_by_nesting(mesh, openings.open_faces), kernels=mesh.kernels)
        openings = find_openings(mesh)
    frame = frame_of(mesh, resolution, margin)
    points, lids = patch_holes(frame.points, mesh.edges, openings.hole_edges[~openings.gaps])
    left = ~scraps(points, lids, frame.faces, mesh.sheets.label.long(), openings.open_faces)
    frame = replace(frame, faces=frame.faces[left])
    bodies = frame.faces[~openings.open_faces[left]]
    band = find_band(frame, bodies, points, lids, _ends(mesh, openings.hole_edges))
    lattice = rasterise(band.frame, resolution)
    asked, undecided = band.asked, band.undecided
    outer = asked & (_by_number(band.number) == OUTSIDE)
    undecided |= contradicted(lattice, band.number, outer, ~openings.open_faces[left])
    cells = _flood(lattice, lattice.touched | asked.to(torch.uint8), band)
    known = torch.where(asked & ~undecided, _by_number(band.number), 0).to(torch.uint8)
    lattice = _classified(lattice, *cells, lattice.along(_ends(mesh, openings.rim_edges)), known, undecided)
    part_by_cut(lattice, band.number, undecided)
    lattice = lattice if cavities else _without_cavities(lattice)
    torn = asked & (touched_cells(lattice, lattice.points, frame.faces[openings.open_faces[left]]) == 0)
    return lattice, torn, {"undecided": int(undecided.count_nonzero())}


def _ends(mesh: Mesh, half_edges: torch.Tensor) -> torch.Tensor:
    return torch.stack(mesh.edges.ends(half_edges), 1)


def _by_number(number: torch.Tensor) -> torch.Tensor:
    return torch.where((number > 0.5) | (number < _INVERTED), INSIDE, OUTSIDE).to(torch.uint8)


def _flood(lattice: Frame, blocked: torch.Tensor, band: Band | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """States of cells, [slots * 512] uint8 (0 where blocked), and of empty bricks, [bricks] uint8."""
    parent = regions(lattice, blocked, torch.zeros_like(lattice.bricks, dtype=torch.uint8))
    state = torch.empty(len(parent), dtype=torch.uint8, device=blocked.device)
    stored = len(blocked)  # brick 0 lies in the border
    launch_parallel(flood_kernels.classify_cells, len(parent), parent, stored, blocked, state)
    if band is not None:
        _ask_regions(lattice, band, parent, state)
    return state[:stored], state[stored:]


def regions(lattice: Frame, blocked: torch.Tensor, closed: torch.Tensor) -> torch.Tensor:
    """Union-find entries of free cells and of empty bricks behind them: joined where they share a face."""
    stored, bricks = len(blocked), len(lattice.bricks)
    parent = 2 * torch.arange(stored + bricks, dtype=torch.int32, device=blocked.device)
    launch_parallel(flood_kernels.unite_cells, stored, blocked, parent, chunk=CHUNK)  # whole bricks
    sides = 6 * len(lattice.places)
    launch_atomic(flood_kernels.unite_bricks, sides, lattice.grid, blocked, closed, stored, parent)
    launch_atomic(flood_kernels.unite_empty_bricks, bricks, lattice.grid, closed, stored, parent)
    return parent


def _ask_regions(lattice: Frame, band: Band, parent: torch.Tensor, state: torch.Tensor) -> None:
    """Let the winding number at some of its cells say on which side a region lies that flooding did not reach."""
    rows = (state == INSIDE).nonzero().squeeze(1)
    rows = rows[(rows < lattice.nodes) | (lattice.bricks[(rows - lattice.nodes).clamp_min(0)] < 0)]
    if len(rows) == 0:
        return
    root = torch.empty_like(parent)
    launch_parallel(flood_kernels.find_roots, len(parent), parent, root)
    region, order = root[rows].sort(stable=True)
    rows = rows[order]
    _, region, count = torch.unique_consecutive(region, return_inverse=True, return_counts=True)
    first = count.cumsum(0) - count
    step = torch.arange(_SAMPLES, device=rows.device)
    sample = rows[first[:, None] + count[:, None] * step // _SAMPLES].reshape(-1)
    number = band.field.at(_middles(lattice, sample)).reshape(-1, _SAMPLES)
    inside = (_by_number(number) == INSIDE).float().mean(1) > 0.5
    state[rows] = torch.where(inside[region], INSIDE, OUTSIDE).to(torch.uint8)


def _middles(lattice: Frame, rows: torch.Tensor) -> torch.Tensor:
    """[N, 3] float32, in cells: the middles of cells, and of empty bricks, which are numbered behind the cells."""
    is_brick = rows >= lattice.nodes
    brick = rows - lattice.nodes
    _, y, z = lattice.size
    corner = torch.stack([brick // (y * z), brick // z % y, brick % z], 1)
    cell = lattice.coordinates(torch.where(is_brick, 0, rows))
    return torch.where(is_brick[:, None], 8 * corner + 4.0, cell + 0.5)


def _classified(lattice: Lattice, cells, empty, torn, known=None, undecided=None) -> Lattice:
    """With the states of lattice points: `known` where that is not 0, by the states of cells elsewhere; CUT
    where undecided."""
    states = torch.empty_like(cells)
    launch_parallel(flood_kernels.classify_points, len(states), lattice.grid, cells, empty, states)
    if known is not None:
        states = torch.where(known > 0, known, states)
        states[undecided] = CUT
    _settle(lattice, states, torn)
    return replace(lattice, states=states, empty=empty)


def _settle(lattice: Lattice, states: torch.Tensor, torn: torch.Tensor) -> None:
    """Give the lattice points without a state that of the settled points most of their group's passable edges lead to;
    where they lead nowhere, inside."""
    blocked = torch.zeros(len(states) * 3, dtype=torch.uint8, device=states.device)
    blocked[lattice.crossed] = 1
    parent = 2 * torch.arange(len(states), dtype=torch.int32, device=states.device)
    given = lattice.grid, blocked, torn, states
    launch_atomic(flood_kernels.unite_points, len(states), *given, parent)
    root = torch.empty_like(parent)
    launch_parallel(flood_kernels.find_roots, len(states), parent, root)
    balance = parent.zero_()
    launch_atomic(flood_kernels.count_contacts, len(states), *given, root, balance)
    open_ = (states == 0).nonzero().squeeze(1)
    states[open_] = torch.where(balance[root[open_].long()] > 0, OUTSIDE, INSIDE).to(torch.uint8)


def _without_cavities(lattice: Lattice) -> Lattice:
    """With outside points inside that are not connected to infinity."""
    blocked, closed = (lattice.states != OUTSIDE).to(torch.uint8), (lattice.empty != OUTSIDE).to(torch.uint8)
    parent = regions(lattice, blocked, closed)
    state = torch.empty(len(parent), dtype=torch.uint8, device=blocked.device)
    launch_parallel(flood_kernels.classify_cells, len(parent), parent, len(blocked), blocked, state)
    state[: len(blocked)] = torch.where(blocked > 0, INSIDE, state[: len(blocked)])
    state[len(blocked) :] = torch.where(closed > 0, INSIDE, state[len(blocked) :])
    return replace(lattice, states=state[: len(blocked)], empty=state[len(blocked) :])
