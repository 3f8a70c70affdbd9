"""How much each view counts at each voxel: what it sees, and how squarely.

Visibility is found by marching from the voxel towards the camera through the occupied voxels; the surface's normal is
the gradient of the blurred occupancy. Cameras are taken to be far away.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..sparse import Voxels
from .rig import View

# A view that does not see a voxel still counts a little there, by its angle, so that a voxel which none sees follows
# the nearest view; against a view that sees it squarely that is one in a thousand.
_UNSEEN = 1e-3
_UNSEEN_SHARPNESS = 3.0  # of exp(sharpness * cosine) among views that do not see a voxel
_START = 2.0  # voxels from a voxel's centre at which marching starts: a surface is one to two voxels thick
_STEP = 0.5  # voxels


def view_weights(voxels: Voxels, resolution: int, views: Sequence[View], smooth: int = 1) -> torch.Tensor:
    """Each view's share at each voxel.

    Args:
        voxels: one sample's occupied surface voxels, coordinates in 0 .. resolution - 1, T of them.
        views: N views in the voxels' frame.
        smooth: times that shares are averaged over a voxel and its six neighbours, so that they do not jump.

    Returns:
        [N, T, 1] float32 on the voxels' device, the sum over the views is 1.
    """
    occupied = _dense(voxels, resolution)
    normals = _normals(voxels, occupied)  # [T, 3]
    shares = []
    for view in views:
        towards = view.axes()[2].to(normals)
        cosine = normals @ towards  # [T]
        seen = _seen(voxels, occupied, towards)
        shares.append(seen * cosine.clamp(min=0) ** 2 + _UNSEEN * torch.exp(_UNSEEN_SHARPNESS * (cosine - 1)))
    weights = torch.stack(shares, 1)  # [T, N]
    weights = weights / weights.sum(1, keepdim=True)
    for _ in range(smooth):
        weights = _averaged(voxels, weights)
    return weights.T[:, :, None].contiguous()


def _dense(voxels: Voxels, resolution: int) -> torch.Tensor:
    """[R, R, R] bool."""
    occupied = torch.zeros((resolution,) * 3, dtype=torch.bool, device=voxels.device)
    occupied[tuple(voxels.xyz.long().unbind(1))] = True
    return occupied


def _normals(voxels: Voxels, occupied: torch.Tensor) -> torch.Tensor:
    """Outward unit normals [T, 3]: the surface's voxels are filled inside first, or a thin shell has no outside."""
    blurred = _filled(occupied)[None, None].float()
    for _ in range(2):
        blurred = F.avg_pool3d(F.pad(blurred, (1,) * 6), 3, 1)
    padded = F.pad(blurred[0, 0], (1,) * 6)
    x, y, z = (voxels.xyz.long() + 1).unbind(1)
    gradient = torch.stack(
        [
            padded[x + 1, y, z] - padded[x - 1, y, z],
            padded[x, y + 1, z] - padded[x, y - 1, z],
            padded[x, y, z + 1] - padded[x, y, z - 1],
        ],
        1,
    )
    return F.normalize(-gradient, dim=1)


def _filled(occupied: torch.Tensor) -> torch.Tensor:
    """Occupied voxels and everything that they enclose: what a flood from the border does not reach."""
    free = ~F.pad(occupied, (1,) * 6)
    reached = torch.zeros_like(free)
    reached[0] = free[0]
    grown = reached.sum()
    while True:
        # sweeps along the axes reach around few corners a round, which is all that shapes need
        for axis in range(3):
            for flip in (False, True):
                reached = _swept(reached, free, axis, flip)
        count = reached.sum()
        if count == grown:
            return ~reached[1:-1, 1:-1, 1:-1]
        grown = count


def _swept(reached: torch.Tensor, free: torch.Tensor, axis: int, flip: bool) -> torch.Tensor:
    """Everything free that a flood moving one way along an axis reaches."""
    if flip:
        return _swept(reached.flip(axis), free.flip(axis), axis, False).flip(axis)
    # along the axis: reached where the last flooded voxel comes after the last wall
    place = torch.arange(1, free.shape[axis] + 1, device=free.device).view([-1 if d == axis else 1 for d in range(3)])
    last_reached = torch.cummax(place * reached, axis).values
    last_wall = torch.cummax(place * ~free, axis).values
    return last_reached > last_wall


def _seen(voxels: Voxels, occupied: torch.Tensor, towards: torch.Tensor) -> torch.Tensor:
    """[T] float32: 1 where nothing is between a voxel and a camera far away in direction `towards` [3]."""
    side = occupied.shape[0]
    padded = F.pad(occupied, (1,) * 6)
    seen = torch.ones(len(voxels), dtype=torch.bool, device=voxels.device)
    centres = voxels.xyz.float() + 0.5
    for step in range(int(side * 3**0.5 / _STEP)):
        place = centres + (_START + step * _STEP) * towards
        cell = (place.floor().long() + 1).clamp(0, side + 1)
        seen &= ~padded[tuple(cell.unbind(1))]
    return seen.float()


def _averaged(voxels: Voxels, weights: torch.Tensor) -> torch.Tensor:
    """Rows averaged over a voxel and its face neighbours. weights: [T, N]."""
    total, count = weights.clone(), torch.ones_like(weights[:, :1])
    for axis in range(1, 4):
        for way in (-1, 1):
            moved = voxels.coords.clone()
            moved[:, axis] += way
            row = voxels.find(moved)
            there = (row >= 0)[:, None]
            total += torch.where(there, weights[row.clamp(min=0)], 0)
            count += there
    return total / count
