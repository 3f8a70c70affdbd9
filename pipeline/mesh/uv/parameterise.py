"""Charts laid flat: projected along their mean normal, then relaxed to be as rigid as possible."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...warp.launch import box_tree, launch_parallel
from . import unwrap_kernels as kernels

_ROUNDS, _STEPS = 4, 15  # local-global rounds, and steps of conjugate gradients in each: more changes stretch by < 2 %
_FEW = 1 << 13  # points that a CPU relaxes in a fraction of the time that launching on a GPU takes
_STILL = 1e-6  # holds each chart in its place, for its energy does not change when it moves as a whole
_ENOUGH = 1e-13  # squared residual, of the right side: below is nothing but rounding
_COTANGENTS = 0.02, 20.0  # keeps the Laplacian positive and slivers from dominating it
_ROUNDING = 1e-14  # height of a face by a side of it, below which it has none
_TURNS = 24  # directions tried within a quarter turn for a chart's smallest box


@dataclass(frozen=True)
class Pieces:
    """Faces cut apart along the borders of charts.

    source: [N] int64, the mesh vertex that each vertex copies; vertices stand in the order of charts. chart: [N] int64.
    begin: [C + 1] int32, where each chart's vertices begin. faces: [F, 3] int32. first: [N + 1] int32, incident: [3F]
    int32, the corners (3 * face + corner) round each vertex.
    """

    source: torch.Tensor
    chart: torch.Tensor
    begin: torch.Tensor
    faces: torch.Tensor
    first: torch.Tensor
    incident: torch.Tensor


def cut(faces: torch.Tensor, labels: torch.Tensor, vertices: int, charts: int) -> Pieces:
    """faces: [F, 3] of a mesh with so many vertices. labels: [F] int64, 0 .. charts - 1."""
    key, order = (labels[:, None] * vertices + faces.long()).reshape(-1).sort(stable=True)
    starts = torch.ones_like(key, dtype=torch.bool)
    starts[1:] = key[1:] != key[:-1]
    new = torch.empty(len(key), dtype=torch.int32, device=key.device)
    new[order] = (starts.cumsum(0) - 1).int()
    first = torch.cat([starts.nonzero()[:, 0], torch.full((1,), len(key), device=key.device)]).int()
    key = key[starts]
    chart = key // vertices
    begin = torch.searchsorted(chart, torch.arange(charts + 1, device=key.device)).int()
    return Pieces(key % vertices, chart, begin, new.reshape(-1, 3), first, order.int())


def flat_shapes(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """[F, 3, 2] float64: each face in a plane of its own, counter-clockwise, its first edge along x from 0."""
    corners = vertices.double()[faces.long()]
    one, two = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    length = one.norm(dim=1)
    along = (one * two).sum(1) / length.clamp_min(1e-300)
    across = torch.linalg.cross(one, two).norm(dim=1) / length.clamp_min(1e-300)
    across = torch.where(across > _ROUNDING * two.norm(dim=1), across, 0)
    zero = torch.zeros_like(length)
    return torch.stack([zero, zero, length, zero, along, across], 1).reshape(-1, 3, 2)


def flatten(
    vertices: torch.Tensor, pieces: Pieces, axes: torch.Tensor, rest: torch.Tensor, tick: Callable[[], None]
) -> torch.Tensor:
    """[N, 2] float64 positions in world units, not mirrored, each chart turned to have a small box.

    A chart in which relaxing folds a face over stays as projected.

    Args:
        vertices: [V, 3]. axes: [C, 3] float64, the directions to project along, length 1. rest: [F, 3, 2] from
            flat_shapes, of the faces in `pieces`.
    """
    plain = _project(vertices, pieces, axes)
    plain = plain - plain[pieces.begin[pieces.chart].long()]  # near 0, where float32 is fine
    relaxed = relax(plain.float(), pieces, rest, tick).double()
    spoiled = torch.zeros(len(axes), dtype=torch.bool, device=plain.device)
    spoiled[pieces.chart[pieces.faces[~(signed_areas(relaxed, pieces.faces) >= 0)][:, 0].long()]] = True
    return align(torch.where(spoiled[pieces.chart, None], plain, relaxed), pieces)


def signed_areas(points: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """[F], positive for counter-clockwise with y upwards. points: [N, 2]."""
    a, b, c = points[faces.long()].unbind(1)
    one, two = b - a, c - a
    return (one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]) / 2


def folds(points: torch.Tensor, pieces: Pieces, labels: torch.Tensor) -> torch.Tensor:
    """[F] bool: faces at which flat charts cover themselves, however little.

    A chart of which no face is mirrored covers itself only where faces round a vertex do or where its boundary crosses
    itself (the degree of a map): faces are compared round their vertices, boundaries edge by edge. Faces within an area
    that is covered twice are not named, only those at its border.

    Args:
        points: [N, 2] float64. labels: [F] int64, the chart of each face.
    """
    folded = torch.zeros(len(labels), dtype=torch.uint8, device=points.device)
    boundary = torch.empty(3 * len(labels), dtype=torch.uint8, device=points.device)
    around = pieces.first, pieces.incident, pieces.faces, points
    launch_parallel(kernels.circle, len(points), *around, folded)
    launch_parallel(kernels.find_boundary, len(boundary), *around, boundary, folded)
    edges = boundary.nonzero()[:, 0].int()
    if len(edges) == 0:
        return folded > 0
    boxes = [torch.empty(len(edges), 3, device=points.device) for _ in range(2)]
    sides = edges, pieces.faces, points, labels.int()
    launch_parallel(kernels.edge_boxes, len(edges), *sides, *boxes)
    with box_tree(*boxes) as tree:
        launch_parallel(kernels.crossings, len(edges), tree, *boxes, *sides, folded)
    return folded > 0


def stretches(rest: torch.Tensor, points: torch.Tensor, faces: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest and the smallest singular value [F] of each face's map from the texture to the surface (Sander et al.
    2001); inf where a face has no area in the texture."""
    a, b, c = points[faces.long()].double().unbind(1)
    one, two = b - a, c - a
    area = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]
    length, along, across = rest[:, 1, 0], rest[:, 2, 0], rest[:, 2, 1]
    xx, xy = length * two[:, 1] - along * one[:, 1], along * one[:, 0] - length * two[:, 0]
    yx, yy = -across * one[:, 1], across * one[:, 0]
    sum, difference = torch.hypot(xx + yy, yx - xy) / 2, torch.hypot(xx - yy, yx + xy) / 2
    largest, smallest = (sum + difference) / area.abs(), (sum - difference).abs() / area.abs()
    return largest.nan_to_num(torch.inf), smallest.nan_to_num(torch.inf)


def _project(vertices: torch.Tensor, pieces: Pieces, axes: torch.Tensor) -> torch.Tensor:
    """[N, 2] float64 in a right-handed frame round each axis (Duff et al. 2017)."""
    x, y, z = axes.unbind(1)
    sign = torch.where(z >= 0, 1.0, -1.0)
    a = -1 / (sign + z)
    b = x * y * a
    right = torch.stack([1 + sign * x * x * a, sign * b, -sign * x], 1)
    up = torch.stack([b, sign + y * y * a, -y], 1)
    points = vertices[pieces.source].double()
    return torch.stack([(points * each[pieces.chart]).sum(1) for each in (right, up)], 1)


def relax(points: torch.Tensor, pieces: Pieces, rest: torch.Tensor, tick: Callable[[], None]) -> torch.Tensor:
    """As rigid as possible parameterisation (Liu et al. 2008), all charts at once, by conjugate gradients with a
    diagonal preconditioner from where the points [N, 2] float32 are. Few points, as those of charts that were cut
    again, are relaxed on the CPU: these are some thousand short operations."""
    home, faces, around = points.device, pieces.faces, (pieces.first, pieces.incident)
    if len(points) <= _FEW:
        points, rest, faces, *around = (each.cpu() for each in (points, rest, faces, *around))
    one, two = rest.roll(-1, 1) - rest, rest.roll(-2, 1) - rest
    twice_area = (rest[:, 1, 0] * rest[:, 2, 1]).clamp_min(1e-300)[:, None]
    cot = ((one * two).sum(2) / twice_area).clamp(*_COTANGENTS).float().contiguous()
    rest = rest.float().contiguous()
    u, product, pull = points.contiguous().clone(), torch.empty_like(points), torch.empty_like(rest)
    target, scale = torch.empty_like(points), torch.empty(len(points), device=points.device)
    launch_parallel(kernels.diagonal, len(u), *around, cot, scale)
    scale = (1 / scale)[:, None]
    for _ in range(_ROUNDS):
        tick()
        launch_parallel(kernels.rotate, len(cot), faces, rest, cot, u, pull)
        launch_parallel(kernels.gather, len(u), *around, pull, target)
        launch_parallel(kernels.laplace, len(u), *around, faces, cot, 0.0, u, product)
        residual = target - product
        step = scale * residual
        error = (residual * step).sum()
        enough = (target * scale * target).sum() * _ENOUGH
        for _ in range(_STEPS):
            launch_parallel(kernels.laplace, len(u), *around, faces, cot, _STILL, step, product)
            length = torch.where(error > enough, error / (step * product).sum(), 0)
            u += length * step
            residual -= length * product
            better = scale * residual
            before, error = error, (residual * better).sum()
            step = better + torch.where(before > enough, error / before, 0) * step
    return u.to(home)


def align(points: torch.Tensor, pieces: Pieces) -> torch.Tensor:
    """Turn each chart so that its box is small."""
    best = smallest_boxes(points, pieces)[0][pieces.chart]  # [N, 2]
    x, y = (points * best).sum(1), best[:, 0] * points[:, 1] - best[:, 1] * points[:, 0]
    return torch.stack([x, y], 1)


def smallest_boxes(points: torch.Tensor, pieces: Pieces) -> tuple[torch.Tensor, torch.Tensor]:
    """The direction [C, 2] float64 of the x axis in which each chart's box is smallest, and its sides [C, 2] then."""
    angles = torch.arange(_TURNS, dtype=torch.float64, device=points.device) * (math.pi / 2 / _TURNS)
    directions = torch.stack([angles.cos(), angles.sin()], 1)
    low, high = boxes(points, pieces, directions)
    best = (high - low).prod(2).argmin(1)
    return directions[best], (high - low)[torch.arange(len(best), device=best.device), best]


def boxes(points: torch.Tensor, pieces: Pieces, directions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Low and high corners [C, K, 2] float64 of each chart's box when directions [K, 2] are its x axis."""
    shape = (len(pieces.begin) - 1, len(directions), 2)
    low, high = (torch.empty(shape, dtype=torch.float64, device=points.device) for _ in range(2))
    count = shape[0] * shape[1]
    launch_parallel(kernels.boxes, count, shape[1], pieces.begin, points, directions, low, high)
    return low, high
