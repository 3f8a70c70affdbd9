"""Every hole of a surface filled by a smooth disc: what the surface encloses is a question of winding numbers then.

Winding numbers without lids tear a thin wall that has lost both of its sides in one place, and flatten what bends.
"""

from __future__ import annotations

import numpy as np
import torch

from ..query.surface import Surface
from ..topology.half_edges import HalfEdges
from .lids import smooth_lids

_RINGS = 24  # of vertices at most, between a hole's edge and its middle: a long slit needs no more
_LOOSE = 3.0  # cells off a lid up to which scraps of the surface that was there lie


def patch_holes(
    vertices: torch.Tensor, edges: HalfEdges, half_edges: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A disc for each boundary loop, that bends as little as it can and goes on as the surface beside it does.

    The disc's vertices lie in rings, each of fewer edges than the one round it as on a flat disc of equal triangles;
    smooth_lids() places them.

    Args:
        vertices: [V, 3] float32. edges: where bodies touch in a vertex, its loops get no disc. half_edges: [N] int64,
            all of those of some boundary loops.

    Returns:
        the vertices with the discs' own behind, and the discs' faces [Q, 3] int32, wound as those beside them.
    """
    faces, total, found = edges.faces, len(vertices), []
    start, end = (each.cpu().numpy() for each in edges.ends(half_edges))
    for loop in _loops(start, end):
        disc, total = _disc(loop, total)
        found.append(disc)
    if not found:
        return vertices, faces[:0]
    lids = torch.from_numpy(np.concatenate(found)).to(faces)
    device = vertices.device
    on_loop = torch.zeros(total, dtype=torch.bool, device=device)
    on_loop[torch.from_numpy(start).to(device)] = True
    beside = on_loop[faces.long()].any(1)
    free = torch.arange(total, device=device) >= len(vertices)
    points = torch.cat([vertices, vertices.new_zeros(total - len(vertices), 3)])
    return smooth_lids(points, torch.cat([faces[beside], lids]), free), lids


def _loops(start: np.ndarray, end: np.ndarray) -> list[np.ndarray]:
    """Vertices of each loop, against the way of its half-edges: of most of them, where those of a surface that cannot
    be wound consistently go both ways. What leads through a vertex of more than two boundary edges is no loop."""
    count, ends = len(start), np.stack([start, end], 1)
    both = np.concatenate([start, end])
    order = both.argsort(kind="stable")
    _, at, uses = np.unique(both[order], return_index=True, return_counts=True)
    one, other = order[at[uses == 2]], order[at[uses == 2] + 1]
    partner = np.full(2 * count, -1)
    partner[one], partner[other] = other, one
    beside = np.where(partner < 0, -1, partner % max(count, 1)).reshape(2, -1).T.tolist()  # [N, 2] at each end
    loops, seen = [], [False] * count
    for first in range(count):
        edge, side, loop, with_it = first, 0, [], 0
        while edge >= 0 and not seen[edge]:
            seen[edge] = True
            with_it += 1 if side == 0 else -1
            vertex = ends[edge, side]
            loop.append(vertex)
            edge = beside[edge][side]
            side = 0 if end[edge] == vertex else 1  # go on from the end that lies here
        if loop and edge == first:
            loops.append(np.array(loop if with_it >= 0 else loop[::-1]))
    return loops


def _disc(loop: np.ndarray, first: int) -> tuple[np.ndarray, int]:
    """Faces [Q, 3] of a disc within a loop, and where the numbers of its own vertices, which begin at `first`, end."""
    count = len(loop)
    rings = min(max(round(count / 6), 1), _RINGS)
    faces, outer = [], loop
    for ring in range(1, rings):
        inner = np.arange(first, first + max(round(count * (1 - ring / rings)), 3))
        first += len(inner)
        faces.append(_annulus(outer, inner))
        outer = inner
    faces.append(np.stack([outer, np.roll(outer, -1), np.full_like(outer, first)], 1))
    return np.concatenate(faces), first + 1


def _annulus(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Faces between two rings: each edge joined to the vertex of the other ring that its middle is nearest to."""
    m, n = len(outer), len(inner)
    place = np.concatenate([(np.arange(m) + 0.5) / m, (np.arange(n) + 0.5 + 1e-3) / n])
    order = place.argsort(kind="stable")
    is_outer = order < m
    at_outer, at_inner = np.cumsum(is_outer) - is_outer, np.cumsum(~is_outer) - ~is_outer
    third = np.where(is_outer, outer[(at_outer + 1) % m], inner[(at_inner + 1) % n])
    return np.stack([outer[at_outer % m], third, inner[at_inner % n]], 1)


def scraps(
    points: torch.Tensor, lids: torch.Tensor, faces: torch.Tensor, label: torch.Tensor, open_faces: torch.Tensor
) -> torch.Tensor:
    """[F] bool: faces of open sheets that are what is left of the surface where it has a hole: their corners are by the
    majority at a lid.

    Args:
        points: in cells, of the mesh and its lids. lids: [Q, 3]. faces: [F, 3]. label: [F] int64 component of a face.
            open_faces: [F] bool.
    """
    rows = open_faces.nonzero().squeeze(1)
    if len(lids) == 0 or len(rows) == 0:
        return open_faces & False
    middle = points[faces[rows].long()].mean(1)
    near = Surface(points, lids).closest(middle, _LOOSE).face >= 0
    count = int(label.max()) + 1
    total, close = (torch.zeros(count, device=points.device) for _ in range(2))
    total.index_add_(0, label[rows], torch.ones(len(rows), device=points.device))
    close.index_add_(0, label[rows], near.float())
    return open_faces & (close > total / 2)[label]
