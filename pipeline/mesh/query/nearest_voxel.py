"""The voxel that is nearest to a point: by Warp's tree, and by scipy's."""

from __future__ import annotations

import torch
from scipy.spatial import KDTree

from .surface import Surface


def nearest_voxel(points: torch.Tensor, xyz: torch.Tensor) -> torch.Tensor:
    """The reference implementation: the voxel whose centre is nearest to each point, any of those equally near.

    Args:
        points: [N, 3] in voxel units. xyz: [T, 3] int, at least one voxel.

    Returns:
        [N] int64 rows of xyz.
    """
    tree = KDTree((xyz.float() + 0.5).cpu().numpy(), compact_nodes=False, balanced_tree=False)
    return torch.from_numpy(tree.query(points.cpu().numpy(), workers=-1)[1]).to(points.device)


def nearest_voxel_by_tree(points: torch.Tensor, xyz: torch.Tensor) -> torch.Tensor:
    """nearest_voxel, by Warp's tree of the centres."""
    row = torch.arange(len(xyz), dtype=torch.int32, device=xyz.device)
    # triangles shrunk to points
    return Surface(xyz.float() + 0.5, row[:, None].expand(-1, 3)).closest(points).face
