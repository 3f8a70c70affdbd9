"""The lattice points near holes, with their winding numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..query.winding_number import WindingField
from .lattice import Frame, marked_bricks, touched_cells

_SEED_STEPS = 2  # cells round boundary edges in which winding numbers are looked at first
# Winding numbers between which a point is neither inside nor outside for sure. Wider: more points are asked and cut;
# narrower: the field's own error (0.03) and the noise of inconsistently oriented faces decide.
UNDECIDED = (0.25, 0.75)
_EDGE = 12.0  # cells from the outermost bricks' outer sides that stay empty


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


def find_band(
    frame: Frame, bodies: torch.Tensor, points: torch.Tensor, lids: torch.Tensor, holes: torch.Tensor
) -> Band:
    """Ask for winding numbers round the holes and their lids, and farther as long as points are undecided.

    Away from holes the winding number only changes across faces, so that undecided points are connected to a hole's
    edge: where the search ends, points on either side of a lid are decided, and flooding may go on from them.

    Args:
        bodies: [F, 3] int32 faces but for those of open sheets. points: in cells, the frame's and those of lids behind.
        lids: [Q, 3] int32. holes: [N, 2] ends of the holes' edges.
    """
    box = points.new_tensor(frame.size) * 8
    points = torch.minimum(points.clamp_min(_EDGE), box - _EDGE)  # lids may bulge
    field = WindingField(points, torch.cat([bodies, lids]))
    frame = frame.storing((marked_bricks(points, lids, frame.size, 1) > 0) & (frame.bricks < 0))
    seeds = frame.along(holes) | touched_cells(frame, points, lids)
    front, steps = seeds.nonzero().squeeze(1), _SEED_STEPS
    number = torch.full((frame.nodes,), torch.nan, device=seeds.device)
    while len(front):
        frame, marks = _around(frame, front, steps)
        number = torch.cat([number, number.new_full((frame.nodes - len(number),), torch.nan)])
        asked = ((marks > 0) & number.isnan()).nonzero().squeeze(1)
        found = field.at(frame.coordinates(asked).float())
        number[asked] = found
        front, steps = asked[(found > UNDECIDED[0]) & (found < UNDECIDED[1])], 1
    return Band(frame, number, field)


def _around(frame: Frame, nodes: torch.Tensor, steps: int) -> tuple[Frame, torch.Tensor]:
    """[nodes] uint8: the lattice points up to `steps` away along each axis from given ones, in a frame that stores
    them all."""
    while True:
        missing = torch.zeros_like(frame.bricks, dtype=torch.uint8)
        marks = frame.around(nodes, steps, missing)
        if not bool(missing.any()):
            return frame, marks
        frame = frame.storing(missing > 0)
