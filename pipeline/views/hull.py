"""Carving by the visual hull: voxels that lie outside the object in the pictures go."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..sparse import Voxels
from .rig import View

log = logging.getLogger(__name__)

_TOLERANCE = 1 / 32  # of a picture's side, by which silhouettes are grown: cameras are only known roughly
_MOST = 0.4  # share of the voxels; if more would go, views and structure do not belong together


def carve(voxels: Voxels, views: Sequence[View], masks: Sequence[torch.Tensor]) -> Voxels:
    """Remove voxels that two or more pictures (or the only one) show to be outside.

    Cameras are taken to be far away; silhouettes and structure are brought to one scale by their extents in the
    picture's up direction, and centred on each other (Laurentini, "The visual hull concept", 1994).

    Args:
        voxels: one sample's, T of them.
        masks: [H, W] of each view, opaque is 1, rows from the top.

    Returns:
        The voxels that stay, in their order; all of them, with a warning, if more than two in five would go.
    """
    outside = torch.zeros(len(voxels), dtype=torch.int32, device=voxels.device)
    for view, mask in zip(views, masks):
        outside += _outside(voxels, view, mask.to(voxels.device))
    keep = outside < min(2, len(views))
    if keep.float().mean() < 1 - _MOST:
        share = 100 * (1 - keep.float().mean().item())
        log.warning(
            f"The silhouettes would remove {share:.0f} % of the structure: the pictures' views are named wrongly, or "
            "the structure is turned. Nothing was carved."
        )
        return voxels
    return Voxels.single(voxels.xyz[keep])


def _outside(voxels: Voxels, view: View, mask: torch.Tensor) -> torch.Tensor:
    """[T] int32: 1 where a voxel's centre is outside a view's silhouette."""
    height, width = mask.shape
    rows, columns = (mask > 0.5).nonzero().unbind(1)
    if len(rows) == 0:
        return torch.zeros(len(voxels), dtype=torch.int32, device=voxels.device)
    axes = view.axes().to(voxels.device, torch.float32)
    across, along = ((voxels.xyz.float() + 0.5) @ axes[:2].T).unbind(1)  # right and up, in voxels

    def middle(x: torch.Tensor) -> torch.Tensor:
        return (x.min() + x.max()) / 2

    scale = (rows.max() - rows.min() + 1) / (along.max() - along.min() + 1)  # pixels a voxel
    x = middle(columns.float()) + (across - middle(across)) * scale
    y = middle(rows.float()) - (along - middle(along)) * scale
    radius = max(1, round(_TOLERANCE * max(height, width)))
    grown = F.max_pool2d((mask > 0.5).float()[None, None], 2 * radius + 1, 1, radius)[0, 0] > 0
    column, row = x.round().long(), y.round().long()
    within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    hit = grown[row.clamp(0, height - 1), column.clamp(0, width - 1)] & within
    return (~hit).int()
