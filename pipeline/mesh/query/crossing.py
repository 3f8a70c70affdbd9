"""Faces that go through others (self-intersections), by Warp's tree and in plain torch."""

from __future__ import annotations

import torch

from .cells import FaceCells
from .surface import along_a_curve


def crossing(vertices: torch.Tensor, faces: torch.Tensor, asked: torch.Tensor | None = None) -> torch.Tensor:
    """The reference implementation: each pair of faces of which an edge of one goes through the inside of the other.

    Faces that share a vertex with all of those, or lie in one plane with them, do not cross them. Coordinates are
    rounded to float32, the rest is float64.

    Args:
        vertices: [V, 3]. faces: [F, 3] int. asked: [F] bool, the faces to look at; None for all.

    Returns:
        [F] bool.
    """
    found = torch.zeros(len(faces), dtype=torch.bool, device=faces.device)
    if len(faces) == 0:
        return found
    named = faces.long()
    corners = vertices.float().double()[named]  # [F, 3, 3]
    low, high = corners.amin(1), corners.amax(1)
    for one, other in FaceCells(corners).neighbours():
        near = ((low[one] <= high[other]) & (low[other] <= high[one])).all(1)
        one, other = one[near], other[near]
        apart = (named[one][:, :, None] != named[other][:, None]).all(2).all(1)
        one, other = one[apart], other[apart]
        met = _through(corners[one], corners[other]) | _through(corners[other], corners[one])
        found[one[met]] = True
        found[other[met]] = True
    return found if asked is None else found & asked


def _through(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """[n] bool: an edge of triangle `one` goes through the inside of `other`, [n, 3, 3] each."""
    a, b, c = other.unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    sides = ((a, b), (b, c), (c, a))
    met = torch.zeros(len(one), dtype=torch.bool, device=one.device)
    for start, end in ((one[:, i], one[:, (i + 1) % 3]) for i in range(3)):
        above, below = ((start - a) * normal).sum(1), ((end - a) * normal).sum(1)
        at = start + (end - start) * (above / (above - below))[:, None]  # NaN where the edge lies in the plane
        inside = [(torch.linalg.cross(q - p, at - p) * normal).sum(1) > 0 for p, q in sides]
        met |= (above * below < 0) & inside[0] & inside[1] & inside[2]
    return met


def crossing_by_kernels(vertices: torch.Tensor, faces: torch.Tensor, asked: torch.Tensor | None = None) -> torch.Tensor:
    """crossing, by Warp's tree of the faces."""
    from ...warp import launch
    from . import crossing_faces_kernels

    order = along_a_curve(vertices[faces[:, 0].long()])
    corners = faces[order].to(torch.int32).contiguous()
    tree = launch.face_tree(vertices.float().contiguous(), corners)
    rows = torch.arange(len(order), device=order.device) if asked is None else asked[order].nonzero().squeeze(1)
    crossed = torch.zeros(len(rows), dtype=torch.uint8, device=faces.device)
    exact = vertices.float().double().contiguous()  # those of the tree
    given = tree.id, exact, corners, rows.int(), crossed
    launch.launch_parallel(crossing_faces_kernels.find_crossings, len(rows), *given)
    found = torch.zeros(len(faces), dtype=torch.bool, device=faces.device)
    found[order[rows]] = crossed > 0
    return found
