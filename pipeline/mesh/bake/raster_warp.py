"""The UV raster and the nearest covered texels on Warp; see raster.py, whose functions define them."""

from __future__ import annotations

import torch

from ...warp import cores
from .raster import check_raster


def rasterise_warp(uvs: torch.Tensor, faces: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """rasterise on Warp, for CPU and CUDA: the same texels and the same weights to the bit.

    On a CPU each core fills bands of the texture of its own. On CUDA each small triangle has a thread, and large ones
    are cut into pieces of a row. Takes the arguments and raises the errors of rasterise.
    """
    from ...warp.launch import launch_parallel
    from . import raster_kernels as kernels

    check_raster(uvs, faces, size)
    mesh = uvs.detach().double(), faces.detach().int(), size
    face = torch.full((size * size,), -1, dtype=torch.int32, device=uvs.device)
    weights = torch.zeros(size * size, 3, device=uvs.device)
    (_cover_in_bands if uvs.device.type == "cpu" else _cover_in_pieces)(*mesh, face)
    launch_parallel(kernels.barycentric_weights, size * size, *mesh, face, weights)
    return face.long(), weights


def _cover_in_bands(points: torch.Tensor, corners: torch.Tensor, size: int, face: torch.Tensor) -> None:
    """Write each texel's face from one thread for each band of rows."""
    from ...warp.launch import launch_parallel
    from . import raster_kernels as kernels

    bands = min(size, 4 * cores())
    launch_parallel(kernels.cover_band, bands, points, corners, size, bands, face, chunk=1)


def _cover_in_pieces(points: torch.Tensor, corners: torch.Tensor, size: int, face: torch.Tensor) -> None:
    """Write each texel's face from one thread for each small face and each piece of a row of a large one."""
    from ...warp.launch import launch_atomic
    from . import raster_kernels as kernels

    if len(corners) == 0:
        return
    pieces = torch.empty(len(corners), dtype=torch.int64, device=face.device)
    launch_atomic(kernels.cover_small, len(corners), points, corners, size, face, pieces)
    ends = pieces.cumsum(0)
    total = int(ends[-1])  # the one wait for the device
    launch_atomic(kernels.cover_pieces, total, points, corners, size, ends, face)


def nearest_covered_warp(covered: torch.Tensor) -> torch.Tensor:
    """nearest_covered on Warp, for CPU and CUDA: equally near, though ties may fall otherwise.

    Exact in two passes over lines: the nearest in each column, then along each row the lower envelope of the parabolas
    that these give (Meijster et al. 2000, A general algorithm for computing distance transforms in linear time).
    """
    from ...warp.launch import launch_parallel
    from . import raster_kernels as kernels

    size, device = len(covered), covered.device
    row = torch.empty(size, size, dtype=torch.int16, device=device)
    found = torch.empty(size, size, dtype=torch.int32, device=device)
    launch_parallel(kernels.nearest_in_column, size, covered.to(torch.uint8), row, chunk=_LINES)
    launch_parallel(kernels.nearest_in_plane, size, row, found, chunk=_LINES)
    return found.reshape(-1)


_LINES = 64  # columns or rows of one launch on a CPU: a cache line of the mask
