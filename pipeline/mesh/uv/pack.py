"""Packing: charts of any outline into a square texture, texel by texel, at the largest scale that fits."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from ...errors import SettingsError
from ...warp.launch import launch_parallel, launch_single_thread
from ...words import counted
from . import pack_kernels as kernels
from . import unwrap_kernels
from .parameterise import Pieces, boxes

_AT_ONCE = 256  # charts placed between two ticks
_SIZE_STEP = 64  # pixels, of the texture sizes that errors recommend


@dataclass(frozen=True)
class PackConfig:
    """How charts are packed: which scales are tried, and where places are sought."""

    # The scale is first sought in cells of so many texels, which is faster by the square of it.
    coarse_cell: int = 4
    # Unless the texture then has fewer cells along a side than this.
    smallest_coarse_grid: int = 256
    # Share of the texture that charts are to take at the first scale that is tried.
    first_fill: float = 0.72
    # Two scales are tried together; the second is larger by this factor.
    second_scale: float = 1.01
    # Where a scale fits, the next one that is worth trying is larger by this factor.
    worthwhile: float = 1.004
    # The scale found in coarse cells times this is the first at full resolution.
    finer: float = 1.01
    # A texture is crowded where charts and half of the padding round them take so many times the charts' area: coarse
    # cells would say nothing of charts that are smaller than a cell. There the first scale is that
    crowded: float = 2.0
    # at which charts and half of the padding are to take this share of the texture.
    crowded_fill: float = 0.9
    # Of the scale at which charts should just fill the texture, by what a try tells.
    safety: float = 0.995
    # Scales below this part of the first one are not tried: the charts do not fit.
    smallest_scale: float = 1e-3
    # At or below so many charts all four quarter turns are tried (two above).
    few_charts: int = 64
    # And larger scales are tried until so many tries and one more have failed.
    patience: int = 1
    # So many of the largest charts are sought a place for everywhere.
    exhaustive: int = 256
    # Smaller ones from where the last chart was put whose width and height differ by less than this factor.
    similar: float = 1.25
    # A try ends when charts of this share of the area have found no place.
    hopeless: float = 0.1
    # The next scale then, or larger if charts of more than its square of the area fit.
    shrink: float = 0.6
    # Times the texture's area that the boxes of all charts may have together: bounds the memory.
    box_area: int = 16
    # The same for textures of at least so many cells along a side,
    large_grid: int = 8192
    # which is less.
    box_area_large: int = 4


@dataclass(frozen=True)
class Outlines:
    """Charts drawn at one scale: low [C, 2] int32 their first column and row, sizes [C, 2] int32, first [2, C + 1] and
    runs [R, 3] int32 as pack_kernels.place takes them."""

    low: torch.Tensor
    sizes: torch.Tensor
    first: torch.Tensor
    runs: torch.Tensor

    def areas(self) -> torch.Tensor:
        """[C] int64 texels."""
        upright = self.runs[: int(self.first[0, -1])].long()
        total = torch.cat([upright.new_zeros(1), (upright[:, 2] - upright[:, 1]).cumsum(0)])
        return total[self.first[0].long()].diff()


def pack(
    points: torch.Tensor,
    pieces: Pieces,
    labels: torch.Tensor,
    area: float,
    size: int,
    padding: int,
    tick: Callable[[], None],
    config: PackConfig = PackConfig(),
) -> torch.Tensor:
    """Charts from the largest to the smallest, each bottom-left, as it is or after quarter turns, at one common scale.

    Between texels of two charts lie at least `padding` texels (one where padding is 0), to the texture's border half as
    many: as much as between charts when the texture repeats.

    Args:
        points: [N, 2] float64, y upwards, any unit. labels: [F] int64. area: of all charts in that unit, above 0.
        size: texels along a side.

    Returns:
        [N, 2] float64 in 0-1, v downwards.

    Raises:
        SettingsError: the charts do not fit at any scale.
    """

    def attempt(cells: int, *scales: float) -> list[_Atlas]:
        grid, gap = size // cells, max(1, -(-padding // cells))
        atlases = [_Atlas(points, pieces, labels, scale, grid, gap, footprint, config) for scale in scales]
        _place(atlases, len(pieces.begin) - 1, tick)
        return atlases

    scale = math.sqrt(config.first_fill / area)
    smallest = scale * config.smallest_scale
    coarse = min(config.coarse_cell, max(2, padding))
    footprint = _Footprint.of(points, pieces, area, max(padding, 1) / size)
    crowded = footprint.at(scale) > config.crowded * config.first_fill
    if crowded:
        scale *= footprint.growth(scale, config.crowded_fill / footprint.at(scale), config.smallest_scale)
    elif size // coarse >= config.smallest_coarse_grid:
        footprint = _Footprint(area)
        rough = attempt(coarse, scale)[0]
        while not rough.hopeful and rough.scale > smallest:
            rough = attempt(coarse, rough.better_scale())[0]
        scale = config.finer * rough.better_scale()
    best, misses, too_large = None, 0, math.inf
    patience = config.patience if len(pieces.begin) - 1 <= config.few_charts else 0
    while True:
        if scale < smallest:
            raise SettingsError(
                f"{counted(len(pieces.begin) - 1, 'chart')} of this mesh cannot be placed in {size} x {size} texels "
                f"with a padding of {padding} at any scale: ask for a larger texture ("
                f"{_enough(pieces, padding)} pixels should do), less padding or fewer faces."
            )
        one, two = attempt(1, scale, scale * config.second_scale)
        misses = 0 if two.fits else misses + 1
        if one.fits or two.fits:
            best = two if two.fits else one
            scale = best.better_scale()
        elif best is None:
            scale = one.scale * min(one.better_scale() / one.scale, 1 / config.second_scale**2) ** misses
            continue
        if crowded:
            too_large = min([too_large, *(each.scale for each in (one, two) if not each.fits)])
            scale = min(scale, math.sqrt(best.scale * too_large))
            if scale < best.scale * config.worthwhile or too_large < best.scale * config.second_scale**2:
                break
            continue
        if misses > patience or (patience == 0 and scale < two.scale * config.worthwhile):
            break
        scale = max(scale, two.scale * config.worthwhile)
    return (best.placed(pieces.chart) + 0.5) / size


@dataclass(frozen=True)
class _Footprint:
    """What charts take of a texture, of 1, at a scale: area * scale^2 + sides * scale + corners.

    sides, corners: half of the padding round their boxes; without them charts are taken for large beside the padding.
    """

    area: float
    sides: float = 0.0
    corners: float = 0.0

    @staticmethod
    def of(points: torch.Tensor, pieces: Pieces, area: float, padding: float) -> _Footprint:
        """padding: of 1, as wide as the texture."""
        low, high = boxes(points, pieces, points.new_tensor([[1.0, 0.0]]))
        return _Footprint(area, (high - low).sum().item() * padding, len(low) * math.pi / 4 * padding**2)

    def at(self, scale: float) -> float:
        return (self.area * scale + self.sides) * scale + self.corners

    def growth(self, scale: float, factor: float, least: float) -> float:
        """The change of this scale, `least` or more, that makes the footprint so many times as large."""
        whole = self.at(scale)
        area, sides, corners = self.area * scale**2 / whole, self.sides * scale / whole, self.corners / whole
        under_root = sides**2 + 4 * area * (factor - corners)
        return max(least, (math.sqrt(max(under_root, 0.0)) - sides) / (2 * area))


class _Atlas:
    """Charts at one scale (texture sides to a unit) in a texture of `grid` cells a side, placed on the CPU.

    outlines: on the CPU. found: [C, 3] int32 where each chart was put, column, row and quarter turns, -1 if it did not
    fit.
    """

    def __init__(
        self,
        points: torch.Tensor,
        pieces: Pieces,
        labels: torch.Tensor,
        scale: float,
        grid: int,
        gap: int,
        footprint: _Footprint,
        config: PackConfig,
    ) -> None:
        self.scale, self._grid, self._gap, self._config = scale, grid, gap, config
        self._footprint = footprint
        self._points = points
        texels = self._texels()
        low, sizes = chart_boxes(texels, pieces)
        most = config.box_area if grid < config.large_grid else config.box_area_large
        self._overfull = int(sizes.long().prod(1).sum()) > most * (grid + 2) ** 2
        if self._overfull:
            return
        outlines = _outlines(texels, pieces, labels, low, sizes)
        self._outlines = Outlines(*(each.cpu().contiguous() for each in vars(outlines).values()))
        self._areas = self._outlines.areas()
        sizes = self._outlines.sizes.long()
        self._order = (-sizes.prod(1)).argsort(stable=True).int()
        self._alike = _classes(sizes, self._order, config)
        self._taken = torch.zeros(grid, grid // 64 + 1, dtype=torch.int64)
        self._widest = torch.full((grid,), grid, dtype=torch.int32)
        self._hint = torch.zeros(int(self._alike.amax()) + 1, dtype=torch.int32)
        self._found = torch.zeros(len(sizes), 3, dtype=torch.int32)
        self._failed = torch.zeros(1, dtype=torch.int32)
        self._tried = 0

    def _texels(self) -> torch.Tensor:
        """[N, 2] float64 points in cells, y downwards."""
        side = self.scale * self._grid
        return self._points * torch.tensor([side, -side], dtype=self._points.dtype, device=self._points.device)

    def _shares(self) -> tuple[float, float]:
        """Of the charts' area, what found a place and what did not; the rest has not been tried."""
        tried = self._order[: self._tried].long()
        lost = self._found[tried, 2] < 0
        placed, left = (float(self._areas[tried[each]].sum() / self._areas.sum()) for each in (~lost, lost))
        return placed, left

    @property
    def hopeful(self) -> bool:
        return (
            not self._overfull
            and bool(self._areas.sum() <= self._grid**2)
            and self._shares()[1] <= self._config.hopeless
        )

    @property
    def fits(self) -> bool:
        return self.hopeful and self._failed.item() == 0

    def better_scale(self) -> float:
        """The scale at which the charts should just fill the texture."""
        if self._overfull:
            return self.scale * self._config.shrink
        safety = self._config.safety if self.hopeful else 1.0
        if self.fits:
            heights = self._outlines.sizes.gather(1, 1 - self._found[:, 2:].long() % 2)[:, 0]
            part = self._grid / int((self._found[:, 1] + heights).amax())
        else:
            placed, left = self._shares()
            part = 1 - left if self.hopeful else placed
        return self.scale * safety * self._footprint.growth(self.scale, part, self._config.shrink)

    def place(self, begin: int) -> None:
        """Put _AT_ONCE charts from the begin-th largest on."""
        gap, outlines = self._gap, self._outlines
        rows = np.arange(-gap, gap + 1)
        halo = torch.from_numpy(np.stack([rows, np.sqrt(gap * gap - rows * rows)], 1).astype(np.int32))
        self._tried = min(begin + _AT_ONCE, len(self._order))
        turns = 4 if len(self._order) <= self._config.few_charts else 2
        charts = self._order, outlines.sizes, self._alike, outlines.first, outlines.runs
        atlas = self._taken, self._widest, self._hint, self._found, self._failed
        launch_single_thread(kernels.place, begin, self._tried, turns, *charts, halo, -(-gap // 2), *atlas)

    def placed(self, chart: torch.Tensor) -> torch.Tensor:
        """[N, 2] float64: points of these charts [N] where they were put."""
        low, sizes, found = (each.to(chart.device) for each in (self._outlines.low, self._outlines.sizes, self._found))
        x, y = (self._texels() - low[chart]).unbind(1)
        width, height = (sizes[chart] - 1).double().unbind(1)
        turn = found[chart, 2:].long()
        column = torch.stack([x, height - y, width - x, y], 1).gather(1, turn)
        row = torch.stack([y, x, height - y, width - x], 1).gather(1, turn)
        return torch.cat([column, row], 1) + found[chart, :2]


def _enough(pieces: Pieces, padding: int) -> int:
    """A texture size, of the usual steps, at which charts of a texel each fit with their padding."""
    side = (1 + max(padding, 1)) * math.sqrt(len(pieces.begin) - 1)
    return _SIZE_STEP * max(1, math.ceil(side / _SIZE_STEP))


def _place(atlases: list[_Atlas], charts: int, tick: Callable[[], None]) -> None:
    """Fill atlases at the same time, each on a thread."""
    with ThreadPoolExecutor(len(atlases)) as pool:
        for begin in range(0, charts, _AT_ONCE):
            tick()
            for placed in [pool.submit(each.place, begin) for each in atlases if each.hopeful]:
                placed.result()


def _classes(sizes: torch.Tensor, order: torch.Tensor, config: PackConfig) -> torch.Tensor:
    """[4, C] int32 of charts whose boxes, after each of four quarter turns, are of about the same size; the first
    `exhaustive` in `order` are like no other, and no turn of theirs like another. sizes: [C, 2] int64."""
    wide, high = (sizes.double().log() / math.log(config.similar)).round().long().unbind(1)
    many = int(torch.maximum(wide, high).amax()) + 1
    alike = torch.stack([wide * many + high, high * many + wide]).repeat(2, 1)
    largest = order[: config.exhaustive].long()
    alike[:, largest] = many * many + torch.arange(4 * len(largest)).reshape(4, -1)
    return alike.int()


def overlapping(
    texels: torch.Tensor, faces: torch.Tensor, labels: torch.Tensor, low: torch.Tensor, sizes: torch.Tensor
) -> torch.Tensor:
    """[F] bool: faces that cover a texel's centre which another face in the same box covers too.

    Args:
        texels: [N, 2] float64, in texels, centres at integers. faces: [F, 3] int32. labels: [F], each face's box.
        low, sizes: [B, 2] int32, first texel and size of the boxes.
    """
    flags = torch.zeros(len(faces), dtype=torch.uint8, device=texels.device)
    offset, total = _offsets(sizes)
    owner = torch.empty(total, dtype=torch.int32, device=texels.device)
    for mode in (unwrap_kernels.CLAIM, unwrap_kernels.FIND):
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
    places = labels.int(), low, sizes, offset
    launch_parallel(unwrap_kernels.draw, len(faces), mode, faces, texels, *places, owner, flags, turned)


def _outlines(
    texels: torch.Tensor, pieces: Pieces, labels: torch.Tensor, low: torch.Tensor, sizes: torch.Tensor
) -> Outlines:
    """low, sizes: from chart_boxes."""
    offset, total = _offsets(sizes)
    marks, turned = (torch.zeros(total, dtype=torch.uint8, device=texels.device) for _ in range(2))
    owner = torch.empty(0, dtype=torch.int32, device=texels.device)
    _draw(unwrap_kernels.MARK, texels, pieces.faces, labels, low, sizes, offset, owner, marks, turned)
    upright, beside = _runs(marks, offset, sizes), _runs(turned, offset, sizes.flip(1))
    first = torch.stack([upright[0], beside[0] + len(upright[1])])
    return Outlines(low, sizes, first.int(), torch.cat([upright[1], beside[1]]))


def _runs(marks: torch.Tensor, offset: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Marked texels as runs along rows, the longest of a chart first: where each chart's begin [C + 1], runs [R, 3]."""
    ends = torch.diff(marks, prepend=marks.new_zeros(1)).nonzero()[:, 0]  # a box has an empty margin: no run spans rows
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
