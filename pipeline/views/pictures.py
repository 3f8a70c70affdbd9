"""From cut-outs and directions to pictures that belong together."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ..image import on_black
from ..image.shared_scale import to_one_scale
from .agreement import disagreements
from .rig import View
from .settings import NAMED, UNNAMED, Mixing, PosedPictures

log = logging.getLogger(__name__)


def posed(cuts: Sequence[Image.Image], views: Sequence[View], mixing: Mixing = NAMED) -> PosedPictures:
    """Cut-outs with how far the sizes of level ones agree as residuals and what does not fit together as remarks, which
    are also logged. Level ones are compared on one scale, and their masks are on it; the networks see each picture with
    its own crop, as they were trained.

    Args:
        cuts: square RGBA cut-outs; the first one is the primary view.
        views: of each.

    Raises:
        ImageError: a cut-out is empty.
    """
    names = [view.name for view in views]
    scaled, residuals = list(cuts), ()
    level = [place for place, view in enumerate(views) if view.elevation == 0]
    if len(level) > 1:
        found = to_one_scale([cuts[i] for i in level], [views[i].azimuth for i in level], [names[i] for i in level])
        residuals = found.residuals
        for place, picture in zip(level, found.pictures):
            scaled[place] = picture
    remarks = _logged(cuts, names, disagreements(scaled, views, names))
    masks = tuple(torch.from_numpy(np.asarray(each.getchannel("A"), dtype=np.float32) / 255) for each in scaled)
    return PosedPictures(tuple(map(on_black, cuts)), tuple(views), masks, mixing, tuple(remarks), residuals)


def unposed(cuts: Sequence[Image.Image], mixing: Mixing = UNNAMED) -> PosedPictures:
    """The same for pictures whose directions are not known; nothing is scaled."""
    names = [f"picture {number}" for number in range(1, len(cuts) + 1)] if len(cuts) > 1 else ["the picture"]
    remarks = _logged(cuts, names, disagreements(cuts, (), names) if len(cuts) > 1 else [])
    return PosedPictures(tuple(map(on_black, cuts)), mixing=mixing, remarks=tuple(remarks))


def _logged(cuts: Sequence[Image.Image], names: Sequence[str], remarks: Sequence[str]) -> list[str]:
    """The remarks on views together, which are logged, behind those on each picture, which image.cut_out has logged."""
    for remark in remarks:
        log.warning(f"Views: {remark}.")
    own = [f"{name}: {remark}" for cut, name in zip(cuts, names) for remark in cut.info.get("remarks", ())]
    return [*own, *remarks]
