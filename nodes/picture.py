"""T2PrepareImage and T2EncodeImage: from a picture to the condition of the samplers."""

from __future__ import annotations

from functools import cache

import torch
from comfy_api.latest import io

from ..pipeline import stages
from ..pipeline.image import cut_out, on_black, rembg_remover
from ..pipeline.spec import ROUTES
from .host import pictures
from .host.memory import ManagedModels
from .host.run import Progress, run
from .sockets import CATEGORY, Condition, advanced, aliases, models_input


class PrepareImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="T2PrepareImage",
            display_name="TRELLIS.2 Prepare Image",
            category=CATEGORY,
            **aliases("remove background, cut out, crop to object, matting, preprocess image"),
            description="Cuts the object out, crops to a square round it and puts it on black, as the model was "
            "trained. A batch is taken as several views of one object.",
            inputs=[
                io.Image.Input("image", tooltip="The picture; an RGBA image brings its own cut-out."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What is object and what is background. Without one the background is removed by the "
                    "optional package rembg.",
                ),
                io.Combo.Input(
                    "mask_marks",
                    options=["background", "object"],
                    default="background",
                    tooltip="What 1 (white) in the mask stands for: background in the mask of Load Image, object in "
                    "the masks of segmentation nodes.",
                ),
                advanced(
                    io.String.Input(
                        "background_model",
                        default="birefnet-general-lite",
                        tooltip="The rembg model that removes a background when there is no mask. The default is "
                        "MIT-licensed.",
                    )
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="Square pictures on black."),
                io.Mask.Output(display_name="mask", tooltip="The cut-out of these pictures; 1: object."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        mask_marks: str,
        background_model: str,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        progress = Progress()
        images = pictures.to_pil(image)
        masks = None if mask is None else pictures.masks_to_pil(mask, len(images), mask_marks == "background")
        remover = cache(lambda: rembg_remover(background_model))
        found = []
        for number, picture in enumerate(images):
            progress.show(number / len(images))
            found.append(cut_out(picture, masks and masks[number], lambda rgb: remover()(rgb)))
        found = pictures.same_size(found)
        progress.show(1)
        alphas = [picture.getchannel("A") for picture in found]
        return io.NodeOutput(pictures.to_image([on_black(p) for p in found]), pictures.to_image(alphas))


class EncodeImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="T2EncodeImage",
            display_name="TRELLIS.2 Encode Image",
            category=CATEGORY,
            **aliases("image conditioning, dino, image embedding, multi view, multiview"),
            description="Shows prepared pictures to the image encoder, at both sizes that the samplers know.",
            inputs=[
                models_input(),
                io.Image.Input(
                    "image",
                    tooltip="From TRELLIS.2 Prepare Image; a batch is several views of one object, a list is an object "
                    "each.",
                ),
            ],
            outputs=[Condition.Output(display_name="condition", tooltip="What the samplers see of the picture.")],
        )

    @classmethod
    def execute(cls, models: ManagedModels, image: torch.Tensor) -> io.NodeOutput:
        scales = sorted({scale for route in ROUTES.values() for scale in route.image_scales()})
        views = [picture.convert("RGB") for picture in pictures.to_pil(image)]
        condition = run(stages.encode_images, models, Progress(), views, scales)
        said = {"text": [f"{len(views)} views of one object"]} if len(views) > 1 else None
        return io.NodeOutput(condition, ui=said)
