"""Normals of faces, areas and volumes of groups of them, and the point from which volumes are measured."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from .columns import chunks, corners, cross, difference, dot

_LANES, _PLACES = 256, 1 << 20  # that sums are spread over on a GPU: of one group, and of all together
_WHOLE_BITS = 62  # of a whole number, without its sign and one to spare


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
    if vertices.device.type == "cuda":
        return _in_any_order(vertices, faces, group, groups, _lanes(groups))
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


def _lanes(groups: int) -> int:
    """Places for each group's sum on a GPU, whose additions to one place wait for each other: most faces are of one
    group, if there are several at all."""
    return max(1, min(_LANES, _PLACES // max(groups, 1)))


def _in_any_order(
    vertices: torch.Tensor, faces: torch.Tensor, group: torch.Tensor, groups: int, lanes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """face_measures as sums of whole numbers, which come out the same in whatever order a GPU adds them up.

    A value is split into multiples of a power of two and of a fraction of it, so many bits each that no sum overflows;
    face i adds to the place i % lanes of its group.
    """
    count = max(len(faces), 1)
    bits = _WHOLE_BITS - count.bit_length()  # of each part of a value
    side = float((vertices.amax(0) - vertices.amin(0)).double().norm()) if len(vertices) else 0.0
    units = [2.0 ** (math.frexp(side**power)[1] - bits) for power in (2, 3)]  # no face has more than side^2 and side^3
    totals = torch.zeros(2, 2, groups * lanes, dtype=torch.int64, device=vertices.device)
    lane = torch.arange(lanes, device=vertices.device)
    for chunk, *values in _by_face(vertices, faces):
        place = group[chunk] * lanes
        place += lane.repeat(-(-len(place) // lanes))[: len(place)]
        for (whole, part), each, unit in zip(totals, values, units):
            each /= unit
            multiple = each.trunc()
            whole.index_add_(0, place, multiple.long())
            part.index_add_(0, place, (each - multiple).mul_(2.0**bits).long())
    sums = totals.reshape(2, 2, groups, lanes).sum(3).double()
    area, volume = ((whole + part * 2.0**-bits) * unit for (whole, part), unit in zip(sums, units))
    return area, volume
