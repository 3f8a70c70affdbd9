"""Dual grids by o-voxel, the package of Microsoft's TRELLIS.2 (MIT).

Importing it imports CuMesh, FlexGEMM, nvdiffrast and OpenCV, too, and fails without one of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ... import foreign
from ...backends import Backend
from ...sparse import Voxels
from .dual_grid import DualGrid, dual_grid_to_mesh, empty_grid, mesh_to_dual_grid

_NAME = "o_voxel"
_CUBE = [[-0.5] * 3, [0.5] * 3]


def from_mesh_row() -> Backend:
    """On one core of the CPU, in fp32."""
    return foreign.row(_NAME, _NAME, _load_from_mesh, mesh_to_dual_grid, ("cpu",))


def to_mesh_row() -> Backend:
    return foreign.row(_NAME, _NAME, _load_to_mesh, dual_grid_to_mesh)


def _load_from_mesh() -> Callable:
    from o_voxel.convert import mesh_to_flexible_dual_grid  # type: ignore[import-not-found]

    def from_mesh(
        vertices: np.ndarray,
        faces: np.ndarray,
        resolution: int,
        face_weight: float = 1.0,
        boundary_weight: float = 0.2,
        regularisation: float = 0.01,
    ) -> DualGrid:
        """As dual_grid.mesh_to_dual_grid."""
        if len(faces) == 0:
            return empty_grid(resolution)
        found = mesh_to_flexible_dual_grid(
            torch.tensor(np.ascontiguousarray(vertices, np.float32)),
            torch.tensor(np.ascontiguousarray(faces, np.int32)),
            grid_size=resolution,
            aabb=_CUBE,
            face_weight=face_weight,
            boundary_weight=boundary_weight,
            regularization_weight=regularisation,
        )
        coords, corners, crossed = (each.cpu().numpy() for each in found)
        order = np.lexsort(coords.T[::-1])  # the package's order is that of its hash table
        coords = coords[order].astype(np.int32)
        offsets = (corners[order].astype(np.float64) * resolution - coords).clip(0, 1)  # in the cube's units before
        return DualGrid(coords, offsets.astype(np.float32), crossed[order].astype(bool), resolution)

    return from_mesh


def _load_to_mesh() -> Callable:
    from o_voxel.convert import flexible_dual_grid_to_mesh  # type: ignore[import-not-found]

    def to_mesh(
        voxels: Voxels,
        offsets: torch.Tensor,
        crossed: torch.Tensor,
        resolution: int,
        split: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As dual_grid.dual_grid_to_mesh."""
        # int64: the package multiplies the sides, to learn how large a voxel's number may become
        sides = torch.full((3,), resolution, dtype=torch.int64, device=voxels.device)
        with foreign.default_stream(voxels.device):
            grid = voxels.xyz.contiguous(), offsets.float(), crossed, split
            vertices, faces = flexible_dual_grid_to_mesh(*grid, aabb=_CUBE, grid_size=sides)
        return vertices, faces.int()

    return to_mesh
