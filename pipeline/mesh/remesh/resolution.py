"""How finely a mesh is looked at when its surface is made anew."""

from __future__ import annotations

import math

import torch

from ..mesh import Mesh
from ..topology.measures import face_measures

RESOLUTIONS = (8, 2048)  # cells along the longest side in which a mesh's outside can be sought
_FACES = 3  # of a surface of the area of one cell's side: it crosses 1.5 edges of the lattice, each with two faces


def own_resolution(mesh: Mesh) -> int:
    """Cells along the longest side of a mesh's box at which a surface made anew has about as many faces as the mesh: no
    more is in it, and cost grows with the square. For the raw mesh of a grid it is about the grid's."""
    longest = (mesh.vertices.amax(0) - mesh.vertices.amin(0)).max().item()
    all_of_it = torch.zeros(len(mesh.faces), dtype=torch.int64, device=mesh.faces.device)
    area = face_measures(mesh.vertices, mesh.faces, all_of_it, 1, mesh.edges.kernels)[0].item()
    if not longest > 0 or not area > 0:
        return RESOLUTIONS[0]
    return min(max(math.ceil(longest * math.sqrt(len(mesh.faces) / (_FACES * area))), RESOLUTIONS[0]), RESOLUTIONS[1])
