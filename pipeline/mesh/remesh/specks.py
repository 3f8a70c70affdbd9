"""What damage leaves of a body at its holes: specks and narrow tunnels."""

from __future__ import annotations

import torch

from ..topology.half_edges import components
from .lattice import Lattice
from .lattice_functions import INSIDE, OUTSIDE

_SMALL = 64  # lattice points of a speck at most: a cube of four
_RADIUS = 1  # lattice points from a cube's middle to its sides; tunnels as wide as it stay


def drop_specks(lattice: Lattice, near: torch.Tensor) -> None:
    """Write OUTSIDE for inside points of small groups that lie near holes altogether. near: [nodes] bool.

    The largest group of all stays.
    """
    inside = lattice.states != OUTSIDE
    small = _small_groups(lattice, inside & near, inside & ~near)
    if bool((inside & ~small).any()):
        lattice.states[small] = OUTSIDE


def _small_groups(lattice: Lattice, members: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """[nodes] bool: members of groups, joined along lattice edges, that are small and beside none of the others.

    Args:
        members, others: [nodes] bool.
    """
    nodes = members.nonzero().squeeze(1)
    row_of = torch.full((lattice.nodes,), -1, dtype=torch.int64, device=nodes.device)
    row_of[nodes] = torch.arange(len(nodes), device=nodes.device)
    xyz, rows = lattice.coordinates(nodes), torch.arange(len(nodes), device=nodes.device)
    attached = torch.zeros(len(nodes), dtype=torch.bool, device=nodes.device)
    pairs = []
    for axis in range(3):
        for way in (1, -1):
            beside = xyz.clone()
            beside[:, axis] += way
            node = lattice.look_up(beside)
            stored = node.clamp_min(0)
            attached |= (node >= 0) & others[stored]
            joined = (node >= 0) & members[stored]
            if way == 1:
                pairs.append(torch.stack([rows[joined], row_of[stored[joined]]], 1))
    one, other = torch.cat(pairs).unbind(1)
    group, count = components(one, other, len(nodes))
    size = torch.bincount(group, minlength=count)
    size[group[attached]] = _SMALL
    found = torch.zeros_like(members)
    found[nodes[size[group] < _SMALL]] = True
    return found


def fill_tunnels(lattice: Lattice, near: torch.Tensor) -> None:
    """Write INSIDE for outside points near holes that no cube of outside points holds: narrow tunnels and pits.

    What a hole's edge leaves of a wall is full of them. It is the morphological closing by that cube (Serra 1982), but
    adds points near holes alone. near: [nodes] bool.
    """
    inside = lattice.states != OUTSIDE
    wide = lattice.around(near.nonzero().squeeze(1), 2 * _RADIUS) > 0
    grown = lattice.around((inside & wide).nonzero().squeeze(1), _RADIUS) > 0
    roomy = lattice.around((wide & ~grown).nonzero().squeeze(1), _RADIUS) > 0
    lattice.states[near & ~inside & ~roomy] = INSIDE
