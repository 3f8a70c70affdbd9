"""What every step asks of a mesh, in one place and in the same words."""

from __future__ import annotations

import torch

from ..errors import EmptyResultError, MeshError
from ..words import counted


def check_mesh(vertices: torch.Tensor, faces: torch.Tensor, some_faces: bool = False) -> None:
    """Refuse what is no triangle mesh.

    Args:
        some_faces: a mesh without faces is refused, too.

    Raises:
        MeshError: vertices are not [V, 3] finite floats, or faces not [F, 3] integers within 0 .. V - 1.
        EmptyResultError: no faces, where some are needed.
    """
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not vertices.is_floating_point():
        raise MeshError(f"Vertices are {_kind(vertices)}; expected [V, 3] of a float type.")
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype not in (torch.int32, torch.int64):
        raise MeshError(f"Faces are {_kind(faces)}; expected [F, 3] int32 or int64: triangulate the mesh.")
    finite = vertices.isfinite().all(1)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        raise MeshError(
            f"{bad:,} of {counted(len(vertices), 'vertex', 'vertices')} {'is' if bad == 1 else 'are'} NaN or infinite, "
            f"the first is number {int((~finite).int().argmax())}; expected finite coordinates. Look "
            "at the step that made the mesh."
        )
    check_indices(faces, len(vertices))
    if some_faces and len(faces) == 0:
        raise EmptyResultError("The mesh has no faces, so there is no surface to work on. Look at the step before.")


def check_indices(faces: torch.Tensor, count: int) -> None:
    """Raises MeshError unless every index of faces [F, 3] is one of `count` vertices."""
    if len(faces) == 0:
        return
    lowest, highest = torch.stack(torch.aminmax(faces)).tolist()  # one wait for the device
    if lowest < 0 or highest >= count:
        raise MeshError(
            f"Faces name vertices {lowest} to {highest}, but the mesh has {count:,}; expected 0 to {count - 1}. "
            "Are its vertices and faces of the same mesh, and counted from 0?"
        )


def _kind(tensor: torch.Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
