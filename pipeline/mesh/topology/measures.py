"""Normals of faces, areas and volumes of groups of them, and the point from which volumes are measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ...sums import WholeSums, sum_by
from .columns import chunks, corners, cross, difference, dot


def middle(vertices: torch.Tensor) -> torch.Tensor:
    """[3] float64 middle of the bounding box; 0 without vertices."""
    if len(vertices) == 0:
        return torch.zeros(3, dtype=torch.float64, device=vertices.device)
    return (vertices.amin(0).double() + vertices.amax(0).double()) / 2


def unit_normals(vertices: torch.Tensor, faces: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Normals [F, 3], 0 without area, and areas [F] of faces, float64."""
    a, b, c = vertices.double()[faces.long()].unbind(1)
    normals = torch.linalg.cross(b - a, c - a)
    length = normals.norm(dim=1)
    return normals / length.clamp_min(1e-300)[:, None], length / 2


def face_measures(
    vertices: torch.Tensor, faces: torch.Tensor, group: torch.Tensor, groups: int, kernels: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """[groups] float64 area, and [groups] signed volume between the faces and the middle of the mesh's bounding box,
    for groups of faces [F]."""
    if kernels:
        from ...warp import launch
        from .topology_kernels import measure_faces

        parts = torch.empty(2, len(faces), dtype=torch.float64, device=vertices.device)
        wp: Any = launch.wp  # untyped for the type checker
        corner, centre = faces.to(torch.int32).reshape(-1), wp.vec3d(*middle(vertices).tolist())
        launch.launch_parallel(measure_faces, len(faces), vertices.double(), centre, corner, *parts)
        return sum_by(parts[0], group, groups), sum_by(parts[1], group, groups)
    if vertices.device.type == "cuda":
        return _in_any_order(vertices, faces, group, groups)
    totals = torch.zeros(2, groups, dtype=torch.float64, device=vertices.device)
    for chunk, *values in _by_face(vertices, faces):
        for total, each in zip(totals, values):
            total.index_add_(0, group[chunk], each)
    area, volume = totals
    return area, volume


def _by_face(vertices: torch.Tensor, faces: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Chunks of the faces with their areas and volumes, float64."""
    axes = (vertices.double() - middle(vertices)).T.contiguous()
    for chunk in chunks(faces):
        a, b, c = corners(axes, faces[chunk])
        normal = cross(difference(b, a), difference(c, a))
        yield chunk, dot(normal, normal).sqrt_().div_(2), dot(a, normal).div_(6)


def _in_any_order(
    vertices: torch.Tensor, faces: torch.Tensor, group: torch.Tensor, groups: int, lanes: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """face_measures by WholeSums."""
    side = (vertices.amax(0) - vertices.amin(0)).double().norm() if len(vertices) else vertices.new_zeros(()).double()
    # no face has more than side^2 and side^3
    area, volume = (WholeSums(groups, len(faces), side**power, lanes) for power in (2, 3))
    for chunk, *values in _by_face(vertices, faces):
        for total, each in zip((area, volume), values):
            total.add(group[chunk], each)
    return area.total(), volume.total()
