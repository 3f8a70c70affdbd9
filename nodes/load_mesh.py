"""T2LoadMesh: a mesh file of the input folder, as a scene and as one mesh."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..pipeline import stages
from ..pipeline.errors import MeshError
from ..pipeline.mesh.io import FORMATS, read_scene
from .host import inputs
from .sockets import CATEGORY, Mesh, Scene, advanced, aliases, node_schema

_FILE = FORMATS, "A mesh file", MeshError
_UP = ("automatic", "y", "z")


class LoadMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2LoadMesh",
            display_name="TRELLIS.2 Load Mesh",
            category=CATEGORY,
            **aliases("open mesh, import glb, load glb, load obj, my own mesh"),
            description="Opens a mesh file that you have. TRELLIS.2 Texture Mesh gives the scene new textures and "
            "keeps its nodes, names, transforms and UVs; TRELLIS.2 Encode Mesh takes the mesh.",
            inputs=[
                io.String.Input(
                    "path",
                    default="trellis2_rocket.glb",
                    tooltip=f"A file of {', '.join(FORMATS)} below ComfyUI's input or output folder. OBJ, PLY and STL "
                    "need the package trimesh.",
                ),
                advanced(
                    io.Combo.Input(
                        "up",
                        options=list(_UP),
                        default=_UP[0],
                        tooltip="Which axis is up in the file. Automatic: y in glTF and OBJ, z in PLY and STL.",
                    )
                ),
            ],
            outputs=[
                Scene.Output(display_name="scene", tooltip="The file as it is, for Texture Mesh."),
                Mesh.Output(
                    display_name="mesh",
                    tooltip="All its meshes as one, in the unit cube, for Encode Mesh.",
                ),
                io.Image.Output(
                    display_name="base_color",
                    tooltip="Its first base colour texture, to paint a mask on; a white pixel without one.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, path: str = "trellis2_rocket.glb", up: str = _UP[0]) -> str:
        return f"{inputs.fingerprint(path, *_FILE)} {up}"

    @classmethod
    def execute(cls, path: str = "trellis2_rocket.glb", up: str = _UP[0]) -> io.NodeOutput:
        scene = read_scene(inputs.existing(path, *_FILE), "" if up == _UP[0] else up)
        texture = stages.base_color_image(scene)
        image = torch.ones(1, 1, 1, 3) if texture is None else torch.from_numpy(texture[None, :, :, :3].copy())
        return io.NodeOutput(scene, stages.scene_mesh(scene, scene.frame()), image)
