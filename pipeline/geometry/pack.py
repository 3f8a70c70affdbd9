"""Packing: charts of any outline into a square texture, texel by texel, at the largest scale that fits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import SettingsError
from .parameterise import Pieces, boxes

_GRID = 4096  # larger textures are packed in cells of several texels
_COARSE = 4  # the scale is first sought in cells of so many texels, 16 times faster
_DENSEST, _STEP, _STEPS = 0.92, 0.975, 1000  # shares of the texture to try: _DENSEST * _STEP ** (0 .. _STEPS)
_START = 9
_SIZES = 16  # charts of the _SIZES smallest widths and heights are put from where the last of their size was put on,
_MANY, _GRAIN = 4000, 8  # and if so many charts are to be placed, those of _GRAIN times that, in steps of _GRAIN texels
_SMALLEST_COARSE = 256  # cells along a side: the scale is not sought in fewer
_CROWDED = 16  # times the texture's area that the boxes of the charts may have together: bounds the memory
_AT_ONCE = 256  # charts placed between two ticks


@dataclass(frozen=True)
class Outlines:
    """Charts drawn at one scale: low [C, 2] int32 their first column and row, sizes [C, 2] int32, first [2, C + 1] and
    runs [R, 3] int32 as unwrap_kernels.place takes them."""

    low: torch.Tensor
    sizes: torch.Tensor
    first: torch.Tensor
    runs: torch.Tensor


def pack(
    points: torch.Tensor,
    pieces: Pieces,
    labels: torch.Tensor,
    area: float,
    size: int,
    padding: int,
    tick: Callable[[], None],
    step: int | None = None,
) -> tuple[torch.Tensor, int]:
    """Charts from the largest to the smallest, each bottom-left in the best of four turns, at one common scale.

    Between texels of two charts lie at least `padding` texels (one where padding is 0), to the texture's border half as
    many: as much as between charts when the texture repeats.

    Args:
        points: [N, 2] float64, y upwards, any unit. labels: [F] int64. area: of all charts in that unit, above 0.
        size: texels along a side. step: the scale to use, if it fits, from an earlier call on almost the same charts.

    Returns:
        [N, 2] float64 in 0-1, v downwards; the step of the scale.

    Raises:
        SettingsError: the charts do not fit at any scale.
    """
    cell = -(-size // _GRID)

    def attempt(step: int, cells: int) -> tuple | None:
        grid, gap = size // cells, max(1, -(-padding // cells))
        scale = math.sqrt(_DENSEST * _STEP**step / area) * grid
        texels = points * torch.tensor([scale, -scale], dtype=points.dtype, device=points.device)
        low, sizes = chart_boxes(texels, pieces)
        if int(sizes.amax()) > grid + 2 or int(sizes.long().prod(1).sum()) > _CROWDED * (grid + 2) ** 2:
            return None
        outlines = _outlines(texels, pieces, labels, low, sizes)
        if (found := _place(outlines, grid, gap, -(-gap // 2), tick)) is None:
            return None
        return texels, outlines, found

    guess, lowest = (_START, 0) if step is None else (step, step)
    coarse = cell * min(_COARSE, max(2, padding // cell))
    if step is None and size // coarse >= _SMALLEST_COARSE:
        guess = max(_last_that_fits(lambda step: attempt(step, coarse), guess, lowest)[0] - 1, 0)
    step, result = _last_that_fits(lambda step: attempt(step, cell), guess, lowest)
    if result is None:
        raise SettingsError(
            f"The {len(pieces.begin) - 1:,} charts of this mesh do not fit into {size} x {size} texels with {padding} "
            "between them at any scale: ask for a larger texture, less padding or fewer faces."
        )
    texels, outlines, found = result
    at = _moved(texels, outlines, found.to(points.device), pieces.chart)
    return (at + 0.5) * (cell / size), step


def _last_that_fits(attempt: Callable[[int], tuple | None], step: int, lowest: int) -> tuple[int, tuple | None]:
    """The least step that works, from `lowest` on, and what it gave: from a first guess down one by one, up in strides
    that double, then halve. None if the last does not work either."""
    result, stride = attempt(step), 1
    good, bad = step, step - 1
    while result is not None and bad >= lowest and (better := attempt(bad)) is not None:
        good, result, bad = bad, better, bad - 1
    while result is None:
        if good >= _STEPS:
            return good, None
        bad, good, stride = good, min(good + stride, _STEPS), stride * 2
        result = attempt(good)
    while good - bad > 1:
        middle = (good + bad) // 2
        if (better := attempt(middle)) is None:
            bad = middle
        else:
            good, result = middle, better
    return good, result


def overlapping(
    texels: torch.Tensor, faces: torch.Tensor, labels: torch.Tensor, low: torch.Tensor, sizes: torch.Tensor
) -> torch.Tensor:
    """[F] bool: faces that cover a texel's centre which another face in the same box covers too.

    Args:
        texels: [N, 2] float64, in texels, centres at integers. faces: [F, 3] int32. labels: [F], each face's box.
        low, sizes: [B, 2] int32, first texel and size of the boxes.
    """
    from . import unwrap_kernels as own

    flags = torch.zeros(len(faces), dtype=torch.uint8, device=texels.device)
    offset, total = _offsets(sizes)
    owner = torch.empty(total, dtype=torch.int32, device=texels.device)
    for mode in (own.CLAIM, own.FIND):
        _draw(mode, texels, faces, labels, low, sizes, offset, owner, flags, flags[:0])
    return flags > 0


def chart_boxes(texels: torch.Tensor, pieces: Pieces) -> tuple[torch.Tensor, torch.Tensor]:
    """First texel and size [C, 2] int32 of boxes that hold the charts and an empty texel on each side."""
    low, high = boxes(texels, pieces, torch.tensor([[1.0, 0.0]], dtype=torch.float64, device=texels.device))
    low = low[:, 0].floor().int() - 1
    return low, high[:, 0].ceil().int() + 2 - low


def _offsets(sizes: torch.Tensor) -> tuple[torch.Tensor, int]:
    texels = sizes.long().prod(1)
    return texels.cumsum(0) - texels, int(texels.sum())


def _draw(mode, texels, faces, labels, low, sizes, offset, owner, flags, turned) -> None:
    from . import unwrap_kernels as own

    wp = own.wp
    with own.Launcher(texels) as launch:
        launch(
            own.draw,
            len(faces),
            mode,
            wp.from_torch(faces, dtype=wp.vec3i),
            wp.from_torch(texels.contiguous(), dtype=wp.vec2d),
            wp.from_torch(labels.int()),
            *(wp.from_torch(each.contiguous(), dtype=wp.vec2i) for each in (low, sizes)),
            *(wp.from_torch(each) for each in (offset, owner, flags, turned)),
        )


def _outlines(
    texels: torch.Tensor, pieces: Pieces, labels: torch.Tensor, low: torch.Tensor, sizes: torch.Tensor
) -> Outlines:
    """low, sizes: from chart_boxes."""
    from . import unwrap_kernels as own

    offset, total = _offsets(sizes)
    marks, turned = (torch.zeros(total, dtype=torch.uint8, device=texels.device) for _ in range(2))
    owner = torch.empty(0, dtype=torch.int32, device=texels.device)
    _draw(own.MARK, texels, pieces.faces, labels, low, sizes, offset, owner, marks, turned)
    upright, beside = _runs(marks, offset, sizes), _runs(turned, offset, sizes.flip(1))
    first = torch.stack([upright[0], beside[0] + len(upright[1])])
    return Outlines(low, sizes, first.int(), torch.cat([upright[1], beside[1]]))


def _runs(marks: torch.Tensor, offset: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Marked texels as runs along rows, the longest of a chart first: where each chart's begin [C + 1], runs [R, 3]."""
    ends = torch.diff(marks, prepend=marks.new_zeros(1)).nonzero()[:, 0]  # boxes have an empty rim: no run spans rows
    begin, end = (each.contiguous() for each in ends.reshape(-1, 2).unbind(1))
    chart = torch.searchsorted(offset, begin, right=True) - 1
    width = sizes[chart, 0].long()
    row = (begin - offset[chart]) // width
    line = offset[chart] + row * width
    length = end - begin
    longest = torch.zeros_like(offset).scatter_reduce_(0, chart, length, "amax")
    mixed = torch.where(length == longest[chart], 0, 1 + row * 40503 % 65536)
    order = ((chart << 32) + mixed).argsort(stable=True)
    first = torch.searchsorted(chart, torch.arange(len(sizes) + 1, device=marks.device))
    return first, torch.stack([row, begin - line, end - line], 1)[order].int()


def _place(outlines: Outlines, size: int, gap: int, margin: int, tick: Callable[[], None]) -> torch.Tensor | None:
    """[C, 3] int32 column, row and turn of each chart on the CPU; None if they do not all fit."""
    from . import unwrap_kernels as own

    wp = own.wp
    sizes, first, runs = (each.cpu().contiguous() for each in (outlines.sizes, outlines.first, outlines.runs))
    filled = (runs[: int(first[0, -1]), 2] - runs[: int(first[0, -1]), 1]).sum().item()
    if filled > size * size:
        return None
    rows = np.arange(-gap, gap + 1)
    halo = torch.from_numpy(np.stack([rows, np.sqrt(gap * gap - rows * rows)], 1).astype(np.int32))
    order = (-sizes.long().prod(1)).argsort(stable=True).int()
    last = torch.full((size, size), -1, dtype=torch.int16)
    widest = torch.full((size,), size, dtype=torch.int32)
    hint = torch.zeros(_SIZES, _SIZES, dtype=torch.int32)
    found, failed = torch.empty(len(sizes), 3, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    wp.load_module(own.__name__, device="cpu")
    for start in range(0, len(sizes), _AT_ONCE):
        tick()
        arguments = [
            min(start + _AT_ONCE, len(sizes)),
            wp.from_torch(order),
            wp.from_torch(sizes, dtype=wp.vec2i),
            wp.from_torch(first),
            wp.from_torch(runs, dtype=wp.vec3i),
            wp.from_torch(halo, dtype=wp.vec2i),
            margin,
            *(wp.from_torch(each) for each in (last, widest, hint)),
            _GRAIN if len(sizes) > _MANY else 1,
            wp.from_torch(found, dtype=wp.vec3i),
            wp.from_torch(failed),
        ]
        wp.launch(own.place, 1, [start, *arguments], device="cpu")
        if failed.item():
            return None
    return found


def _moved(texels: torch.Tensor, outlines: Outlines, found: torch.Tensor, chart: torch.Tensor) -> torch.Tensor:
    """[N, 2] float64: points where their charts were put."""
    x, y = (texels - outlines.low[chart]).unbind(1)
    width, height = (outlines.sizes[chart] - 1).double().unbind(1)
    turn = found[chart, 2]
    column = torch.stack([x, height - y, width - x, y], 1).gather(1, turn[:, None].long())[:, 0]
    row = torch.stack([y, x, height - y, width - x], 1).gather(1, turn[:, None].long())[:, 0]
    return torch.stack([column, row], 1) + found[chart, :2]
