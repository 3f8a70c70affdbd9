"""Lids of holes made smooth."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import splu


def smooth_lids(points: torch.Tensor, faces: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
    """Vertices with the free ones moved so that the surface bends as little as it can.

    Least squares of the uniform Laplacians of free vertices and of those beside them (Botsch & Kobbelt 2004): a lid
    goes on as the surface round it bends, and is flat where that is.

    Args:
        points: [V, 3]. faces: [F, 3] int32, closed and manifold. free: [V] bool.
    """
    corner = faces.long()
    ring = _with_neighbours(corner, free)  # whose Laplacians count
    known = _with_neighbours(corner, ring)
    own, count = known.nonzero().squeeze(1), int(known.sum())
    if count == 0:
        return points
    row = torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
    row[own] = torch.arange(count, device=points.device)
    near = corner[ring[corner].any(1)]
    tail, head = row[near.reshape(-1)].cpu().numpy(), row[near.roll(-1, 1).reshape(-1)].cpu().numpy()
    beside = csr_matrix((np.ones(len(tail)), (tail, head)), shape=(count, count))
    laplacian = (beside - diags(np.asarray(beside.sum(1)).ravel()))[row[ring].cpu().numpy()]
    moves = free[own].cpu().numpy()
    loose, fixed = laplacian[:, moves], laplacian[:, ~moves]
    place = points[own].double().cpu().numpy()
    right = -(loose.T @ (fixed @ place[~moves]))
    solved = splu((loose.T @ loose).tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}).solve(right)
    result = points.clone()
    result[free] = torch.from_numpy(solved).to(points)
    return result


def _with_neighbours(corner: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """[V] bool: vertices chosen and those beside them. corner: [F, 3] int64."""
    result = chosen.clone()
    result[corner[chosen[corner].any(1)].reshape(-1)] = True
    return result
