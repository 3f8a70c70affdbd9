"""From cut-outs and directions to pictures that belong together."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ..image import on_black
from ..image.shared_scale import to_one_scale
from .rig import View
from .settings import NAMED, Mixing, PosedPictures

log = logging.getLogger(__name__)

_SAME = 0.02  # mean difference of two pictures' small versions (0-1) below which they are one


def posed(cuts: Sequence[Image.Image], views: Sequence[View], mixing: Mixing = NAMED) -> PosedPictures:
    """Cut-outs, level ones on one scale, with what does not fit as remarks, which are also logged.

    Args:
        cuts: square RGBA cut-outs; the first one is the primary view.
        views: of each.

    Raises:
        ImageError: a cut-out is empty.
    """
    names = [view.name for view in views]
    scaled, remarks = list(cuts), []
    level = [place for place, view in enumerate(views) if view.elevation == 0]
    if len(level) > 1:
        found = to_one_scale([cuts[i] for i in level], [views[i].azimuth for i in level], [names[i] for i in level])
        remarks += found.remarks
        for place, picture in zip(level, found.pictures):
            scaled[place] = picture
    remarks += _repeated(scaled, names)
    for remark in remarks:
        log.warning(f"Views: {remark}.")
    masks = tuple(torch.from_numpy(np.asarray(each.getchannel("A"), dtype=np.float32) / 255) for each in scaled)
    return PosedPictures(tuple(map(on_black, scaled)), tuple(views), masks, mixing, tuple(remarks))


def _repeated(cuts: Sequence[Image.Image], names: Sequence[str]) -> list[str]:
    """Pictures that are the same, or each other's mirror image."""
    small = [np.asarray(on_black(cut).resize((32, 32)), dtype=np.float32) / 255 for cut in cuts]
    remarks = []
    for i in range(len(small)):
        for j in range(i):
            if np.abs(small[i] - small[j]).mean() < _SAME:
                remarks.append(f"{names[j]} and {names[i]} are the same picture")
            elif np.abs(small[i][:, ::-1] - small[j]).mean() < _SAME:
                remarks.append(f"{names[i]} is {names[j]} mirrored, or the object looks alike from both sides")
    return remarks
