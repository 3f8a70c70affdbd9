"""Normals of faces, areas and volumes of groups of them, and the point from which volumes are measured."""

from __future__ import annotations

import torch

from .columns import chunks, corners, cross, difference, dot

_LANES, _PLACES = 256, 1 << 20  # that sums are spread over on a GPU: of one group, and of all together


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

        area, volume = torch.zeros(2, groups, dtype=torch.float64, device=vertices.device)
        parts = torch.empty(2, len(faces), dtype=torch.float64, device=vertices.device)
        corner, centre = faces.to(torch.int32).reshape(-1), launch.wp.vec3d(*middle(vertices).tolist())
        launch.launch_parallel(measure_faces, len(faces), vertices.double(), centre, corner, *parts)
        return area.index_add_(0, group, parts[0]), volume.index_add_(0, group, parts[1])
    return _in_chunks(vertices, faces, group, groups, _lanes(groups) if vertices.device.type == "cuda" else 1)


def _lanes(groups: int) -> int:
    """Places for each group's sum on a GPU, whose additions to one place wait for each other: most faces are of one
    group, if there are several at all."""
    return max(1, min(_LANES, _PLACES // max(groups, 1)))


def _in_chunks(
    vertices: torch.Tensor, faces: torch.Tensor, group: torch.Tensor, groups: int, lanes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """face_measures in torch; face i adds to the place i % lanes of its group."""
    totals = torch.zeros(2, groups * lanes, dtype=torch.float64, device=vertices.device)
    axes = (vertices.double() - middle(vertices)).T.contiguous()
    lane = torch.arange(lanes, device=vertices.device)
    for chunk in chunks(faces):
        a, b, c = corners(axes, faces[chunk])
        normal = cross(difference(b, a), difference(c, a))
        place = group[chunk]
        if lanes > 1:
            place = place * lanes + lane.repeat(-(-len(place) // lanes))[: len(place)]
        totals[0].index_add_(0, place, dot(normal, normal).sqrt_().div_(2))
        totals[1].index_add_(0, place, dot(a, normal).div_(6))
    area, volume = totals.reshape(2, groups, lanes).sum(2)
    return area, volume
