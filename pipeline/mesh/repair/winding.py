"""Winding of sheets that cannot be wound alike as a whole: each face to where it is seen from, or as others are."""

from __future__ import annotations

import torch

from ...warp import unavailable_reason
from ..query.sight import views_by_depth, views_by_rays
from ..topology.manifold import Topology

_ROUNDS = 64  # in which faces hear those beside them: so many faces far goes an opinion
_TRUST = 0.5  # what being seen from one side alone counts against what one face beside it says


def sides_seen(vertices: torch.Tensor, topology: Topology) -> torch.Tensor:
    """[F] bool faces of one-sided components to turn, so that they face the side from which they are seen.

    One misplaced face can make a whole surface one-sided, so "as they are" is no answer where faces come wound anyhow,
    as from a dual grid. Lines of sight from outside, in random directions (the same at every call), count for each face
    on which side they meet it first. Then each weighs that against the faces beside it, again and again: those that are
    not seen, or from both sides alike, follow the others. Components of which no more edges would be wound alike than
    before stay as they are.
    """
    turn = torch.zeros(len(topology.faces), dtype=torch.bool, device=vertices.device)
    asked = topology.one_sided[topology.component].nonzero().squeeze(1)
    if len(asked) == 0:
        return turn
    by_rays = topology.kernels or (vertices.is_cuda and not unavailable_reason())
    front, seen = (views_by_rays if by_rays else views_by_depth)(vertices, topology.faces, asked)
    weight = _TRUST * (front / (seen + 1)) ** 2
    beside, alike = _neighbours(topology, asked)
    said = _agreed(beside, alike, torch.where(front < 0, -1.0, 1.0), weight)
    side = torch.where(said < 0, -1.0, 1.0)
    gain = ((side[:, None] * side[beside] - 1) * alike).sum(1)  # of edges wound alike, each counted from both faces
    component = topology.component[asked]
    gains = gain.new_zeros(len(topology.one_sided)).index_add_(0, component, gain)
    turn[asked] = (side < 0) & (gains > 0)[component]
    return turn


def _neighbours(topology: Topology, asked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, 3] the faces across the edges of the N asked, as places among these, and 1 where they are wound alike, -1
    where against each other, 0 where there is none."""
    place = torch.zeros(len(topology.faces), dtype=torch.int64, device=asked.device)
    place[asked] = torch.arange(len(asked), device=asked.device)
    half = 3 * asked[:, None] + torch.arange(3, device=asked.device)
    twin, start = topology.twin[half].long(), topology.faces.reshape(-1)
    across = twin.clamp_min(0)
    alike = torch.where(start[half] == start[across], -1.0, 1.0) * (twin >= 0)
    return place[across // 3], alike


def _agreed(beside: torch.Tensor, alike: torch.Tensor, opinion: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[N] the opinions once every face has heard those beside it again and again."""
    total = (weight + alike.abs().sum(1)).clamp_min(1e-9)
    said = opinion
    for _ in range(_ROUNDS):
        said = (weight * opinion + (alike * said[beside]).sum(1)) / total
    return said
