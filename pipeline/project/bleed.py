"""A picture's colours without bleeding from one part onto another across a depth discontinuity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt, maximum_filter, minimum_filter

from ..views import PictureCamera
from .depth import FAR, depth_jumps, step_of
from .painted import Seen
from .picture import Picture, keeping_means, sampled

_KERNEL = 3  # pixels to each side that a sample between pixels takes in, or a little more
_MIXED = 4  # pixels to each side that keeping means takes in
_LOW = 0.01  # picture sides of depth, from which one part hides another of another colour
_CHANGE = 0.2  # of a channel (sRGB, 0-1), by which the generated colours of two parts differ


@dataclass(frozen=True)
class Unbled:
    """What is seen, and what lies behind it near its outlines.

    colours, behind: [3, S, S] of each, to be sampled. limit: [1, s, s] depth from which on something lies behind, inf
    far from outlines. clean: [2, s, s] in 0-1 for each, 0 where no pixel near by shows the part without a share of the
    one in front.
    """

    colours: torch.Tensor
    behind: torch.Tensor
    limit: torch.Tensor
    clean: torch.Tensor

    @classmethod
    def of(cls, picture: Picture, camera: PictureCamera, seen: Seen, width: float) -> Unbled:
        """What lies behind an outline takes its colours from `width` picture sides beside it, as its pixels show some
        of the part in front. Where outlines have slack they are believed on neither side of it.

        A surface may be rough, so small jumps of depth count as outlines only where the generated colours change, too.

        Args:
            seen: what the camera sees in s x s pixels, s up to S.
        """
        filled, depth, side = picture.filled(), seen.opened, len(seen.mask)
        near = max(1.0, max(width, picture.slack) * side)
        own = np.indices(depth.shape)
        low, most = _LOW / camera.scale, step_of(camera, side)
        changing = _changing(seen, math.ceil(near))
        jumps = _jumps(depth, changing, low, most)
        taken, lost, place = _beside(depth, jumps, near)
        source = behind = np.where(taken, place, own)
        if picture.slack:
            back = np.where(depth < FAR, -depth, FAR)
            taken, _, place = _beside(back, _jumps(back, changing, low, most), near)
            source = np.where(taken, place, source)
        limit = np.full(depth.shape, np.inf, np.float32)
        lost_behind = lost
        if jumps.any():
            distance, edge = _nearest(jumps > 0)
            around = distance <= near + _KERNEL
            far = depth[edge[0], edge[1]]
            front = around & (depth < far - jumps[edge[0], edge[1]] / 2)
            behind = np.where(front, behind[:, edge[0], edge[1]], behind)
            lost_behind = np.where(front, lost[edge[0], edge[1]], lost)
            limit[around] = (minimum_filter(depth, 2 * _KERNEL + 1) / 2 + far / 2)[around]
        first, other = (_sharp(filled, each, own).to(seen.mask.device) for each in (source, behind))
        clean = torch.from_numpy(1 - np.stack([lost, lost_behind]).astype(np.float32))
        return cls(first, other, *(each.to(seen.mask.device) for each in (torch.from_numpy(limit)[None], clean)))

    def at(self, place: torch.Tensor, depth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Colours [N, 3] at places [N, 2] right and down in picture sides of what lies at depths [N] (depth_of), and
        how far they are clean [N] in 0-1."""
        limit = sampled(self.limit, place, "nearest")[:, 0]
        hidden = depth > limit
        found = sampled(self.colours, place, "bicubic")
        # bicubic samples overshoot beside a step, and what was taken from elsewhere ends in steps
        for rows, colours in ((limit < torch.inf, self.colours), (hidden, self.behind)):
            rows = rows.nonzero()[:, 0]
            found[rows] = sampled(colours, place[rows], "bilinear")
        first, other = sampled(self.clean, place, "bilinear").unbind(1)
        return found.clamp(0, 1), torch.where(hidden, other, first)


def depth_of(camera: PictureCamera, points: torch.Tensor) -> torch.Tensor:
    """[N] world units along the line of sight to points [N, 3], as Seen.depth counts them."""
    target, back = points.new_tensor(camera.target), points.new_tensor(camera.axes()[2])
    if math.isinf(camera.distance):
        return 2 - (points - target) @ back  # rays() begin two units before the target's plane
    return (points - target - camera.distance * back).norm(dim=1)


def _changing(seen: Seen, near: int) -> np.ndarray:
    """[s, s] bool: where the generated colours of a surface change within so many pixels."""
    colour, size = seen.colour.cpu().numpy(), (2 * near + 1, 2 * near + 1, 1)
    inside = seen.mask.cpu().numpy()[:, :, None]
    high = maximum_filter(np.where(inside, colour, 0), size)
    return ((high - minimum_filter(np.where(inside, colour, 1), size)).max(2)) > _CHANGE


def _jumps(depth: np.ndarray, changing: np.ndarray, low: float, most: float) -> np.ndarray:
    """Jumps of depth [s, s] that count, up to `most`, which all larger ones do, and from `low` on where colours are
    changing; 0 elsewhere."""
    jumps = depth_jumps(depth)
    counts = (jumps > most) | (changing & (depth_jumps(depth, alone=True) > low))
    return np.where(counts, np.minimum(jumps, most), 0)


def _beside(depth: np.ndarray, jumps: np.ndarray, near: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which pixels [s, s] bool behind jumps of depth [s, s], within `near` of them, are to be taken from elsewhere,
    which would have to be but cannot, and from where [2, s, s]: the nearest pixel at their own depth that is not near
    a jump."""
    if not jumps.any():
        return jumps > 0, jumps > 0, np.indices(depth.shape)
    distance, edge = _nearest(jumps > 0)
    half = jumps[edge[0], edge[1]] / 2
    close = distance <= near
    behind = depth > depth[edge[0], edge[1]] - half
    # outlines lie between pixels: in a tie the pixel in front must not be taken
    refused = np.where(behind, close, distance <= near + 2) | (depth >= FAR)
    place = edge if refused.all() else _nearest(~refused)[1]
    # the nearest pixel away from outlines may nevertheless be in front
    beside = depth[place[0], place[1]] > depth - half
    wanted = close & behind & (depth < FAR)
    return wanted & beside, wanted & ~beside, place


def _nearest(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far [s, s] and where [2, s, s] the nearest of some pixels [s, s] bool is."""
    distance, place = np.empty(places.shape), np.empty((2, *places.shape), np.int32)
    distance_transform_edt(~places, distances=distance, return_indices=True, indices=place)
    return distance, place


def _sharp(filled: torch.Tensor, source: np.ndarray, own: np.ndarray) -> torch.Tensor:
    """Colours [3, S, S] with pixels taken from elsewhere, to be sampled. source, own: [2, s, s] rows and columns of
    s x s pixels. Edges between pixels that were taken are none of the picture's and are not sharpened."""
    side, small = filled.shape[1], source.shape[1]
    cell = np.arange(side) * small // side  # the pixel of s x s that one of S x S lies in
    moved = (source != own).any(0)[cell[:, None], cell]
    rows, columns = ((each[cell[:, None], cell][moved] * 2 + 1) * side // (2 * small) for each in source)
    colour = filled.clone()
    taken = torch.from_numpy(moved)
    colour[:, taken] = filled[:, rows, columns]
    mixed = F.max_pool2d(taken.float()[None, None], 2 * _MIXED + 1, 1, _MIXED)[0, 0] > 0
    return torch.where(mixed, colour, keeping_means(colour))
