"""T2EncodeMesh: a user's own mesh to a shape latent, for texturing and refining."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..pipeline import stages
from ..pipeline.errors import SettingsError
from ..pipeline.mesh.io import Scene as SceneValue
from ..pipeline.spec import SHAPE_DECODER, SHAPE_ENCODER, PipelineType
from .host import folders
from .host.memory import ManagedModels
from .host.progress import Progress
from .host.run import run
from .keeping import keep_inputs, keep_of
from .sample import resolution_input
from .sockets import CATEGORY, Mesh, Scene, Shape, ShapeLatent, Subdivision, aliases, models_input, node_schema


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
                Scene.Input(
                    "scene",
                    optional=True,
                    tooltip="From TRELLIS.2 Load Mesh, where a mask, vertex colours or names say what keeps its shape.",
                ),
                *keep_inputs("refine", "sampled anew by Sample Shape, 0 keeps its shape."),
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
        cls,
        models: ManagedModels,
        mesh: stages.Mesh,
        resolution: str = folders.OWN,
        seed: int = 42,
        scene: SceneValue | None = None,
        refine: torch.Tensor | None = None,
        refine_materials: str = "",
        keep_vertex_colors: bool = False,
        keep_nodes: str = "",
    ) -> io.NodeOutput:
        own = resolution == folders.OWN
        chosen = models.checkpoint.default_pipeline_type if own else PipelineType.named(resolution)
        models.checkpoint.require_models((SHAPE_ENCODER, SHAPE_DECODER, chosen.texture.model), "Encoding a mesh")
        keep = keep_of(refine, refine_materials, keep_vertex_colors, keep_nodes)
        if keep and scene is None:
            raise SettingsError("What is to be kept is looked up in a scene. Connect that of TRELLIS.2 Load Mesh.")
        if scene is not None:
            keep.changed_parts(scene)  # raises before networks run
        placed = stages.in_unit_cube(mesh)
        side = stages.shape_resolution(models, chosen)
        given = {"resolution": side, "seed": seed, "scene": scene, "keep": keep}
        shape, subdivision = run(_encoded, models, Progress(), placed, chosen, **given)
        return io.NodeOutput(shape, subdivision, placed)


def _encoded(
    runtime, models, mesh: stages.Mesh, chosen: PipelineType, *, scene: SceneValue | None, keep: stages.Keep, **more
) -> tuple[ShapeLatent, stages.Subdivisions]:
    """stages.encode_mesh and what is kept, as values that can be moved one by one."""
    made = stages.encode_mesh(runtime, models, mesh, **more)
    kept = None if scene is None else stages.tokens_to_keep(runtime, scene, keep, made)
    return ShapeLatent(made.shape, chosen, kept), made.subdivisions
