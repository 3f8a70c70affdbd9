"""Charts: a mesh's faces in connected groups that face one way, found by merging neighbours in parallel."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..topology.half_edges import components

_FIXED = 1 << 40  # sums are kept as integers in units of total / 2^40: exact, so the same in any order
_FEW = 1 << 13  # pairs of groups that a CPU merges in a fraction of the time that launching on a GPU takes
_TIE = 1e-6 / 0x1000000  # differences of cost that do not matter, to order equals at random


@dataclass(frozen=True)
class ChartConfig:
    """How faces are gathered into charts, and charts that do not lie flat are cut."""

    # Radians that a face's normal may be off its chart's mean normal. Below a right angle the projection along that
    # normal has no folds.
    cone: float = math.radians(85)
    # Weight of the share of its boundary that a group has in common with a neighbour, against the difference of their
    # directions (0 alike to 2 opposite): compact charts instead of long ones.
    shared_boundary: float = 0.3
    # A group joins a neighbour of more than so many times its area without being named by it: a plain with many small
    # neighbours would else take them in one by one.
    much_larger: int = 16
    # All that join a neighbour in this way have together less than its area divided by this, which keeps its direction.
    joining_part: int = 4
    # Bounds of the cones are made exact again when more than one of so many groups has merged,
    exact_after_merged: int = 50
    # or after so many rounds.
    exact_after_rounds: int = 8
    # Part of a chart's area up to which faces that fold or overlap are cut out of it; if they are more it is halved.
    excised: float = 0.1


@dataclass(frozen=True)
class Dual:
    """A mesh's faces and who is whose neighbour across an edge that exactly two faces share.

    normals: [F, 3] float64 of length 1, 0 for faces without area. areas: [F] int64, weighted [F, 3] int64 = normals *
    areas, perimeters [F] int64 in fixed point. centres: [F, 3] float64. pairs: [E, 2] int64 faces. lengths: [E]
    int64 of the edge between them, in the unit of perimeters. sides: [E, 2] int64 its half-edges in both (3 * face +
    the corner where it begins).
    """

    normals: torch.Tensor
    areas: torch.Tensor
    weighted: torch.Tensor
    perimeters: torch.Tensor
    centres: torch.Tensor
    pairs: torch.Tensor
    lengths: torch.Tensor
    sides: torch.Tensor


def dual_graph(vertices: torch.Tensor, faces: torch.Tensor) -> Dual:
    """vertices: [V, 3] finite. faces: [F, 3]."""
    faces = faces.long()
    corners = vertices.double()[faces]  # [F, 3, 3]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = normals.norm(dim=1)
    normals = normals / areas.clamp_min(1e-300)[:, None]
    lengths = (corners.roll(-1, 1) - corners).norm(dim=2)  # [F, 3], of the edge from corner i to corner i + 1
    unit = areas.sum().clamp_min(1e-300) / _FIXED
    weighted = (normals * (areas / unit)[:, None]).round().long()
    lengths = (lengths * (_FIXED / lengths.sum().clamp_min(1e-300))).round().long()

    key, order = _both(faces.reshape(-1), faces.roll(-1, 1).reshape(-1), len(vertices)).sort(stable=True)
    starts = _starts(key)
    starts = torch.cat([starts, torch.ones_like(starts[:2])])
    first = (starts[:-2] & ~starts[1:-1] & starts[2:]).nonzero()[:, 0]  # edges of exactly two faces
    sides = torch.stack([order[first], order[(first + 1).clamp_max(len(order) - 1)]], 1)
    pairs = sides // 3
    real = pairs[:, 0] != pairs[:, 1]
    shared = lengths.reshape(-1)[sides[real, 0]]
    return Dual(
        normals,
        (areas / unit).round().long(),
        weighted,
        lengths.sum(1),
        corners.mean(1),
        pairs[real],
        shared,
        sides[real],
    )


def merge(dual: Dual, tick: Callable[[], None], config: ChartConfig = ChartConfig()) -> torch.Tensor:
    """Charts by hierarchical face clustering (Garland et al. 2001), many merges at once.

    In each round every group names the neighbour that differs least in direction and shares most of the border; pairs
    that name each other merge, and small groups join a large one that they name (or a plain with many small neighbours
    would take them in one by one), if all normals stay within the cone round the mean normal. Sums are integers, so the
    result does not depend on the order in which a device adds. Of a GPU's work the CPU takes the last rounds, each some
    200 small operations, in which only the cones look at faces.

    Returns:
        [F] int64, the chart of each face, 0 .. C - 1; charts are connected.
    """
    home = dual.areas.device
    labels = torch.arange(len(dual.areas), device=home)
    areas, sums, perimeters = dual.areas, dual.weighted, dual.perimeters
    pairs, lengths = dual.pairs, dual.lengths
    spread = torch.zeros(len(areas), dtype=torch.float64, device=areas.device)  # half angle of each group's cone
    turn = 0
    while len(pairs):
        tick()
        turn += 1
        if len(pairs) <= _FEW:
            areas, sums, perimeters, spread = (each.cpu() for each in (areas, sums, perimeters, spread))
            pairs, lengths = pairs.cpu(), lengths.cpu()
        pairs, lengths = unite(pairs, lengths, len(areas))
        cost = _cost(pairs, lengths, areas, sums, perimeters, spread, config)
        to = _joined(pairs, cost, areas, sums, spread, config)
        before, stays = len(areas), to == torch.arange(len(areas), device=to.device)
        to = (stays.cumsum(0) - 1)[to]
        count = int(to.amax()) + 1
        if count == before:
            break
        labels = to.to(home)[labels]
        spread = _spread(to, count, sums, spread)
        areas, sums, perimeters = (_sum(each, to, count) for each in (areas, sums, perimeters))
        ends = to[pairs]
        inside = ends[:, 0] == ends[:, 1]
        perimeters.index_add_(0, ends[:, 0], torch.where(inside, -2 * lengths, 0))
        outside = (~inside).nonzero()[:, 0]
        pairs, lengths = ends[outside], lengths[outside]
        if (before - count) * config.exact_after_merged > count or turn % config.exact_after_rounds == 0:
            spread = cone_angles(dual, labels, sums.to(home)).to(sums.device)
    return labels


def cone_angles(dual: Dual, labels: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
    """[C] float64: the largest angle between a chart's mean normal, along sums [C, 3], and a normal of its faces."""
    cosine = (axes_of(sums)[labels] * dual.normals).sum(1)
    cosine[dual.areas == 0] = 1  # such faces have no direction
    least = torch.ones(len(sums), dtype=torch.float64, device=labels.device)
    return least.scatter_reduce_(0, labels, cosine, "amin").clamp(-1, 1).acos()


def axes_of(sums: torch.Tensor) -> torch.Tensor:
    """[C, 3] float64 of length 1 along sums of weighted normals [C, 3]; along z where they cancel out."""
    sums = sums.double()
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64, device=sums.device)
    size = sums.norm(dim=1, keepdim=True)
    return torch.where(size > 0.5, sums / size.clamp_min(1), up)


def split(
    dual: Dual,
    labels: torch.Tensor,
    count: int,
    bad: torch.Tensor,
    folded: torch.Tensor,
    config: ChartConfig = ChartConfig(),
) -> torch.Tensor:
    """Cut charts that do not lie flat: from the faces that fold or overlap, if those are few, else in two
    halves across their long axis.

    Args:
        labels: [F] int64, -1 for faces that are not concerned. count: number of charts.
        bad: [C] bool, the charts to cut. folded: [F] bool, faces that lie upside down or share texels.

    Returns:
        [F] int64 new labels 0 .. C' - 1 of the bad charts' faces, all connected; -1 for all others.
    """
    mine = (labels >= 0) & bad[labels.clamp_min(0)]
    face = mine.nonzero()[:, 0]
    chart = labels[face]
    areas = dual.areas[face]
    whole = _sum(areas, chart, count)
    away = folded[face]
    few = (_sum(areas * away, chart, count) <= whole * config.excised) & (_sum(away.long(), chart, count) > 0)
    side = torch.where(few[chart], away, _beyond_middle(dual.centres[face], chart, count))
    number = torch.full_like(labels, -1)
    number[face] = torch.arange(len(face), device=face.device)
    pairs = number[dual.pairs]
    pairs = pairs[(pairs >= 0).all(1)]
    group = chart * 2 + side
    pairs = pairs[group[pairs[:, 0]] == group[pairs[:, 1]]]
    new = components(pairs[:, 0], pairs[:, 1], len(face))[0]
    result = torch.full_like(labels, -1)
    result[face] = new
    return result


def _beyond_middle(centres: torch.Tensor, chart: torch.Tensor, count: int) -> torch.Tensor:
    """[N] bool: rows beyond the middle of their chart's box along the box's longest side."""
    index = chart[:, None].expand(-1, 3)
    low = torch.full((count, 3), torch.inf, dtype=centres.dtype, device=centres.device)
    high = -low
    low.scatter_reduce_(0, index, centres, "amin")
    high.scatter_reduce_(0, index, centres, "amax")
    axis = (high - low).nan_to_num(0, 0, 0).argmax(1)
    middle = ((low + high) / 2).gather(1, axis[:, None])[:, 0]
    return centres.gather(1, axis[chart][:, None])[:, 0] > middle[chart]


def _starts(key: torch.Tensor) -> torch.Tensor:
    """[N] bool: where a new value begins in sorted values."""
    starts = torch.ones_like(key, dtype=torch.bool)
    starts[1:] = key[1:] != key[:-1]
    return starts


def _both(a: torch.Tensor, b: torch.Tensor, count: int) -> torch.Tensor:
    """[N] int64 a number for each pair of a [N] and b [N], whichever comes first, of 0 .. count - 1."""
    return torch.minimum(a, b) * count + torch.maximum(a, b)


def _sum(values: torch.Tensor, to: torch.Tensor, count: int) -> torch.Tensor:
    return torch.zeros(count, *values.shape[1:], dtype=torch.int64, device=to.device).index_add_(0, to, values)


def unite(pairs: torch.Tensor, lengths: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each pair of neighbours once, with the length of all its edges."""
    a, b = pairs.unbind(1)
    key, order = _both(a, b, count).sort()
    starts = _starts(key)
    key = key[starts]
    return torch.stack([key // count, key % count], 1), _sum(lengths[order], starts.cumsum(0) - 1, len(key))


def _cost(pairs, lengths, areas, sums, perimeters, spread, config) -> torch.Tensor:
    """What each merge costs [E] float64, inf where it is not allowed."""
    a, b = pairs.unbind(1)
    one, two = sums[a].double(), sums[b].double()
    both = one + two
    angle = torch.maximum(_angles(one, both) + spread[a], _angles(two, both) + spread[b])
    bend = one.norm(dim=1) + two.norm(dim=1) - both.norm(dim=1)
    share = lengths / torch.minimum(perimeters[a], perimeters[b]).clamp_min(1)
    cost = bend / torch.minimum(areas[a], areas[b]).clamp_min(1) - config.shared_boundary * share
    cost += ((a * 0x9E3779B1 ^ b * 0x85EBCA6B) & 0xFFFFFF) * _TIE  # or equals would merge one after another, by number
    return torch.where(angle <= config.cone, cost, torch.inf)


def _angles(normals: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    """[N] the angles between vectors [N, 3] of any length, 0 where the first has none."""
    length = normals.norm(dim=1)
    return ((normals * axes).sum(1) / (length * axes.norm(dim=1)).clamp_min(1)).clamp(-1, 1).acos() * (length > 0)


def _spread(to: torch.Tensor, count: int, sums: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """[count] bounds of the cones' half angles after groups have moved `to` [C] others."""
    axes = _sum(sums, to, count).double()
    alone = _sum(torch.ones_like(to), to, count)[to] == 1
    bound = torch.where(alone, 0, _angles(sums.double(), axes[to])) + spread
    return torch.zeros(count, dtype=spread.dtype, device=spread.device).scatter_reduce_(0, to, bound, "amax")


def _joined(pairs, cost, areas, sums, spread, config) -> torch.Tensor:
    """[C] int64 the group that each group becomes: itself, the other of a pair that name each other, or the much
    larger neighbour that it names (or what that becomes)."""
    count = len(areas)
    rank = torch.empty(len(pairs), dtype=torch.int64, device=pairs.device)
    order = cost.argsort(stable=True)
    rank[order] = torch.arange(len(pairs), device=pairs.device)
    rank = torch.where(cost < torch.inf, rank, len(pairs))
    best = torch.full((count,), len(pairs), dtype=torch.int64, device=pairs.device)
    for end in pairs.unbind(1):
        best.scatter_reduce_(0, end, rank, "amin")
    group = torch.arange(count, device=pairs.device)
    named = pairs[order[best.clamp_max(len(pairs) - 1)]]
    named = torch.where(best < len(pairs), named.sum(1) - group, group)
    mutual = named[named] == group
    paired = torch.where(mutual, torch.minimum(group, named), group)
    small = ~mutual & (areas * config.much_larger < areas[named])
    small &= ~small[named]
    taken = torch.zeros_like(areas).index_add_(0, named, torch.where(small, areas, 0))
    small &= (taken * config.joining_part < areas)[named]
    to = torch.where(small, paired[named], paired)
    wide = _spread(to, count, sums, spread) > config.cone
    return torch.where(small & wide[to], group, to)
