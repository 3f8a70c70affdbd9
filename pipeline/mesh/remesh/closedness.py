"""Whether a mesh with holes is meant to be closed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...sums import running_sums
from ..mesh import Mesh
from ..topology.columns import chunks
from .openings import find_openings

_SAMPLES = 2000  # faces, on either side of which winding numbers are looked at; 0.01 of them is within chance
_OFF = 0.3  # sides of a mean face: how far off the faces
_OPEN_AREA = 0.02  # most share of the area that open sheets may have
_AGREEMENT = 0.9  # least share of the faces that must have an inside behind and an outside before them


@dataclass(frozen=True)
class Closedness:
    """What speaks for closing a mesh: the share of its area in open sheets, and the share of its faces that part an
    inside from an outside by their winding numbers."""

    open_area: float
    agreement: float

    @property
    def closed(self) -> bool:
        return self.open_area <= _OPEN_AREA and self.agreement >= _AGREEMENT

    def __str__(self) -> str:
        return f"open sheets have {self.open_area:.1%} of the area, {self.agreement:.1%} of the faces go round a body"


def closedness(mesh: Mesh, winding_numbers: Callable) -> Closedness:
    """Args: mesh: clean, with faces. winding_numbers: (vertices, faces, points) -> [N], a row of the backend table."""
    vertices = mesh.vertices.double()
    area = running_sums(
        torch.cat([_doubled(vertices, mesh.faces[chunk])[1].norm(dim=1) for chunk in chunks(mesh.faces)])
    )
    share = (torch.arange(_SAMPLES, dtype=torch.float64, device=area.device) + 0.5) / _SAMPLES
    some = torch.searchsorted(area, share * area[-1]).clamp_max(len(area) - 1)
    middle, normal = _doubled(vertices, mesh.faces[some])
    off = torch.nn.functional.normalize(normal, dim=1) * (_OFF * (area[-1] / len(area)).sqrt())
    del vertices, area
    before, behind = winding_numbers(mesh.vertices, mesh.faces, torch.cat([middle + off, middle - off])).chunk(2)
    # before an inner shell, which goes when the mesh is made solid, lies an inside, too
    agree = (behind > 0.5) & ((before < 0.5) | (before > 0.75))
    return Closedness(find_openings(mesh).open_area, float(agree.float().mean()))


def _doubled(vertices: torch.Tensor, faces: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, 3] middles and [N, 3] normals, twice the area long, of faces [N, 3]."""
    a, b, c = vertices[faces.long()].unbind(1)
    return (a + b + c) / 3, torch.linalg.cross(b - a, c - a)
