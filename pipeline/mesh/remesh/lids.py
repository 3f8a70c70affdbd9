"""Lids of holes made smooth."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import splu


def smooth_lids(points: torch.Tensor, faces: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
    """Vertices with the free ones where each is the mean of those beside it: the flattest lids on what stays.

    Args:
        points: [V, 3]. faces: [F, 3] int32, closed and manifold. free: [V] bool.
    """
    touched = free[faces.long()].any(1)
    count = int(free.sum())
    if count == 0:
        return points
    near = faces[touched].long()
    ends = torch.stack([near.reshape(-1), near.roll(-1, 1).reshape(-1)], 1)  # each edge of a free vertex both ways
    ends = ends[free[ends[:, 0]]]
    row = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    row[free] = torch.arange(count, device=points.device)
    inner = free[ends[:, 1]]
    tail, head = row[ends[inner]].cpu().numpy().T
    degree = torch.bincount(row[ends[:, 0]], minlength=count)
    right = points.new_zeros(count, 3, dtype=torch.float64)
    right.index_add_(0, row[ends[~inner, 0]], points[ends[~inner, 1]].double())
    weight = np.ones(len(tail))
    laplacian = diags(degree.cpu().numpy().astype(float)) - coo_matrix((weight, (tail, head)), shape=(count, count))
    solved = splu(laplacian.tocsc()).solve(right.cpu().numpy())
    result = points.clone()
    result[free] = torch.from_numpy(solved).to(points)
    return result
