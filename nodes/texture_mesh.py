"""T2TextureMesh: new textures for a mesh file, or for a part of it; everything else stays as it is."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..pipeline import stages
from ..pipeline.export.scene_textures import write_scene
from ..pipeline.mesh.io import Scene as SceneValue
from ..pipeline.mesh.io.atlas import UVS
from ..pipeline.spec import IMAGE_ENCODER, PipelineType, SamplerSettings
from ..pipeline.words import counted
from .bake import texture_size_input
from .host import folders, output
from .host.memory import ManagedModels
from .host.progress import Progress
from .host.run import run
from .host.saving import filename_prefix_input, glb_outputs, graph_of, shown, texture_format_input, why_not
from .keeping import keep_inputs, keep_of
from .sample import condition_input, resolution_input, sampler_input, seed_input
from .sockets import CATEGORY, Scene, aliases, models_input, node_schema

_STAGES = 7  # at most: unwrap, encode mesh, read and encode textures, texture, decode, bake


class TextureMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2TextureMesh",
            display_name="TRELLIS.2 Texture Mesh",
            category=CATEGORY,
            **aliases("texture my mesh, retexture, repaint, inpaint texture, texture glb"),
            description="Gives a mesh file new textures after a picture, or repaints a part of those that it has, and "
            "writes it as GLB. Nodes, names, transforms, vertices and UVs stay as they are.",
            inputs=[
                models_input(),
                condition_input(),
                Scene.Input("scene", tooltip="From TRELLIS.2 Load Mesh."),
                resolution_input(),
                seed_input(),
                texture_size_input(),
                io.Combo.Input(
                    "uvs",
                    options=list(UVS),
                    default=UVS[0],
                    tooltip="keep: bake into the UVs that are there. fill: make new ones for meshes without. new: for "
                    "all.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="1: textures after the picture alone. Below, from those that the mesh has: the lower, the "
                    "less they change.",
                ),
                *keep_inputs("repaint", "painted anew, 0 stays exactly as it is (at the texture's own size)."),
                sampler_input(),
                filename_prefix_input(),
                texture_format_input(),
            ],
            outputs=glb_outputs(),
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        return why_not(filename_prefix) or True

    @classmethod
    def execute(
        cls,
        models: ManagedModels,
        condition: stages.Condition,
        scene: SceneValue,
        resolution: str = folders.OWN,
        seed: int = 42,
        texture_size: int = 2048,
        uvs: str = UVS[0],
        strength: float = 1.0,
        repaint: torch.Tensor | None = None,
        repaint_materials: str = "",
        keep_vertex_colors: bool = False,
        keep_nodes: str = "",
        sampler: SamplerSettings | None = None,
        filename_prefix: str = output.DEFAULT_PREFIX,
        texture_format: str = "png",
    ) -> io.NodeOutput:
        own = resolution == folders.OWN
        chosen = models.checkpoint.default_pipeline_type if own else PipelineType.named(resolution)
        keep = keep_of(repaint, repaint_materials, keep_vertex_colors, keep_nodes)
        keep.changed_parts(scene)  # raises before networks run
        roles = stages.texturing_roles(chosen, strength < 1 or bool(keep))
        models.checkpoint.require_models([role for role in roles if role != IMAGE_ENCODER], "Texturing a mesh")
        made = run(
            stages.texture_scene,
            models,
            Progress(_STAGES),
            condition,
            scene,
            chosen,
            size=texture_size,
            seed=seed,
            uvs=uvs,
            strength=strength,
            keep=keep,
            settings=sampler,
        )
        path, relative = output.new_file(filename_prefix, ".glb", cls.hidden)
        write_scene(path, scene, made.groups, texture_format, {**made.facts, **graph_of(cls.hidden)})
        return shown([path], relative, _report(made.facts))


def _report(facts: dict) -> str:
    """What the node shows."""
    lines = [
        f"{counted(facts['textures'], 'texture')} of {facts['texture_size']} pixels, {counted(facts['faces'], 'face')}"
    ]
    lines += [f"{counted(facts['texels_kept'], 'texel')} kept"] if "texels_kept" in facts else []
    return "\n".join([*lines, *facts["warnings"]])
