"""T2PrepareImage and T2EncodeImage: from a picture to the condition of the samplers."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from PIL import Image

from ..pipeline import stages
from ..pipeline.image import DEFAULT_MODEL, KINDS, background_remover, cut_out, on_black
from ..pipeline.spec import IMAGE_ENCODER, PIPELINE_TYPES
from ..pipeline.views import PosedPictures, unposed
from .host import pictures
from .host.memory import ManagedModels
from .host.progress import Progress
from .host.run import run
from .sockets import CATEGORY, Condition, Views, advanced, aliases, models_input, node_schema

MASK_TOOLTIP = (
    "Cuts the object out, in place of the picture's own transparency: the mask of Load Image, of ComfyUI's Remove "
    "Background, of any segmentation node. Without one a plain background is removed by its colour, any other by the "
    "optional package rembg."
)
CURES = (
    "Connect a mask: in ComfyUI's own nodes Load Background Removal Model and Remove Background make one of any "
    "picture. Or load a PNG with transparency with Load Image and connect its mask, or photograph the object before "
    "one even colour, or pip install 'rembg[cpu]'."
)


def mask_marks_input(**more) -> io.Input:
    """Which side of the mask is the object."""
    return io.Combo.Input(
        "mask_marks",
        options=list(pictures.MASK_MARKS),
        default="automatic",
        tooltip="What 1 (white) in the mask stands for. Automatic: the picture's corners, or if they disagree its "
        "border, are background. Load Image marks the background, Remove Background and segmentation nodes the object.",
        **more,
    )


class PrepareImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2PrepareImage",
            display_name="TRELLIS.2 Prepare Image",
            category=CATEGORY,
            **aliases("remove background, cut out, crop to object, matting, preprocess image"),
            description="Cuts the object out, crops to a square round it and puts it on black, as the model was "
            "trained. A batch is taken as several views of one object.",
            inputs=[
                io.Image.Input("image", tooltip="The picture; an RGBA image brings its own cut-out."),
                io.Mask.Input("mask", optional=True, tooltip=MASK_TOOLTIP),
                mask_marks_input(),
                advanced(
                    io.String.Input(
                        "background_model",
                        default=DEFAULT_MODEL,
                        tooltip="The rembg model that removes a background which is not plain when there is no mask. "
                        "The default is MIT-licensed.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "background",
                        options=list(KINDS),
                        default="auto",
                        optional=True,
                        tooltip="How the background is removed when there is no mask; plain: by its colour, if it is "
                        "one colour or a smooth gradient; rembg: by a model; auto: plain if possible, else rembg if it "
                        "is installed.",
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "reduce_first",
                        default=False,
                        optional=True,
                        tooltip="Reduce a picture above 1024 pixels before it is cropped, as the reference "
                        "implementation does. Off crops first, which keeps more of a small object.",
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
        mask_marks: str = "automatic",
        background_model: str = DEFAULT_MODEL,
        mask: torch.Tensor | None = None,
        background: str = "auto",
        reduce_first: bool = False,
    ) -> io.NodeOutput:
        progress = Progress()
        images = pictures.to_pil(image)
        masks = [None] * len(images) if mask is None else pictures.masks_to_pil(mask, images, mask_marks)
        remover = background_remover(background, background_model, CURES)
        found = []
        for number, (picture, one) in enumerate(zip(images, masks)):
            progress.show(number / len(images))
            found.append(cut_out(picture, one, remover, reduce_first=reduce_first))
        found = pictures.same_size(found)
        progress.show(1)
        alphas = [picture.getchannel("A") for picture in found]
        return io.NodeOutput(pictures.to_image([on_black(p) for p in found]), pictures.to_image(alphas))


class EncodeImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2EncodeImage",
            display_name="TRELLIS.2 Encode Image",
            category=CATEGORY,
            **aliases("image conditioning, dino, image embedding, multi view, multiview"),
            description="Shows prepared pictures to the image encoder, at both sizes that the samplers know.",
            inputs=[
                models_input(),
                io.MultiType.Input(
                    "image",
                    types=[io.Image, Views],
                    tooltip="From TRELLIS.2 Prepare Image; a batch is several views of one object, a list is an object "
                    "each. Or views with directions, from TRELLIS.2 Views.",
                ),
            ],
            outputs=[Condition.Output(display_name="condition", tooltip="What the samplers see of the picture.")],
        )

    @classmethod
    def execute(cls, models: ManagedModels, image: torch.Tensor | PosedPictures) -> io.NodeOutput:
        scales = sorted({scale for pipeline_type in PIPELINE_TYPES.values() for scale in pipeline_type.image_scales()})
        if isinstance(image, PosedPictures):
            views = image
        else:
            shown = [picture.convert("RGB") for picture in pictures.to_pil(image)]
            views = PosedPictures(tuple(shown), remarks=unposed([_cut_from_black(each) for each in shown]).remarks)
        models.announce(models.checkpoint.default_pipeline_type, IMAGE_ENCODER)
        condition = run(stages.encode_images, models, Progress(), views, scales)
        count = len(views.pictures)
        text = {"text": ["\n".join([f"{count} views of one object", *views.remarks])]} if count > 1 else None
        return io.NodeOutput(condition, ui=text)


def _cut_from_black(picture: Image.Image) -> Image.Image:
    """A prepared picture with what is not black as its alpha."""
    cut = picture.convert("RGBA")
    cut.putalpha(picture.convert("L").point([255 * (level > 4) for level in range(256)]))
    return cut
