"""Flexible dual grid: a surface as one vertex per voxel and, per voxel, which of its three edges it crosses.

A crossed edge becomes a quad of the four voxels round it. Voxel (i, j, k) of a grid R fills
[i, i + 1] / R - 0.5 (Z up). Source: TRELLIS.2 / o-voxel (arXiv 2512.14692); the dual vertices minimise
a quadratic error as in dual contouring (Ju et al. 2002).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from ...sparse import Voxels
from ...warp import cores

# The four voxels round the edge that leaves a voxel's corner along x, y, z, in the order of the quad.
_QUADS = (
    ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0)),
    ((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)),
    ((0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0)),
)
_DIAGONAL_02 = (0, 1, 2, 0, 2, 3)
_DIAGONAL_13 = (0, 1, 3, 3, 1, 2)
_VOXELS = 1 << 19  # of a block of edges, which takes some 700 bytes a voxel on the way if all its edges are crossed


def dual_grid_to_mesh(
    voxels: Voxels,
    offsets: torch.Tensor,
    crossed: torch.Tensor,
    resolution: int,
    split: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The triangle mesh of a dual grid.

    Args:
        voxels: one sample, T voxels.
        offsets: [T, 3] dual vertices in voxel units from the voxel's corner.
        crossed: [T, 3] bool, whether the surface crosses the voxel's edge along x, y, z.
        resolution: voxels along a side.
        split: [T, 1] weights > 0; a quad is split along the diagonal with the larger product. Without
            them, along the one whose two triangles are more coplanar.

    Returns:
        vertices [T, 3] float32 in the world frame, one per voxel; faces [F, 3] int32. Winding follows
        the axes, not the surface: neighbouring faces may disagree.
    """
    vertices = (voxels.xyz.float() + offsets) * (1.0 / resolution) - 0.5
    faces = [_faces(voxels, vertices, crossed, split, first) for first in range(0, max(1, len(voxels)), _VOXELS)]
    return vertices, torch.cat(faces)


def _faces(voxels: Voxels, vertices, crossed: torch.Tensor, split: torch.Tensor | None, first: int) -> torch.Tensor:
    """Of the edges of a block of voxels that begins with row `first`: [F, 3] int32."""
    steps = torch.tensor(_QUADS, dtype=torch.int32, device=voxels.device)  # [3, 4, 3]
    row, axis = crossed[first : first + _VOXELS].nonzero().unbind(1)
    row = row + first
    corners = [voxels.find(torch.cat([voxels.coords[row, :1], voxels.xyz[row] + steps[axis, i]], 1)) for i in range(4)]
    quads = torch.stack(corners, 1)
    quads = quads[(quads >= 0).all(1)]
    if split is not None:
        weights = split[:, 0][quads]
        along_02 = weights[:, 0] * weights[:, 2] > weights[:, 1] * weights[:, 3]
    else:
        along_02 = _coplanarity(vertices, quads[:, _DIAGONAL_02]) > _coplanarity(vertices, quads[:, _DIAGONAL_13])
    faces = torch.where(along_02[:, None], quads[:, _DIAGONAL_02], quads[:, _DIAGONAL_13])
    return faces.reshape(-1, 3).to(torch.int32)


def _coplanarity(vertices: torch.Tensor, pair: torch.Tensor) -> torch.Tensor:
    a, b, c, d = vertices[pair[:, [0, 1, 2, 3]]].unbind(1)  # the reference looks at the first four indices of the split
    return (torch.linalg.cross(b - a, c - a) * torch.linalg.cross(c - b, d - b)).sum(1).abs()


@dataclass(frozen=True)
class DualGrid:
    """A surface on the flexible dual grid of a cube, rows sorted by (x, y, z)."""

    coords: np.ndarray  # [T, 3] int32
    offsets: np.ndarray  # [T, 3] float32, dual vertices in voxel units from the voxel's corner, in [0, 1]
    crossed: np.ndarray  # [T, 3] bool
    resolution: int


def empty_grid(resolution: int) -> DualGrid:
    """The dual grid of no surface."""
    return DualGrid(np.zeros((0, 3), np.int32), np.zeros((0, 3), np.float32), np.zeros((0, 3), bool), resolution)


def mesh_to_dual_grid(
    vertices: np.ndarray,
    faces: np.ndarray,
    resolution: int,
    face_weight: float = 1.0,
    boundary_weight: float = 0.2,
    regularisation: float = 0.01,
) -> DualGrid:
    """Voxelise a triangle mesh as a flexible dual grid.

    A voxel exists where a face crosses one of the twelve edges of its cell. Its vertex minimises, inside the
    cell, the summed squared distances to the planes of the faces there, to the lines of boundary edges there
    (times boundary_weight) and to the mean crossing (times regularisation).

    Args:
        vertices: [V, 3] in the world frame, -0.5 .. 0.5.
        faces: [F, 3] int.
        resolution: cells along a side.
        face_weight: 0 leaves out the planes of faces that pass through a cell without crossing its edges.

    Returns:
        A DualGrid; empty if no edge is crossed.
    """
    cell = np.float32(1.0 / resolution)
    points = (np.asarray(vertices, np.float32) + np.float32(0.5)) / cell  # in cells, so that a cell is [i, i + 1]
    triangles = points[np.asarray(faces)].astype(np.float64)  # [F, 3, 3]
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 1])
    lengths = np.linalg.norm(normals, axis=1)
    sound = lengths > 0
    triangles, normals = triangles[sound], normals[sound] / lengths[sound, None]
    planes = np.concatenate([normals, -(normals * triangles[:, 0]).sum(1, keepdims=True)], 1)  # [F, 4]

    face, axis, lines, depth = _crossings(triangles, resolution)
    if len(face) == 0:
        return empty_grid(resolution)
    # a crossing at the grid line (x, y) along an axis concerns the four cells round it
    crossing = np.empty((len(face), 3))
    base = np.empty((len(face), 3), np.int64)
    for a in range(3):
        rows = axis == a
        u, v = (a + 1) % 3, (a + 2) % 3
        crossing[rows, u], crossing[rows, v] = lines[rows, 0] + 1, lines[rows, 1] + 1
        crossing[rows, a] = depth[rows]
        base[rows, u], base[rows, v] = lines[rows, 0], lines[rows, 1]
        base[rows, a] = depth[rows].astype(np.int64)
    cells, owners = [], []
    for du in (0, 1):
        for dv in (0, 1):
            step = np.zeros((len(face), 3), np.int64)
            step[np.arange(len(face)), (axis + 1) % 3] = du
            step[np.arange(len(face)), (axis + 2) % 3] = dv
            cells.append(base + step)
            owners.append(np.arange(len(face)))
    cells, owners = np.concatenate(cells), np.concatenate(owners)
    keys, voxel = np.unique(_key(cells, resolution), return_inverse=True)
    coords = np.stack(np.unravel_index(keys, (resolution + 1,) * 3), 1)
    count = len(keys)

    quadric = np.zeros((count, 4, 4))
    _add_outer(quadric, voxel, planes[face[owners]])
    mean, hits = np.zeros((count, 3)), np.bincount(voxel, minlength=count)
    np.add.at(mean, voxel, crossing[owners])
    mean /= hits[:, None]
    crossed = np.zeros((count, 3), bool)
    crossed[voxel[: len(face)], axis] = True  # the first quarter is (du, dv) = (0, 0): the cell that owns the edge

    if face_weight > 0:
        for touched, cells_touched in _touched_cells(triangles, normals, resolution):
            found = _lookup(keys, _key(cells_touched, resolution))
            inside = found >= 0
            _add_outer(quadric, found[inside], planes[touched[inside]], face_weight)
    if boundary_weight > 0:
        _add_boundary(quadric, keys, points, np.asarray(faces), resolution, boundary_weight)

    weight = regularisation * hits
    quadric[:, [0, 1, 2], [0, 1, 2]] += weight[:, None]
    quadric[:, :3, 3] -= weight[:, None] * mean
    quadric[:, 3, :3] -= weight[:, None] * mean
    quadric[:, 3, 3] += weight * (mean**2).sum(1)
    offsets = _minimise_in_cell(_shifted(quadric, coords))
    return DualGrid(coords.astype(np.int32), offsets.astype(np.float32), crossed, resolution)


def dual_grid_tensors(
    vertices: torch.Tensor,
    faces: torch.Tensor,
    resolution: int,
    face_weight: float = 1.0,
    boundary_weight: float = 0.2,
    regularisation: float = 0.01,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """mesh_to_dual_grid of tensors: coords [T, 3] int32, offsets [T, 3] float32 and crossed [T, 3] bool."""
    points, corners = (each.detach().cpu().numpy() for each in (vertices, faces))
    grid = mesh_to_dual_grid(points, corners, resolution, face_weight, boundary_weight, regularisation)
    coords, offsets, crossed = (torch.from_numpy(each) for each in (grid.coords, grid.offsets, grid.crossed))
    return coords.to(vertices.device), offsets.to(vertices.device), crossed.to(vertices.device)


def _key(cells: np.ndarray, resolution: int) -> np.ndarray:
    return (cells[:, 0] * (resolution + 1) + cells[:, 1]) * (resolution + 1) + cells[:, 2]


def _lookup(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    position = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[position] == wanted, position, -1)


def _ranges(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For rows i: (i repeated, first[i] .. last[i] - 1), flattened."""
    counts = np.maximum(last - first, 0)
    owner = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner, first[owner] + within


def _crossings(triangles: np.ndarray, resolution: int) -> tuple[np.ndarray, ...]:
    """Where triangles cross the inner grid lines, by scan lines in double precision.

    Returns:
        face [N], axis [N] the line runs along, lines [N, 2] int (the line lies at lines + 1 in the two other
        coordinates, u = axis + 1 and v = axis + 2 modulo 3), depth [N] along the axis; all inside the grid.
    """
    results = []
    top = resolution - 1
    for axis in range(3):
        t = triangles[:, :, [(axis + 1) % 3, (axis + 2) % 3, axis]]  # (u, v, depth)
        order = np.argsort(t[:, :, 1], axis=1, kind="stable")
        t = np.take_along_axis(t, order[:, :, None], 1)
        rows = np.clip(t[:, :, 1].astype(np.int64), 0, top)
        for tip, first, last in ((0, rows[:, 0], rows[:, 1]), (2, rows[:, 1], rows[:, 2])):
            owner, row = _ranges(first, last)
            v = row + 1.0
            left = _lerp(t[owner, tip, 1], t[owner, 1, 1], v, t[owner, tip], t[owner, 1])
            right = _lerp(t[owner, tip, 1], t[owner, 2 - tip, 1], v, t[owner, tip], t[owner, 2 - tip])
            swap = left[:, 0] > right[:, 0]
            left[swap], right[swap] = right[swap], left[swap]
            columns = (np.clip(side[:, 0].astype(np.int64), 0, top) for side in (left, right))
            span, column = _ranges(*columns)
            depth = _lerp(left[span, 0], right[span, 0], column + 1.0, left[span], right[span])[:, 2]
            inside = (depth.astype(np.int64) >= 0) & (depth < resolution)
            lines = np.stack([column, row[span]], 1)[inside]
            results.append((owner[span][inside], np.full(inside.sum(), axis), lines, np.maximum(depth[inside], 0)))
    return tuple(np.concatenate(parts) for parts in zip(*results))


def _lerp(a: np.ndarray, b: np.ndarray, at: np.ndarray, value_a: np.ndarray, value_b: np.ndarray) -> np.ndarray:
    """Values at `at` between (a, value_a) and (b, value_b) [N, 3]; value_a where a == b."""
    same = a == b
    alpha = np.where(same, 0, (at - a) / np.where(same, 1, b - a))[:, None]
    return (1 - alpha) * value_a + alpha * value_b


def _add_outer(quadric: np.ndarray, voxel: np.ndarray, vectors: np.ndarray, weight: float = 1.0) -> None:
    """quadric[voxel] += weight * vector vector^T, without a loop over rows."""
    for i in range(4):
        for j in range(i, 4):
            total = weight * np.bincount(voxel, vectors[:, i] * vectors[:, j], minlength=len(quadric))
            quadric[:, i, j] += total
            if i != j:
                quadric[:, j, i] += total


def _touched_cells(triangles: np.ndarray, normals: np.ndarray, resolution: int, budget: int = 1_000_000):
    """(face [N], cells [N, 3]) of cells that triangles overlap, in chunks of about `budget` candidates.

    The plane and the three projections are tested as by Schwarz & Seidel 2010.
    """
    low = np.maximum(triangles.min(1).astype(np.int64), 0)
    high = np.minimum((triangles.max(1) + 1).astype(np.int64), resolution)
    size = np.maximum(high - low, 0)
    candidates = size.prod(1)
    ends = np.searchsorted(np.cumsum(candidates), np.arange(budget, candidates.sum() + budget, budget), side="right")
    bounds = np.unique(np.concatenate([[0], ends, [len(triangles)]]))

    def overlapped(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        owner, index = _ranges(np.zeros(last - first, np.int64), candidates[first:last])
        owner = owner + first
        shape = size[owner]
        cell = low[owner] + np.stack(
            [index // (shape[:, 1] * shape[:, 2]), index // shape[:, 2] % shape[:, 1], index % shape[:, 2]], 1
        )
        for test in (_meets_plane, _meets_outlines):  # the first leaves few for the expensive second
            rows = np.flatnonzero(test(triangles[owner], normals[owner], cell.astype(np.float64)))
            owner, cell = owner[rows], cell[rows]
        return owner, cell

    with ThreadPoolExecutor(cores()) as pool:  # numpy's loops release Python's lock; chunks come in their order
        yield from pool.map(overlapped, *(each.tolist() for each in (bounds[:-1], bounds[1:])))


def _meets_plane(t: np.ndarray, n: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Whether the planes of triangles t [N, 3, 3] with normals n pass through the unit cells at p [N, 3]."""
    far = (n > 0).astype(np.float64)
    at = (n * p).sum(1)
    return (at + (n * (far - t[:, 0])).sum(1)) * (at + (n * (1 - far - t[:, 0])).sum(1)) <= 0


def _meets_outlines(t: np.ndarray, n: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Whether the cells, seen along each axis, meet the triangles."""
    keep = np.ones(len(t), bool)
    for u, v, w in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        sign = np.where(n[:, w] < 0, -1.0, 1.0)
        for a in range(3):
            edge = t[:, (a + 1) % 3] - t[:, a]
            normal_u, normal_v = -sign * edge[:, v], sign * edge[:, u]
            offset = np.maximum(normal_u, 0) + np.maximum(normal_v, 0)
            keep &= normal_u * (p[:, u] - t[:, a, u]) + normal_v * (p[:, v] - t[:, a, v]) + offset >= 0
    return keep


def _add_boundary(quadric, keys, points: np.ndarray, faces: np.ndarray, resolution: int, weight: float) -> None:
    """Add the squared distance to every boundary edge to the cells along it."""
    edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    edges, uses = np.unique(edges, axis=0, return_counts=True)
    start, end = points[edges[uses == 1]].astype(np.float64).transpose(1, 0, 2)
    length = np.linalg.norm(end - start, axis=1)
    sound = length > 1e-6 * resolution
    start, length = start[sound], length[sound]
    direction = (end[sound] - start) / length[:, None]
    # walk all segments at once from cell to cell (Amanatides & Woo 1987)
    cell = np.floor(start).astype(np.int64)
    step = np.where(direction > 0, 1, -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        to_border = np.where(direction == 0, np.inf, (cell + (step > 0) - start) / direction)
        to_next = np.where(direction == 0, np.inf, 1 / np.abs(direction))
    active = np.arange(len(start))
    while len(active):
        inside = ((cell[active] >= 0) & (cell[active] < resolution)).all(1)
        found = np.where(inside, _lookup(keys, _key(np.where(inside[:, None], cell[active], 0), resolution)), -1)
        _add_line(quadric, found[found >= 0], start[active[found >= 0]], direction[active[found >= 0]], weight)
        axis = to_border[active].argmin(1)
        active = active[to_border[active, axis] <= length[active]]
        axis = to_border[active].argmin(1)
        cell[active, axis] += step[active, axis]
        to_border[active, axis] += to_next[active, axis]


def _add_line(quadric, voxel, point, direction, weight) -> None:
    across = np.eye(3) - direction[:, :, None] * direction[:, None, :]
    offset = -(across @ point[:, :, None])[:, :, 0]
    full = np.zeros((len(voxel), 4, 4))
    full[:, :3, :3] = across
    full[:, :3, 3] = full[:, 3, :3] = offset
    full[:, 3, 3] = -(point * offset).sum(1)
    np.add.at(quadric, voxel, weight * full)


def _shifted(quadric: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """The same quadratic forms in coordinates relative to origin [T, 3]."""
    move = np.tile(np.eye(4), (len(quadric), 1, 1))
    move[:, :3, 3] = origin
    return move.transpose(0, 2, 1) @ quadric @ move


def _minimise_in_cell(quadric: np.ndarray) -> np.ndarray:
    """[T, 4, 4] -> [T, 3]: the minimum of (p, 1)^T Q (p, 1) over the unit cube.

    The free minimum where it lies inside; elsewhere the best of the constrained minima on faces, edges and corners.
    """
    best = np.linalg.solve(quadric[:, :3, :3], -quadric[:, :3, 3:])[:, :, 0]
    outside = ((best < 0) | (best > 1)).any(1)
    q = quadric[outside]
    error, found = np.full(len(q), np.inf), np.zeros((len(q), 3))
    for constraint in np.ndindex(3, 3, 3):  # per axis: fixed at 0, fixed at 1, or free (2)
        free = [axis for axis in range(3) if constraint[axis] == 2]
        if len(free) == 3:
            continue
        p = np.tile(np.array(constraint, np.float64), (len(q), 1))
        p[:, free] = 0
        if free:
            right = -(q[:, free, 3] + (q[:, free, :3] * p[:, None]).sum(2))
            p[:, free] = np.linalg.solve(q[:, free][:, :, free], right[:, :, None])[:, :, 0]
        p1 = np.concatenate([p, np.ones((len(q), 1))], 1)
        value = np.einsum("ni,nij,nj->n", p1, q, p1)
        better = ((p >= 0) & (p <= 1)).all(1) & (value < error)
        error[better], found[better] = value[better], p[better]
    best[outside] = found
    return best
