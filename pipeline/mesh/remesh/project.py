"""Moving the vertices of a mesh onto another one."""

from __future__ import annotations

import torch

from ...errors import SettingsError
from ..mesh import Mesh
from ..query.crossing import crossing_by_kernels
from ..query.surface import Surface

_CHUNK = 1 << 21  # faces looked at together
_FAR = 1e6  # farther than anything: no limit


def project(mesh: Mesh, original: Mesh, limit: float = _FAR, floor: float | None = None, apart: bool = False) -> Mesh:
    """Move vertices towards the closest points of the original mesh, without turning a face by a right angle or more.

    Moves that would turn a face are halved until they do not, and undone after four times; those that would send one
    through another are undone, with `apart`.

    Args:
        limit: world units; vertices farther than this from the original stay.
        apart: whether faces are kept from going through others that they did not go through before; takes as long
            again.
        floor: height at or below which vertices stay, and below which none is moved; None: there is none.

    Returns:
        the mesh with float32 vertices.

    Raises:
        EmptyResultError: one of the meshes has no faces. SettingsError: a negative limit.
    """
    if not limit >= 0:
        raise SettingsError(f"The limit is {limit}; choose 0 or more.")
    mesh.require_faces()
    original.require_faces()
    faces, start = mesh.faces, mesh.vertices.float()
    used = faces.long().unique()
    hits = Surface(original.vertices, original.faces).closest(start[used], min(limit, _FAR))
    goal = hits.points(original.vertices.float(), original.faces)
    move = torch.zeros_like(start)
    move[used] = torch.where((hits.face >= 0)[:, None], goal - start[used], 0.0)
    if floor is not None:
        move[start[:, 2] <= floor] = 0
        move[:, 2] = torch.maximum(move[:, 2], (floor - start[:, 2]).clamp_max(0))
    return moved(start, move, faces, apart)


def moved(start: torch.Tensor, move: torch.Tensor, faces: torch.Tensor, apart: bool) -> Mesh:
    """A mesh with its vertices moved as far as no face turns by a right angle or more, see project().

    start, move: [V, 3] float32. faces: [F, 3] int32. apart: as for project().
    """
    share = torch.ones(len(start), 1, device=start.device)
    asked = torch.ones(len(faces), dtype=torch.bool, device=faces.device)  # whose crossings are looked for
    changed = faces  # by the last round: no other face can have begun to turn
    while True:
        result = start + share * move
        held = _turned(result, start, changed) & (share[:, 0] > 0)
        if apart and not bool(held.any()):
            held[faces[crossing_by_kernels(result, faces, asked)].reshape(-1).long()] = True
            held &= share[:, 0] > 0
            share[held] = 0.0
            asked = held[faces.long()].any(1)  # nothing else changes, and so nothing else begins to cross
        elif apart:
            asked |= held[faces.long()].any(1)
        if not bool(held.any()):
            return Mesh.known(result, faces)
        share[held] = torch.where(share[held] > 1 / 12, share[held] / 2, 0.0)
        changed = faces[held[faces.long()].any(1)]


def _turned(result: torch.Tensor, start: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """[V] bool: vertices of faces that turn by a right angle or more."""
    held = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    for chunk in faces.split(_CHUNK):
        before = _normals(start, chunk)
        turned = ((_normals(result, chunk) * before).sum(1) <= 0) & (before != 0).any(1)
        held[chunk[turned].reshape(-1).long()] = True
    return held


def _normals(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """[F, 3] float64 normals, twice the area long."""
    a, b, c = (vertices[corner.long()].double() for corner in faces.unbind(1))
    return torch.linalg.cross(b - a, c - a)
