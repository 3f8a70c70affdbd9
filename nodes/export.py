"""T2ExportGLB: a mesh into a file of ComfyUI's output folder."""

from __future__ import annotations

from comfy_api.latest import io

from ..pipeline import stages
from ..pipeline.export import AlphaMode
from ..pipeline.mesh.io import Scene
from .host import output
from .host.saving import (
    alpha_mode_input,
    double_sided_input,
    filename_prefix_input,
    glb_outputs,
    mesh_input,
    place_input,
    save,
    texture_format_input,
    why_not,
)
from .sockets import CATEGORY, advanced, aliases, node_schema


class ExportGLB(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2ExportGLB",
            display_name="TRELLIS.2 Export GLB",
            category=CATEGORY,
            **aliases("save glb, save mesh, gltf, export 3d, write mesh"),
            description="Writes a GLB into ComfyUI's output folder. The graph travels inside it unless ComfyUI was "
            "started with --disable-metadata.",
            inputs=[
                mesh_input(),
                filename_prefix_input(),
                texture_format_input(),
                alpha_mode_input(),
                double_sided_input(),
                advanced(
                    io.Boolean.Input(
                        "lods_in_one_file",
                        default=False,
                        optional=True,
                        tooltip="Levels of detail in the one GLB (MSFT_lod) in place of a file each. Programs that do "
                        "not know the extension, such as Blender, may show all of them at once.",
                    )
                ),
                place_input(),
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
        mesh: stages.Mesh | stages.TexturedMesh,
        filename_prefix: str = output.DEFAULT_PREFIX,
        texture_format: str = "png",
        alpha_mode: str = "opaque",
        double_sided: bool = True,
        lods_in_one_file: bool = False,
        place: Scene | stages.Mesh | None = None,
    ) -> io.NodeOutput:
        settings = stages.ExportSettings(
            alpha_mode=AlphaMode[alpha_mode.upper()],
            double_sided=double_sided,
            image_format=texture_format,
            lods_in_one_file=lods_in_one_file,
        )
        return save(mesh, filename_prefix, ".glb", settings, cls.hidden, place)
