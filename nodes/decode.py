"""The decoders: shape latent to mesh, texture latent to material voxels."""

from __future__ import annotations

from comfy_api.latest import io
from PIL import Image

from ..pipeline import stages
from ..pipeline.errors import SettingsError
from ..pipeline.image import on_black
from ..pipeline.render import Camera
from ..pipeline.warp import unavailable_reason
from .host import pictures
from .host.memory import ManagedModels
from .host.progress import Progress
from .host.run import run
from .sockets import (
    CATEGORY,
    Mesh,
    Shape,
    ShapeLatent,
    Subdivision,
    Texture,
    Voxels,
    aliases,
    models_input,
    node_schema,
)


class DecodeShape(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2DecodeShape",
            display_name="TRELLIS.2 Decode Shape",
            category=CATEGORY,
            **aliases("latent to mesh, vae decode mesh, raw mesh"),
            description="Turns a shape latent into the raw mesh.",
            inputs=[
                models_input(),
                Shape.Input("shape", tooltip="From TRELLIS.2 Sample Shape."),
            ],
            outputs=[
                Mesh.Output(display_name="mesh", tooltip="Raw: millions of faces, small holes open."),
                Subdivision.Output(
                    display_name="subdivision",
                    tooltip="How latent voxels were divided; the texture decoder follows it.",
                ),
            ],
        )

    @classmethod
    def execute(cls, models: ManagedModels, shape: ShapeLatent) -> io.NodeOutput:
        progress = Progress(2)
        mesh, subdivision = run(stages.decode_shape, models, progress, shape.latent)
        progress.show(1, _picture(mesh, progress))
        return io.NodeOutput(mesh, subdivision)


def _picture(mesh: stages.Mesh, progress: Progress) -> Image.Image | None:
    """A preview of the raw mesh; None if there is nothing to draw or to draw with. The next node reports defects."""
    if unavailable_reason() or not progress.pictures or len(mesh.faces) == 0:
        return None
    try:
        drawn = run(stages.draw, None, progress, mesh, frames=1, size=pictures.SIDE, camera=Camera())
    except SettingsError:  # all in one point
        return None
    return on_black(Image.fromarray(drawn[0]))


class DecodeTexture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2DecodeTexture",
            display_name="TRELLIS.2 Decode Texture",
            category=CATEGORY,
            **aliases("latent to voxels, vae decode texture, pbr voxels"),
            description="Turns a texture latent into voxels with base colour, metallic, roughness and alpha.",
            inputs=[
                models_input(),
                Texture.Input("texture", tooltip="From TRELLIS.2 Sample Texture."),
                Subdivision.Input("subdivision", tooltip="From TRELLIS.2 Decode Shape, of the same shape."),
            ],
            outputs=[Voxels.Output(display_name="voxels", tooltip="Material voxels on the surface.")],
        )

    @classmethod
    def execute(cls, models: ManagedModels, texture: stages.Latent, subdivision: stages.Subdivisions) -> io.NodeOutput:
        progress = Progress()
        voxels = run(stages.decode_texture, models, progress, texture, subdivision)
        albedo = voxels.sparse.feats[:, stages.BASE_COLOR]
        drawn = pictures.draw_voxels(voxels.sparse.voxels.xyz, voxels.resolution, albedo) if progress.pictures else None
        progress.show(1, drawn)
        return io.NodeOutput(voxels)
