"""What a bake asks for: the source mesh, usually the raw one, queried in blocks between which a callback can interrupt;
the voxel nearest to a point."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...mesh import CLOSEST, NEAREST_VOXEL
from ...mesh import Mesh as TriangleMesh
from ...mesh.bake.bake import LIMIT, SourceMesh
from ...runtime import Runtime
from ..types import Mesh

_POINTS = 1 << 18  # of a block; on a CPU the rays of all texels of a large texture take minutes


def source_mesh(
    runtime: Runtime, mesh: Mesh, device: torch.device, tick: Callable[[], None]
) -> InterruptibleSource | None:
    """A mesh ready to bake from, or None where nothing can look for closest points."""
    if runtime.backends.reason(CLOSEST, device):
        return None
    return InterruptibleSource(runtime.backends.pick(CLOSEST, device)(mesh.surface(device)), tick)


class InterruptibleSource(SourceMesh):
    """A source mesh with a tick that is called before every block of its queries."""

    def __init__(self, source: SourceMesh, tick: Callable[[], None]) -> None:
        vars(self).update(vars(source))  # its tree of faces, which is expensive to make
        self._tick = tick

    def closest_point(
        self, points: torch.Tensor, limit: float = LIMIT
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        parts = []
        for block in points.split(_POINTS):
            self._tick()
            parts.append(super().closest_point(block, limit))
        place, face, weights = (torch.cat(column) for column in zip(*parts))
        return place, face, weights

    def open_share(
        self, points: torch.Tensor, normals: torch.Tensor, rays: int, limit: float, seed: int
    ) -> torch.Tensor:
        """Each block has a seed of its own, as random offsets count from its first point."""
        parts = []
        for number, (at, pole) in enumerate(zip(points.split(_POINTS), normals.split(_POINTS))):
            self._tick()
            parts.append(super().open_share(at, pole, rays, limit, seed + number))
        return torch.cat(parts)


def surface_by_row(runtime: Runtime, device: torch.device) -> Callable[[TriangleMesh], SourceMesh]:
    """Makes a mesh on a device ready for nearest points and rays, by the row for CLOSEST, which is looked for then."""
    return lambda mesh: runtime.backends.pick(CLOSEST, device)(mesh)


def nearest_voxel_by_row(
    runtime: Runtime, device: torch.device
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """nearest_voxel by the row for it, which is looked for, and recorded, when a point has no voxel near it."""
    return lambda points, xyz: runtime.backends.pick(NEAREST_VOXEL, device)(points, xyz)
