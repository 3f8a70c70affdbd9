"""Simplifying by CuMesh (github.com/JeffreyXiang/CuMesh, MIT), the package that Microsoft's code uses, on CUDA."""

from __future__ import annotations

from collections.abc import Callable

from ... import foreign
from ...backends import Backend
from ...errors import SettingsError
from ..mesh import Mesh
from ..simplify.bounded import ErrorBound, by_halves
from ..simplify.flaps import without_flaps

# The package's own schedule: edges go whose cost is below a threshold, which grows where a round has little to take.
# The costs are squared distances plus a part of squared edge lengths, so they are for a mesh of one unit.
_THRESHOLD = 1e-8  # of the first round
_GROWTH = 10.0  # of the threshold from a round to the next
_LITTLE = 0.01  # share of the faces; where a round takes fewer, the threshold grows
_LARGEST = 1.0  # a threshold beyond which a mesh of one unit has nothing left that may go
_LENGTH = 1e-2  # weight of an edge's squared length
_SKINNY = 1e-3  # weight of thin triangles


def row(reference: Callable) -> Backend:
    """reference: the row whose signature this one has."""
    return foreign.row("cumesh", "cumesh", _load, reference)


def _load() -> Callable:
    from cumesh import CuMesh  # type: ignore[import-not-found]

    def simplify(mesh: Mesh, target_faces: int, tick: Callable[[], None], bound: ErrorBound | None = None) -> Mesh:
        """Edge collapse by quadrics to about target_faces faces, as simplify.collapse.collapse, on the mesh's device.

        bound: the package knows none; see by_halves.
        """
        if target_faces < 1:
            raise SettingsError(f"The target is {target_faces:,} faces; at least 1 is needed.")
        if target_faces >= len(mesh.faces):
            return mesh
        if bound is None:
            return _to_count(CuMesh(), mesh, target_faces, tick)
        return by_halves(mesh, target_faces, bound, lambda some, count: _to_count(CuMesh(), some, count, tick))

    return simplify


def _to_count(work, mesh: Mesh, target_faces: int, tick: Callable[[], None]) -> Mesh:
    """work: an empty CuMesh."""
    low, high = mesh.vertices.float().aminmax(dim=0)
    scale = float((high - low).amax()) or 1.0
    with foreign.default_stream(mesh.vertices.device):
        work.init(((mesh.vertices.float() - low) / scale).contiguous(), mesh.faces.int().contiguous())
        threshold, count = _THRESHOLD, len(mesh.faces)
        # its own loop (CuMesh.simplify) does not end where nothing more can go, and cannot be stopped
        while count > target_faces and threshold <= _LARGEST:
            tick()
            _, left = work.cu_mesh.simplify_step(_LENGTH, _SKINNY, threshold, False)
            if count - left < _LITTLE * count:
                threshold *= _GROWTH
            count = left
        vertices, faces = work.read()
        vertices = vertices * scale + low
    return Mesh(vertices, without_flaps(faces, mesh.kernels), kernels=mesh.kernels)
