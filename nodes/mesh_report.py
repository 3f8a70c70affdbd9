"""T2MeshReport: a mesh's defects, size and printability, as text on the node."""

from __future__ import annotations

from comfy_api.latest import io

from ..pipeline import stages
from ..pipeline.export import TrueSize
from .host.run import default_backends, explained
from .sockets import CATEGORY, Mesh, TexturedMesh, aliases, node_schema


class MeshReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2MeshReport",
            display_name="TRELLIS.2 Mesh Report",
            category=CATEGORY,
            **aliases("mesh info, inspect mesh, watertight check, printability, wall thickness, volume"),
            description="Says what a mesh is like: holes and other defects, size, volume and weight, crossing faces, "
            "the thinnest wall and overhangs.",
            inputs=[
                io.MultiType.Input(
                    "mesh", types=[Mesh, TexturedMesh], tooltip="A mesh, or a textured one from TRELLIS.2 Bake Texture."
                ),
                io.String.Input(
                    "size",
                    default="",
                    tooltip="True size by the longest side, for example 80mm, or by the height: height=80mm. Empty: "
                    "lengths are in units of the mesh, without volume and weight.",
                ),
                io.Float.Input(
                    "density",
                    default=stages.PLA,
                    min=0.001,
                    max=30.0,
                    step=0.01,
                    tooltip="Grams per cubic centimetre, for the weight; PLA has 1.24.",
                ),
            ],
            outputs=[io.String.Output(display_name="report", tooltip="The same text.")],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, size: str | None = None, density: float | None = None) -> bool | str:
        # what comes through a link is None here
        if size is not None and size.strip() and (wrong := explained(TrueSize.parse, size)) is not True:
            return wrong
        return explained(stages.check_density, stages.PLA if density is None else density)

    @classmethod
    def execute(
        cls, mesh: stages.Mesh | stages.TexturedMesh, size: str = "", density: float = stages.PLA
    ) -> io.NodeOutput:
        true_size = TrueSize.parse(size) if size.strip() else None
        found = stages.inspect_mesh(mesh, true_size, density, default_backends())
        return io.NodeOutput(found.text(), ui={"text": [found.text()]})
