"""Joints: which charts may be laid beside each other, along which of the edges that they share, and how that looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...sums import sum_by
from ..topology.half_edges import components
from .charts import Dual
from .parameterise import Pieces, cut

_Fresh = Callable[[torch.Tensor], torch.Tensor]  # pairs [K, 2] of charts -> [K] bool, those not tried in vain
_AT_ONCE = 1 << 13  # faces of trials that cost hardly more than those of one: each is some thousand short operations
_SEEDS = 48  # edges of a border at which a hinge is sought, at most
_HINGES = 6  # that are tried of a pair
_LEAST = 0.02  # of the smaller chart's border, that a hinge joins at least


@dataclass(frozen=True)
class Seams:
    """Charts as they are: labels [F] int64 of the faces, 0 .. C - 1. corners [F, 3, 2] float64, where they lie. faces
    [F, 3] int64, of vertices that each chart has for itself, 0 .. count - 1; along a slit in a chart they are two.
    """

    labels: torch.Tensor
    corners: torch.Tensor
    faces: torch.Tensor
    count: int

    @property
    def charts(self) -> int:
        return int(self.labels.max()) + 1


@dataclass(frozen=True)
class Joints:
    """K pairs [K, 2] of charts, each with edges to be joined: their trial [N] and their place in dual.pairs [N].

    share: [K] float64, what is joined of the smaller chart's border.
    """

    pairs: torch.Tensor
    share: torch.Tensor
    trial: torch.Tensor
    edge: torch.Tensor

    def only(self, chosen: torch.Tensor) -> Joints:
        """Those of an index [K'] of rising numbers."""
        place = torch.full((len(self.pairs),), -1, dtype=torch.int64, device=self.pairs.device)
        place[chosen] = torch.arange(len(chosen), device=self.pairs.device)
        mine = place[self.trial] >= 0
        return Joints(self.pairs[chosen], self.share[chosen], place[self.trial[mine]], self.edge[mine])


@dataclass(frozen=True)
class Trial:
    """Joints as laid beside each other: N faces face [N] (of the mesh) of trials chart [N], cut into pieces; placed
    [N, 3, 2] their corners, of which those that are joined lie near each other."""

    face: torch.Tensor
    chart: torch.Tensor
    pieces: Pieces
    placed: torch.Tensor


def edge_ends(dual: Dual, faces: torch.Tensor) -> torch.Tensor:
    """[E, 2, 2] int64 corners (3 * face + corner): of each edge of dual.pairs both ends, in both faces."""
    flat = faces.reshape(-1)
    first, second = dual.sides.unbind(1)
    ahead, behind = (side - side % 3 + (side % 3 + 1) % 3 for side in (first, second))
    same = flat[first] == flat[second]
    one = torch.stack([first, torch.where(same, second, behind)], 1)
    two = torch.stack([ahead, torch.where(same, behind, second)], 1)
    return torch.stack([one, two], 1)


def whole_borders(seams: Seams, dual: Dual, ends: torch.Tensor, fresh: _Fresh) -> Joints:
    """Pairs along all that they share: those that name each other as the neighbour to merge with, and as many of the
    best others as cost little more."""
    joints, sizes = _neighbours(seams, dual, ends, fresh)
    order = joints.share.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    best = torch.full((seams.charts,), len(order), dtype=torch.int64, device=order.device)
    for end in joints.pairs.unbind(1):
        best.scatter_reduce_(0, end, rank, "amin")
    mutual = (best[joints.pairs] == rank[:, None]).all(1)
    return joints.only(_cheap(rank - len(rank) * mutual.long(), mutual, sizes))


def hinges(seams: Seams, dual: Dual, ends: torch.Tensor, fresh: _Fresh, miss: float) -> tuple[Joints, torch.Tensor]:
    """Pairs along a part of what they share, some joints of each; and the pairs of which these are, [P, 2].

    The second chart is laid with an edge on that of the first; edges that miss each other by less than `miss` of their
    distance from it are joined, too. Tried are the edges at which most is joined.
    """
    found, sizes = _neighbours(seams, dual, ends, fresh)
    rank = found.share.argsort(descending=True, stable=True).argsort()
    none = torch.zeros(len(rank), dtype=torch.bool, device=rank.device)
    found = found.only(_cheap(rank, none, sizes))
    first = seams.labels[dual.pairs[found.edge, 0]] == found.pairs[found.trial, 0]
    corner = ends[found.edge]
    corner = torch.where(first[:, None, None], corner, corner.flip(2))
    places = torch.view_as_complex(seams.corners.reshape(-1, 2)[corner].contiguous()).cpu()  # [N, end, chart]
    lengths = dual.lengths[found.edge].double().cpu()
    order = found.trial.cpu().argsort(stable=True)
    bounds = torch.bincount(found.trial.cpu(), minlength=len(found.pairs)).cumsum(0).tolist()
    whole = sum_by(lengths, found.trial.cpu(), len(found.pairs))
    border = whole / found.share.cpu()
    trial, edge, pair, share = [], [], [], []
    start = 0
    for k, stop in enumerate(bounds):
        rows = order[start:stop]
        start = stop
        for chosen in _hinged(places[rows], lengths[rows], float(border[k]) * _LEAST, miss):
            mine = rows[chosen]
            trial.append(torch.full((len(mine),), len(pair)))
            edge.append(mine)
            pair.append(k)
            share.append(float(lengths[mine].sum() / border[k]))
    home = rank.device
    kept = torch.tensor(pair, dtype=torch.int64, device=home)
    rows = torch.cat(edge).to(home) if edge else kept[:0]
    which = torch.cat(trial).to(home) if trial else kept[:0]
    shares = torch.tensor(share, dtype=torch.float64, device=home)
    return Joints(found.pairs[kept], shares, which, found.edge[rows]), found.pairs


def lay(joints: Joints, seams: Seams, dual: Dual, ends: torch.Tensor) -> Trial:
    """Each joint's second chart turned and moved so that the edges to be joined come near each other."""
    count = len(joints.pairs)
    sizes = torch.bincount(seams.labels, minlength=seams.charts)
    by_chart = seams.labels.argsort(stable=True)
    begin = sizes.cumsum(0) - sizes
    charts = joints.pairs.reshape(-1)  # [2 K]
    many = sizes[charts]
    run = torch.arange(len(charts), device=charts.device).repeat_interleave(many)
    within = torch.arange(len(run), device=run.device) - (many.cumsum(0) - many)[run]
    face = by_chart[begin[charts[run]] + within]
    chart, second = run // 2, run % 2 == 1
    placed = _beside(joints, seams, dual, ends, seams.corners[face], chart, second)
    key, place = (chart[:, None] * seams.count + seams.faces[face]).unique(return_inverse=True)
    copies = seams.faces.reshape(-1)[ends[joints.edge]] + joints.trial[:, None, None] * seams.count  # [N, end, face]
    one, two = torch.searchsorted(key, copies).reshape(-1, 2).unbind(1)
    vertex, vertices = components(one, two, len(key))
    return Trial(face, chart, cut(vertex[place], chart, vertices, count), placed)


def joined(joints: Joints, seams: Seams, ends: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Faces [F, 3] whose vertices are one where edges are joined, and how many vertices there are."""
    one, two = seams.faces.reshape(-1)[ends[joints.edge]].reshape(-1, 2).unbind(1)
    vertex, count = components(one, two, seams.count)
    return vertex[seams.faces], count


def _neighbours(seams: Seams, dual: Dual, ends: torch.Tensor, fresh: _Fresh) -> tuple[Joints, torch.Tensor]:
    """Pairs of neighbours, not tried in vain, along all that they share; and how many faces each pair has."""
    count = seams.charts
    both = seams.labels[dual.pairs]
    apart = (both[:, 0] != both[:, 1]).nonzero()[:, 0]
    copies = seams.faces.reshape(-1)[ends]  # [E, end, face]
    inner = (copies[:, :, 0] == copies[:, :, 1]).all(1)
    border = sum_by(dual.perimeters, seams.labels, count)
    border.index_add_(0, both[inner, 0], -2 * dual.lengths[inner])
    low, high = both[apart].amin(1), both[apart].amax(1)
    key, trial = (low * count + high).unique(return_inverse=True)
    pairs = torch.stack([key // count, key % count], 1)
    length = sum_by(dual.lengths[apart], trial, len(pairs))
    share = length.double() / border[pairs].amin(1).clamp_min(1)
    joints = Joints(pairs, share, trial, apart).only(fresh(pairs).nonzero()[:, 0])
    return joints, torch.bincount(seams.labels, minlength=count)[joints.pairs].sum(1)


def _cheap(rank: torch.Tensor, needed: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """[K'] rising numbers of the needed ones and the first by rank whose faces are few together; one at least."""
    order = rank.argsort(stable=True)
    few = needed.clone()
    few[order] |= sizes[order].cumsum(0) <= _AT_ONCE
    few[order[:1]] = True
    return few.nonzero()[:, 0]


def _hinged(places: torch.Tensor, lengths: torch.Tensor, least: float, miss: float) -> list[torch.Tensor]:
    """Masks [n] of what is joined by the best hinges of one pair: each joins most at an edge that none before joins.

    places: [n, 2, 2] complex128, of edges, ends, charts. lengths: [n].
    """
    seeds = torch.linspace(0, len(places) - 1, min(_SEEDS, len(places))).long()
    here, there = places.unbind(2)
    middle, other = here[seeds].mean(1)[:, None, None], there[seeds].mean(1)[:, None, None]
    along, back = (each[seeds, 1] - each[seeds, 0] for each in (here, there))
    turn = torch.sgn(along * back.conj())[:, None, None]
    moved = (there - other) * turn + middle  # [S, n, 2]
    far = (here - middle).abs().amax(2)
    near = (moved - here).abs().amax(2) <= miss * far
    near[torch.arange(len(seeds)), seeds] = True
    gain = (near * lengths).sum(1)
    found = []
    for _ in range(_HINGES):
        best = int(gain.argmax())
        if gain[best] < least or gain[best] <= 0:
            break
        found.append(near[best])
        gain = torch.where(near[best][seeds], 0, gain)
    return found


def _beside(
    joints: Joints,
    seams: Seams,
    dual: Dual,
    ends: torch.Tensor,
    corners: torch.Tensor,
    chart: torch.Tensor,
    second: torch.Tensor,
) -> torch.Tensor:
    """[N, 3, 2] corners [N, 3, 2] of joints [N], those of the second charts turned and moved (Procrustes)."""
    count = len(joints.pairs)
    first = seams.labels[dual.pairs[joints.edge, 0]] == joints.pairs[joints.trial, 0]
    places = seams.corners.reshape(-1, 2)[ends[joints.edge]]  # [M, end, face, 2]
    places = torch.where(first[:, None, None, None], places, places.flip(2))
    here, there = (places[:, :, k].reshape(-1, 2) for k in range(2))
    trial = joints.trial.repeat_interleave(2)
    weight = dual.lengths[joints.edge].double().clamp_min(1).repeat_interleave(2)[:, None]
    whole = sum_by(weight, trial, count)
    middle, other = (sum_by(each * weight, trial, count) / whole for each in (here, there))
    p, q = there - other[trial], (here - middle[trial]) * weight
    sine, cosine = sum_by(p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0], trial, count), sum_by((p * q).sum(1), trial, count)
    angle = torch.atan2(sine, cosine)
    cosine, sine = angle.cos()[chart, None], angle.sin()[chart, None]
    x, y = (corners - other[chart][:, None]).unbind(2)
    turned = torch.stack([cosine * x - sine * y, sine * x + cosine * y], 2) + middle[chart][:, None]
    return torch.where(second[:, None, None], turned, corners)
