"""The holes of a surface: which are to be closed, and the lattice points near them with their winding numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..mesh import Mesh
from ..topology.half_edges import components
from ..topology.manifold import face_measures
from .lattice import Frame
from .winding_number import WindingField

# Area of the flattest lid of a boundary loop by the area of the component that it bounds, above which the component is
# an open sheet (a cup has 0.1 and more, a hole of a tenth of a ball's diameter 0.003) and not a body with a hole.
_RIM = 0.1
_SEED_REACH = 2  # cells round boundary edges in which winding numbers are looked at first
# Winding numbers between which a point is neither inside nor outside for sure. Wider: more points are asked and cut;
# narrower: the field's own error (0.03) and the noise of faces that are wound wrongly decide.
UNDECIDED = (0.25, 0.75)


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


@dataclass(frozen=True)
class Band:
    """The lattice points near holes."""

    frame: Frame  # with the bricks that it needs
    number: torch.Tensor  # [nodes] float32 winding number, nan where it was not asked for
    field: WindingField

    @property
    def asked(self) -> torch.Tensor:
        return ~self.number.isnan()

    @property
    def undecided(self) -> torch.Tensor:
        return (self.number > UNDECIDED[0]) & (self.number < UNDECIDED[1])


def find_band(mesh: Mesh, openings: Openings, frame: Frame) -> Band:
    """Ask for winding numbers round the holes, and farther as long as points are undecided.

    Away from holes the winding number only changes across faces, so that undecided points hang together with a hole's
    edge: where the search ends, points on either side of a lid are decided, and flooding may go on from them.
    """
    field = WindingField(frame.points, mesh.faces[~openings.open_faces])
    seeds = frame.along(torch.stack(mesh.edges.ends(openings.hole_edges), 1))
    front, reach = seeds.nonzero().squeeze(1), _SEED_REACH
    number = torch.full((frame.nodes,), torch.nan, device=seeds.device)
    while len(front):
        frame, marks = _around(frame, front, reach)
        number = torch.cat([number, number.new_full((frame.nodes - len(number),), torch.nan)])
        asked = ((marks > 0) & number.isnan()).nonzero().squeeze(1)
        found = field.at(frame.coordinates(asked).float())
        number[asked] = found
        front, reach = asked[(found > UNDECIDED[0]) & (found < UNDECIDED[1])], 1
    return Band(frame, number, field)


def _around(frame: Frame, nodes: torch.Tensor, reach: int) -> tuple[Frame, torch.Tensor]:
    """[nodes] uint8: the lattice points up to `reach` steps along each axis from given ones, in a frame that stores
    them all."""
    while True:
        missing = torch.zeros_like(frame.bricks, dtype=torch.uint8)
        marks = frame.around(nodes, reach, missing)
        new = missing.nonzero().squeeze(1)
        if len(new) == 0:
            return frame, marks
        bricks, first = frame.bricks.clone(), len(frame.places)
        bricks[new] = torch.arange(first, first + len(new), dtype=torch.int32, device=new.device)
        frame = replace(frame, bricks=bricks, places=torch.cat([frame.places, new.int()]))
