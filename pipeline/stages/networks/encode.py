"""Encode: prepared pictures -> the condition that the samplers see."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from ...image import to_pixels
from ...runtime import Runtime
from ...spec import IMAGE_ENCODER
from ...views import UNNAMED, PosedPictures
from ...weights import Models
from ..provenance import made_with, recipe
from ..types import Condition


def encode_images(
    runtime: Runtime, models: Models, images: Sequence[Image.Image] | PosedPictures, scales: Sequence[int]
) -> Condition:
    """Prepared pictures (views of one object, whose directions may be known) -> tokens at each image scale."""
    given = images if isinstance(images, PosedPictures) else PosedPictures(tuple(images))
    images = given.pictures
    side, shown = models.spec.image_size, [(one.mode, one.size, one.tobytes()) for one in images]
    made = recipe(models.fingerprint(IMAGE_ENCODER), side, *(part for each in shown for part in each))
    if given.views or given.mixing != UNNAMED:
        made = recipe(made, *given.views, given.mixing)
    origin = made_with(models, IMAGE_ENCODER, made)
    with runtime.stage("encode", len(scales) * len(images), "Give fewer pictures."):
        runtime.count(pictures=len(images))
        largest = side * max(scales)
        patches = (largest // models.config(IMAGE_ENCODER)["args"].get("patch_size", 16)) ** 2
        tokens = {}
        with runtime.use(models, IMAGE_ENCODER, patches) as encoder:
            for number, scale in enumerate(scales):
                found = []
                for done, one in enumerate(to_pixels(images, side * scale).to(runtime.device), 1):
                    found.append(encoder(one[None]))
                    runtime.step("encode", number * len(images) + done, len(scales) * len(images))
                tokens[scale] = torch.cat(found)
        runtime.check_finite("image condition", *tokens.values())
        return Condition(tokens, origin, given.views, given.masks, given.mixing)
