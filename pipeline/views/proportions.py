"""Proportions: a structure stretched along its axes until it is as wide, as deep and as tall as in the pictures.

The networks know no camera: from one picture the depth of an object is a guess, and from a picture whose direction
they misjudge its width, too. Views that are named measure both.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..sparse import Voxels
from .camera import PictureCamera
from .rig import View

log = logging.getLogger(__name__)

_FOV = 30.0  # degrees that an object fills, of cameras that are not known; hardly matters for extents
_LEAST = 0.04  # in the logarithm: about a voxel of 32; what differs less is left as it is
_MOST = 0.7  # in the logarithm: twice; then views and structure do not belong together
_RIDGE = 0.01  # towards no change, for what no picture measures
_ROUNDS = 6  # of Newton's method
_STEP = 1e-3  # in the logarithm, of its differences
_SIDE = 48  # pixels of a side at which silhouettes are compared
_BETTER = 0.01  # of silhouettes in common, by which they must fit better


def stretches(voxels: Voxels, resolution: int, views: Sequence[View], masks: Sequence[torch.Tensor]) -> torch.Tensor:
    """By how much a structure is to be stretched along x, y and z to have the proportions of the pictures.

    The pictures' scale is not known, only how wide the object is against its height in each; the least change that
    explains all of them is found (Gauss and Newton's method). The longest side keeps its length.

    Args:
        voxels: one sample's occupied voxels in a grid of `resolution` a side.
        masks: [H, W] of each view, opaque is 1, rows from the top, pixels square.

    Returns:
        [3] float64 factors; ones where little would change, or where silhouettes would not fit better.
    """
    same = torch.ones(3, dtype=torch.float64)
    pairs = [(view, mask.cpu()) for view, mask in zip(views, masks) if bool((mask > 0.5).any())]
    points = ((voxels.xyz.cpu().double() + 0.5) / resolution) - 0.5
    if not pairs or len(points) == 0:
        return same
    wanted = torch.tensor([_aspect(*_box(mask)) for _, mask in pairs], dtype=torch.float64)
    least = 1 / resolution

    def aspects(logs: torch.Tensor, fov: float = _FOV) -> torch.Tensor:
        return torch.stack([_aspect_of(points * logs.exp(), view, least, fov) for view, _ in pairs])

    logs = torch.zeros(3, dtype=torch.float64)
    for _ in range(_ROUNDS):
        # by parallel lines of sight: perspective would let pictures from front and back decide on the depth
        steps = _STEP * torch.eye(3, dtype=torch.float64)
        slopes = torch.stack([(aspects(logs + step, 0) - aspects(logs, 0)) / _STEP for step in steps], 1)
        pull = slopes.T @ (wanted - aspects(logs)) - _RIDGE * logs
        logs = logs + torch.linalg.solve(slopes.T @ slopes + _RIDGE * torch.eye(3, dtype=torch.float64), pull)
    extents = points.amax(0) - points.amin(0) + least
    found = logs.exp() * extents.max() / (logs.exp() * extents).max()
    change = float(found.log().max() - found.log().min())
    if change < _LEAST:
        return same
    if change > _MOST:
        log.warning(
            f"The pictures' proportions differ from the structure's by a factor of {math.exp(change):.1f}: the views "
            "are named wrongly, or do not show one object. The structure was left as it is."
        )
        return same
    before, after = (_fit(points * factors, pairs, resolution) for factors in (same, found))
    return found if after > before + _BETTER else same


def stretched(occupied: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """[R, R, R] bool: a structure stretched about the middle of its box, which stays inside of the grid."""
    box = occupied.nonzero()  # [T, 3]
    low, high = box.amin(0).tolist(), box.amax(0).tolist()
    ways = [_way(len(occupied), *each).to(occupied.device) for each in zip(low, high, factors.tolist())]
    return torch.einsum("xyz,ax,by,cz->abc", occupied.float(), *ways) > 0


def _way(side: int, low: int, high: int, factor: float) -> torch.Tensor:
    """[R, R] float32: 1 where a cell of a stretched axis (row) takes what a cell of it held (column). Both the cell
    where each one goes and the cell where each one comes from: either alone has holes, if factors are above or below 1.
    """
    middle, half = (low + high + 1) / 2, (high + 1 - low) / 2 * factor
    target = min(max(middle, half), side - half) if 2 * half < side else side / 2
    cells = torch.arange(side)
    ahead = (target + (cells + 0.5 - middle) * factor).floor().long().clamp(0, side - 1)
    back = (middle + (cells + 0.5 - target) / factor).floor().long()
    way = torch.zeros(side, side)
    way[ahead, cells] = 1
    inside = (back >= 0) & (back < side)
    way[cells[inside], back[inside]] = 1
    return way


def _box(mask: torch.Tensor) -> tuple[float, float]:
    """Width and height of what is opaque, in pixels."""
    rows, columns = (mask > 0.5).nonzero().unbind(1)
    return float(columns.max() - columns.min() + 1), float(rows.max() - rows.min() + 1)


def _aspect(width: float, height: float) -> float:
    return math.log(width / height)


def _places(points: torch.Tensor, view: View, fov: float = _FOV) -> torch.Tensor:
    """[T, 2] where points lie in a picture from that direction which the object about fills."""
    size = float((points.amax(0) - points.amin(0)).amax())
    camera = PictureCamera(view.azimuth, view.elevation, fov, 1 / size)
    return camera.project(points - (points.amax(0) + points.amin(0)) / 2)[0]


def _aspect_of(points: torch.Tensor, view: View, least: float, fov: float) -> torch.Tensor:
    place = _places(points, view, fov)
    size = float((points.amax(0) - points.amin(0)).amax())
    extent = (place.amax(0) - place.amin(0)).clamp_min(least / size)
    return (extent[0] / extent[1]).log()


def _fit(points: torch.Tensor, pairs: Sequence[tuple[View, torch.Tensor]], resolution: int) -> float:
    """Mean overlap (intersection over union) of silhouettes, each framed by its box's longer side."""
    total = 0.0
    for view, mask in pairs:
        place = _places(points, view)
        size = float((points.amax(0) - points.amin(0)).amax())
        shown = _splatted(place, 1 / (resolution * size))
        wanted = _framed(mask)
        total += float((shown & wanted).sum() / (shown | wanted).sum().clamp_min(1))
    return total / len(pairs)


def _splatted(place: torch.Tensor, cell: float) -> torch.Tensor:
    """[S, S] bool: points [T, 2], each a square of side `cell`, framed."""
    low, high = place.amin(0), place.amax(0)
    size = float((high - low).amax()) + cell
    at = ((place - (low + high) / 2) / size + 0.5) * _SIDE
    half = cell / size * _SIDE / 2
    shown = torch.zeros(_SIDE + 1, _SIDE + 1, dtype=torch.int32)
    start, end = ((at + way * half).round().long().clamp(0, _SIDE) for way in (-1, 1))
    for x, y, sign in ((start, start, 1), (end, start, -1), (start, end, -1), (end, end, 1)):
        shown.index_put_((y[:, 1], x[:, 0]), torch.full((len(at),), sign, dtype=torch.int32), accumulate=True)
    return shown.cumsum(0).cumsum(1)[:-1, :-1] > 0


def _framed(mask: torch.Tensor) -> torch.Tensor:
    """[S, S] bool: a mask's opaque part in the middle of a square of its longer side."""
    rows, columns = (mask > 0.5).nonzero().unbind(1)
    piece = (mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] > 0.5).float()
    height, width = piece.shape
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    square = F.pad(piece, (left, side - width - left, top, side - height - top))
    return F.interpolate(square[None, None], (_SIDE, _SIDE), mode="area")[0, 0] > 0.5
