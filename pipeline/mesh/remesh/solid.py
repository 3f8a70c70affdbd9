"""One closed manifold surface round what a mesh encloses, by dual contouring; and moving a mesh onto another one.

Signs are those of the lattice in lattice.py. A cell has one vertex for each loop of its crossed edges (Nielson 2004,
"Dual Marching Cubes"; Schaefer, Ju & Warren 2007, "Manifold Dual Contouring"), where the tangent planes of the
crossings meet (Ju et al. 2002). Two cells whose loops would meet twice in their common face, which makes an edge of
four faces, join the face's corners the other way, which splits both loops (the trouble is Wenger's, "Isosurfaces",
2013).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil

import numpy as np
import torch

from ...errors import EmptyResultError, SettingsError
from ...warp.launch import launch_parallel
from ..mesh import Mesh
from ..query.surface import Surface
from . import lattice_kernels as kernels
from .lattice import Lattice, outside

_BAND = 1.0  # cells to either side of a sheet that become solid; thinner ones tear
_PULL = 0.02  # of each crossing on its cell's vertex, against 1 of the tangent plane there
_CHUNK = 1 << 21  # rows
_FAR = 1e6


@dataclass(frozen=True)
class _Cells:
    """Cells with corners on both sides of the boundary, in the order of nodes."""

    nodes: torch.Tensor  # [N] int64
    xyz: torch.Tensor  # [N, 3] int32
    signs: torch.Tensor  # [N] int64, bit x + 2 y + 4 z: corner inside
    row_of: torch.Tensor  # [nodes of the lattice] int32, row of a node that has one


@dataclass(frozen=True)
class _Edges:
    """Lattice edges from inside to outside, in the order of node * 3 + axis."""

    row: torch.Tensor  # [E] int64, the cell at whose lowest corner the edge begins
    axis: torch.Tensor  # [E] int32
    rising: torch.Tensor  # [E] bool, the outside lies at the upper end
    depth: torch.Tensor  # [E] float32, where the surface crosses, 0-1
    normal: torch.Tensor  # [E, 3] float32, of the surface there, either way round; 0 where it has a hole
    closed: int  # edges with a hole


@dataclass(frozen=True)
class _Sheets:
    """What the surface does not enclose."""

    surface: Surface  # the whole mesh, in cells
    distance: torch.Tensor  # [nodes of the lattice] float32, cells to the surface near sheets, inf elsewhere


def solid(mesh: Mesh, resolution: int = 256) -> tuple[Mesh, dict]:
    """The boundary of all that cannot be reached from outside, as one closed manifold mesh.

    Inner shells and cavities disappear, parts that touch or overlap become one, holes and gaps narrower than a cell are
    closed. What the surface does not enclose at this resolution (open sheets, hollow bodies with a hole wider than a
    cell, walls thinner than a cell) becomes a solid that reaches a cell to either side of it. The winding of the
    input does not matter; repeated and degenerate faces do no harm.

    Args:
        mesh: faces beside each other share vertices, for what lies beside an edge of one face is taken for a hole.
        resolution: cells along the longest side of the bounding box, 8 - 2048.

    Returns:
        the mesh, float32 and int32, wound outward: every edge has two faces and the faces round every vertex are one
        fan; {"resolution", "cell" (world units), "closed_edges" (lattice edges across which a
        hole was closed), "thickened" (lattice points inside thickened sheets)}.

    Raises:
        As lattice.outside().
    """
    lattice = outside(mesh, resolution, margin=ceil(_BAND) + 4)
    sheets = _thicken(lattice)
    cells = _cells(lattice)
    if len(cells.nodes) == 0:
        raise EmptyResultError("All faces of the mesh are without area: there is no surface to work on.")
    edges = _edges(lattice, cells, sheets)
    points, triangles = _contour(lattice, cells, edges)
    thickened = int((lattice.states == kernels.THICK).sum())
    report = {"resolution": resolution, "cell": lattice.cell, "closed_edges": edges.closed, "thickened": thickened}
    return Mesh.known(lattice.to_world(points), triangles), report


def project(mesh: Mesh, original: Mesh, limit: float = _FAR) -> Mesh:
    """Move vertices towards the closest points of the original mesh, without turning a face by a right angle or more.

    Moves that would turn a face are halved until they do not, and undone after four times.

    Args:
        limit: world units; vertices farther than this from the original stay.

    Returns:
        the mesh with float32 vertices.

    Raises:
        EmptyResultError: one of the meshes has no faces. SettingsError: a negative limit.
    """
    if not limit >= 0:
        raise SettingsError(f"The limit is {limit}; choose 0 or more.")
    mesh.require_faces()
    original.require_faces()
    faces, start = mesh.faces, mesh.vertices.float()
    used = faces.long().unique()
    hits = Surface(original.vertices, original.faces).closest(start[used], min(limit, _FAR))
    goal = hits.points(original.vertices.float(), original.faces)
    move = torch.zeros_like(start)
    move[used] = torch.where((hits.face >= 0)[:, None], goal - start[used], 0.0)
    share = torch.ones(len(start), 1, device=start.device)
    while True:
        result = start + share * move
        held = torch.zeros_like(share[:, 0], dtype=torch.bool)
        for chunk in faces.split(_CHUNK):
            before = _normals(start, chunk)
            turned = ((_normals(result, chunk) * before).sum(1) <= 0) & (before != 0).any(1)
            held[chunk[turned].reshape(-1).long()] = True
        held &= share[:, 0] > 0
        if not bool(held.any()):
            return Mesh.known(result, faces)
        share[held] = torch.where(share[held] > 1 / 12, share[held] / 2, 0.0)


def _normals(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """[F, 3] float64 normals, twice the area long."""
    a, b, c = (vertices[corner.long()].double() for corner in faces.unbind(1))
    return torch.linalg.cross(b - a, c - a)


def _thicken(lattice: Lattice) -> _Sheets | None:
    """Move the outside points within _BAND cells of sheets inside; None if there are no sheets.

    Sheets are touched cells that have only outside points up to one cell away.
    """
    near = torch.zeros_like(lattice.states)
    reach = ceil(_BAND) + 1
    launch_parallel(
        kernels.mark_sheets,
        lattice.nodes,
        lattice.places,
        *lattice.grid,
        lattice.touched,
        lattice.states,
        lattice.empty,
        reach,
        near,
    )
    nodes = ((near > 0) & (lattice.states == kernels.OUTSIDE)).nonzero().squeeze(1)
    if len(nodes) == 0:
        return None
    surface = Surface(lattice.points, lattice.faces)
    distance = torch.full((lattice.nodes,), torch.inf, device=near.device)
    for chunk in nodes.split(_CHUNK):
        distance[chunk] = surface.closest(_coordinates(lattice, chunk).float(), _BAND + 2.0).distance
    lattice.states[distance <= _BAND] = kernels.THICK
    return _Sheets(surface, distance)


def _coordinates(lattice: Lattice, nodes: torch.Tensor) -> torch.Tensor:
    """[N, 3] int32 lattice coordinates of nodes."""
    xyz = torch.empty(len(nodes), 3, dtype=torch.int32, device=nodes.device)
    launch_parallel(kernels.coordinates, len(nodes), lattice.places, lattice.grid[1], nodes, xyz)
    return xyz


def _cells(lattice: Lattice) -> _Cells:
    signs = torch.empty_like(lattice.states)
    launch_parallel(
        kernels.cell_signs, lattice.nodes, lattice.places, *lattice.grid, lattice.states, lattice.empty, signs
    )
    nodes = ((signs != 0) & (signs != 255)).nonzero().squeeze(1)
    row_of = torch.full((lattice.nodes,), -1, dtype=torch.int32, device=signs.device)
    row_of[nodes] = torch.arange(len(nodes), dtype=torch.int32, device=signs.device)
    return _Cells(nodes, _coordinates(lattice, nodes), signs[nodes].long(), row_of)


def _edges(lattice: Lattice, cells: _Cells, sheets: _Sheets | None) -> _Edges:
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
    if sheets is not None:
        _cross_bands(lattice, sheets, key, rising, depth, normal)
    return _Edges(row, axis.int(), rising, depth, normal, int((normal == 0).all(1).sum()))


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


def _cross_bands(lattice: Lattice, sheets: _Sheets, key, rising, depth, normal) -> None:
    """Depth and normal where an edge leaves the band round a sheet, written into depth and normal."""
    distance = sheets.distance
    ends = lattice.ends(key)
    rows = (ends == kernels.THICK).any(1).nonzero().squeeze(1)
    for chunk in rows.split(_CHUNK):
        low = _coordinates(lattice, key[chunk] // 3)
        step = torch.nn.functional.one_hot(key[chunk] % 3, 3).int()
        high = torch.empty_like(key[chunk])
        launch_parallel(kernels.look_up, len(chunk), *lattice.grid, low + step, high)
        distances = torch.stack([distance[key[chunk] // 3], distance[high.clamp_min(0)]], 1)
        up = rising[chunk]
        inner, outer = torch.where(up, *distances.unbind(1)), torch.where(up, *distances.flip(1).unbind(1))
        outer = torch.where(outer.isfinite() & (outer > _BAND), outer, inner + 1)
        share = ((_BAND - inner) / (outer - inner).clamp_min(1e-3)).clamp(0.02, 0.98)
        depth[chunk] = torch.where(up, share, 1 - share)
        point = low + step * depth[chunk][:, None]
        hits = sheets.surface.closest(point, _BAND + 2.0)
        away = point - hits.points(lattice.points, lattice.faces)
        normal[chunk] = torch.nn.functional.normalize(away, dim=1, eps=1e-30)


def _contour(lattice: Lattice, cells: _Cells, edges: _Edges) -> tuple[torch.Tensor, torch.Tensor]:
    """Vertices [V, 3] in cells and triangles [2 E, 3] int32."""
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
    shape = cells.row_of, loops, kind, first
    given = cells.xyz, cells.row_of, edge_of, loops, kind, first, owner, edges.depth, edges.normal, _PULL
    launch_parallel(kernels.place_vertices, len(owner), *lattice.grid, *given, points)
    triangles = torch.empty(2 * len(edges.row), 3, dtype=torch.int32, device=device)
    given = cells.xyz[edges.row], edges.axis, edges.depth, edges.rising, *shape
    launch_parallel(kernels.join_vertices, len(edges.row), *lattice.grid, *given, points, triangles)
    return points, triangles


def _resolve(lattice: Lattice, cells: _Cells) -> torch.Tensor:
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
        nodes = torch.empty(len(rows), dtype=torch.int64, device=device)
        launch_parallel(kernels.look_up, len(rows), *lattice.grid, beyond, nodes)
        others = cells.row_of[nodes].long()
        odd = cells.xyz[rows, axis] % 2 == 1
        for turn in (odd, ~odd):
            here, there = rows[turn], others[turn]
            meet = twice[kind[here], 2 * axis + 1] & twice[kind[there], 2 * axis]
            kind[here[meet]] += 1 << (2 * axis + 1)
            kind[there[meet]] += 1 << (2 * axis)
    return kind


@dataclass(frozen=True)
class _Loops:
    """How the crossed edges of a cell hang together, by kind = signs * 64 + faces resolved the other way.

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
        # round which corners the loops turn: the outside ones, so that inside corners hang together across the face
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
