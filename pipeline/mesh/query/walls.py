"""How thick the walls of a mesh are: by rays inward from its faces, by Warp's tree and in plain torch."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..mesh import Mesh
from .cells import FaceCells
from .surface import Surface

_RAY_BIAS = 1e-5  # of the diagonal, by which a ray starts inside, clear of its own face
_FirstHits = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def wall_thickness(mesh: Mesh, faces: torch.Tensor) -> torch.Tensor:
    """The reference implementation: the distance from the middles of faces, along their normals inward, to the inside
    of another face.

    Args:
        faces: [N] int64, those that are asked, each with an area.

    Returns:
        [N] float32 in units of the mesh; inf where a ray meets nothing, or the outside of a face: it left the body
        where that is open or crosses itself.
    """
    cells = FaceCells(mesh.vertices.double()[mesh.faces.long()])
    return _thickness(mesh, faces, cells.first_hits)


def wall_thickness_by_kernels(mesh: Mesh, faces: torch.Tensor) -> torch.Tensor:
    """wall_thickness, by Warp's tree of the faces."""
    surface = Surface(mesh.vertices, mesh.faces)

    def first_hits(origins: torch.Tensor, directions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hits = surface.rays(origins, directions)
        return hits.face, hits.distance.double()

    return _thickness(mesh, faces, first_hits)


def _thickness(mesh: Mesh, faces: torch.Tensor, first_hits: _FirstHits) -> torch.Tensor:
    normals, _ = mesh.face_normals
    middles = mesh.vertices.double()[mesh.faces[faces].long()].mean(1)
    bias = _RAY_BIAS * float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm())
    inward = -normals[faces]
    face, distance = first_hits(middles + bias * inward, inward)
    within = (face >= 0) & ((normals[face.clamp_min(0)] * inward).sum(1) > 0)
    return torch.where(within, distance + bias, torch.inf).float()
