"""Which components of a mesh bound cavities: by how many others they lie in, whether those have holes or not."""

from __future__ import annotations

import torch

from ...sums import sum_by
from ..mesh import Mesh
from ..query.winding_number import WindingField

_SAMPLES = 16  # faces of a component at which is asked how many others go round it
_OFF = 0.05  # sides of a face before it, where that is asked


def wound_by_nesting(mesh: Mesh, open_faces: torch.Tensor) -> torch.Tensor:
    """[F, 3] faces, components in an odd number of others wound inward, as they bound a cavity, the others outward.

    clean() winds closed components so by counting crossings; one with holes it winds outward wherever it lies, and does
    not count it as one that goes round others. Here winding numbers tell, which do not mind holes.

    Args:
        mesh: consistently oriented. open_faces: [F] bool, of open sheets: they stay as they are, and go round nothing.
    """
    label, count = mesh.sheets.label.long(), len(mesh.sheets.orientable)
    corners = mesh.vertices.double()[mesh.faces.long()]
    middle = corners.mean(1)
    size = torch.bincount(label, minlength=count)
    centre = sum_by(middle, label, count) / size[:, None]
    a, b, c = (corners - centre[label][:, None]).unbind(1)
    volume = sum_by((a * torch.linalg.cross(b, c)).sum(1), label, count)
    turned = (volume < 0)[label] & ~open_faces
    normal = torch.linalg.cross(b - a, c - a) * torch.where(turned, -1.0, 1.0)[:, None]
    length = normal.norm(dim=1, keepdim=True).clamp_min(1e-300)
    before = middle + _OFF * normal / length.sqrt()  # its own component does not go round that
    faces = torch.where(turned[:, None], mesh.faces.flip(1), mesh.faces)
    field = WindingField(mesh.vertices, faces[~open_faces])
    order = label.argsort(stable=True)
    first = size.cumsum(0) - size
    sample = order[first[:, None] + size[:, None] * torch.arange(_SAMPLES, device=label.device) // _SAMPLES]
    level = field.at(before[sample.reshape(-1)].float()).round().reshape(count, _SAMPLES)
    inner = (level % 2 == 1).float().mean(1) > 0.5
    return torch.where((inner[label] & ~open_faces)[:, None], faces.flip(1), faces)
