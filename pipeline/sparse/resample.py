"""Resampling by two between a voxel and its eight children, features moving between space and channels.

Child c of voxel (x, y, z) is (2x + (c & 1), 2y + (c >> 1 & 1), 2z + (c >> 2)).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .tensor import SparseTensor, Voxels, voxel_keys


@dataclass(frozen=True)
class Subdivision:
    """Which children of each voxel exist.

    slots holds, for each child voxel, 8 * (row of its parent) + c; rows are ordered by it.
    """

    parents: Voxels
    children: Voxels
    slots: torch.Tensor  # [T'] int64
    logits: torch.Tensor | None = None  # [T, 8] what predicted it

    def channel_to_space(self, feats: torch.Tensor) -> torch.Tensor:
        """[T, 8 C] -> [T', C]: each child takes its eighth of the parent's channels."""
        return feats.unflatten(1, (8, -1)).flatten(0, 1).index_select(0, self.slots)

    def take(self, parents: torch.Tensor, children: torch.Tensor) -> Subdivision:
        """Of some parents and some of their children, rows [N] and [N'] int64, ascending, as if there were no others.

        Every child's parent must be among the parents.
        """
        place = torch.full((len(self.parents),), -1, dtype=torch.int32, device=parents.device)
        place[parents] = torch.arange(len(parents), dtype=torch.int32, device=parents.device)
        slots = self.slots[children]
        slots = place[slots >> 3].long() * 8 + (slots & 7)
        return Subdivision(self.parents.take(parents), self.children.take(children), slots)

    def to(self, device: torch.device | str) -> Subdivision:
        logits = None if self.logits is None else self.logits.to(device)
        return Subdivision(self.parents.to(device), self.children.to(device), self.slots.to(device), logits)


def subdivide(parents: Voxels, occupied: torch.Tensor, logits: torch.Tensor | None = None) -> Subdivision:
    """The children named by occupied [T, 8] bool."""
    slots = occupied.reshape(-1).nonzero().squeeze(1)
    child = torch.stack([slots & 1, slots >> 1 & 1, slots >> 2 & 1], 1).to(torch.int32)
    coords = parents.coords[slots >> 3]
    coords = torch.cat([coords[:, :1], coords[:, 1:] * 2 + child], 1)
    if len(parents.lengths) == 1:
        lengths = (len(slots),)
    else:
        lengths = tuple(torch.bincount(coords[:, 0], minlength=len(parents.lengths)).tolist())
    return Subdivision(parents, Voxels(coords, lengths), slots, logits)


def space_to_channel(voxels: Voxels) -> Subdivision:
    """The subdivision that leads to these voxels; its parents are sorted by (sample, x, y, z).

    Children keep the order of `voxels`, so `slots` need not ascend.
    """
    coords = voxels.coords
    parent_coords = torch.cat([coords[:, :1], coords[:, 1:] >> 1], 1)
    _, parent = torch.unique(voxel_keys(parent_coords), return_inverse=True)
    count = int(parent.max()) + 1 if len(voxels) else 0
    parents = coords.new_empty(count, 4)
    parents[parent] = parent_coords  # every child of a parent writes the same row
    bits = coords[:, 1:].long() & 1
    return Subdivision(Voxels(parents), voxels, parent * 8 + bits[:, 0] + 2 * bits[:, 1] + 4 * bits[:, 2])


def gather_children(subdivision: Subdivision, children: SparseTensor) -> SparseTensor:
    """[T', C] -> [T, 8 C] on the parents: the inverse of channel_to_space, zeros where a child is absent."""
    feats = children.feats
    wide = feats.new_zeros(len(subdivision.parents) * 8, feats.shape[1])
    wide[subdivision.slots] = feats
    return SparseTensor(subdivision.parents, wide.reshape(len(subdivision.parents), -1))
