"""Fewer seams: charts laid beside each other along the border they share, and merged where they then lie flat."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...sums import sum_by
from .charts import Dual
from .joints import Joints, Seams, edge_ends, hinges, joined, lay, whole_borders
from .parameterise import Pieces, cut, folds, relax, signed_areas, smallest_boxes, stretches

_SHARE = 0.95  # of a chart's area that keeps within the limit of its stretch
_SPENT = 0.04  # of the mesh's area that may exceed it when charts are merged once more, wherever that is,
_MOST = 0.6  # and of a chart's then
_WORST = 3.0  # times the limit, which no face exceeds
_TINY = 0.03  # of a chart's area: faces smaller than that together may, then
_DRAWN = 6  # rounds in which faces that cover each other are made smaller,
_SMALLER = 0.8  # each to so much of their size,
_HOPE = 0.3  # unless more of a chart's area than that is stretched too much already
_FILLED = 0.5  # of the texture: what a chart's length leaves of that, at least
# Of the mesh's area, by which a chart's box may be larger than those of the two that it is made of. Eight meshes of
# 2,000 faces have 5 to 13 charts and fill 0.52 of the texture in the mean, with 0.1 5 to 12 and 0.49, with 0 11 to 98
# and 0.65.
_GROWN = 0.06
_HINGE = 0.15  # of the distance from a hinge, by which edges that are joined may miss each other
_ROUNDS = 200  # of merging; it ends long before, when no pair is left to be tried


@dataclass(frozen=True)
class _Phase:
    """What is done with pairs that are left.

    draw_back: faces that cover each other are made smaller. spend: what stretch the whole mesh may have is spent.
    hinge: pairs are joined along parts of what they share, see hinges; None: along all of it.
    """

    draw_back: bool = False
    spend: bool = False
    hinge: float | None = None


_PHASES = (
    _Phase(),
    _Phase(draw_back=True, spend=True),
    _Phase(spend=True, hinge=_HINGE),
    _Phase(draw_back=True, spend=True, hinge=2 * _HINGE),
)


def fewer(
    faces: torch.Tensor,
    dual: Dual,
    rest: torch.Tensor,
    labels: torch.Tensor,
    corners: torch.Tensor,
    limit: float,
    covers_itself: Callable[[torch.Tensor, Pieces, torch.Tensor, torch.Tensor], torch.Tensor],
    tick: Callable[[], None],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Merge neighbouring charts as long as what comes of it lies flat and hardly stretched.

    Pairs that share most of the border of the smaller one come first; those that name each other are tried at once, and
    others with them. A pair is laid flat by turning one chart so that the border they share fits best (Procrustes), and
    relaxing both together (as rigid as possible). What folds, covers itself or stretches too much stays apart. When no
    pair is left that way, what covers itself by little is laid smaller there, and those are merged that add least to
    the stretched area of the whole mesh, as long as that is small: many are small charts that cost next to nothing. At
    last charts are joined along a part of the border that they share, as a lid is by its hinge; the rest of it stays a
    seam, which is a slit in the chart. Charts that would reach far and leave much of the texture empty stay apart.

    Args:
        faces: [F, 3] of the mesh. rest: [F, 3, 2], see flat_shapes.
        labels: [F] int64 charts that lie flat, 0 .. C - 1. corners: [F, 3, 2] float64, where, in the vertices' unit.
        limit: of the L2 stretch (see unwrap), for all but 5 % of the area.
        covers_itself: (points, pieces, chart [F'], asked [C] bool) -> [C] bool: charts of those asked about that do.

    Returns:
        labels and corners of fewer charts, and faces [F, 3] int32 of a mesh that is cut open along the seams.
    """
    ends = edge_ends(dual, faces)
    pieces = cut(faces, labels, int(faces.max()) + 1, int(labels.max()) + 1)
    seams = Seams(labels, corners.clone(), pieces.faces.long(), len(pieces.source))
    number = torch.arange(seams.charts, device=labels.device)  # names of charts, which merged ones change
    most = len(number) * 2
    shapes = rest
    for phase in _PHASES:
        failed = torch.zeros(0, dtype=torch.int64, device=labels.device)
        for _ in range(_ROUNDS):
            tick()

            def fresh(pairs: torch.Tensor) -> torch.Tensor:
                return ~torch.isin(_key(number[pairs], most), failed)  # noqa: B023

            if phase.hinge is None:
                joints = whole_borders(seams, dual, ends, fresh)
                tried = joints.pairs
            else:
                joints, tried = hinges(seams, dual, ends, fresh, phase.hinge)
            if len(tried) == 0:
                break
            done, good, corners, shapes = _attempt(
                joints, seams, dual, ends, rest, shapes, limit, phase, covers_itself, tick
            )
            keys = _key(number[tried], most)
            failed = torch.cat([failed, keys[~torch.isin(keys, _key(number[joints.pairs[good]], most))]])
            merged = joints.only(done)
            to = torch.arange(len(number), device=labels.device)
            to[merged.pairs[:, 1]] = merged.pairs[:, 0]
            new_faces, count = joined(merged, seams, ends)
            number[merged.pairs[:, 0]] = int(number.max()) + 1 + torch.arange(len(done), device=labels.device)
            left, labels = to[seams.labels].unique(return_inverse=True)
            number = number[left]
            seams = Seams(labels, corners, new_faces, count)
    return seams.labels, seams.corners, seams.faces.int()


def _key(pairs: torch.Tensor, most: int) -> torch.Tensor:
    return pairs.amin(1) * most + pairs.amax(1)


def _attempt(
    joints: Joints,
    seams: Seams,
    dual: Dual,
    ends: torch.Tensor,
    rest: torch.Tensor,
    shapes: torch.Tensor,
    limit: float,
    phase: _Phase,
    covers_itself: Callable[[torch.Tensor, Pieces, torch.Tensor, torch.Tensor], torch.Tensor],
    tick: Callable[[], None],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Indices of the joints [K] that are made, [K] bool which of them would do, and corners [F, 3, 2] and shapes, which
    faces are relaxed to, with those made."""
    corners = seams.corners
    count = len(joints.pairs)
    none = torch.zeros(0, dtype=torch.int64, device=corners.device)
    if count == 0:
        return none, none.bool(), corners, shapes
    trial = lay(joints, seams, dual, ends)
    face, chart, pieces = trial.face, trial.chart, trial.pieces
    aims = shapes[face]
    points = _relaxed(trial.placed, pieces, aims, tick)
    laid = points[pieces.faces.long()]
    found = _stretched(laid, rest[face], chart, count, limit)
    worth = found.within(phase)
    if phase.draw_back:
        worth |= found.wide <= _HOPE * found.whole
    worth &= _fit(points, pieces, joints, seams, rest)
    good = worth & ~covers_itself(points, pieces, chart, worth)
    if phase.draw_back:  # not before: most pairs are of charts that find other neighbours
        hopeful = worth & ~good & (found.wide <= _HOPE * found.whole)
        laid, aims, parted = _drawn_back(pieces.faces, chart, laid, aims, hopeful, covers_itself, tick)
        found = _stretched(laid, rest[face], chart, count, limit)
        good |= parted
    good &= found.within(phase)
    added, left = torch.zeros_like(found.whole), math.inf
    if phase.spend:
        before = _stretched(corners, rest, seams.labels, seams.charts, limit)
        added = (found.wide - before.wide[joints.pairs].sum(1)).clamp_min(0)
        left = max(0.0, float(_SPENT * before.whole.sum() - before.wide.sum()))
        good &= added <= left
    order = (added / max(left, 1e-300) - joints.share).argsort(stable=True)
    done = _matching(joints.pairs[order].tolist(), good[order].tolist(), added[order].tolist(), left)
    made = order[torch.tensor(done, dtype=torch.int64, device=order.device)].sort().values
    wanted = torch.zeros(count, dtype=torch.bool, device=corners.device)
    wanted[made] = True
    mine = wanted[chart]
    corners, shapes = corners.clone(), shapes.clone()
    corners[face[mine]] = laid[mine]
    shapes[face[mine]] = aims[mine]
    return made, good, corners, shapes


def _fit(points: torch.Tensor, pieces: Pieces, joints: Joints, seams: Seams, rest: torch.Tensor) -> torch.Tensor:
    """[K] bool: charts no longer than those they are made of, or than the texture may be, be it filled no better than
    _FILLED: all else would have to become smaller for one that reaches far."""
    area = float((rest[:, 1, 0] * rest[:, 2, 1]).sum()) / 2
    now = cut(seams.faces, seams.labels, seams.count, seams.charts)
    corners = torch.zeros(len(now.source), 2, dtype=torch.float64, device=points.device)
    corners[now.faces.long()] = seams.corners
    before, after = smallest_boxes(corners, now)[1][joints.pairs], smallest_boxes(points, pieces)[1]
    short = after.amax(1) <= before.amax((1, 2)).clamp_min(math.sqrt(area / _FILLED))
    return short & (after.prod(1) <= before.prod(2).sum(1) + _GROWN * area)


def _matching(pairs: list[list[int]], good: list[bool], costs: list[float], left: float) -> list[int]:
    """Which of the good pairs, in their order, are made: each chart once, and none that would rather have had one that
    is taken."""
    taken: set[int] = set()
    made = []
    for k, (pair, will_do, cost) in enumerate(zip(pairs, good, costs)):
        if not will_do or cost > left:
            continue
        if taken.isdisjoint(pair):
            made.append(k)
            left -= cost
        taken.update(pair)
    return made


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
    covers_itself: Callable[[torch.Tensor, Pieces, torch.Tensor, torch.Tensor], torch.Tensor],
    tick: Callable[[], None],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Corners and shapes [N, 3, 2], and which of the wanted charts [C] lie flat after faces at which they cover
    themselves have become smaller, round by round: the sides of a slit that closes, faces round a saddle, a dent.

    faces: [N, 3] int32. chart: [N] int64. laid: [N, 3, 2] where the corners are. rest: [N, 3, 2] the faces' shapes.
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
        left[left.nonzero()[:, 0]] = covers_itself(points, pieces, name, left[left])
    return laid, rest, wanted & ~left


@dataclass(frozen=True)
class _Stretched:
    """By chart: [C] float64 its area, that stretched more than the limit, and far more; [C] bool mirrored faces."""

    whole: torch.Tensor
    wide: torch.Tensor
    far: torch.Tensor
    mirrored: torch.Tensor

    def within(self, phase: _Phase) -> torch.Tensor:
        """[C] bool: charts as little stretched as a phase asks."""
        wide, far = (_MOST, _TINY) if phase.spend else (1 - _SHARE, 0.0)
        return (self.wide <= wide * self.whole) & (self.far <= far * self.whole) & ~self.mirrored


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
