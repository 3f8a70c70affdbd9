"""Which components to turn so that they face outward: by their volumes and by which of them enclose others."""

from __future__ import annotations

import torch

from .columns import chunks
from .manifold import Topology

_PAIRS = 1 << 20  # pairs of a face and a point compared at once


def outward(vertices: torch.Tensor, topology: Topology) -> torch.Tensor:
    """[F] bool faces to turn, whole components that are already consistently oriented, so that they face outward.

    Closed components get a positive volume, those inside an odd number of other closed components a negative one, as
    they bound a hollow in the material: normals then point from material to empty space everywhere. Open components
    face away from the middle of the mesh's bounding box. Non-orientable components stay as they are.
    """
    turn = topology.volume < 0
    closed = topology.closed()
    if int(closed.sum()) > 1:
        turn = turn ^ _enclosed(vertices, topology.faces, topology.component, closed)
    return (turn & ~topology.non_orientable).index_select(0, topology.component)


def _enclosed(
    vertices: torch.Tensor, faces: torch.Tensor, component: torch.Tensor, closed: torch.Tensor
) -> torch.Tensor:
    """[components] bool: closed and inside an odd number of other closed components.

    Counts the faces above the middle of one face of each. Whether a face covers a point, looking along z, follows from
    its edges, each evaluated in the same way for both of its faces, so that a line between two faces meets exactly one.
    """
    probe = torch.full((len(closed),), len(faces), device=faces.device)
    probe.scatter_reduce_(0, component, torch.arange(len(faces), device=faces.device), "amin")
    owner = closed.nonzero().squeeze(1)
    points = vertices[faces[probe[owner]].long()].double().mean(1)
    order = points[:, 0].argsort()
    points, owner = points[order], owner[order]
    across = points[:, 0].contiguous()
    above = torch.zeros(len(closed), dtype=torch.int64, device=faces.device)
    x, y = vertices[:, :2].double().T.contiguous()
    for chunk in chunks(faces):
        a, b, c = (x.index_select(0, corner) for corner in faces[chunk].T.contiguous())
        low = torch.searchsorted(across, torch.minimum(torch.minimum(a, b), c))
        high = torch.searchsorted(across, torch.maximum(torch.maximum(a, b), c), right=True)
        near = (high > low).nonzero().squeeze(1)
        near = near[closed[component[chunk][near]]]
        low, pairs = low[near], (high - low)[near].cumsum(0)
        height = y[faces[chunk][near].long()]
        bottom, top = height.amin(1), height.amax(1)
        for begin in range(0, int(pairs[-1]) if len(pairs) else 0, _PAIRS):
            pair = torch.arange(begin, min(begin + _PAIRS, int(pairs[-1])), device=faces.device)
            row = torch.searchsorted(pairs, pair, right=True)
            point = low[row] + pair - torch.where(row > 0, pairs[row - 1], 0)
            level = points[:, 1][point]
            hit = (bottom[row] <= level) & (level <= top[row]) & (component[chunk][near[row]] != owner[point])
            face, point = faces[chunk][near[row[hit]]].long(), point[hit]
            above.index_add_(0, owner[point], _is_above(vertices, face, points[point]).long())
    return above % 2 == 1


def _is_above(vertices: torch.Tensor, face: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    """[N] bool: the face [N, 3] covers the point [N, 3], seen along z, and lies above it."""
    x, y, z = point.unbind(1)
    inside = torch.zeros_like(x, dtype=torch.bool)
    for i in range(3):
        here, there = face[:, i], face[:, (i + 1) % 3]
        p, q = vertices[torch.minimum(here, there)].double(), vertices[torch.maximum(here, there)].double()
        spans = (p[:, 1] <= y) != (q[:, 1] <= y)
        meets = p[:, 0] + (y - p[:, 1]) / torch.where(spans, q[:, 1] - p[:, 1], 1) * (q[:, 0] - p[:, 0])
        inside ^= spans & (meets > x)
    a, b, c = vertices[face].double().unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    slope = ((a - point)[:, :2] * normal[:, :2]).sum(1) / torch.where(normal[:, 2] == 0, 1, normal[:, 2])
    return inside & (a[:, 2] + slope > z)
