"""The run that trains the image encoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pipeline.spec import IMAGE_ENCODER

from .. import losses, pictures, truth
from .plans import ENCODER
from .task import GroupedTask


@dataclass(frozen=True)
class _Views:
    """Pictures, with occupancy and materials of the objects in them, see losses.picture."""

    pictures: pictures.Pictures
    occupied: torch.Tensor
    material: torch.Tensor
    filled: torch.Tensor


class Encoder(GroupedTask):
    name, ships, keeps = ENCODER, {"encoder": IMAGE_ENCODER}, ("head",)

    def make(self):
        return {"encoder": self.network(IMAGE_ENCODER), "head": self.design.picture_head()}

    @torch.no_grad()
    def group(self, some, random):
        grids = truth.dual_grids(some, self.design.resolution)
        occupied = truth.occupancy(grids.voxels, self.design.resolution, self.design.structure)
        material, filled = mean_material(grids, self.design.structure // 2)
        return _Views(pictures.render(some, random, self.design.image_size), occupied, material, filled)

    def losses(self, batch, random):
        pair = self.modules["encoder"], self.modules["head"]
        return losses.picture(*pair, batch.pictures, batch.occupied, batch.material, batch.filled)


def mean_material(grids: truth.DualGrids, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean material of the voxels in each cell of a coarser grid.

    Returns:
        [B, 6, side, side, side], 0 in empty cells; [B, 1, side, side, side] bool: cells that are not.
    """
    batch, coords = len(grids.voxels.lengths), grids.voxels.coords.long()
    cell = coords[:, 1:] // (grids.resolution // side)
    row = ((coords[:, 0] * side + cell[:, 0]) * side + cell[:, 1]) * side + cell[:, 2]
    total = grids.pbr.new_zeros(batch * side**3, 7).index_add(0, row, F.pad(grids.pbr, (0, 1), value=1.0))
    dense = (total[:, :6] / total[:, 6:].clamp_min(1)).reshape(batch, side, side, side, 6).permute(0, 4, 1, 2, 3)
    return dense, (total[:, 6] > 0).reshape(batch, 1, side, side, side)
