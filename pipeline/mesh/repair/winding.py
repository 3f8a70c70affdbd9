"""Winding of sheets that are non-orientable: each face to where it is seen from, or as others are."""

from __future__ import annotations

import torch

from ...sums import sum_by
from ..query.sight import views_by_depth, views_by_rays
from ..query.surface import Surface
from ..topology.half_edges import components
from ..topology.manifold import Topology
from ..topology.minimum_cut import source_side

_ROUNDS = 64  # in which faces hear those beside them: so many faces far goes an opinion
_GROUP = 64  # faces that are turned together, or about so many
_OFF = 1e-5  # of the mesh's size: how far off a face its own lines of sight begin
_TRUST = 0.5  # what being seen from one side alone counts against what one face beside it says


def sides_seen(vertices: torch.Tensor, topology: Topology, by_rays: bool) -> torch.Tensor:
    """[F] bool faces of non-orientable components to turn, so that they face the side from which they are seen.

    One misplaced face can make a whole surface non-orientable, so "as they are" is no answer where faces come oriented
    anyhow, as from a dual grid. Lines of sight from outside, in random directions (the same at every call), count for
    each face on which side they meet it first. Then each weighs that against the faces beside it, again and again:
    those that are not seen, or from both sides alike, follow the others. At last, by rays, large parts are turned
    over if lines of sight lead out from behind them. Components of which no more edges would be consistently oriented
    than before stay as they are.

    by_rays: lines of sight are Warp's rays, else depth buffers in torch.
    """
    turn = torch.zeros(len(topology.faces), dtype=torch.bool, device=vertices.device)
    asked = topology.non_orientable[topology.component].nonzero().squeeze(1)
    if len(asked) == 0:
        return turn
    front, seen = (views_by_rays if by_rays else views_by_depth)(vertices, topology.faces, asked)
    weight = _TRUST * (front / (seen + 1)) ** 2
    beside, alike = _neighbours(topology, asked)
    said = _agreed(beside, alike, torch.where(front < 0, -1.0, 1.0), weight)
    side = torch.where(said < 0, -1.0, 1.0)
    if by_rays:
        side = torch.where(_misled(vertices, topology.faces, asked, beside, alike, side), -side, side)
    # edges consistently oriented, each counted from both faces
    gain = ((side[:, None] * side[beside] - 1) * alike).sum(1)
    component = topology.component[asked]
    gains = sum_by(gain, component, len(topology.non_orientable))
    turn[asked] = (side < 0) & (gains > 0)[component]
    return turn


def _misled(
    vertices: torch.Tensor,
    faces: torch.Tensor,
    asked: torch.Tensor,
    beside: torch.Tensor,
    alike: torch.Tensor,
    side: torch.Tensor,
) -> torch.Tensor:
    """[N] bool: which of the faces asked, at the sides given, to turn over in large parts.

    Deep in a cup hardly a line of sight arrives from outside, but some lead out from there. The part to turn is that of
    the minimum cut: it costs one for every edge of its outline at which the faces agreed before, and one for every line
    of sight that leads out from the front of its faces rather than from behind. Faces side by side count together.
    """
    a, b, c = vertices.float()[faces[asked].long()].unbind(1)
    middle, normal = (a + b + c) / 3, torch.linalg.cross(b - a, c - a) * side[:, None]
    place = (middle / (_GROUP * normal.norm(dim=1).mean() / 2).sqrt().clamp_min(1e-30)).floor().long()
    face, column = (side[:, None] * side[beside] * alike > 0).nonzero().unbind(1)
    other = beside[face, column]
    together = (place[face] == place[other]).all(1)
    group, count = components(face[together], other[together], len(asked))
    group = group.long()
    random = torch.Generator().manual_seed(1)
    way = torch.nn.functional.normalize(torch.randn(len(asked), 3, generator=random), dim=1).to(normal)
    way = way * torch.where((way * normal).sum(1) < 0, -1.0, 1.0)[:, None]
    off = _OFF * (vertices.amax(0) - vertices.amin(0)).norm().float() * torch.nn.functional.normalize(normal, dim=1)
    surface = Surface(vertices, faces)
    ahead, behind = (surface.rays(middle + turn * off, turn * way).face < 0 for turn in (1, -1))
    lead = torch.zeros(count, dtype=torch.int64, device=way.device).index_add_(0, group, ahead.long() - behind.long())
    links = group[face[~together]], group[other[~together]]
    turn = source_side(*links, torch.ones_like(links[0]), (-lead).clamp_min(0), lead.clamp_min(0))
    return turn[group]


def _neighbours(topology: Topology, asked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, 3] the faces across the edges of the N asked, as places among these, and 1 where they are consistently
    oriented, -1 where against each other, 0 where there is none."""
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
