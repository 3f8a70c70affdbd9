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
from ..grid.dual_grid import dual_grid_tensors, dual_grid_to_mesh

_NAME = "o_voxel"
_CUBE = [[-0.5] * 3, [0.5] * 3]


def from_mesh_row() -> Backend:
    """On one core of the CPU, in fp32, wherever the mesh is."""
    return foreign.row(_NAME, _NAME, _load_from_mesh, dual_grid_tensors, ("cpu", "cuda"))


def to_mesh_row() -> Backend:
    return foreign.row(_NAME, _NAME, _load_to_mesh, dual_grid_to_mesh)


def _load_from_mesh() -> Callable:
    from o_voxel.convert import mesh_to_flexible_dual_grid  # type: ignore[import-not-found]

    def from_mesh(
        vertices: torch.Tensor,
        faces: torch.Tensor,
        resolution: int,
        face_weight: float = 1.0,
        boundary_weight: float = 0.2,
        regularisation: float = 0.01,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As dual_grid.dual_grid_tensors."""
        if len(faces) == 0:
            return dual_grid_tensors(vertices, faces, resolution)
        found = mesh_to_flexible_dual_grid(
            vertices.float().cpu().contiguous(),
            faces.int().cpu().contiguous(),
            grid_size=resolution,
            aabb=_CUBE,
            face_weight=face_weight,
            boundary_weight=boundary_weight,
            regularization_weight=regularisation,
        )
        coords, corners, crossed = (each.cpu() for each in found)
        order = np.lexsort(coords.numpy().T[::-1])  # the package's order is that of its hash table
        coords = coords[order].int()
        offsets = (corners[order].double() * resolution - coords).clamp(0, 1)  # in the cube's units before
        device = vertices.device
        return coords.to(device), offsets.float().to(device), crossed[order].bool().to(device)

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
