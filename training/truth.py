"""Ground truth of the decoders: flexible dual grids and material voxels straight from the distance functions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import torch
import torch.nn.functional as F

from pipeline.mesh.grid.dual_grid import dual_grid_to_mesh
from pipeline.sparse import Voxels

from .objects import Objects
from .recipes import SLOTS

_HALVINGS = 2  # of coarse cells, before the finest corners are looked at
_REACH = 1.25  # half diagonals of a cell within which a surface may pass it; above 1 since distances are not all exact
_REGULARISATION = 0.01  # as mesh_to_dual_grid
_PLANES = 2  # that cut a repainted object along each axis
_SWEEPS = 4  # of the solver in a cell; what is left is below 1e-3 voxels


@dataclass(frozen=True)
class DualGrids:
    """Surfaces of a batch of objects, T voxels in all, sorted by (sample, x, y, z).

    voxels: the surface voxels, lengths = voxels of each object (every object has some).
    offsets: [T, 3] float32 dual vertices in voxel units from the voxel's corner, in 0-1.
    crossed: [T, 3] bool, whether the surface crosses the voxel's edge along x, y, z: the edge that ends in the voxel's
        corner with the largest coordinates (as in pipeline.mesh.grid.dual_grid).
    part: [T] int64, the object's primitive that each vertex lies on.
    pbr: [T, 6] float32 base colour sRGB, metallic, roughness, alpha, in 0-1 (a decoder's raw output is 2 pbr - 1).
    """

    voxels: Voxels
    offsets: torch.Tensor
    crossed: torch.Tensor
    part: torch.Tensor
    pbr: torch.Tensor
    resolution: int

    def mesh(self, row: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One object: vertices [V, 3] world, faces [F, 3] int32 (not consistently oriented), pbr [V, 6]."""
        start = sum(self.voxels.lengths[:row])
        own = slice(start, start + self.voxels.lengths[row])
        voxels = Voxels.single(self.voxels.xyz[own])
        return *dual_grid_to_mesh(voxels, self.offsets[own], self.crossed[own], self.resolution), self.pbr[own]


def dual_grids(objects: Objects, resolution: int) -> DualGrids:
    """Dual grids of all objects, coarse to fine: about 200,000 distances for an object at 128.

    The device is asked how many cells, crossings and voxels there are, six times in all.

    Args:
        resolution: voxels along a side, divisible by 4.
    """
    grid = _Corners.near_surface(objects, resolution)
    edges = grid.crossings()
    points = _refined(objects, grid, edges)  # [E, 3] voxel units
    normals = objects.normal_at(points / resolution - 0.5, edges.owner)
    keys, rows = _voxels_round(edges, grid)
    coords = grid.coords(keys)  # [T, 4]
    offsets = _dual_vertices(coords[:, 1:], rows, points, normals)
    crossed = torch.zeros(len(keys), 3, dtype=torch.bool, device=objects.device)
    crossed[rows[0], edges.axis] = True
    world = (coords[:, 1:] + offsets) / resolution - 0.5
    _, part = objects.distance_at(world, coords[:, 0])
    part = part.long()
    pbr = objects.materials[coords[:, 0], part]
    lengths = tuple(torch.bincount(coords[:, 0], minlength=len(objects)).tolist())
    return DualGrids(Voxels(coords, lengths), offsets, crossed, part, pbr, resolution)


def repainted(grids: DualGrids, palette: torch.Tensor, random: torch.Generator) -> DualGrids:
    """The same surfaces in other materials: those of each part are drawn anew, in half of the objects box by box.

    An object has two or three materials, a batch some fifty: too few to learn to distinguish them all.

    Args:
        palette: [N, 6] what is drawn from, on the CPU.
        random: a CPU generator.
    """
    count, device = len(grids.voxels.lengths), grids.voxels.device
    planes = torch.rand(count, 3, _PLANES, generator=random)  # along each axis, in 0-1
    planes[torch.rand(count, generator=random) < 0.5] = 1.0  # none
    boxes = (_PLANES + 1) ** 3
    drawn = torch.randint(len(palette), (count * SLOTS * boxes,), generator=random)
    sample = grids.voxels.coords[:, 0].long()
    past = grids.voxels.xyz[:, :, None] >= grids.resolution * planes.to(device)[sample]
    x, y, z = past.sum(2).unbind(1)
    box = (x * (_PLANES + 1) + y) * (_PLANES + 1) + z
    row = (sample * SLOTS + grids.part) * boxes + box
    return replace(grids, pbr=palette[drawn].to(device)[row])


def occupancy(voxels: Voxels, from_: int, to: int) -> torch.Tensor:
    """Which cells of a coarser (or the same) grid hold a voxel: [B, 1, to, to, to] bool.

    Args:
        from_, to: cells along a side of the voxels' grid and of the result.
    """
    ratio, rest = divmod(from_, to)
    if rest or ratio == 0:
        raise ValueError(f"Voxels of a grid of {from_} a side cannot be pooled to {to}; choose a divisor of {from_}.")
    occupied = torch.zeros(len(voxels.lengths), 1, to, to, to, dtype=torch.bool, device=voxels.device)
    sample, x, y, z = voxels.coords.long().unbind(1)
    occupied[sample, 0, x // ratio, y // ratio, z // ratio] = True
    return occupied


def _near_surface(objects: Objects, resolution: int) -> torch.Tensor:
    """Cells [C, 4] (object, x, y, z) int64 of a grid of `resolution` a side that the surface may pass."""
    side = resolution >> _HALVINGS
    axis = torch.arange(side, device=objects.device)
    coarse = torch.cartesian_prod(axis, axis, axis)  # [side^3, 3]
    distance, _ = objects.distance(((coarse + 0.5) / side - 0.5).expand(len(objects), -1, -1))
    owner, cell = (distance.abs() < _diagonal(side)).nonzero(as_tuple=True)
    cells = torch.cat([owner[:, None], coarse[cell]], 1)
    for _ in range(_HALVINGS):
        side *= 2
        children = torch.tensor([(0, *each) for each in product((0, 1), repeat=3)], device=objects.device)
        cells = (cells * torch.tensor([1, 2, 2, 2], device=objects.device) + children[:, None]).transpose(0, 1)
        cells = cells.reshape(-1, 4)  # the children of a cell follow one another: still sorted by object
        centres = (cells[:, 1:] + 0.5) / side - 0.5
        distance, _ = objects.distance_at(centres, cells[:, 0])
        cells = cells[distance.abs() < _diagonal(side)]
    return cells


def _diagonal(side: int) -> float:
    return _REACH * 0.5 * 3**0.5 / side


@dataclass(frozen=True)
class _Edges:
    """Grid edges that the surface crosses: owner [E] object (ascending), key [E] of the end with the smaller
    coordinates, axis [E], low and high [E] distance at both ends in world units."""

    owner: torch.Tensor
    key: torch.Tensor
    axis: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor


@dataclass(frozen=True)
class _Corners:
    """Distances at the corners of a grid, inf where they were not asked for: [B * (R + 1)^3].

    A corner's key is its place there; a cell has the key of its corner with the smallest coordinates.
    """

    values: torch.Tensor
    keys: torch.Tensor  # [M] ascending, of corners that have a value
    resolution: int

    @classmethod
    def near_surface(cls, objects: Objects, resolution: int) -> _Corners:
        cells = _near_surface(objects, resolution // 2)
        side, device = resolution + 1, objects.device
        strides = torch.tensor([side**3, 2 * side**2, 2 * side, 2], device=device)
        steps = (torch.tensor(list(product((0, 1, 2), repeat=3)), device=device) * (strides[1:] // 2)).sum(1)
        wanted = torch.zeros(len(objects) * side**3, dtype=torch.bool, device=device)
        first = (cells * strides).sum(1)
        for step in steps:
            wanted[first + step] = True
        keys = wanted.nonzero()[:, 0]
        grid = cls(torch.full(wanted.shape, torch.inf, device=device), keys, resolution)
        coords = grid.coords(keys)
        points = coords[:, 1:] / resolution - 0.5
        grid.values[keys], _ = objects.distance_at(points, coords[:, 0])
        return grid

    @property
    def strides(self) -> tuple[int, int, int]:
        return (self.resolution + 1) ** 2, self.resolution + 1, 1

    def coords(self, keys: torch.Tensor) -> torch.Tensor:
        """[N] -> [N, 4] (object, x, y, z) int64."""
        side = self.resolution + 1
        return torch.stack([keys // side**3, keys // side**2 % side, keys // side % side, keys % side], 1)

    def crossings(self) -> _Edges:
        here, found = self.values[self.keys], []
        for axis, stride in enumerate(self.strides):
            # the last corner's neighbour would be the next row's first: both lie outside every object
            there = self.values[(self.keys + stride).clamp_max(len(self.values) - 1)]
            rows = ((here < 0) != (there < 0)) & there.isfinite()
            key, low, high = self.keys[rows], here[rows], there[rows]
            found.append((key, torch.full_like(key, axis), low, high))
        key, axis, low, high = (torch.cat(each) for each in zip(*found))
        owner, order = (key // (self.resolution + 1) ** 3).sort(stable=True)
        return _Edges(owner, key[order], axis[order], low[order], high[order])


def _refined(objects: Objects, grid: _Corners, edges: _Edges) -> torch.Tensor:
    """Where the surface crosses the edges, [E, 3] in voxel units: regula falsi with one more distance."""
    start = grid.coords(edges.key)[:, 1:].float()
    along = F.one_hot(edges.axis, 3)
    first = edges.low / (edges.low - edges.high)
    points = (start + along * first[:, None]) / grid.resolution - 0.5
    distance, _ = objects.distance_at(points, edges.owner)
    before = (distance < 0) != (edges.low < 0)  # the crossing lies before the first guess
    t_low, low = torch.where(before, 0, first), torch.where(before, edges.low, distance)
    t_high, high = torch.where(before, first, 1), torch.where(before, distance, edges.high)
    slope = torch.where(low == high, 1, low - high)
    t = t_low + (t_high - t_low) * (low / slope).clamp(0, 1)
    return start + along * t[:, None]


def _voxels_round(edges: _Edges, grid: _Corners) -> tuple[torch.Tensor, torch.Tensor]:
    """The voxels that touch crossed edges: keys [T] ascending, and for each edge its four as rows [4, E]; the first
    owns the edge."""
    strides = torch.tensor(grid.strides, device=edges.key.device)
    beside, above = strides[(edges.axis + 1) % 3], strides[(edges.axis + 2) % 3]
    owner = edges.key - beside - above
    four = torch.stack([owner, owner + beside, owner + above, edges.key])
    used = torch.zeros(len(grid.values), dtype=torch.bool, device=four.device)
    used[four.flatten()] = True
    keys = used.nonzero()[:, 0]
    return keys, torch.searchsorted(keys, four)


def _dual_vertices(cells: torch.Tensor, rows: torch.Tensor, points: torch.Tensor, normals: torch.Tensor):
    """The point of each cell with the least squared distance to the planes of its crossings (dual contouring, Ju et
    al. 2002), drawn a little to their mean.

    Args:
        cells: [T, 3].  rows: [4, E] the cells of each crossing.  points, normals: [E, 3]; points in voxel units.

    Returns:
        [T, 3] in voxel units from the cells' corners.
    """
    outer = normals[:, [0, 1, 2, 0, 0, 1]] * normals[:, [0, 1, 2, 1, 2, 2]]
    sums = points.new_zeros(len(cells), 13)  # 6 of the matrix, 3 of the right side, 3 of the mean, how many
    for row in rows:
        at = points - cells[row]
        plane = (normals * at).sum(1, keepdim=True)
        sums.index_add_(0, row, torch.cat([outer, plane * normals, at, torch.ones_like(plane)], 1))
    weight = _REGULARISATION * sums[:, 12:]
    mean = sums[:, 9:12] / sums[:, 12:]
    diagonal, mixed = sums[:, :3] + weight, sums[:, 3:6]
    right = sums[:, 6:9] + weight * mean
    free = _solve(diagonal, mixed, right - _times(diagonal, mixed, mean)) + mean
    return _inside(diagonal, mixed, right, free)


def _times(diagonal: torch.Tensor, mixed: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Symmetric [N, 3, 3] matrices (xx, yy, zz and xy, xz, yz) times x [N, 3]."""
    xy, xz, yz = mixed.unbind(1)
    crossed = torch.stack([xy * x[:, 1] + xz * x[:, 2], xy * x[:, 0] + yz * x[:, 2], xz * x[:, 0] + yz * x[:, 1]], 1)
    return diagonal * x + crossed


def _solve(diagonal: torch.Tensor, mixed: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Symmetric systems [N, 3, 3] by their adjugates."""
    (a, b, c), (d, e, f) = diagonal.unbind(1), mixed.unbind(1)
    inverse = torch.stack([b * c - f * f, a * c - e * e, a * b - d * d], 1)
    crossed = torch.stack([e * f - c * d, d * f - b * e, d * e - a * f], 1)
    determinant = a * inverse[:, 0] + d * crossed[:, 0] + e * crossed[:, 1]
    return _times(inverse, crossed, right) / determinant[:, None]


def _inside(diagonal: torch.Tensor, mixed: torch.Tensor, right: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """The minimum within the unit cube: projected Gauss-Seidel from the clamped free minimum."""
    x, y, z = start.clamp(0, 1).unbind(1)
    (a, b, c), (d, e, f) = diagonal.unbind(1), mixed.unbind(1)
    for _ in range(_SWEEPS):
        x = ((right[:, 0] - d * y - e * z) / a).clamp(0, 1)
        y = ((right[:, 1] - d * x - f * z) / b).clamp(0, 1)
        z = ((right[:, 2] - e * x - f * y) / c).clamp(0, 1)
    return torch.stack([x, y, z], 1)
