"""From the raw mesh to a file: process, bake, export."""

from __future__ import annotations

import json
from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy.cli_args import args
from comfy_api.latest import io

from ..pipeline import stages
from ..pipeline.export import AlphaMode
from .host.memory import make_room
from .host.run import Progress, run
from .sockets import CATEGORY, GLB, Mesh, TexturedMesh, Voxels, advanced

_BYTES_A_TEXEL = 400  # in the bake, rounded up from its peaks in `bench-mesh` on an H200 (voxels and tree included)


class ProcessMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="T2ProcessMesh",
            display_name="TRELLIS.2 Process Mesh",
            category=CATEGORY,
            description="Repairs the mesh, removes inner shells or makes one closed surface, simplifies to a number of "
            "faces and turns all faces outward.",
            inputs=[
                Mesh.Input("mesh", tooltip="From TRELLIS.2 Decode Shape."),
                faces_input(),
                io.Float.Input(
                    "hole_perimeter",
                    default=0.03,
                    min=0.0,
                    max=4.0,
                    step=0.01,
                    tooltip="Holes up to this length round their edge are filled; the object fits into a cube of "
                    "side 1. 0 fills nothing.",
                ),
                shells_input(),
                advanced(
                    io.Int.Input(
                        "shell_resolution",
                        default=512,
                        min=64,
                        max=1024,
                        step=64,
                        tooltip="Cells along the longest side in which outer and solid see: gaps narrower than a cell "
                        "count as closed, and solid has this much detail.",
                    )
                ),
            ],
            outputs=[
                Mesh.Output(display_name="mesh", tooltip="Ready for baking or export."),
                io.String.Output(
                    display_name="report", tooltip="What was repaired and what the mesh is like now, as JSON."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, mesh: stages.Mesh, faces: int, hole_perimeter: float, shells: str = "outer", shell_resolution: int = 512
    ) -> io.NodeOutput:
        result = run(
            *(stages.process_mesh, None, Progress(), mesh),
            target_faces=faces,
            max_hole_perimeter=hole_perimeter,
            shells=shells,
            resolution=shell_resolution,
        )
        return io.NodeOutput(result, json.dumps(result.facts, indent=1))


def shells_input() -> io.Input:
    """What becomes of inner shells and open sheets."""
    return io.Combo.Input(
        "shells",
        options=list(stages.SHELLS),
        default="outer",
        tooltip="surface keeps everything, open sheets and inner shells too; outer drops what cannot be reached from "
        "outside; solid makes one closed surface, for printing and physics.",
    )


def faces_input() -> io.Input:
    """The face count to simplify to."""
    return io.Int.Input(
        "faces",
        default=500_000,
        min=4,
        max=20_000_000,
        step=1000,
        tooltip="At most so many triangles: 500,000 for close views, 20,000 for games.",
    )


def texture_size_input() -> io.Input:
    """The side of the baked maps."""
    return io.Int.Input(
        "texture_size", default=2048, min=64, max=8192, step=64, tooltip="Pixels along a side of each texture."
    )


class BakeTexture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="T2BakeTexture",
            display_name="TRELLIS.2 Bake Texture",
            category=CATEGORY,
            description="Unwraps a mesh and bakes the material voxels into PBR textures.",
            inputs=[
                Mesh.Input("mesh", tooltip="From TRELLIS.2 Process Mesh."),
                Voxels.Input("voxels", tooltip="From TRELLIS.2 Decode Texture."),
                texture_size_input(),
                advanced(
                    io.Int.Input(
                        "padding",
                        default=4,
                        min=0,
                        max=64,
                        tooltip="Pixels between the islands of the texture, so that they do not bleed into each "
                        "other from afar.",
                    )
                ),
                Mesh.Input(
                    "original",
                    optional=True,
                    tooltip="The raw mesh from TRELLIS.2 Decode Shape. Colours are then looked up on it rather than on "
                    "the simplified mesh, and normal map and occlusion show its detail.",
                ),
                advanced(
                    io.Boolean.Input(
                        "normal_map", default=False, tooltip="Bake the detail that simplifying lost into a normal map."
                    )
                ),
                advanced(
                    io.Boolean.Input("occlusion", default=False, tooltip="Bake ambient occlusion: darker crevices.")
                ),
            ],
            outputs=[
                TexturedMesh.Output(display_name="textured_mesh", tooltip="For export."),
                io.Image.Output(display_name="base_color", tooltip="Base colour, sRGB."),
                io.Image.Output(
                    display_name="metallic_roughness",
                    tooltip="glTF's packing: green is roughness, blue is metallic, linear.",
                ),
                io.Mask.Output(display_name="alpha", tooltip="Opacity; 1: opaque."),
            ],
        )

    @classmethod
    def execute(
        cls,
        mesh: stages.Mesh,
        voxels: stages.PBRVoxels,
        texture_size: int,
        padding: int,
        original: stages.Mesh | None = None,
        normal_map: bool = False,
        occlusion: bool = False,
    ) -> io.NodeOutput:
        make_room(_BYTES_A_TEXEL * texture_size**2)
        textured = run(
            *(stages.bake_texture, None, Progress(2), mesh, voxels),
            size=texture_size,
            padding=padding,
            original=original,
            normal_map=normal_map,
            occlusion=occlusion,
        )
        return io.NodeOutput(textured, *maps(textured))


def maps(textured: stages.TexturedMesh) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Base colour [1, S, S, 3], metallic-roughness in glTF's packing [1, S, S, 3], alpha [1, S, S]."""
    attrs = textured.maps.attrs
    packed = np.stack([np.ones_like(attrs[:, :, 0]), attrs[:, :, stages.ROUGHNESS], attrs[:, :, stages.METALLIC]], 2)
    parts = attrs[:, :, stages.BASE_COLOR], packed, attrs[:, :, stages.ALPHA]
    return tuple(torch.from_numpy(np.ascontiguousarray(part))[None] for part in parts)


class ExportGLB(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="T2ExportGLB",
            display_name="TRELLIS.2 Export GLB",
            category=CATEGORY,
            description="Writes a GLB into ComfyUI's output folder. The graph travels inside it unless ComfyUI was "
            "started with --disable-metadata.",
            inputs=[
                io.MultiType.Input(
                    "mesh", types=[Mesh, TexturedMesh], tooltip="A mesh, or a textured one from TRELLIS.2 Bake Texture."
                ),
                filename_prefix_input(),
                io.Combo.Input(
                    "texture_format",
                    options=["png", "webp"],
                    default="png",
                    tooltip="png is read everywhere; webp is smaller, and some viewers lack it.",
                ),
                io.Combo.Input(
                    "alpha_mode",
                    options=[mode.name.lower() for mode in AlphaMode],
                    default="opaque",
                    tooltip="How viewers treat alpha: ignore it, cut at one half, or blend.",
                ),
                io.Boolean.Input(
                    "double_sided", default=True, tooltip="Show faces from behind too; open meshes need it."
                ),
            ],
            outputs=[
                GLB.Output(display_name="model_3d", tooltip="The file, for Preview 3D and others."),
                io.String.Output(
                    display_name="path", tooltip="The file below ComfyUI's output folder, for Preview 3D."
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        mesh: stages.Mesh | stages.TexturedMesh,
        filename_prefix: str,
        texture_format: str,
        alpha_mode: str,
        double_sided: bool,
    ) -> io.NodeOutput:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        path = Path(folder) / f"{name}_{counter:05}_.glb"
        settings = stages.ExportSettings(
            alpha_mode=AlphaMode[alpha_mode.upper()], double_sided=double_sided, image_format=texture_format
        )
        facts = {**_facts(mesh), **_graph(cls.hidden)}
        run(stages.export_glb, None, Progress(), mesh, path=path, settings=settings, extras=facts)
        relative = (Path(subfolder) / path.name).as_posix()
        shown = {"filename": path.name, "subfolder": subfolder, "type": "output"}
        return io.NodeOutput(_file_3d(path), relative, ui={"3d": [shown]})


def filename_prefix_input() -> io.Input:
    """Where a GLB is written."""
    return io.String.Input(
        "filename_prefix",
        default="3d/trellis2",
        tooltip="Folder and start of the file's name below ComfyUI's output folder; a number is appended.",
    )


def _facts(mesh: stages.Mesh | stages.TexturedMesh) -> dict:
    """What the file says of itself."""
    if isinstance(mesh, stages.TexturedMesh):
        return {"vertices": len(mesh.mesh.vertices), "faces": len(mesh.mesh.faces), **mesh.facts}
    return {"vertices": len(mesh.vertices), "faces": len(mesh.faces), **mesh.facts}


def _graph(hidden) -> dict:
    """The graph, as ComfyUI's own save nodes keep it."""
    if args.disable_metadata:
        return {}
    # is_changed is a note of the executor's cache, there or not depending on how ComfyUI was started
    prompt = {
        node: {key: value for key, value in entry.items() if key != "is_changed"}
        for node, entry in (hidden.prompt or {}).items()
    }
    found = {"prompt": prompt or None, **(hidden.extra_pnginfo or {})}
    return {key: json.dumps(value) for key, value in found.items() if value is not None}


def _file_3d(path: Path):
    """ComfyUI's value for 3D files; hosts before 2026 have none and get the path."""
    try:
        from comfy_api.latest import Types

        return Types.File3D(str(path), file_format="glb")
    except (ImportError, AttributeError):
        return str(path)
