"""The voxel resolution at which a mesh is remeshed."""

from __future__ import annotations

import math

import torch

from ..mesh import Mesh
from ..topology.measures import face_measures

RESOLUTIONS = (8, 2048)  # allowed cells along the longest side
_FACES = 3  # of a surface of the area of one cell's side: it crosses 1.5 edges of the lattice, each with two faces


def own_resolution(mesh: Mesh) -> int:
    """Cells along the longest side of a mesh's box at which a surface made anew has about as many faces as the mesh: no
    more is in it, and cost grows with the square. For the raw mesh of a grid it is about the grid's."""
    one = _in_one_cell(mesh)
    if not one > 0:
        return RESOLUTIONS[0]
    return min(max(math.ceil(math.sqrt(len(mesh.faces) / one)), RESOLUTIONS[0]), RESOLUTIONS[1])


def faces_in(mesh: Mesh, cells: int) -> float:
    """Estimate of the faces of a mesh remeshed at a number of cells along its longest side."""
    return _in_one_cell(mesh) * cells**2


def _in_one_cell(mesh: Mesh) -> float:
    """faces_in of one cell, the number that grows with the square; 0 for a mesh without size."""
    longest = (mesh.vertices.amax(0) - mesh.vertices.amin(0)).max().item()
    all_of_it = torch.zeros(len(mesh.faces), dtype=torch.int64, device=mesh.faces.device)
    area = face_measures(mesh.vertices, mesh.faces, all_of_it, 1, mesh.edges.kernels)[0].item()
    return _FACES * area / longest**2 if longest > 0 else 0.0
