"""Packed sparse tensors: a set of voxels, features on it, and its neighbour map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

# Voxel (b, x, y, z) has the key ((b * S + x + 1) * S + y + 1) * S + z + 1: one int64 that sorts like the
# coordinates. S leaves room for a neighbour on either side of every coordinate in 0 .. COORD_LIMIT.
_S = 1 << 18
_NO_KEY = torch.iinfo(torch.int64).max
COORD_LIMIT = _S - 3  # the largest coordinate that has room for a neighbour
TILE = 1024  # rows; a convolution may split its work at multiples of this
NEIGHBOURS = 27  # offsets of a 3 x 3 x 3 kernel
_CHUNK = 1 << 20  # rows; a neighbour map is built and kept in pieces of this, which bounds its temporary memory


class Voxels:
    """A set of voxels packed over samples.

    Args:
        coords: [T, 4] int32 (sample, x, y, z), each voxel once, the rows of a sample contiguous and samples
            ascending; x, y, z in 0 .. COORD_LIMIT.
        lengths: rows of each sample; counted (one device synchronisation) if not given.

    Sorted keys, the neighbour map and what backends derive from the set are made when first asked for and kept.

    origin: (parents, slots as for Subdivision) where the set is known to be their children; backends may derive a
        neighbour table from it without a search.
    """

    origin: tuple[Voxels, torch.Tensor] | None = None

    def __init__(self, coords: torch.Tensor, lengths: tuple[int, ...] | None = None) -> None:
        if coords.ndim != 2 or coords.shape[1] != 4:
            raise ValueError(f"Voxel coordinates must be [T, 4] (sample, x, y, z), got {tuple(coords.shape)}.")
        self.coords = coords.to(torch.int32)
        self.lengths = lengths if lengths is not None else tuple(torch.bincount(coords[:, 0].long()).tolist())
        self._kept: dict[str, Any] = {}

    @classmethod
    def single(cls, coords: torch.Tensor) -> Voxels:
        """One sample from [T, 3] coordinates."""
        return cls(F.pad(coords.to(torch.int32), (1, 0)), (len(coords),))

    def __len__(self) -> int:
        return len(self.coords)

    def __repr__(self) -> str:
        return f"Voxels({len(self)} in {len(self.lengths)} samples on {self.coords.device})"

    @property
    def device(self) -> torch.device:
        return self.coords.device

    @property
    def xyz(self) -> torch.Tensor:
        """[T, 3] int32 coordinates without the sample."""
        return self.coords[:, 1:]

    def to(self, device: torch.device | str) -> Voxels:
        """The same set on a device; without its cached maps if that is another one."""
        coords = self.coords.to(device)
        return self if coords is self.coords else Voxels(coords, self.lengths)

    def take(self, rows: torch.Tensor) -> Voxels:
        """The set of some rows [N] int64, ascending."""
        coords = self.coords[rows]
        if len(self.lengths) == 1:
            return Voxels(coords, (len(rows),))
        counts = torch.bincount(coords[:, 0].long(), minlength=len(self.lengths))
        return Voxels(coords, tuple(counts.tolist()))

    @cached_property
    def _sorted(self) -> tuple[torch.Tensor, torch.Tensor]:
        keys, order = voxel_keys(self.coords).sort()
        # the sentinel lets a search that runs past the end be read without a bounds check
        return torch.cat([keys, keys.new_full((1,), _NO_KEY)]), torch.cat([order, order.new_full((1,), -1)])

    def find(self, coords: torch.Tensor) -> torch.Tensor:
        """Row of each voxel.

        Args:
            coords: [N, 4] (sample, x, y, z); x, y, z may lie one outside the grid.

        Returns:
            [N] int64, -1 where the voxel is not in the set.
        """
        keys, order = self._sorted
        wanted = voxel_keys(coords)
        position = torch.searchsorted(keys, wanted)
        return torch.where(keys[position] == wanted, order[position], -1)

    def find_columns(self, coords: torch.Tensor, depth: int) -> list[torch.Tensor]:
        """Rows of (b, x, y, z), (b, x, y, z + 1), ... (b, x, y, z + depth - 1) with one search.

        Args:
            coords: [N, 4], as for find.

        Returns:
            depth tensors [N] int64, -1 where the voxel is not in the set.
        """
        keys, order = self._sorted
        wanted = voxel_keys(coords)
        position = torch.searchsorted(keys, wanted)
        rows = []
        for dz in range(depth):  # keys of one column are consecutive numbers, so a hit's successor is next
            hit = keys[position] == wanted + dz
            rows.append(torch.where(hit, order[position], -1))
            position = position + hit
        return rows

    def kept(self, name: str, make: Callable[[Voxels], Any]) -> Any:
        """make(self), made once and kept under a name."""
        if name not in self._kept:
            self._kept[name] = make(self)
        return self._kept[name]

    def release(self) -> None:
        """Let go of what `kept` holds."""
        self._kept.clear()

    def fill_neighbour_table(self, table: torch.Tensor) -> None:
        """Write each neighbour's row, -1 where there is none, into table [27, T]; nine searches of T in T keys."""
        for first in range(0, len(self), _CHUNK):
            coords = self.coords[first : first + _CHUNK]
            for column in range(9):
                corner = coords + coords.new_tensor([0, column // 3 - 1, column % 3 - 1, -1])
                for kz, neighbour in enumerate(self.find_columns(corner, 3)):
                    table[3 * column + kz, first : first + len(coords)] = neighbour

    @cached_property
    def neighbours(self) -> NeighbourMap:
        """The pairs of a 3 x 3 x 3 submanifold convolution."""
        return NeighbourMap.build(self)


def voxel_keys(coords: torch.Tensor) -> torch.Tensor:
    """[N, 4] (sample, x, y, z) -> [N] int64 that sort like the rows of coords."""
    b, x, y, z = coords.long().unbind(1)
    return ((b * _S + x + 1) * _S + y + 1) * _S + z + 1


@dataclass(frozen=True)
class NeighbourMap:
    """Which voxel (target) has which neighbour (source), for the 27 offsets of a 3 x 3 x 3 kernel.

    Offset k = 9 kx + 3 ky + kz with kx, ky, kz in 0..2 stands for the neighbour at (kx, ky, kz) - 1; k = 13 is the
    voxel itself. The pairs are held in two orders, chunk by chunk of target rows: by offset (for one matrix product
    per offset) and by target (to sum a target's products).
    """

    chunks: tuple[PairChunk, ...]

    @classmethod
    def build(cls, voxels: Voxels) -> NeighbourMap:
        """Nine searches of T voxels in T sorted keys; 9 bytes a pair are kept (17 on a CPU)."""
        return cls(tuple(PairChunk.build(voxels, first) for first in range(0, len(voxels), _CHUNK)))


@dataclass(frozen=True)
class PairChunk:
    """The P pairs of the target rows first .. last - 1.

    sources: [P] rows, by offset and then by target.
    offset: [P] uint8, position: [P], by target and then by offset: the pair's offset and its place in sources.
    row_starts: [rows + 1] where each target's pairs begin in offset and position.
    offset_starts[k][i], tile_starts[i]: where the pairs of tile i (TILE rows) begin, those of offset k in sources,
    all in offset and position.
    """

    first: int
    last: int
    sources: torch.Tensor
    offset: torch.Tensor
    position: torch.Tensor
    row_starts: torch.Tensor
    offset_starts: list[list[int]]
    tile_starts: list[int]

    @classmethod
    def build(cls, voxels: Voxels, first: int) -> PairChunk:
        coords = voxels.coords[first : first + _CHUNK]
        rows, device = len(coords), coords.device
        # index kernels on the CPU are twice as fast with 64 bits; elsewhere 32 bits halve the memory
        index = torch.int64 if device.type == "cpu" else torch.int32
        found = torch.empty(NEIGHBOURS, rows, dtype=index, device=device)
        for column in range(9):
            corner = coords + coords.new_tensor([0, column // 3 - 1, column % 3 - 1, -1])
            for kz, neighbour in enumerate(voxels.find_columns(corner, 3)):
                found[3 * column + kz] = neighbour
        exists = found >= 0
        before = F.pad(exists.reshape(-1).cumsum(0, dtype=index), (1, 0))  # pairs before each entry of found
        by_target = exists.t().contiguous()
        row_starts = F.pad(by_target.sum(1).cumsum(0), (1, 0))
        edges = (torch.arange(-(-rows // TILE) + 1, device=device) * TILE).clamp_(max=rows)
        starts = before[torch.arange(27, device=device)[:, None] * rows + edges]
        starts = torch.cat([starts, row_starts[edges][None]]).tolist()  # one copy from the device
        return cls(
            first=first,
            last=first + rows,
            sources=found[exists],
            offset=torch.arange(27, dtype=torch.uint8, device=device).expand(rows, 27)[by_target],
            position=before[:-1].reshape(27, rows).t()[by_target],
            row_starts=row_starts.to(index),
            offset_starts=starts[:27],
            tile_starts=starts[27],
        )


@dataclass(frozen=True)
class SparseTensor:
    """Features on a set of voxels: feats [T, C], row i belongs to voxels.coords[i]."""

    voxels: Voxels
    feats: torch.Tensor

    def replace(self, feats: torch.Tensor) -> SparseTensor:
        """Other features on the same voxels."""
        return SparseTensor(self.voxels, feats)

    def to(self, device: torch.device | str) -> SparseTensor:
        return SparseTensor(self.voxels.to(device), self.feats.to(device))
