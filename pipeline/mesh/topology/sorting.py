"""Rows in the order of whole numbers, and faces in that of their corners: stable, and in little memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.sparse import csr_matrix

from ...warp import cores, unavailable_reason

_COUNTERS = 4  # cores that count keys, each with a counter for every key
# Rows worked on at once on a GPU. torch's sort of int32 keys takes 32 bytes a row there beside them, as its places are
# int64 and are doubled; half-edges are three times as many as faces.
_AT_ONCE = 1 << 22


def on_cpu(tensor: torch.Tensor) -> bool:
    """Whether scipy's ways are open; else torch's, which every device can go."""
    return tensor.device.type == "cpu"


def by_kernels(tensor: torch.Tensor, wanted: bool | None = None) -> bool:
    """Whether a large step is taken by the kernels of topology_kernels.py: as wanted, else on a CPU, where chains of
    torch's operations spend most of their time on temporary tensors and on waking threads. CUDA's sorts and gathers are
    fast as they are."""
    return tensor.device.type == "cpu" and not unavailable_reason() if wanted is None else wanted


def slices(count: int) -> Iterator[slice]:
    """Rows to work on one after the other."""
    return (slice(start, min(start + _AT_ONCE, count)) for start in range(0, count, _AT_ONCE))


def in_ranges(key: torch.Tensor, count: int) -> Iterator[torch.Tensor]:
    """Rows to sort one after the other, int32, ascending: those of ascending ranges of keys, about _AT_ONCE each
    where keys are spread evenly. key: [N] int32 in 0 .. count - 1."""
    parts = min(-(-len(key) // _AT_ONCE), 255)
    if parts <= 1:
        yield torch.arange(len(key), dtype=torch.int32, device=key.device)
        return
    part = torch.empty(len(key), dtype=torch.uint8, device=key.device)
    torch.floor_divide(key, -(-count // parts), out=part)
    for number in range(parts):
        yield (part == number).nonzero().squeeze(1).int()


def ordered(key: torch.Tensor, count: int) -> torch.Tensor:
    """[N] int32, the stable order of keys [N] int32 in 0 .. count - 1: `grouped` in torch and scipy, without where each
    begins."""
    if on_cpu(key):
        rows = np.arange(len(key) + 1, dtype=np.int32)
        matrix = csr_matrix((np.zeros(len(key), np.int8), key.numpy(), rows), shape=(len(key), count))
        return torch.from_numpy(matrix.tocsc().indices.astype(np.int32, copy=False))
    order = torch.empty(len(key), dtype=torch.int32, device=key.device)
    place = 0
    for rows in in_ranges(key, count):
        within = key.index_select(0, rows).sort(stable=True).indices
        order[place : place + len(rows)] = rows.index_select(0, within)
        place += len(rows)
    return order


def grouped(key: torch.Tensor, count: int, kernels: bool | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """[N] int32, the stable order of keys [N] int32 in 0 .. count - 1, and [count + 1] int32, where each begins in it.

    On a CPU a counting sort, each core counting and placing a range of the keys (without Warp the transposition of a
    sparse matrix with one entry a row), 5-10 times faster than a comparison sort; on CUDA torch's radix sort.
    """
    if by_kernels(key, kernels):
        return _counted(key, count)
    order = ordered(key, count)
    if on_cpu(key):
        first = torch.zeros(count + 1, dtype=torch.int32)
        first[1:] = torch.bincount(key, minlength=count).cumsum(0)
        return order, first
    numbers = torch.arange(count + 1, dtype=key.dtype, device=key.device)
    return order, torch.searchsorted(key.index_select(0, order), numbers, out_int32=True)  # needs no wait as counts do


def _counted(key: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`grouped` on a CPU with Warp."""
    from ...warp import launch
    from . import topology_kernels as kernels

    bounds = even_ranges(len(key), most=_COUNTERS)
    counts = torch.zeros(len(bounds) - 1, count, dtype=torch.int32)
    launch.launch_parallel(kernels.count_keys, len(counts), bounds, key, counts, chunk=1)
    ends = torch.zeros(count * len(counts) + 1, dtype=torch.int32)  # by key, then by range
    torch.cumsum(counts.T.reshape(-1), 0, dtype=torch.int32, out=ends[1:])
    # a copy even for one range, where the transposed is contiguous as it is: placing counts it up, `ends` must stay
    places = ends[:-1].reshape(count, len(counts)).T.clone(memory_format=torch.contiguous_format)
    order = torch.empty_like(key)
    launch.launch_parallel(kernels.place_keys, len(counts), bounds, key, places, order, chunk=1)
    return order, ends[:: len(counts)].contiguous()


def even_ranges(count: int, most: int) -> torch.Tensor:
    """[R + 1] int32 bounds of about equal ranges of rows, one for each core but no more than `most`."""
    parts = max(min(cores(), most), 1)
    return torch.tensor([count * i // parts for i in range(parts + 1)], dtype=torch.int32)


def by_corners(faces: torch.Tensor, kernels: bool | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Faces [F, 3] in the order of their corners: their lowest ones, then the next, then the highest, then as given.

    Neighbours in space, whose vertices mostly have neighbouring numbers, are then neighbours in memory, too: all that
    follows is several times faster than on faces in random order.

    Returns:
        order [F] int32; [F] bool in this order: has the same three vertices as the face before.
    """
    count = int(faces.max()) + 1 if len(faces) else 0
    if not by_kernels(faces, kernels):
        low, middle, high = faces.sort(1).values.int().unbind(1)
        order = ordered(high, count)
        for key in (middle, low):
            order = order.index_select(0, ordered(key.index_select(0, order), count))
        again = torch.zeros(len(faces), dtype=torch.bool, device=faces.device)
        for key in (low, middle, high):
            key = key.index_select(0, order)
            again[1:] |= key[1:] != key[:-1]
        again[1:] = ~again[1:]
        return order, again
    from ...warp import launch
    from .topology_kernels import lowest_corners, sort_faces

    faces = faces.to(torch.int32).contiguous().reshape(-1)
    low = torch.empty(len(faces) // 3, dtype=torch.int32, device=faces.device)
    again = torch.zeros(len(low), dtype=torch.uint8, device=faces.device)
    launch.launch_parallel(lowest_corners, len(low), faces, low)
    order, first = grouped(low, count, True)
    launch.launch_parallel(sort_faces, count, faces, first, order, again)
    return order, again.bool()
