"""Packing: charts stand where a plain search finds the lowest place, and many small ones take few tries."""

import numpy as np
import pytest
import torch

pytest.importorskip("warp")

from charts import nothing, soup, times_covered

from pipeline.mesh.uv import pack as room
from pipeline.mesh.uv import pack_kernels as kernels
from pipeline.mesh.uv.pack import PackConfig
from pipeline.mesh.uv.unwrap import UnwrapConfig, unwrap
from pipeline.warp.launch import launch_single_thread


def masks(rng, count):
    """Charts as [height, width] bool with an empty margin, of which some are wider than a word of 64 texels."""
    out = []
    for _ in range(count):
        height, width = int(rng.integers(1, 9)), int(rng.choice([rng.integers(1, 12), rng.integers(50, 90)]))
        mask = np.zeros((height + 2, width + 2), bool)
        for row in range(1, height + 1):
            begin = int(rng.integers(1, width + 1))
            mask[row, begin : int(rng.integers(begin, width + 1)) + 1] = True
        out.append(mask)
    return out


def runs_of(mask):
    """[R, 3] row, first column, end; the longest first."""
    found = []
    for row, line in enumerate(mask):
        ends = np.diff(np.concatenate([[0], line.astype(int), [0]])).nonzero()[0].reshape(-1, 2)
        found += [(row, *each) for each in ends]
    return sorted(found, key=lambda run: run[1] - run[2])


def searched(charts, size, gap, turns):
    """Where each goes: the plain definition, every place looked at one after the other."""
    taken, margin, found = np.zeros((size, size), bool), -(-gap // 2), []
    for chart in charts:
        best, top = (-1, -1, -1), size - margin + 1
        for turn in range(turns):
            mask = np.rot90(chart, -turn)  # (x, y) -> (height - 1 - y, x) with y downwards
            height, width = mask.shape
            stride, y, at = 1 + height // 12, margin, None

            def first(y, mask=mask, width=width, height=height):
                free = (x for x in range(margin, size - margin - width + 1))
                return next((x for x in free if not (taken[y : y + height, x : x + width] & mask).any()), None)

            while y + height < top and (at := first(y)) is None:
                y += stride
            if at is None:
                continue
            while stride > 1 and y > margin and (lower := first(y - 1)) is not None:
                at, y = lower, y - 1
            best, top = (at, y, turn), y + height
        found.append(best)
        if best[2] < 0:
            continue
        rows, columns = np.rot90(chart, -best[2]).nonzero()
        for dy in range(-gap, gap + 1):
            reach = int(np.sqrt(gap * gap - dy * dy))
            for dx in range(-reach, reach + 1):
                y, x = rows + best[1] + dy, columns + best[0] + dx
                inside = (y >= 0) & (y < size) & (x >= 0) & (x < size)
                taken[y[inside], x[inside]] = True
    return found


@pytest.mark.parametrize(("size", "gap", "turns"), [(128, 1, 4), (150, 4, 2), (200, 3, 4)])
def test_charts_stand_where_a_plain_search_finds_the_lowest_place(size, gap, turns, seed):
    charts = sorted(masks(np.random.default_rng(seed), 40), key=lambda mask: -mask.size)
    tables = [[runs_of(np.rot90(mask, -turn)) for mask in charts] for turn in range(2)]
    flat = [run for table in tables for runs in table for run in runs]
    counts = np.cumsum([0, *(len(runs) for table in tables for runs in table)])
    first = np.stack([counts[: len(charts) + 1], counts[len(charts) :]])
    sizes = torch.tensor([mask.shape[::-1] for mask in charts], dtype=torch.int32)
    rows = np.arange(-gap, gap + 1)
    halo = torch.from_numpy(np.stack([rows, np.sqrt(gap * gap - rows * rows)], 1).astype(np.int32))
    number = torch.arange(len(charts), dtype=torch.int32)
    found = torch.zeros(len(charts), 3, dtype=torch.int32)
    kinds = torch.arange(4 * len(charts), dtype=torch.int32).reshape(4, -1)
    outlines = torch.from_numpy(first.astype(np.int32)), torch.tensor(flat, dtype=torch.int32)
    taken = torch.zeros(size, size // 64 + 1, dtype=torch.int64)
    widest = torch.full((size,), size, dtype=torch.int32)
    hint, failed = torch.zeros(4 * len(charts), dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    atlas = taken, widest, hint, found, failed
    charted = number, sizes, kinds, *outlines
    launch_single_thread(kernels.place, 0, len(charts), turns, *charted, halo, -(-gap // 2), *atlas)
    expected = searched(charts, size, gap, turns)
    failed = next((k for k, each in enumerate(expected) if each[2] < 0), len(charts))  # later ones are sought once
    assert failed > 10 and [tuple(each) for each in found[:failed].tolist()] == expected[:failed]


@pytest.mark.parametrize(
    ("count", "size", "tries", "utilisation"), [(2200, 256, 10, 0.05), (1000, 256, 10, 0.16), (5000, 1024, 4, 0.345)]
)
def test_many_small_charts_take_few_tries_and_waste_nothing(count, size, tries, utilisation, monkeypatch):
    """Coarse cells took 16, 8, and 58 tries after which 2,200 charts were said not to fit. The utilisation is that
    which those tries came to."""
    made = []
    place = room._place
    monkeypatch.setattr(room, "_place", lambda atlases, *more: (made.extend(atlases), place(atlases, *more)))
    config = UnwrapConfig(packing=PackConfig(smallest_coarse_grid=64))
    _, faces, uvs, facts = unwrap(*soup(count), size, 4, nothing, config)
    assert facts["charts"] == count and facts["utilisation"] > utilisation
    assert len(made) <= tries and times_covered(uvs, faces, size).max() == 1
