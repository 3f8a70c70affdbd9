"""Export in any format of the table of writers, for other programs and for printing."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..pipeline import stages
from ..pipeline.errors import SettingsError, unknown
from ..pipeline.export import WRITERS, AlphaMode, TrueSize, writer
from .host import output
from .host.run import explained
from .host.saving import alpha_mode_input, double_sided_input, filename_prefix_input, mesh_input, save, why_not
from .sockets import CATEGORY, AnyFile, advanced, aliases, node_schema


class ExportMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2ExportMesh",
            display_name="TRELLIS.2 Export Mesh",
            category=CATEGORY,
            **aliases("save obj, save stl, 3d print, 3mf, ply, usdz, gltf"),
            description="Writes a mesh into ComfyUI's output folder in the format of your choice: with textures, with "
            "vertex colours, or for printing in its true size.",
            inputs=[
                mesh_input(),
                filename_prefix_input(),
                io.Combo.Input(
                    "format",
                    options=[suffix.removeprefix(".") for suffix in WRITERS],
                    default="obj",
                    tooltip="glb, gltf, obj and usdz hold textures; ply and 3mf vertex colours; stl triangles alone. "
                    "3mf and stl are for printing. usdz needs usd-core.",
                ),
                io.String.Input(
                    "size",
                    default="",
                    tooltip="True size by the longest side, for example 80mm, 8cm or 3in, or by the height: "
                    "height=80mm. Empty: none.",
                ),
                advanced(
                    io.Float.Input(
                        "flat_base",
                        default=0.0,
                        min=0.0,
                        max=0.5,
                        step=0.01,
                        tooltip="Flatten the lowest part, this share of the height, to a plane to stand on; 0.02 for "
                        "printing.",
                    )
                ),
                advanced(alpha_mode_input()),
                advanced(double_sided_input()),
            ],
            outputs=[
                AnyFile.Output(display_name="model_3d", tooltip="The file, for Preview 3D and others."),
                io.String.Output(display_name="path", tooltip="The file below ComfyUI's output folder."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(
        cls, filename_prefix: str | None = None, format: str | None = None, size: str | None = None
    ) -> bool | str:
        return why_not(filename_prefix) or explained(_check, format, size)

    @classmethod
    def execute(
        cls,
        mesh: stages.Mesh | stages.TexturedMesh,
        filename_prefix: str = output.DEFAULT_PREFIX,
        format: str = "obj",
        size: str = "",
        flat_base: float = 0.0,
        alpha_mode: str = "opaque",
        double_sided: bool = True,
    ) -> io.NodeOutput:
        _check(format, size)
        settings = stages.ExportSettings(
            alpha_mode=AlphaMode[alpha_mode.upper()],
            double_sided=double_sided,
            size=TrueSize.parse(size) if size.strip() else None,
            flat_base=flat_base,
        )
        return save(mesh, filename_prefix, f".{format}", settings, cls.hidden)


def _check(format: str | None, size: str | None) -> None:
    if format is not None:
        if f".{format}" not in WRITERS:
            raise SettingsError(unknown("format", format, WRITERS))
        writer(Path(f"x.{format}"))
    if size is not None and size.strip():
        TrueSize.parse(size)
