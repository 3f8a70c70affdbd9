"""Levels of a sparse decoder in exact tiles: slabs of voxels, each with as much round it as its convolutions see.

A row of a submanifold convolution depends on the voxels next to it, a row of n of them on those within n voxels. A slab
is computed together with that halo and keeps what is its own, which gives the numbers of the whole level. They are the
same bits wherever a row of a matrix product does not depend on how many rows are beside it: in every Triton row (a row
adds its 27 offsets in their order; which rows share a block, and so the sorting by mask, only adds exact zeros), and on
a CPU (see sparse.reference). cuBLAS may choose another kernel for another number of rows, so that levels whose
products are torch's own on CUDA agree within rounding: none of the released decoders' two finest ones with Triton.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from typing import TypeVar

import torch

from ..budget import Budget, is_out_of_memory
from ..sparse import SparseTensor, Subdivision, Voxels

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_MAP = (
    200  # bytes of a voxel's neighbour map and of what making it takes, Triton's plan or pairs of about 11 neighbours
)
_MOST = 64  # tiles for which a level is meant to be cut; a machine that would need more has no memory at all
_SPARE = 1 << 30  # bytes left alone for fragments and products, or a quarter of what is free if that is less


@dataclass(frozen=True)
class Slab:
    """The voxels with begin <= coordinate < end on an axis (0, 1, 2) of a level."""

    axis: int
    begin: int
    end: int

    def rows(self, voxels: Voxels, halo: int = 0, scale: int = 1) -> torch.Tensor:
        """Rows [N] int64, ascending, of the voxels in the slab or within `halo` voxels of it.

        scale: planes of these voxels for each of the slab's own level.
        """
        at = voxels.xyz[:, self.axis]
        inside = (at >= self.begin * scale - halo) & (at < self.end * scale + halo)
        return inside.nonzero().squeeze(1)


@dataclass(frozen=True)
class Work:
    """A part of a level that can be cut into slabs, and what it takes in bytes beside its input.

    whole: if it is done at once. held: whatever the tiles are, as their results are put together. planes: tells, for
    each axis, what the voxels of each plane take in a tile. halo: planes that a slab needs on either side.
    """

    name: str
    whole: int
    held: int
    planes: Callable[[], list[list[int]]]  # asks the device, so only where it is needed
    halo: int


def blocks_work(name: str, x: SparseTensor, count: int) -> Work:
    """`count` blocks of one convolution each that keep the width of x."""
    rows, row = len(x.voxels), _row_bytes(x.feats)  # a block holds its input and the convolution's result, then its own

    def planes() -> list[list[int]]:
        return [[(3 * row + _MAP) * voxels for voxels in axis] for axis in _planes(x.voxels.xyz)]

    return Work(name, rows * (2 * row + _MAP), rows * row, planes, count)


def up_work(name: str, x: SparseTensor, subdivision: Subdivision, width: int, after: int, outputs: int) -> Work:
    """An up block to `width` channels and what follows it on the finest level: `after` blocks and a layer of `outputs`
    fp32 channels; outputs 0: the up block alone."""
    parents, children = len(x.voxels), len(subdivision.children)
    row, made, result = _row_bytes(x.feats), width * x.feats.element_size(), 4 * outputs
    coarse, fine = row + _MAP, 2 * made + _MAP + result

    def planes() -> list[list[int]]:
        pairs = zip(_planes(x.voxels.xyz), _planes(subdivision.children.xyz >> 1))
        return [[(coarse + row) * one + fine * many for one, many in zip_longest(*pair, fillvalue=0)] for pair in pairs]

    held = 4 * parents + children * (1 + (result or made))  # places of parents, a mask of children, the result
    return Work(name, parents * coarse + children * fine, held, planes, _coarse_halo(after))


def _fine_halo(after: int) -> int:
    """Children that an up block's second convolution and the blocks behind it see on either side."""
    return 1 + after


def _coarse_halo(after: int) -> int:
    """Planes of parents that have those children, and one more for the up block's first convolution."""
    return -(-_fine_halo(after) // 2) + 1


def _row_bytes(feats: torch.Tensor) -> int:
    return feats.shape[1] * feats.element_size()


def _planes(xyz: torch.Tensor) -> list[list[int]]:
    """Voxels of each plane, for each axis; xyz [T, 3]."""
    return [torch.bincount(xyz[:, axis].long()).tolist() for axis in range(3)]


def run(work: Work, budget: Budget, call: Callable[[list[Slab]], _Result]) -> _Result:
    """Do a piece of work whole if it fits (call([])), else in slabs. Where memory runs out all the same it is done once
    more, in slabs, with half as much; then the error stands."""
    usable, wanted = _usable(budget), budget.wanted()
    room, note = min(usable, wanted), budget.note if usable <= wanted else log.info
    for last in (False, True):
        slabs = cut(work, room - work.held) if work.whole > room else []
        if slabs:
            note(f"{work.name} in {len(slabs)} tiles")
        try:
            return call(slabs)
        except (MemoryError, RuntimeError) as error:
            if last or torch.is_grad_enabled() or not is_out_of_memory(error):
                raise
        room, note = min(_usable(budget), work.whole) // 2, budget.note
    raise AssertionError("unreachable")


def _usable(budget: Budget) -> int:
    free = budget.free()
    return free - min(_SPARE, free // 4)


def cut(work: Work, room: int) -> list[Slab]:
    """The slabs, along the best axis, of which each takes at most `room` bytes with its halo (or 1 / 64 of all)."""
    planes_of = work.planes()
    room = max(room, -(-sum(planes_of[0]) // _MOST))
    candidates = []
    for axis, planes in enumerate(planes_of):
        before = [0, *accumulate(planes)]
        slabs = _greedy(axis, before, work.halo, room)
        sizes = [_size(slab.begin, slab.end, before, work.halo) for slab in slabs]
        candidates.append((max(0, max(sizes, default=0) - room), sum(sizes), axis, slabs))
    return min(candidates)[3]


def _size(begin: int, end: int, before: list[int], halo: int) -> int:
    return before[min(end + halo, len(before) - 1)] - before[max(begin - halo, 0)]


def _greedy(axis: int, before: list[int], halo: int, room: int) -> list[Slab]:
    """The fewest slabs that fit; one plane at least. before[i]: bytes of the planes below i."""
    slabs, begin, count = [], 0, len(before) - 1
    while begin < count:
        fits = bisect_right(before, before[max(begin - halo, 0)] + room) - 1  # planes up to here, the halo included
        end = count if fits == count else min(count, max(begin + 1, fits - halo))
        if before[end] > before[begin]:
            slabs.append(Slab(axis, begin, end))
        begin = end
    return slabs


def through_blocks(
    x: SparseTensor, slabs: Sequence[Slab], halo: int, call: Callable[[SparseTensor], SparseTensor]
) -> SparseTensor:
    """call(x), slab by slab, for a call that keeps the voxels and sees `halo` of them on either side."""
    x.voxels.release()
    out = None
    for slab in slabs:
        rows = slab.rows(x.voxels, halo)
        part = call(SparseTensor(x.voxels.take(rows), x.feats[rows]))
        out = _put(out, len(x.voxels), slab, part, rows, 1)
    return x if out is None else x.replace(out)


def through_up(
    x: SparseTensor,
    subdivision: Subdivision,
    slabs: Sequence[Slab],
    after: int,
    call: Callable[[SparseTensor, Subdivision], SparseTensor],
) -> SparseTensor:
    """call(x, subdivision), slab by slab of the parents, for an up block with `after` blocks behind it."""
    x.voxels.release()
    out = None
    for slab in slabs:
        rows = slab.rows(x.voxels, _coarse_halo(after))
        kept = slab.rows(subdivision.children, _fine_halo(after), 2)
        part = subdivision.take(rows, kept)
        made = call(SparseTensor(part.parents, x.feats[rows]), part)
        out = _put(out, len(subdivision.children), slab, made, kept, 2)
    assert out is not None, "a level that is cut has voxels"
    return SparseTensor(subdivision.children, out)


def _put(out, count: int, slab: Slab, part: SparseTensor, rows: torch.Tensor, scale: int) -> torch.Tensor:
    """Write the slab's own rows of a part into the whole [count, C]; rows: the part's rows in it."""
    out = part.feats.new_empty(count, part.feats.shape[1]) if out is None else out
    own = slab.rows(part.voxels, 0, scale)
    out[rows[own]] = part.feats[own]
    return out
