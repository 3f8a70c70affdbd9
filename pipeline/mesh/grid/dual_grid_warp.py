"""mesh_to_dual_grid by Warp's kernels, on a CPU and on CUDA.

Nothing is sorted: a bit for each cell of the cube says whether it is a voxel, and counts of bits give voxels rows.
"""

from __future__ import annotations

import torch

from ...errors import SettingsError
from ...warp import cores
from ...warp.launch import Kernel, array, launch_parallel
from ..topology.half_edges import HalfEdges
from . import dual_grid_kernels as kernels
from . import voxel_bits_kernels as voxel_bits

_TASKS = 8  # slabs for each core of a CPU
_ROWS = 1 << 26  # faces times slabs on a GPU
_MOST = 2**31 - 1  # rows of a launch, and words of the grid: both are numbered as int32
_SHORTEST = 1e-6  # share of the cube's side: shorter boundary edges have no direction


def mesh_to_dual_grid_warp(
    vertices: torch.Tensor,
    faces: torch.Tensor,
    resolution: int,
    face_weight: float = 1.0,
    boundary_weight: float = 0.2,
    regularisation: float = 0.01,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As dual_grid.mesh_to_dual_grid, to the bit in coords and crossed, to rounding in offsets.

    Two runs, any number of cores, a CPU and CUDA give the same: what voxels sum up are integers.

    Raises:
        SettingsError: a resolution above 4064.
    """
    device, words = vertices.device, -(-resolution // 32)
    if resolution * resolution * words > _MOST:
        raise SettingsError(f"A dual grid of {resolution} voxels a side; at most 4064 can be numbered.")
    faces = faces.to(torch.int32).contiguous()
    points = (vertices.float() + 0.5) / torch.tensor(1.0 / resolution, dtype=torch.float32, device=device)
    bits = torch.zeros(resolution * resolution * words, dtype=torch.int32, device=device)
    ends = torch.empty_like(bits)
    grid = voxel_bits.Voxels()
    grid.bits, grid.ends, grid.side, grid.words = array(bits, voxel_bits.UINT), array(ends), resolution, words

    def by_slabs(kernel: Kernel, rows: torch.Tensor, *arguments) -> None:
        if len(rows):
            bounds = _slabs(points, len(rows), resolution)
            count = (len(bounds) - 1) * len(rows)
            launch_parallel(kernel, count, points, rows, bounds, grid, *arguments, chunk=len(rows))

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    by_slabs(kernels.cross, faces, 0.0, True, new(0, 9, dtype=torch.int64), new(0, 3, dtype=torch.uint8))
    launch_parallel(voxel_bits.counts, len(bits), bits, ends)
    torch.cumsum(ends, 0, dtype=torch.int32, out=ends)
    count = int(ends[-1])
    sums, crossed = new(count, 9, dtype=torch.int64), new(count, 3, dtype=torch.uint8)
    coords, offsets = new(count, 3, dtype=torch.int32), new(count, 3)
    if count:
        by_slabs(kernels.cross, faces, regularisation, False, sums, crossed)
        if face_weight > 0:
            by_slabs(kernels.touch, faces, face_weight, sums)
        if boundary_weight > 0:
            edges = HalfEdges.of(faces)
            edges = torch.stack(edges.ends(edges.border()), 1).sort(1).values.int()
            by_slabs(kernels.follow, edges, boundary_weight, _SHORTEST * resolution, sums)
        launch_parallel(voxel_bits.place, len(bits), grid, coords)
        launch_parallel(kernels.solve, count, sums, offsets)
    return coords, offsets, crossed.bool()


def _slabs(points: torch.Tensor, rows: int, resolution: int) -> torch.Tensor:
    """[S + 1] int32: where slabs of about equal width begin along x."""
    wanted = _TASKS * cores() if points.device.type == "cpu" else _ROWS // rows
    count = max(1, min(wanted, _MOST // rows, resolution))
    return torch.arange(count + 1, device=points.device).mul_(resolution).div_(count, rounding_mode="floor").int()
