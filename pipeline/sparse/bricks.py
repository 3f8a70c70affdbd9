"""Trilinear look-up in sparse voxels on Warp: the voxels' rows in bricks of 8 x 8 x 8, the bricks in a dense box."""

from __future__ import annotations

import torch

from .reference import trilinear
from .tensor import Voxels

_BYTES = 1 << 30  # what the box of bricks or the bricks may take
_BRICK = 512  # voxels


def trilinear_warp(feats: torch.Tensor, voxels: Voxels, points: torch.Tensor) -> torch.Tensor:
    """sparse.reference.trilinear on Warp, for CPU and CUDA; queries whose neighbours in the list are near are fastest.

    Takes and returns what it does. Voxels so scattered that the bricks would not fit into their budget, and fp64
    features, go to it.
    """
    count = voxels.lengths[0] if len(voxels) else 0
    if count == 0:
        return torch.zeros(len(points), feats.shape[1] + 1, device=points.device)
    placed = None if feats.dtype == torch.float64 else _bricks(voxels.coords[:count])
    if placed is None:
        return trilinear(feats, voxels, points)
    from ..warp.launch import launch_parallel
    from . import bricks_kernels as kernels

    points, table = points.float(), feats.detach().float()
    out = torch.empty(len(points), feats.shape[1] + 1, device=points.device)
    launch_parallel(kernels.trilinear_in_bricks, len(points), points, *placed, table, out)
    return out


def _bricks(coords: torch.Tensor) -> tuple | None:
    """Voxels [T, 4] -> (first voxel and bricks along each side of their box, [bricks of the box] int32 number of a
    brick or -1, [512 times their number] int32 row of a voxel or -1), or None if that takes too much memory."""
    from ..warp.launch import launch_parallel
    from . import bricks_kernels as kernels

    low, high = ((each >> 3).tolist() for each in torch.aminmax(coords[:, 1:], dim=0))
    sides = [b - a + 1 for a, b in zip(low, high)]
    cells = sides[0] * sides[1] * sides[2]
    if 4 * cells > _BYTES:
        return None
    box = kernels.wp.vec3i(*(8 * each for each in low)), kernels.wp.vec3i(*sides)
    used = torch.zeros(cells, dtype=torch.uint8, device=coords.device)
    launch_parallel(kernels.mark_bricks, len(coords), coords, *box, used)
    brick = used.cumsum(0, dtype=torch.int32)
    count = int(brick[-1])
    if 4 * _BRICK * count > _BYTES:
        return None
    brick = torch.where(used > 0, brick - 1, -1).int()
    slots = torch.full((count * _BRICK,), -1, dtype=torch.int32, device=coords.device)
    launch_parallel(kernels.fill_bricks, len(coords), coords, *box, brick, slots)
    return *box, brick, slots
