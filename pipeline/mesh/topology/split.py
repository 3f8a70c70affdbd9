"""Making every vertex and edge manifold without opening the mesh: vertices are copied, edges divided in the middle."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .half_edges import components, next_half_edge, previous_half_edge
from .manifold import Topology

_ROUNDS = 64  # longest walk round a vertex before the slow way


@dataclass(frozen=True)
class Split:
    """A mesh whose every edge and vertex is manifold, and what that took."""

    vertices: torch.Tensor  # [V', 3], the copies and the midpoints behind
    faces: torch.Tensor  # [F', 3] int32, halves of divided faces behind
    copies: int  # vertices added as copies of others
    midpoints: int  # vertices added in the middle of edges


def split_non_manifold(vertices: torch.Tensor, topology: Topology) -> Split:
    """Give every fan of faces round a vertex, joined by twins, a vertex of its own, and every pair of faces its own
    edge: where both ends of two pairs are still the same vertices, one pair is divided at the edge's midpoint, so that
    nothing is opened."""
    faces, copied = _split_fans(topology, len(vertices))
    vertices = torch.cat([vertices, vertices[copied]])
    half, middle, ends = _surplus(faces, topology)
    between = vertices[ends].double().mean(1).to(vertices.dtype)
    faces = _divided(faces, half, len(vertices) + middle)
    return Split(torch.cat([vertices, between]), faces, len(copied), len(ends))


def _split_fans(topology: Topology, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Faces [F, 3] int32 with new vertices for all fans of a vertex but the first, and [N] int64 the vertex that each
    new one copies."""
    start, twin = topology.faces.reshape(-1), topology.twin
    several = _may_have_several_fans(start, twin, count, topology.kernels)
    corner = several.index_select(0, start).nonzero().squeeze(1)
    if len(corner) == 0:
        return topology.faces, corner
    number = torch.zeros_like(start)
    number[corner] = torch.arange(len(corner), dtype=number.dtype, device=number.device)
    links = []
    for half in (corner, previous_half_edge(corner)):  # the corner's two edges
        at = (twin[half] >= 0).nonzero().squeeze(1)
        there = twin[half[at]].long()
        there = torch.where(
            start[there] == start[corner[at]], there, next_half_edge(there)
        )  # the corner at this vertex
        links.append(torch.stack([at, number[there].long()]))
    one, other = torch.cat(links, 1)
    fan, fans = components(one, other, len(corner))
    vertex = torch.empty(fans, dtype=torch.int64, device=start.device)
    vertex[fan] = start[corner].long()
    lowest = torch.full((count,), fans, device=start.device).scatter_reduce_(
        0, vertex, torch.arange(fans, device=start.device), "amin"
    )
    extra = lowest[vertex] != torch.arange(fans, device=start.device)
    new = torch.where(extra, count - 1 + extra.cumsum(0), vertex)
    start = start.clone()
    start[corner] = new[fan].int()
    return start.reshape(-1, 3), vertex[extra]


def _may_have_several_fans(start: torch.Tensor, twin: torch.Tensor, count: int, kernels: bool) -> torch.Tensor:
    """[V] bool: the faces round a vertex are not one closed fan, by walking round it from one corner; True also for
    vertices where that walk is not possible or too long."""
    if kernels:
        from ...warp import launch
        from .topology_kernels import mark_fans, one_corner

        corner = torch.zeros(count, dtype=torch.int32, device=start.device)
        launch.launch_parallel(one_corner, len(start), start, corner)
        several = torch.zeros(count, dtype=torch.bool, device=start.device)
        valence = torch.bincount(start, minlength=count)
        launch.launch_parallel(mark_fans, count, start, twin, corner, valence, several)
        return several
    odd = (
        ((twin < 0) | (start.index_select(0, twin.clamp_min(0)) == start)).nonzero().squeeze(1)
    )  # open or non-orientable
    several = torch.zeros(count, dtype=torch.bool, device=start.device)
    several[start[odd].long()] = True
    several[start[next_half_edge(odd)].long()] = True
    valence = torch.bincount(start, minlength=count).int()
    origin = torch.zeros(count, dtype=torch.int32, device=start.device)
    origin[start.long()] = torch.arange(len(start), dtype=torch.int32, device=start.device)  # any corner will do
    vertex = ((valence > 0) & ~several).nonzero().squeeze(1)
    origin, valence = origin.index_select(0, vertex), valence.index_select(0, vertex)
    across = twin.reshape(-1, 3).roll(1, 1).reshape(-1)  # the corner beyond the half-edge before each corner
    at = origin
    for step in range(1, _ROUNDS + 1):
        at = across.index_select(0, at)
        back = at == origin
        several[vertex[back & (valence != step)]] = True
        away = (~back).nonzero().squeeze(1)
        if len(away) == 0:
            return several
        if len(away) < len(at):
            vertex, origin, valence, at = (each.index_select(0, away) for each in (vertex, origin, valence, at))
    several[vertex] = True
    return several


def _surplus(faces: torch.Tensor, topology: Topology) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Half-edges [N] int64 that still lie on an edge with others than their twin and have to leave it, the number
    [N] int64 of the pair (or single half-edge) each belongs to, and the ends [pairs, 2] int64 of these."""
    half = topology.non_manifold
    start = faces.reshape(-1)
    ends = torch.stack([start[half], start[next_half_edge(half)]], 1).long().sort(1).values
    other = topology.twin[half].long()
    pair = torch.where(other < 0, half, torch.minimum(half, other))
    edge = torch.unique(ends[:, 0] * (int(start.max()) + 1 if len(start) else 1) + ends[:, 1], return_inverse=True)[1]
    stays = torch.full_like(half, len(start)).scatter_reduce_(0, edge, pair, "amin")
    leaves = stays[edge] != pair
    _, middle = torch.unique(pair[leaves], return_inverse=True)
    pairs = int(middle.max()) + 1 if len(middle) else 0
    at = ends.new_zeros(pairs, 2)
    at[middle] = ends[leaves]
    return half[leaves], middle, at


def _divided(faces: torch.Tensor, half: torch.Tensor, middle: torch.Tensor) -> torch.Tensor:
    """Faces with the vertices `middle` put into their half-edges `half`; the parts of a divided face but one behind."""
    if len(half) == 0:
        return faces
    hit, row = torch.unique(half // 3, return_inverse=True)
    corners = faces[hit]
    cut = torch.full_like(corners, -1)
    cut[row, half % 3] = middle.to(faces.dtype)
    kinds = ((cut >= 0) * cut.new_tensor([1, 2, 4])).sum(1)
    faces, more = faces.clone(), []
    for pattern, (turn, shape) in _PATTERNS.items():
        chosen = (kinds == pattern).nonzero().squeeze(1)
        points = torch.cat([corners[chosen].roll(-turn, 1), cut[chosen].roll(-turn, 1)], 1)
        parts = points[:, shape].reshape(-1, len(shape) // 3, 3)
        faces[hit[chosen]] = parts[:, 0]
        more.append(parts[:, 1:].reshape(-1, 3))
    return torch.cat([faces, *more])


# Corners 0 1 2, midpoints 3 (of 0-1), 4 (of 1-2), 5 (of 2-0).
_ONE = [0, 3, 2, 3, 1, 2]
_TWO = [3, 1, 4, 0, 3, 4, 0, 4, 2]
_ALL = [0, 3, 5, 3, 1, 4, 5, 4, 2, 3, 4, 5]
# which half-edges are cut, as bits: how far the corners are turned for the pattern to fit, and the parts
_PATTERNS = {1: (0, _ONE), 2: (1, _ONE), 4: (2, _ONE), 3: (0, _TWO), 6: (1, _TWO), 5: (2, _TWO), 7: (0, _ALL)}
