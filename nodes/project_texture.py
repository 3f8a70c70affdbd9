"""T2ProjectTexture: pictures onto the texture of a mesh."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io

from ..pipeline import stages
from ..pipeline.errors import SettingsError
from ..pipeline.image import background_remover
from ..pipeline.project import COLOURS, DEFAULT_PROJECTION, LARGEST, MIN_IOU, Photo, Projection, photo
from ..pipeline.views import PictureCamera, named_views
from ..pipeline.words import counted
from .host import pictures
from .host.progress import Progress
from .host.run import explained, run
from .picture import CURES, MASK_TOOLTIP, mask_marks_input
from .sockets import CATEGORY, Cameras, TexturedMesh, advanced, aliases, node_schema


class ProjectTexture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2ProjectTexture",
            display_name="TRELLIS.2 Project Texture",
            category=CATEGORY,
            **aliases("texture projection, project image, camera projection, sharp texture, paint mesh"),
            description="Projects pictures onto the texture of a mesh: as sharp as they are where they see it. What "
            "they do not show keeps its texture. Cameras that are not known are found by comparing silhouettes and "
            "colours; a picture that fits from nowhere is refused.",
            inputs=[
                TexturedMesh.Input("textured_mesh", tooltip="From TRELLIS.2 Bake Texture."),
                io.Image.Input(
                    "image",
                    tooltip="The picture that the object was made from, not cropped or reduced; a batch is several "
                    "pictures of it. Edited renders of the mesh too, with their cameras.",
                ),
                io.Mask.Input("mask", optional=True, tooltip=MASK_TOOLTIP),
                Cameras.Input(
                    "cameras",
                    optional=True,
                    tooltip="The camera of each picture, from TRELLIS.2 Render Mesh. Without it cameras are found.",
                ),
                io.String.Input(
                    "views",
                    default="",
                    tooltip="Roughly where each picture was taken from, between semicolons: front; left; 45,20. Empty: "
                    "searched all round.",
                ),
                mask_marks_input(),
                io.Combo.Input(
                    "colors",
                    options=list(COLOURS),
                    default=DEFAULT_PROJECTION.colours,
                    tooltip="picture: the pictures' colours, to which the texture around them is adjusted. texture: "
                    "the texture keeps its tone and the pictures add detail, which leaves their lighting out. auto: "
                    "texture for a picture that contains lighting, else picture.",
                ),
                io.Float.Input(
                    "min_iou",
                    default=MIN_IOU,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How far the silhouettes of picture and mesh must overlap (intersection over union); a "
                    "picture below it is refused, with its number.",
                ),
                advanced(
                    io.Boolean.Input(
                        "remove_light",
                        default=False,
                        tooltip="Divide an estimate of the light, smooth over directions, out of pictures that have "
                        "light in them.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "largest",
                        default=LARGEST,
                        min=stages.TEXTURE_SIZES[0],
                        max=stages.TEXTURE_SIZES[1],
                        step=64,
                        tooltip="Pixels along a side up to which the texture is enlarged where the pictures have more "
                        "detail than it holds.",
                    )
                ),
            ],
            outputs=[
                TexturedMesh.Output(display_name="textured_mesh", tooltip="For export."),
                io.Image.Output(display_name="base_color", tooltip="The new base colour, sRGB."),
            ],
        )

    @classmethod
    def validate_inputs(cls, views: str | None = None) -> bool | str:
        names = _names(views or "")  # what comes through a link is None here
        return explained(named_views, names, len(names))

    @classmethod
    def execute(
        cls,
        textured_mesh: stages.TexturedMesh,
        image: torch.Tensor,
        mask: torch.Tensor | None = None,
        cameras: tuple[PictureCamera, ...] | None = None,
        views: str = "",
        mask_marks: str = "automatic",
        colors: str = DEFAULT_PROJECTION.colours,
        min_iou: float = MIN_IOU,
        remove_light: bool = False,
        largest: int = LARGEST,
    ) -> io.NodeOutput:
        settings = Projection(colours=colors, min_iou=min_iou, remove_light=remove_light, largest=largest)
        shots = _photos(image, mask, cameras, _names(views), mask_marks)
        found = run(stages.project_texture, None, Progress(2), textured_mesh, photos=shots, settings=settings)
        lines = [
            f"{each['picture']}: azimuth {each['azimuth']:g}, elevation {each['elevation']:g}, overlap "
            f"{each['iou']:.2f} ({each.get('aligned_iou', each['iou']):.2f} aligned), {each['share']:.0%} of the "
            f"texture, colors: {each['colours']}"
            for each in found.facts["projected"]
        ]
        lines += [f"! {each}" for each in found.facts.get("warnings", ())]
        colour = np.ascontiguousarray(found.maps[:, :, stages.BASE_COLOR])
        return io.NodeOutput(found, torch.from_numpy(colour)[None].float() / 255, ui={"text": ["\n".join(lines)]})


def _names(views: str) -> list[str]:
    return [name for name in views.split(";") if name.strip()]


def _photos(
    image: torch.Tensor,
    mask: torch.Tensor | None,
    cameras: tuple[PictureCamera, ...] | None,
    names: list[str],
    mask_marks: str,
) -> list[Photo]:
    """The pictures of a batch, each with its camera or direction as far as known."""
    found = pictures.to_pil(image)
    count = len(found)
    if cameras is not None and len(cameras) != count:
        raise SettingsError(f"{counted(count, 'picture needs', 'pictures need')} as many cameras, got {len(cameras)}.")
    masks = [None] * count if mask is None else pictures.masks_to_pil(mask, found, mask_marks)
    directions = named_views(names, count) if names else [None] * count
    remover = background_remover("auto", cures=CURES)
    return [
        photo(picture, one, remover, camera, view, f"Picture {number}")
        for number, (picture, one, camera, view) in enumerate(
            zip(found, masks, cameras or [None] * count, directions), 1
        )
    ]
