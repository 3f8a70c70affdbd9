"""Undecided lattice points parted into inside and outside by a minimum cut."""

from __future__ import annotations

import torch

from ...warp.launch import launch_parallel
from ..topology.minimum_cut import source_side
from . import band_kernels
from .lattice import Lattice
from .lattice_functions import INSIDE, OUTSIDE

_UNIT = 1000  # capacity of a lattice edge: cutting it costs the area of a cell's side, as integers
# Of a point behind a face that is not inside, and of one before it that is not outside (the flux of the surface's
# normals through the boundary, Kolmogorov & Boykov 2005): as much as a lid there would cost.
_FACING = 1000
# Of a point that is cut to the wrong side of winding number 0.5, times how far off it is: a cell's side for a point on
# the surface of an unharmed body.
_TRUST = 500
_DEPTH = 3  # cells round a point whose faces contradict its winding number in which the cut decides


def part_by_cut(lattice: Lattice, number: torch.Tensor, undecided: torch.Tensor) -> None:
    """Write INSIDE or OUTSIDE for undecided lattice points into the lattice's states.

    The cut of least cost, by maximum flow (Boykov & Kolmogorov 2003 for surfaces): lattice edges cut cost their area
    where no face crosses them, nothing where one does that faces the outside; points cost what is against their
    winding number, and against the faces on their edges. So lids are small, and the boundary keeps to the surface where
    there is one.

    Args:
        lattice: with the states of all points but the undecided. number: [nodes] float32 winding numbers.
        undecided: [nodes] bool.
    """
    nodes = undecided.nonzero().squeeze(1)
    count, states = len(nodes), lattice.states
    if count == 0:
        return
    row_of = torch.full(states.shape, -1, dtype=torch.int32, device=states.device)
    row_of[nodes] = torch.arange(count, dtype=torch.int32, device=states.device)
    beside = torch.empty(count, 6, dtype=torch.int64, device=states.device)
    launch_parallel(band_kernels.neighbours, count, lattice.grid, nodes, beside)
    outgoing, incoming, facing = _capacities(lattice, nodes, beside)
    stored = beside.clamp_min(0)
    other = torch.where(beside >= 0, row_of[stored], -1)  # [N, 6]
    known = torch.where(beside >= 0, states[stored], lattice.empty[(-1 - beside).clamp_min(0)])
    inner, outer = (other < 0) & (known == INSIDE), (other < 0) & (known != INSIDE)
    pull = ((number[nodes] - 0.5) * _TRUST).round().int() + facing
    source = (incoming * inner).sum(1) + pull.clamp_min(0)
    sink = (outgoing * outer).sum(1) + (-pull).clamp_min(0)
    mine, way = (other >= 0).nonzero().unbind(1)
    links = mine, other[mine, way].long(), outgoing[mine, way]
    inside = source_side(*links, source, sink)
    states[nodes] = torch.where(inside, INSIDE, OUTSIDE).to(torch.uint8)


def contradicted(lattice: Lattice, number: torch.Tensor, outer: torch.Tensor, bodies: torch.Tensor) -> torch.Tensor:
    """[nodes] bool: points near faces behind which winding numbers see the outside: there a lid dips under what is left
    of the surface that it replaces.

    Args:
        number: [nodes] float32 winding numbers, nan where they were not asked for. outer: [nodes] bool, those of the
            outside. bodies: [F] bool, faces that have an inside behind them.
    """
    rows = bodies[lattice.face.long()].nonzero().squeeze(1)
    low, axis = lattice.crossed[rows] // 3, lattice.crossed[rows] % 3
    near = outer[low]
    step = torch.nn.functional.one_hot(axis, 3).int()
    high = lattice.look_up(lattice.coordinates(low) + step)
    near |= (high >= 0) & outer[high.clamp_min(0)]
    rows, low, high, axis = rows[near], low[near], high[near], axis[near]
    up = _facing(lattice, rows, axis) > 0
    behind, before = torch.where(up, low, high), torch.where(up, high, low)
    found, front = (torch.zeros_like(outer) for _ in range(2))
    found[behind[behind >= 0]] = True
    front[before[before >= 0]] = True
    found &= outer & ~front
    if bool(found.any()):
        found = (lattice.around(found.nonzero().squeeze(1), _DEPTH) > 0) & ~number.isnan()
    return found


def _facing(lattice: Lattice, rows: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    """[N] how far normals of the faces of crossings look along the axes of the edges that they cross."""
    corner = lattice.points[lattice.faces[lattice.face[rows].long()].long()]
    normal = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    return normal.gather(1, axis[:, None]).squeeze(1)


def _capacities(
    lattice: Lattice, nodes: torch.Tensor, beside: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[N, 6] int32 twice: cost of cutting each lattice edge with the point inside, and with its neighbour inside. [N]
    int32: by how much faces on its edges want the point inside."""
    at = torch.stack([nodes, nodes, nodes], 1)
    low = torch.stack([at, beside[:, 1::2]], 2).reshape(-1, 6)  # the lower end of each edge; +x -x +y -y +z -z
    edge = low * 3 + torch.arange(6, device=nodes.device) // 2
    wanted = edge.unique()
    place = torch.searchsorted(wanted, lattice.crossed).clamp_max(len(wanted) - 1)
    rows = (wanted[place] == lattice.crossed).nonzero().squeeze(1)
    facing = _facing(lattice, rows, lattice.crossed[rows] % 3)
    up, down = (torch.zeros(len(wanted), dtype=torch.bool, device=nodes.device) for _ in range(2))
    up[place[rows[facing > 0]]] = True
    down[place[rows[facing < 0]]] = True
    place = torch.searchsorted(wanted, edge)
    up, down = up[place], down[place]
    # an edge crossed both ways runs through two sheets, and its ends are on the same side of both
    rises, falls = up & ~down, down & ~up
    rising = torch.where(rises, 0, _UNIT)  # the lower end inside
    falling = torch.where(falls, 0, _UNIT)
    upward = torch.arange(6, device=nodes.device) % 2 == 0  # the point is the lower end
    behind = torch.where(upward, rises, falls).int() - torch.where(upward, falls, rises).int()
    outgoing, incoming = torch.where(upward, rising, falling), torch.where(upward, falling, rising)
    return outgoing.int(), incoming.int(), _FACING * behind.sum(1, dtype=torch.int32)
