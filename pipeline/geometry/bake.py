"""Bake PBR voxels into textures of an unwrapped mesh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from ..errors import EmptyResultError
from ..sparse import Voxels


@dataclass(frozen=True)
class BakedMaps:
    """PBR attributes per texel: [S, S, 6] float32 in 0-1 (base colour RGB, metallic, roughness, alpha), row 0 at v = 0.

    covered marks texels that a triangle covers; the others hold their nearest covered texel's values.
    far counts covered texels without a voxel within one voxel of them; they take the nearest voxel's.
    """

    attrs: np.ndarray
    covered: np.ndarray  # [S, S] bool
    far: int


def bake_voxels(
    vertices: torch.Tensor,
    faces: torch.Tensor,
    uvs: torch.Tensor,
    voxels: Voxels,
    attrs: torch.Tensor,
    resolution: int,
    size: int,
    rasterise: Callable,
    trilinear: Callable,
) -> BakedMaps:
    """Texel -> point on the mesh -> trilinear look-up in the voxels -> margins filled with the nearest texel.

    Args:
        vertices: [V, 3] world frame; faces: [F, 3]; uvs: [V, 2], v downwards.
        voxels, attrs: PBR voxels [T] and their values [T, 6] in 0-1, on the mesh's device.
        resolution: voxels along a side of the world cube.
        size: texels along a side.
        rasterise, trilinear: the backends to use.

    Raises:
        EmptyResultError: no triangle covers the centre of a texel, so the maps would be blank.
    """
    face, weights = rasterise(uvs, faces, size)
    covered = face >= 0
    if not covered.any():
        raise EmptyResultError(f"No face covers a texel of a {size} x {size} texture. Ask for a larger one.")
    corners = vertices[faces.long()[face[covered]]]  # [N, 3, 3]
    points = ((corners * weights[covered][:, :, None]).sum(1) + 0.5) * resolution  # voxel units
    found = trilinear(attrs, voxels, points)
    values, coverage = found[:, :-1], found[:, -1]
    far = coverage <= 0
    if far.any():
        nearest = cKDTree(voxels.xyz.cpu().numpy() + 0.5).query(points[far].cpu().numpy(), workers=-1)[1]
        values[far] = attrs.to(values.dtype)[torch.from_numpy(nearest).to(values.device)]
    maps = np.zeros((size * size, attrs.shape[1]), np.float32)
    maps[covered.cpu().numpy()] = values.clamp(0, 1).float().cpu().numpy()
    maps, mask = maps.reshape(size, size, -1), covered.cpu().numpy().reshape(size, size)
    if not mask.all():
        rows, columns = distance_transform_edt(~mask, return_distances=False, return_indices=True)
        maps = maps[rows, columns]
    return BakedMaps(maps, mask, int(far.sum()))
