"""Dual contouring: one closed manifold surface between the inside and the outside points of a lattice.

A cell has one vertex for each loop of its crossed edges (Nielson 2004, "Dual Marching Cubes"; Schaefer, Ju & Warren
2007, "Manifold Dual Contouring"), where the tangent planes of the crossings meet (Ju et al. 2002). Two cells whose
loops would meet twice in their common face, which makes an edge of four faces, join the face's corners the other way,
which splits both loops (the trouble is Wenger's, "Isosurfaces", 2013).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from ...warp.launch import launch_parallel
from . import contour_kernels
from .lattice import Lattice

_PULL = 0.02  # of each crossing on its cell's vertex, against 1 of the tangent plane there


@dataclass(frozen=True)
class Cells:
    """Cells with corners on both sides of the boundary, in the order of nodes."""

    nodes: torch.Tensor  # [N] int64
    xyz: torch.Tensor  # [N, 3] int32
    signs: torch.Tensor  # [N] int64, bit x + 2 y + 4 z: corner inside
    row_of: torch.Tensor  # [nodes of the lattice] int32, row of a node that has one


@dataclass(frozen=True)
class Edges:
    """Lattice edges from inside to outside, in the order of node * 3 + axis."""

    key: torch.Tensor  # [E] int64, node * 3 + axis
    row: torch.Tensor  # [E] int64, the cell at whose lowest corner the edge begins
    axis: torch.Tensor  # [E] int32
    rising: torch.Tensor  # [E] bool, the outside lies at the upper end
    depth: torch.Tensor  # [E] float32, where the surface crosses, 0-1
    normal: torch.Tensor  # [E, 3] float32, of the surface there, either way round; 0 where it has a hole


def find_cells(lattice: Lattice) -> Cells:
    signs = torch.empty_like(lattice.states)
    launch_parallel(contour_kernels.cell_signs, lattice.nodes, lattice.grid, lattice.states, lattice.empty, signs)
    nodes = ((signs != 0) & (signs != 255)).nonzero().squeeze(1)
    row_of = torch.full((lattice.nodes,), -1, dtype=torch.int32, device=signs.device)
    row_of[nodes] = torch.arange(len(nodes), dtype=torch.int32, device=signs.device)
    return Cells(nodes, lattice.coordinates(nodes), signs[nodes].long(), row_of)


def find_edges(lattice: Lattice, cells: Cells) -> Edges:
    """Where the mesh's faces cross them; in the middle and without a normal where none does."""
    low = cells.signs[:, None] & 1
    high = cells.signs[:, None] >> torch.tensor([1, 2, 4], device=low.device) & 1
    row, axis = (low != high).nonzero().unbind(1)
    rising = low[row, 0] == 1
    key = cells.nodes[row] * 3 + axis
    depth, face = _outermost(lattice, key, rising)
    corner = lattice.points[lattice.faces[face.clamp_min(0)].long()]
    normal = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normal = torch.nn.functional.normalize(normal, dim=1, eps=1e-30)
    normal[face < 0] = 0
    return Edges(key, row, axis.int(), rising, depth, normal)


def _outermost(lattice: Lattice, key: torch.Tensor, rising: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth [E] and face [E] of the crossing nearest to the outside end of each edge; the middle and -1 without one."""
    found = torch.searchsorted(key, lattice.crossed).clamp_max(len(key) - 1)
    rows = (key[found] == lattice.crossed).nonzero().squeeze(1)
    found = found[rows]
    inward = torch.where(rising[found], 1 - lattice.depth[rows], lattice.depth[rows])
    # of equals the last face: one integer that orders by distance, then by face
    code = (inward.double() * 2**30).long() << 32 | (2**31 - 1 - lattice.face[rows].long())
    best = torch.full(key.shape, 2**62, device=key.device).scatter_reduce_(0, found, code, "amin")
    missing = best == 2**62
    inward = ((best >> 32).double() / 2**30).float()
    depth = torch.where(rising, 1 - inward, inward)
    face = 2**31 - 1 - (best & 0xFFFFFFFF)
    return depth.masked_fill(missing, 0.5), face.masked_fill(missing, -1)


def contour(lattice: Lattice, cells: Cells, edges: Edges) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Vertices [V, 3] in cells, triangles [2 E, 3] int32, and [V] bool the vertices of lids: hardly a face of the mesh
    crosses the edges that they stand for."""
    device = cells.nodes.device
    table = _loops()
    loops = torch.from_numpy(table.loop).to(device)
    kind = _resolve(lattice, cells)
    counts = torch.from_numpy(table.count).to(device)[kind]
    first = (counts.cumsum(0) - counts).int()
    owner = torch.arange(len(counts), dtype=torch.int32, device=device).repeat_interleave(counts)
    edge_of = torch.full((len(cells.nodes), 3), -1, dtype=torch.int32, device=device)
    edge_of[edges.row, edges.axis.long()] = torch.arange(len(edges.row), dtype=torch.int32, device=device)
    kind = kind.int()
    points = torch.empty(len(owner), 3, device=device)
    free = torch.empty(len(owner), dtype=torch.uint8, device=device)
    shape = cells.row_of, loops, kind, first
    given = cells.xyz, cells.row_of, edge_of, loops, kind, first, owner, edges.depth, edges.normal, _PULL
    launch_parallel(contour_kernels.place_vertices, len(owner), lattice.grid, *given, points, free)
    triangles = torch.empty(2 * len(edges.row), 3, dtype=torch.int32, device=device)
    given = cells.xyz[edges.row], edges.axis, edges.depth, edges.rising, *shape
    launch_parallel(contour_kernels.join_vertices, len(edges.row), lattice.grid, *given, points, triangles)
    return points, triangles, free > 0


def _resolve(lattice: Lattice, cells: Cells) -> torch.Tensor:
    """[N] int64 kind of each cell, signs * 64 + faces resolved the other way, such that no two cells' loops meet twice.

    Resolving a face the other way splits the loops of both its cells and touches no other cell. Splitting may make it
    needless elsewhere in the cell, so a cell's faces take turns.
    """
    device = cells.nodes.device
    table = _loops()
    ambiguous, twice = torch.from_numpy(table.ambiguous).to(device), torch.from_numpy(table.twice).to(device)
    kind = cells.signs * 64
    for axis in range(3):
        rows = ambiguous[cells.signs, 2 * axis + 1].nonzero().squeeze(1)
        beyond = cells.xyz[rows]
        beyond[:, axis] += 1
        others = cells.row_of[lattice.look_up(beyond)].long()
        odd = cells.xyz[rows, axis] % 2 == 1
        for turn in (odd, ~odd):
            here, there = rows[turn], others[turn]
            meet = twice[kind[here], 2 * axis + 1] & twice[kind[there], 2 * axis]
            kind[here[meet]] += 1 << (2 * axis + 1)
            kind[there[meet]] += 1 << (2 * axis)
    return kind


@dataclass(frozen=True)
class _Loops:
    """How the crossed edges of a cell are connected, by kind = signs * 64 + faces resolved the other way.

    Edge axis * 4 + b + 2 c of a cell runs along axis where the two next axes have the coordinates b and c; face
    axis * 2 + side is the cell's lower or upper one.
    """

    loop: np.ndarray  # [16384, 12] int8, the loop an edge belongs to, -1 if it is not crossed
    count: np.ndarray  # [16384] int64, loops
    ambiguous: np.ndarray  # [256, 6] bool, faces with all four edges crossed
    twice: np.ndarray  # [16384, 6] bool, ambiguous faces that one loop passes twice


@cache
def _loops() -> _Loops:
    kinds = np.arange(256 * 64)
    inside = (kinds[:, None] // 64 >> np.arange(8) & 1).astype(bool)
    label = np.tile(np.arange(12), (len(kinds), 1))
    crossed = np.zeros((len(kinds), 12), bool)
    joins, ambiguous, opposite = [], np.zeros((256, 6), bool), []
    for face in range(6):
        corners, edges = _face(face)
        sign = inside[:, corners]  # [K, 4]
        cut = sign != np.roll(sign, -1, 1)  # the edge behind each corner
        crossed[:, edges] |= cut
        all_cut = cut.all(1)
        ambiguous[:, face] = all_cut[::64]
        # round which corners the loops turn: the outside ones, so that inside corners are connected across the face
        turned = (kinds >> face & 1).astype(bool)
        for k in range(4):
            before, after = edges[k - 1], edges[k]
            joins.append((before, after, np.where(all_cut, sign[:, k] == turned, cut[:, k - 1] & cut[:, k])))
        for k in range(2):
            joins.append((edges[k], edges[k + 2], cut[:, k] & cut[:, k + 2] & ~all_cut))
        opposite.append((edges[0], edges[2], all_cut))
    for _ in range(12):
        for a, b, where in joins:
            label[where, a] = label[where, b] = np.minimum(label[where, a], label[where, b])
    twice = np.stack([all_cut & (label[:, a] == label[:, b]) for a, b, all_cut in opposite], 1)
    leads = crossed & (label == np.arange(12))
    loop = np.take_along_axis(leads.cumsum(1) - 1, label, 1)
    return _Loops(np.where(crossed, loop, -1).astype(np.int8), leads.sum(1), ambiguous, twice)


def _face(face: int) -> tuple[list[int], list[int]]:
    """The corners of a cell's face in turn and the edges from each to the next."""
    axis, side = divmod(face, 2)
    b, c = (axis + 1) % 3, (axis + 2) % 3
    around = [{axis: side, b: i, c: j} for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))]
    corners = [sum(at[k] << k for k in range(3)) for at in around]
    edges = []
    for at, along in zip(around, (b, c, b, c)):
        # both ends have the same coordinates but for `along`
        edges.append(along * 4 + at[(along + 1) % 3] + 2 * at[(along + 2) % 3])
    return corners, edges
