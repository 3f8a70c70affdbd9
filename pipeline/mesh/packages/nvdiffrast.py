"""The UV raster by nvdiffrast (github.com/NVlabs/nvdiffrast), on CUDA.

Its licence allows research and evaluation only, no commercial use: whoever installs it has to know. Corners are rounded
to a sixteenth of a texel, so texels at the edge of a chart may differ from those of raster.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ... import foreign
from ...backends import Backend
from ..bake.raster import check_raster, rasterise

_MOST_FACES = 1 << 24  # that its depth test tells apart, and its buffers hold


def row(check: Callable[[Callable, torch.device], str]) -> Backend:
    """check: as for Backend."""
    return foreign.row("nvdiffrast", "nvdiffrast", _load, rasterise, check=check)


def _load() -> Callable:
    from nvdiffrast.torch import RasterizeCudaContext, rasterize  # type: ignore[import-not-found]

    def raster(uvs: torch.Tensor, faces: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As raster.rasterise, which takes over where there are too many faces."""
        check_raster(uvs, faces, size)
        if not 0 < len(faces) < _MOST_FACES:
            return rasterise(uvs, faces, size)
        context = RasterizeCudaContext(device=uvs.device)
        corners = torch.arange(3 * len(faces), dtype=torch.int32, device=uvs.device).reshape(-1, 3)
        found, _ = rasterize(context, _clip_space(uvs, faces)[None], corners, (size, size), grad_db=False)
        return _as_raster(found[0].reshape(size * size, 4))

    return raster


def _clip_space(uvs: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """[3 F, 4] float32: every face with corners of its own, the later the nearer; those with a corner that is not
    finite in one point."""
    corners = uvs.float()[faces.long()] * 2 - 1  # [F, 3, 2]
    corners = torch.where(corners.isfinite().all(2).all(1)[:, None, None], corners, 0.0)
    depth = 0.5 - torch.arange(len(faces), device=uvs.device, dtype=torch.float64) / len(faces)
    depth = depth.float()[:, None, None].expand(-1, 3, 1)
    return torch.cat([corners, depth, torch.ones_like(depth)], 2).reshape(-1, 4)


def _as_raster(found: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[S * S, 4] (u, v, depth, one more than the face) -> what raster.rasterise returns."""
    face = found[:, 3].long() - 1
    u, v = found[:, 0], found[:, 1]
    weights = torch.stack([u, v, 1 - u - v], 1).clamp_min(0)
    return face, weights * (face >= 0)[:, None]
