"""The UV raster and the nearest covered texels on Warp; see raster.py, whose functions define them."""

from __future__ import annotations

from itertools import pairwise

import torch

from .raster import check_raster


def rasterise_warp(uvs: torch.Tensor, faces: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """rasterise on Warp, for CPU and CUDA: the same texels and the same weights to the bit.

    On a CPU each core fills bands of the texture of its own. On CUDA each small triangle has a thread, and large ones
    are cut into pieces of a row. Takes the arguments and raises the errors of rasterise.
    """
    from ...warp import launch as kernels
    from . import raster_kernels

    check_raster(uvs, faces, size)
    where, wp = kernels.device_of(uvs), kernels.wp
    points = wp.from_torch(uvs.detach().double().contiguous(), dtype=wp.vec2d)
    corners = wp.from_torch(faces.detach().to(torch.int32).contiguous(), dtype=wp.vec3i)
    face = torch.full((size * size,), -1, dtype=torch.int32, device=uvs.device)
    weights = torch.zeros(size * size, 3, device=uvs.device)
    (_cover_in_bands if where == "cpu" else _cover_in_pieces)(points, corners, size, face)

    def arguments(start: int, end: int) -> list:
        return [points, corners, size, start, kernels.array(face[start:end]), kernels.array(weights[start:end])]

    kernels.run(raster_kernels.barycentric_weights, size * size, arguments, where)
    return face.long(), weights


def _cover_in_bands(points, corners, size: int, face: torch.Tensor) -> None:
    """Write each texel's face from one thread for each band of rows. points, corners: Warp arrays."""
    from ...warp import launch as kernels
    from . import raster_kernels

    bands = min(size, 4 * kernels.cores())
    edges = [size * band // bands for band in range(bands + 1)]
    covered, count = kernels.array(face), len(corners)
    launches = [(count, [points, corners, size, low, high, covered]) for low, high in pairwise(edges) if count]
    kernels.run_each(raster_kernels.cover_band, launches, kernels.device_of(face))


def _cover_in_pieces(points, corners, size: int, face: torch.Tensor) -> None:
    """Write each texel's face from one thread for each small face and each piece of a row of a large one."""
    from ...warp import launch as kernels
    from . import raster_kernels

    if len(corners) == 0:
        return
    where, array = kernels.device_of(face), kernels.array
    pieces = torch.empty(len(corners), dtype=torch.int64, device=face.device)
    small = (len(corners), [points, corners, size, array(face), array(pieces)])
    kernels.run_each(raster_kernels.cover_small, [small], where)
    ends = pieces.cumsum(0)
    total = int(ends[-1])  # the one wait for the device
    launches = [
        (min(total - first, _LAUNCH), [points, corners, size, first, array(ends), array(face)])
        for first in range(0, total, _LAUNCH)
    ]
    kernels.run_each(raster_kernels.cover_pieces, launches, where)


_LAUNCH = 1 << 30  # threads of one launch on CUDA


def nearest_covered_warp(covered: torch.Tensor) -> torch.Tensor:
    """nearest_covered on Warp, for CPU and CUDA: equally near, though ties may fall otherwise.

    Exact in two passes over lines: the nearest in each column, then along each row the lower envelope of the parabolas
    that these give (Meijster et al. 2000, A general algorithm for computing distance transforms in linear time).
    """
    from ...warp import launch as kernels
    from . import raster_kernels

    size, where = len(covered), kernels.device_of(covered)
    mask = covered.to(torch.uint8).contiguous()
    row = torch.empty(size, size, dtype=torch.int16, device=covered.device)
    found = torch.empty(size, size, dtype=torch.int32, device=covered.device)
    array = kernels.array

    def columns(start: int, end: int) -> list:
        return [start, array(mask), array(row)]

    def rows(start: int, end: int) -> list:
        return [start, array(row), array(found)]

    kernels.run(raster_kernels.nearest_in_column, size, columns, where, chunk=_LINES)
    kernels.run(raster_kernels.nearest_in_plane, size, rows, where, chunk=_LINES)
    return found.reshape(-1)


_LINES = 64  # columns or rows of one launch on a CPU: a cache line of the mask
