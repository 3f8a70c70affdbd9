"""Fewer seams: charts laid beside each other along the border they share, and merged where they then lie flat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...sums import running_sums, sum_by
from .charts import Dual, unite
from .parameterise import Pieces, cut, folds, relax, signed_areas, stretches

_SHARE = 0.95  # of a chart's area that keeps within the limit of its stretch
_SPENT = 0.04  # of the mesh's area that may exceed it when charts are merged once more, wherever that is,
_MOST = 0.6  # and of a chart's then
_WORST = 3.0  # times the limit, which no face exceeds
_TINY = 0.03  # of a chart's area: faces smaller than that together may, then
_DRAWN = 3  # rounds in which faces that cover each other are made smaller,
_SMALLER = 0.8  # each to so much of their size,
_HOPE = 0.3  # unless more of a chart's area than that is stretched too much already
_ROUNDS = 200  # of merging; it ends long before, when no pair is left to be tried


def fewer(
    vertices: torch.Tensor,
    faces: torch.Tensor,
    dual: Dual,
    rest: torch.Tensor,
    labels: torch.Tensor,
    corners: torch.Tensor,
    limit: float,
    covers_itself: Callable[[torch.Tensor, Pieces, torch.Tensor, int], torch.Tensor],
    tick: Callable[[], None],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge neighbouring charts as long as what comes of it lies flat and hardly stretched.

    Pairs that share most of the border of the smaller one come first; in each round all that name each other are tried
    at once. A pair is laid flat by turning one chart so that the border they share fits best (Procrustes), and relaxing
    both together (as rigid as possible). What folds, covers itself or stretches too much stays apart. When no pair is
    left that way, what covers itself by little is laid smaller there. At last those are merged that add least to the
    stretched area of the whole mesh, as long as that is small: many are small charts that cost next to nothing.

    Args:
        vertices: [V, 3] float64. faces: [F, 3] int32. rest: [F, 3, 2], see flat_shapes.
        labels: [F] int64 charts that lie flat, 0 .. C - 1. corners: [F, 3, 2] float64, where, in the vertices' unit.
        limit: of the L2 stretch (see unwrap), for all but 5 % of the area.
        covers_itself: (points, pieces, chart [F'], charts) -> [charts] bool.

    Returns:
        labels and corners of fewer charts.
    """
    corners = corners.clone()
    number = torch.arange(int(labels.max()) + 1, device=labels.device)  # names of charts, which merged ones change
    failed = torch.zeros(0, dtype=torch.int64, device=labels.device)
    most = len(number) * 2
    draw_back = once_more = False
    for _ in range(_ROUNDS):
        tick()
        pairs = _mutual(labels, dual, number, failed, most)
        if len(pairs) == 0 and once_more:
            break
        if len(pairs) == 0:
            draw_back, once_more, failed = True, draw_back, failed[:0]
            continue
        count = len(pairs)
        group = torch.full((len(number),), -1, dtype=torch.int64, device=labels.device)
        group[pairs] = torch.arange(count, device=labels.device)[:, None].expand(-1, 2)
        face = (group[labels] >= 0).nonzero()[:, 0]
        chart = group[labels[face]]
        second = labels[face] == pairs[chart, 1]
        placed = _beside(faces[face], chart, second, corners[face], len(vertices), count)
        pieces = cut(faces[face], chart, len(vertices), count)
        points = _relaxed(placed, pieces, rest[face], tick)
        laid = points[pieces.faces.long()]
        found = _stretched(laid, rest[face], chart, count, limit)
        good = ~covers_itself(points, pieces, chart, count)
        if draw_back:  # not before: most pairs are of charts that find other neighbours
            hopeful = ~good & (found.wide <= _HOPE * found.whole)
            laid, parted = _drawn_back(faces[face], chart, laid, rest[face], hopeful, covers_itself, tick)
            found = _stretched(laid, rest[face], chart, count, limit)
            good |= parted
        if once_more:
            before = _stretched(corners, rest, labels, len(number), limit)
            good &= (found.wide <= _MOST * found.whole) & (found.far <= _TINY * found.whole) & ~found.mirrored
            added = (found.wide - before.wide[pairs].sum(1)).clamp_min(0)
            left = _SPENT * before.whole.sum() - before.wide.sum()
            good &= _affordable(added, good, left)
        else:
            good &= (found.wide <= (1 - _SHARE) * found.whole) & (found.far == 0) & ~found.mirrored
        done = good[chart]
        corners[face[done]] = laid[done]
        failed = torch.cat([failed, _key(number[pairs[~good]], most)])
        merged = pairs[good]
        number[merged[:, 0]] = int(number.max()) + 1 + torch.arange(len(merged), device=labels.device)
        to = torch.arange(len(number), device=labels.device)
        to[merged[:, 1]] = merged[:, 0]
        left, labels = to[labels].unique(return_inverse=True)
        number = number[left]
    return labels, corners


def _key(pairs: torch.Tensor, most: int) -> torch.Tensor:
    return pairs.amin(1) * most + pairs.amax(1)


def _mutual(labels: torch.Tensor, dual: Dual, number: torch.Tensor, failed: torch.Tensor, most: int) -> torch.Tensor:
    """[K, 2] pairs of charts that name each other as the neighbour to merge with, of those not tried in vain."""
    count = len(number)
    ends = labels[dual.pairs]
    apart = ends[:, 0] != ends[:, 1]
    perimeters = sum_by(dual.perimeters, labels, count)
    inner = ~apart
    perimeters.index_add_(0, ends[inner, 0], -2 * dual.lengths[inner])
    pairs, lengths = unite(ends[apart], dual.lengths[apart], count)
    fresh = ~torch.isin(_key(number[pairs], most), failed)
    pairs, lengths = pairs[fresh], lengths[fresh]
    share = lengths / torch.minimum(perimeters[pairs[:, 0]], perimeters[pairs[:, 1]]).clamp_min(1)
    order = share.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    best = torch.full((count,), len(pairs), dtype=torch.int64, device=labels.device)
    for end in pairs.unbind(1):
        best.scatter_reduce_(0, end, rank, "amin")
    return pairs[(best[pairs[:, 0]] == rank) & (best[pairs[:, 1]] == rank)]


def _beside(
    faces: torch.Tensor, chart: torch.Tensor, second: torch.Tensor, corners: torch.Tensor, vertices: int, count: int
) -> torch.Tensor:
    """[N, 3, 2] corners with each pair's second chart turned and moved so that the vertices it shares with the first
    come near to where they are there."""
    key = (chart[:, None] * vertices + faces.long()).reshape(-1)
    flat, side = corners.reshape(-1, 2), second.repeat_interleave(3)
    keys, places = [], []
    for chosen in (~side, side):
        found, place = key[chosen].unique(return_inverse=True)
        keys.append(found)
        places.append(
            torch.empty(len(found), 2, dtype=flat.dtype, device=flat.device).index_copy_(0, place, flat[chosen])
        )
    at = torch.searchsorted(keys[0], keys[1]).clamp_max(len(keys[0]) - 1)
    both = keys[0][at] == keys[1]
    pair = keys[1][both] // vertices
    here, there = places[0][at[both]], places[1][both]
    shared = torch.bincount(pair, minlength=count).clamp_min(1)[:, None]
    middle, other = (sum_by(each, pair, count) / shared for each in (here, there))
    p, q = there - other[pair], here - middle[pair]
    angle = torch.atan2(sum_by(p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0], pair, count), sum_by((p * q).sum(1), pair, count))
    cosine, sine = angle.cos()[chart, None], angle.sin()[chart, None]
    x, y = (corners - other[chart][:, None]).unbind(2)
    turned = torch.stack([cosine * x - sine * y, sine * x + cosine * y], 2) + middle[chart][:, None]
    return torch.where(second[:, None, None], turned, corners)


def _relaxed(placed: torch.Tensor, pieces: Pieces, rest: torch.Tensor, tick: Callable[[], None]) -> torch.Tensor:
    """[N, 2] float64 positions of the pieces' vertices, from where their corners are."""
    row, count = pieces.faces.reshape(-1).long(), len(pieces.source)
    uses = torch.bincount(row, minlength=count)[:, None]
    points = sum_by(placed.reshape(-1, 2), row, count) / uses
    points = points - points[pieces.begin[pieces.chart].long()]  # near 0, where float32 is fine
    return relax(points.float(), pieces, rest, tick).double()


def _drawn_back(
    faces: torch.Tensor,
    chart: torch.Tensor,
    laid: torch.Tensor,
    rest: torch.Tensor,
    wanted: torch.Tensor,
    covers_itself: Callable[[torch.Tensor, Pieces, torch.Tensor, int], torch.Tensor],
    tick: Callable[[], None],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Corners [N, 3, 2], and which of the wanted charts [C] lie flat after faces at which they cover themselves have
    become smaller, round by round: the sides of a slit that closes, or faces round a saddle, overlap by little.

    faces: [N, 3] int32. chart: [N] int64. laid: [N, 3, 2] where the corners are. rest: as for fewer().
    """
    laid, rest, left = laid.clone(), rest.clone(), wanted.clone()
    for _ in range(_DRAWN):
        face = left[chart].nonzero()[:, 0]
        if len(face) == 0:
            break
        name = (left.cumsum(0) - 1)[chart[face]]
        count = int(left.sum())
        pieces = cut(faces[face], name, int(faces.max()) + 1, count)
        points = torch.zeros(len(pieces.source), 2, dtype=laid.dtype, device=laid.device)
        points[pieces.faces.long()] = laid[face]
        near = torch.zeros(len(points), dtype=torch.bool, device=laid.device)
        away = folds(points, pieces, name) | ~(signed_areas(points, pieces.faces) > 0)
        near[pieces.faces[away].reshape(-1).long()] = True
        rest[face[near[pieces.faces.long()].any(1)]] *= _SMALLER
        points = _relaxed(laid[face], pieces, rest[face], tick)
        laid[face] = points[pieces.faces.long()]
        left[left.nonzero()[:, 0]] = covers_itself(points, pieces, name, count)
    return laid, wanted & ~left


@dataclass(frozen=True)
class _Stretched:
    """By chart: [C] float64 its area, that stretched more than the limit, and far more; [C] bool mirrored faces."""

    whole: torch.Tensor
    wide: torch.Tensor
    far: torch.Tensor
    mirrored: torch.Tensor


def _stretched(corners: torch.Tensor, rest: torch.Tensor, chart: torch.Tensor, count: int, limit: float) -> _Stretched:
    """corners: [N, 3, 2], where faces lie."""
    points = corners.reshape(-1, 2)
    faces = torch.arange(len(points), device=points.device).reshape(-1, 3)
    area = rest[:, 1, 0] * rest[:, 2, 1] / 2
    real = area > 0
    large, small = stretches(rest, points, faces)
    stretch = ((large**2 + small**2) / 2).sqrt()
    wide, far = (torch.where(real & ~(stretch <= each), area, 0) for each in (limit, _WORST * limit))
    mirrored = torch.where(real & ~(signed_areas(points, faces) > 0), 1, 0)
    whole, stretched, worst = (sum_by(each, chart, count) for each in (area, wide, far))
    return _Stretched(whole, stretched, worst, sum_by(mirrored, chart, count) > 0)


def _affordable(costs: torch.Tensor, good: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
    """[K] bool: the cheapest of the good ones that together cost no more than what is left."""
    order = torch.where(good, costs, torch.inf).argsort(stable=True)
    within = torch.zeros_like(good)
    within[order] = running_sums(costs[order]) <= left
    return within
