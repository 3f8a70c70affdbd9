"""Encode a mesh that one has, for texturing and refining."""

from __future__ import annotations

from comfy_api.latest import io

from ..pipeline import stages
from ..pipeline.spec import SHAPE_DECODER, SHAPE_ENCODER, PipelineType
from .host import folders
from .host.memory import ManagedModels
from .host.progress import Progress
from .host.run import run
from .sample import resolution_input
from .sockets import CATEGORY, Mesh, Shape, ShapeLatent, Subdivision, aliases, models_input, node_schema


class EncodeMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2EncodeMesh",
            display_name="TRELLIS.2 Encode Mesh",
            category=CATEGORY,
            **aliases("mesh to latent, vae encode mesh, texture my mesh, refine mesh"),
            description="Turns a mesh that you have into a shape latent: Sample Texture gives it new materials, Sample "
            "Shape refines it.",
            inputs=[
                models_input(),
                Mesh.Input("mesh", tooltip="Any triangle mesh, for example from TRELLIS.2 Mesh from ComfyUI."),
                resolution_input(),
                io.Int.Input(
                    "seed",
                    default=42,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Of the noise that is sampled from on this latent.",
                ),
            ],
            outputs=[
                Shape.Output(display_name="shape", tooltip="The mesh's shape latent."),
                Subdivision.Output(
                    display_name="subdivision", tooltip="How its latent voxels divide into those where the mesh is."
                ),
                Mesh.Output(
                    display_name="mesh",
                    tooltip="The mesh centred and scaled into the unit cube, UVs kept: what voxels are baked onto.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, models: ManagedModels, mesh: stages.Mesh, resolution: str = folders.OWN, seed: int = 42
    ) -> io.NodeOutput:
        own = resolution == folders.OWN
        chosen = models.checkpoint.default_pipeline_type if own else PipelineType.named(resolution)
        models.checkpoint.require_models((SHAPE_ENCODER, SHAPE_DECODER, chosen.texture.model), "Encoding a mesh")
        placed = stages.in_unit_cube(mesh)
        side = stages.shape_resolution(models, chosen)
        shape, subdivision = run(_encoded, models, Progress(), placed, resolution=side, seed=seed)
        return io.NodeOutput(ShapeLatent(shape, chosen), subdivision, placed)


def _encoded(*arguments, **more) -> tuple[stages.Latent, stages.Subdivisions]:
    """stages.encode_mesh, whose values can be moved one by one."""
    made = stages.encode_mesh(*arguments, **more)
    return made.shape, made.subdivisions
