"""UV raster: which triangle covers the centre of each texel and where in it, and the covered texel nearest to each.

A texel (row r, column c) has its centre at u = (c + 0.5) / size, v = (r + 0.5) / size and the index r * size + c.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from ...errors import SettingsError
from ..checks import check_indices
from ..query.scan import barycentric, scan

MAX_SIZE = 16384  # pixels a side, which GPUs take as a texture at most


def rasterise(uvs: torch.Tensor, faces: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scan-convert triangles in UV space.

    Triangles that share an edge leave no texel between them and share none (see `scan`). What lies outside 0-1 is cut
    off at the texture's border. Faces without area in UV space, or with a corner that is not finite, cover nothing.
    Where faces overlap the last one wins.

    Args:
        uvs: [V, 2] in 0-1, v downwards. faces: [F, 3]. Either winding.
        size: texels along a side, 1 .. 16384.

    Returns:
        face [size * size] int64, -1 where nothing covers; barycentric weights [size * size, 3] fp32, 0-1, which sum
        to 1 where covered and are 0 elsewhere.

    Raises:
        MeshError: a face names a vertex that is not there.
        SettingsError: the size is out of range.
    """
    check_raster(uvs, faces, size)
    corners = uvs.double()[faces.long()] * size - 0.5  # texel centres at integers, [F, 3, 2]
    texel, owner = scan(corners, size)
    face = torch.full((size * size,), -1, dtype=torch.int64, device=uvs.device)
    face.scatter_reduce_(0, texel, owner, "amax")
    weights = torch.zeros(size * size, 3, device=uvs.device)
    winner = face[texel] == owner  # overlapping UVs: the weights must be those of the face that stayed
    texel, owner = texel[winner], owner[winner]
    centres = torch.stack([texel % size, texel // size], 1).double()
    weights[texel] = barycentric(corners[owner], centres).float()
    return face, weights


def check_raster(uvs: torch.Tensor, faces: torch.Tensor, size: int) -> None:
    """Raises SettingsError or MeshError for what no raster can take; see rasterise."""
    if not 1 <= size <= MAX_SIZE:
        raise SettingsError(f"A texture of {size} x {size} texels cannot be made; ask for 1 to {MAX_SIZE} a side.")
    check_indices(faces, len(uvs))


def nearest_covered(covered: torch.Tensor) -> torch.Tensor:
    """Index of the covered texel nearest to each texel.

    Args:
        covered: [S, S] bool, at least one of them True.

    Returns:
        [S * S] int32; its own index for a covered texel.
    """
    nearest = np.empty((2, *covered.shape), np.int32)
    distance_transform_edt(~covered.cpu().numpy(), return_distances=False, return_indices=True, indices=nearest)
    rows, columns = nearest
    return torch.from_numpy((rows * len(covered) + columns).reshape(-1)).to(covered.device)
