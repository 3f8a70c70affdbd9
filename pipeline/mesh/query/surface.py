"""A triangle mesh made ready for queries: closest point and rays, on Warp's bounding volume tree."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_MANY = 1 << 16  # faces from which it pays to put them in order


@dataclass(frozen=True)
class Hits:
    """What each of N queries found: face [N] int64, -1 for nothing; barycentric weights [N, 3] float32 of the point on
    it; distance [N] float32 in world units, inf for nothing."""

    face: torch.Tensor
    weights: torch.Tensor
    distance: torch.Tensor

    def points(self, vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        """[N, 3] positions of the hits; vertices and faces of the mesh that was queried. Undefined where nothing."""
        return (vertices[faces.long()[self.face.clamp_min(0)]] * self.weights[:, :, None]).sum(1)


class Surface:
    """A mesh and its bounding volume tree on the mesh's device (CPU or CUDA).

    Args:
        vertices: [V, 3] finite. faces: [F, 3], at least one; those of no area are harmless.
    """

    def __init__(self, vertices: torch.Tensor, faces: torch.Tensor) -> None:
        from ...warp import launch
        from . import query_kernels

        self._launch, self._kernels, self._device = launch, query_kernels, vertices.device
        self._order = None
        if (
            vertices.device.type == "cpu" and len(faces) > _MANY
        ):  # faces in any order cost a CPU three times as long a build
            self._order = along_a_curve(vertices[faces[:, 0].long()])
            faces = faces[self._order]
        self._mesh = launch.face_tree(vertices.float().contiguous(), faces.to(torch.int32).contiguous())

    def closest(self, points: torch.Tensor, limit: float = 1e6) -> Hits:
        """The nearest point of the surface within `limit` world units of each point [N, 3]."""
        order = along_a_curve(points)
        hits = self._query(self._kernels.closest_point, points[order], limit=limit)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        return Hits(hits.face[back], hits.weights[back], hits.distance[back])

    def rays(self, origins: torch.Tensor, directions: torch.Tensor, limit: float = 1e6) -> Hits:
        """The first face that each ray meets, from either side. directions: [N, 3] of length 1."""
        return self._query(self._kernels.cast_ray, origins, directions, limit=limit)

    def _query(self, kernel, *rows: torch.Tensor, limit: float) -> Hits:
        count, device = len(rows[0]), rows[0].device
        if strange := next((each.device for each in rows if each.device != self._device), None):
            # a kernel would read memory that is not its device's, and CUDA be lost to the process
            raise ValueError(f"Points are on {strange}, the surface is on {self._device}. Move them there first.")
        given = [each.float().contiguous() for each in rows]
        face = torch.empty(count, dtype=torch.int32, device=device)
        weights, distance = torch.empty(count, 3, device=device), torch.empty(count, device=device)
        self._launch.launch_parallel(kernel, count, self._mesh.id, *given, limit, face, weights, distance)
        return Hits(self._named(face).long(), weights, distance)

    def _named(self, face: torch.Tensor) -> torch.Tensor:
        """Faces as kernels number them (-1 for none) -> rows of the given faces."""
        return face if self._order is None else torch.where(face < 0, -1, self._order[face.clamp_min(0)]).to(face.dtype)


def along_a_curve(points: torch.Tensor) -> torch.Tensor:
    """Order of points along a Morton curve through 1024^3 cells: neighbours walk the same branches of the tree, which
    makes queries 2-3 times faster."""
    if len(points) == 0:
        return torch.zeros(0, dtype=torch.int64, device=points.device)
    from ...warp import launch
    from . import query_kernels

    points = points.float().contiguous()
    low, high = points.amin(0), points.amax(0)
    scale = 1023 / (high - low).amax().clamp_min(1e-30)
    code = torch.empty(len(points), dtype=torch.int32, device=points.device)
    launch.launch_parallel(query_kernels.place_on_curve, len(points), points, low, scale[None], code)
    return code.argsort()
