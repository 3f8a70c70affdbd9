"""A picture's colours without bleeding from one part onto another across a depth discontinuity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, minimum_filter

from ..views import PictureCamera
from .painted import Seen
from .picture import FAR, Picture, depth_edges, keeping_means, sampled, step_of, without_slits

_KERNEL = 3  # pixels to each side that a sample between pixels takes in, or a little more


@dataclass(frozen=True)
class Unbled:
    """Colours [3, S, S] to be sampled, of what is seen, and of what lies behind it near its outlines; limit: [1, s, s]
    depth from which on something lies behind, inf far from outlines."""

    colours: torch.Tensor
    behind: torch.Tensor
    limit: torch.Tensor

    @classmethod
    def of(cls, picture: Picture, camera: PictureCamera, seen: Seen, width: float) -> Unbled:
        """What lies behind an outline takes its colours from `width` picture sides beside it, as its pixels show some
        of the part in front. Where outlines have slack they are believed on neither side of it.

        Args:
            seen: what the camera sees in s x s pixels, s up to S.
        """
        filled, side, step = picture.filled(), len(seen.mask), step_of(camera, len(seen.mask))
        depth = without_slits(seen.depth.cpu().numpy())
        near = max(1.0, max(width, picture.slack) * side)
        own = np.indices(depth.shape)
        edges = depth_edges(depth, step)
        taken, place = _beside(depth, step, near)
        source = behind = np.where(taken, place, own)
        if picture.slack:
            taken, place = _beside(np.where(depth < FAR, -depth, FAR), step, near)
            source = np.where(taken, place, source)
        limit = np.full(depth.shape, np.inf, np.float32)
        if edges.any():
            distance, edge = _nearest(edges)
            around = distance <= near + _KERNEL
            far = depth[edge[0], edge[1]]
            behind = np.where(around & (depth < far - step / 2), behind[:, edge[0], edge[1]], behind)
            limit[around] = (minimum_filter(depth, 2 * _KERNEL + 1) / 2 + far / 2)[around]
        first, other = (keeping_means(_from(filled, each, own)).to(seen.mask.device) for each in (source, behind))
        return cls(first, other, torch.from_numpy(limit)[None].to(seen.mask.device))

    def at(self, place: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        """[N, 3] colours at places [N, 2] right and down in picture sides of what lies at depths [N] (depth_of)."""
        found = sampled(self.colours, place, "bicubic")
        hidden = (depth > sampled(self.limit, place, "nearest")[:, 0]).nonzero()[:, 0]
        found[hidden] = sampled(self.behind, place[hidden], "bicubic")
        return found.clamp(0, 1)


def depth_of(camera: PictureCamera, points: torch.Tensor) -> torch.Tensor:
    """[N] world units along the line of sight to points [N, 3], as Seen.depth counts them."""
    target, back = points.new_tensor(camera.target), points.new_tensor(camera.axes()[2])
    if math.isinf(camera.distance):
        return 2 - (points - target) @ back  # rays() begin two units before the target's plane
    return (points - target - camera.distance * back).norm(dim=1)


def _beside(depth: np.ndarray, step: float, near: float) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels [s, s] bool behind a jump of depth, within `near` of it, are to be taken from elsewhere, and from
    where [2, s, s]: the nearest pixel at their own depth that is not near it."""
    edges = depth_edges(depth, step)
    if not edges.any():
        return edges, np.indices(depth.shape)
    distance, edge = _nearest(edges)
    close = distance <= near
    behind = depth > depth[edge[0], edge[1]] - step / 2
    # outlines lie between pixels: in a tie the pixel in front must not be taken
    refused = np.where(behind, close, distance <= near + 2) | (depth >= FAR)
    place = edge if refused.all() else _nearest(~refused)[1]
    # the nearest pixel away from outlines may nevertheless be in front
    beside = depth[place[0], place[1]] > depth - step / 2
    return close & behind & beside & (depth < FAR), place


def _nearest(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far [s, s] and where [2, s, s] the nearest of some pixels [s, s] bool is."""
    distance, place = np.empty(places.shape), np.empty((2, *places.shape), np.int32)
    distance_transform_edt(~places, distances=distance, return_indices=True, indices=place)
    return distance, place


def _from(filled: torch.Tensor, source: np.ndarray, own: np.ndarray) -> torch.Tensor:
    """Colours [3, S, S] with pixels taken from elsewhere: source, own: [2, s, s] rows and columns of s x s pixels."""
    side, small = filled.shape[1], source.shape[1]
    cell = np.arange(side) * small // side  # the pixel of s x s that one of S x S lies in
    moved = (source != own).any(0)[cell[:, None], cell]
    rows, columns = ((each[cell[:, None], cell][moved] * 2 + 1) * side // (2 * small) for each in source)
    colour = filled.clone()
    colour[:, torch.from_numpy(moved)] = filled[:, rows, columns]
    return colour
