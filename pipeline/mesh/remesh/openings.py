"""What bounds a surface: holes that are to be closed, and the rims of open sheets."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...sums import sum_by
from ..mesh import Mesh
from ..topology.half_edges import components
from ..topology.measures import face_measures

# Area of the flattest lid of a boundary loop by the area of the component that it bounds, above which the component is
# an open sheet (a cup has 0.1 and more, a hole of a tenth of a ball's diameter 0.003) and not a body with a hole. Where
# more is missing in other places, more may be missing in one: the area of the component's other holes is added.
_RIM = 0.1
_ALIKE = 0.5  # most length of the sum of two loops' area vectors, by the longer's, for both to be ends of one gap
_GAP = 1.0  # width of such a gap at most, by the loop's radius
_FLAT = 0.95  # area of the flattest lid by that of its component, above which that is flat itself
_ROWS = 1024  # loops compared with all others at a time


@dataclass(frozen=True)
class Openings:
    """What bounds a mesh."""

    hole_edges: torch.Tensor  # [N] int64 half-edges on holes
    gaps: torch.Tensor  # [N] bool, those of hole_edges on a gap between two ends that face each other
    rim_edges: torch.Tensor  # [N] int64 half-edges on the rims of open sheets
    open_faces: torch.Tensor  # [F] bool, of open sheets, which enclose nothing
    open_area: float  # share of the mesh's area


def find_openings(mesh: Mesh) -> Openings:
    """Tell holes from rims.

    The area vector of a boundary loop (half the sum of p x q over its edges) is that of every lid on it, and minus that
    of the surface if nothing else bounds it. Its length is the area of the flattest lid however tangled the loop.

    Args:
        mesh: consistently oriented.
    """
    border, sheets = mesh.edges.border(), mesh.sheets
    sheet, count = sheets.label.long(), len(sheets.orientable)
    area = face_measures(mesh.vertices, mesh.faces, sheet, count, mesh.edges.kernels)[0]
    start, end = mesh.edges.ends(border)
    number = torch.unique(torch.stack([start, end]), return_inverse=True)[1]
    vertex_loop, loops = components(number[0], number[1], int(number.max()) + 1 if len(border) else 0)
    loop = vertex_loop[number[0]].long()
    p, q = mesh.vertices.double()[start.long()], mesh.vertices.double()[end.long()]
    middle = sum_by(p, loop, loops) / torch.bincount(loop, minlength=loops)[:, None]
    p, q = p - middle[loop], q - middle[loop]
    vector = sum_by(torch.linalg.cross(p, q) / 2, loop, loops)
    lid = vector.norm(dim=1)
    owner = sheet[border // 3]
    bounded = area.new_zeros(loops).scatter_reduce_(0, loop, area[owner], "amax")
    largest = area[owner] >= bounded[loop]  # a scrap in the hole of a body does not make a sheet of it, nor the reverse
    large = lid > _RIM * bounded
    mine = torch.zeros(loops, dtype=torch.int64, device=border.device)  # the component that a loop bounds
    mine[loop[largest]] = owner[largest]
    missing = sum_by(torch.where(large, 0.0, lid), mine, count)
    gap = _ends_of_gaps(middle, vector, mine, lid > _FLAT * bounded)
    rim = (lid > _RIM * bounded + missing[mine]) & ~gap
    opened = torch.zeros(count, dtype=torch.bool, device=border.device)
    opened[mine[rim]] = True
    on_rim = opened[owner]
    share = float(area[opened].sum() / area.sum().clamp_min(1e-300))
    return Openings(border[~on_rim], gap[loop[~on_rim]], border[on_rim], opened[sheet], share)


def _ends_of_gaps(
    middle: torch.Tensor, vector: torch.Tensor, component: torch.Tensor, flat: torch.Tensor
) -> torch.Tensor:
    """[L] bool: loops that another one faces across a gap that is narrower than they are: one body, cut in two.

    Where that has a hole through it, so has the cut, and the loops round that face away from each other.

    Args:
        middle, vector: [L, 3] of loops. component: [L] that they bound. flat: [L] bool, those of flat ones, that are
            no ends of a body.
    """
    length, count = vector.norm(dim=1), len(middle)
    pairs = [torch.zeros(0, 2, dtype=torch.int64, device=middle.device)]
    for first in range(0, count, _ROWS):
        rows = slice(first, first + _ROWS)
        longer = torch.maximum(length[rows, None], length[None])
        alike = (vector[rows, None] + vector[None]).norm(dim=2) <= _ALIKE * longer
        near = (middle[rows, None] - middle[None]).norm(dim=2) <= _GAP * (longer / torch.pi).sqrt()
        near &= ~(flat[rows, None] | flat[None])
        pairs.append((alike & near).nonzero() + middle.new_tensor([first, 0]).long())
    one, other = torch.cat(pairs).unbind(1)
    between = middle[other] - middle[one]
    ahead = -(between * vector[one]).sum(1)  # a loop's area vector points into what it bounds
    faces = ahead >= 0.5 * between.norm(dim=1) * length[one]
    parts = component[one] * (int(component.max()) + 1 if count else 1) + component[other]
    faces |= torch.isin(parts, parts[faces]) & (component[one] != component[other])
    found = torch.zeros(count, dtype=torch.bool, device=middle.device)
    found[one[faces & (one != other)]] = True
    return found
