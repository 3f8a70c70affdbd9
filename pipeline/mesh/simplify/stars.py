"""What lies round each vertex of a mesh whose faces change."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..topology.sorting import grouped


@dataclass(frozen=True)
class Stars:
    """The corners round each vertex, and how many faces each edge has."""

    offsets: torch.Tensor  # [V + 1] int32 into corners
    corners: torch.Tensor  # [3 F] int32, by vertex
    edges: torch.Tensor  # [3 F] uint8: faces on the half-edge's edge, and whether it speaks for it
    feature: torch.Tensor  # [V] uint8: on an edge that has not two faces


def find_stars(faces: torch.Tensor, vertices: int) -> Stars:
    """faces: [3 F] int32, of so many vertices. Imports Warp."""
    from ...warp.launch import launch_parallel
    from .link_kernels import find_edges

    star, offsets = grouped(faces, vertices)
    edges = torch.empty(len(faces), dtype=torch.uint8, device=faces.device)
    feature = torch.zeros(vertices, dtype=torch.uint8, device=faces.device)
    launch_parallel(find_edges, len(faces), faces, offsets, star, edges, feature)
    return Stars(offsets, star, edges, feature)
