"""What bounds a surface: holes that are to be closed, and the rims of open sheets."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..mesh import Mesh
from ..topology.half_edges import components
from ..topology.measures import face_measures

# Area of the flattest lid of a boundary loop by the area of the component that it bounds, above which the component is
# an open sheet (a cup has 0.1 and more, a hole of a tenth of a ball's diameter 0.003) and not a body with a hole.
_RIM = 0.1


@dataclass(frozen=True)
class Openings:
    """What bounds a mesh."""

    hole_edges: torch.Tensor  # [N] int64 half-edges on holes
    rim_edges: torch.Tensor  # [N] int64 half-edges on the rims of open sheets
    open_faces: torch.Tensor  # [F] bool, of open sheets, which enclose nothing
    open_area: float  # share of the mesh's area


def find_openings(mesh: Mesh) -> Openings:
    """Tell holes from rims.

    The area vector of a boundary loop (half the sum of p x q over its edges) is that of every lid on it, and minus that
    of the surface if nothing else bounds it. Its length is the area of the flattest lid however tangled the loop.

    Args:
        mesh: wound consistently.
    """
    border, sheets = mesh.edges.border(), mesh.sheets
    sheet, count = sheets.label.long(), len(sheets.orientable)
    area = face_measures(mesh.vertices, mesh.faces, sheet, count, mesh.edges.kernels)[0]
    start, end = mesh.edges.ends(border)
    number = torch.unique(torch.stack([start, end]), return_inverse=True)[1]
    vertex_loop, loops = components(number[0], number[1], int(number.max()) + 1 if len(border) else 0)
    loop = vertex_loop[number[0]].long()
    p, q = mesh.vertices.double()[start.long()], mesh.vertices.double()[end.long()]
    middle = p.new_zeros(loops, 3).index_add_(0, loop, p) / torch.bincount(loop, minlength=loops)[:, None]
    p, q = p - middle[loop], q - middle[loop]
    lid = p.new_zeros(loops, 3).index_add_(0, loop, torch.linalg.cross(p, q) / 2).norm(dim=1)
    owner = sheet[border // 3]
    bounded = area.new_zeros(loops).scatter_reduce_(0, loop, area[owner], "amax")
    rim = lid > _RIM * bounded
    opened = torch.zeros(count, dtype=torch.bool, device=border.device)
    largest = area[owner] >= bounded[loop]  # a scrap in the hole of a body does not make a sheet of it, nor the reverse
    opened[owner[rim[loop] & largest]] = True
    on_rim = opened[owner]
    share = float(area[opened].sum() / area.sum().clamp_min(1e-300))
    return Openings(border[~on_rim], border[on_rim], opened[sheet], share)
