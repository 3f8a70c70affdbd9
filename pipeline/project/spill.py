"""Where a picture's part falls on another part of the object, because the generated shape is not quite that of the
picture: what a mushroom's cap shows, on its stem."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..views import PictureCamera
from .depth import FAR, depth_edges, step_of
from .painted import Painted
from .picture import Picture

_SIDE = 128  # pixels along a side in which spill is looked for: parts, not details
_REACH = 0.1  # of the object's longer side in the picture, by which generated parts are out of place
_OWN = 2.0  # times the reach, within which the picture must show the part's own colour, or the colour is a new one
_DIFFERENT = 0.2  # difference of colours (sRGB, 0-1, Euclidean): generated base colours miss the true ones by 0.07
_CLEARLY = 0.5  # of its difference from the part's own colour, up to which a picture agrees with another part's
_GROWN, _FADE = 2, 1  # pixels that spill grows by, as those at its border mix both parts; and fades over, each way
_ROWS = 512  # pixels that are compared with all others at a time


def kept(painted: Painted, picture: Picture, camera: PictureCamera) -> torch.Tensor:
    """[S, S] float32 in 0-1: 0 where a picture shows one part on another, 1 elsewhere.

    A pixel is spill if its colour in the picture is not the generated one but, clearly, that of a part near by on the
    other side of a jump of depth, which the pixel's own part has nowhere near; and if near by, at its own depth, the
    picture shows the pixel's generated colour, too. So a colour that no part near by has arrives, so does another
    colour of a whole part, and so does the skin where an eye was generated that the picture has elsewhere. A picture
    that mostly has other colours than the generated ones tells nothing.
    """
    side = min(_SIDE, picture.side)
    seen, step = painted.seen(camera, side), step_of(camera, side)
    depth, device = seen.opened, painted.device
    known = depth < FAR
    colour, share = picture.small(side)
    usable = (torch.from_numpy(known & (share > 0.5)).to(device) & seen.mask).reshape(-1)
    sides = [depth_edges(each, step) for each in (np.where(known, -depth, FAR), depth)]
    rims = [(torch.from_numpy(each).to(device).reshape(-1) & usable).nonzero()[:, 0] for each in sides]
    rim = torch.cat(rims)  # pixels before jumps of depth, and those behind
    shown, own = torch.from_numpy(colour).to(device).reshape(-1, 3), seen.colour.reshape(-1, 3)
    far = torch.from_numpy(depth).to(device).reshape(-1)
    place = torch.cartesian_prod(*[torch.arange(side, device=device, dtype=torch.float32)] * 2)
    sign = torch.cat([torch.full((len(each),), way, device=device) for each, way in zip(rims, (1.0, -1.0))])
    left, top, right, bottom = picture.box
    reach = _REACH * max(right - left, bottom - top)  # picture sides
    miss = (shown - own).norm(dim=1)
    inside = usable.nonzero()[:, 0]
    spilt = torch.zeros(side * side, device=device)
    if not len(rim) or miss[inside].median() > _DIFFERENT:
        return 1 - spilt.reshape(side, side)
    for rows in (usable & (miss > _DIFFERENT)).nonzero()[:, 0].split(_ROWS):
        across = sign * (far[rows, None] - far[rim]) > step / 2
        across &= _apart(place[rows], place[rim]) <= reach * side
        best, which = torch.where(across, _apart(shown[rows], own[rim]), torch.inf).min(1)
        clear = best < _CLEARLY * miss[rows]
        rows, other = rows[clear], own[rim[which[clear]]]
        # the colour may be the own part's
        level = (far[rows, None] - far[inside]).abs() <= step / 2
        level &= _apart(place[rows], place[inside]) <= reach * side
        level &= _apart(shown[rows], own[inside]) < _CLEARLY * miss[rows, None]
        rows, other = rows[~level.any(1)], other[~level.any(1)]
        beside = _apart(own[rows], shown[inside]) < _CLEARLY * (own[rows] - other).norm(dim=1, keepdim=True)
        beside &= _apart(place[rows], place[inside]) <= _OWN * reach * side
        beside &= (far[rows, None] - far[inside]).abs() <= reach / camera.scale
        spilt[rows[beside.any(1)]] = 1
    return 1 - _feathered(spilt.reshape(side, side))


def _apart(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """[N, M] distances, without the matrix product that makes equal points differ."""
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")


def _feathered(spilt: torch.Tensor) -> torch.Tensor:
    """[S, S] float32 of a mask [S, S] without single pixels, grown."""
    values = -F.max_pool2d(-spilt[None, None], 3, 1, 1)
    grown = 1 + _GROWN + _FADE
    values = F.max_pool2d(values, 2 * grown + 1, 1, grown)
    return F.avg_pool2d(values, 2 * _FADE + 1, 1, _FADE, count_include_pad=False)[0, 0]
