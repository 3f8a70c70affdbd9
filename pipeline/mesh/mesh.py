"""A triangle mesh as a value: checked once, when it is made; what follows from it is found once, when asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch

from ..errors import EmptyResultError
from .checks import check_mesh
from .report import MeshReport, measure
from .topology.half_edges import HalfEdges, Sheets
from .topology.measures import unit_normals

_FOUND = ("edges", "sheets", "face_normals")  # what is found when it is asked for, and takes more memory than the faces
_Kind = TypeVar("_Kind", bound="Mesh")


@dataclass(frozen=True, eq=False)
class Mesh:
    """vertices: [V, 3] finite floats, world units. faces: [F, 3] int32 or int64, wound anticlockwise as seen from
    outside. May be empty.

    kernels: how topology is found: True by Warp's kernels, False in torch, None as suits the device.

    Raises:
        MeshError: see check_mesh.
    """

    vertices: torch.Tensor
    faces: torch.Tensor
    kernels: bool | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_mesh(self.vertices, self.faces)

    @classmethod
    def known(cls: type[_Kind], vertices: torch.Tensor, faces: torch.Tensor, **more) -> _Kind:
        """A mesh that one of our own steps made of a good one, and which is not checked again.

        more: other fields, and `edges` if the step knows them.
        """
        mesh = object.__new__(cls)
        mesh.__dict__.update(vertices=vertices, faces=faces, **{"kernels": None, **more})
        return mesh

    def __getstate__(self) -> dict:
        """What pickle takes: not what can be found again, which is larger than the mesh; its report is small."""
        return {name: value for name, value in self.__dict__.items() if name not in _FOUND}

    def to(self, device: torch.device | str) -> Mesh:
        """On a device; itself where it is there already."""
        if self.vertices.device == torch.device(device):
            return self
        return Mesh.known(self.vertices.to(device), self.faces.to(device))

    @cached_property
    def edges(self) -> HalfEdges:
        return HalfEdges.of(self.faces, self.kernels)

    @cached_property
    def sheets(self) -> Sheets:
        """Faces joined across edges of two faces."""
        return Sheets.of(self.edges)

    @cached_property
    def report(self) -> MeshReport:
        return measure(self.vertices, self.edges, self.sheets)

    @cached_property
    def face_normals(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Normals and areas of the faces, see unit_normals."""
        return unit_normals(self.vertices, self.faces)

    def without_topology(self: _Kind) -> _Kind:
        """The same mesh with its report, but not what that was found from, which takes more memory than the faces."""
        kept = self.__getstate__()
        return type(self).known(**{**kept, "report": self.report})

    def require_faces(self) -> None:
        """Raises EmptyResultError if there are none."""
        if len(self.faces) == 0:
            raise EmptyResultError("The mesh has no faces, so there is no surface to work on. Look at the step before.")
