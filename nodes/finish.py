"""From the raw mesh to a picture and a file: process, bake or colour, render, export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from comfy.cli_args import args
from comfy_api.latest import io

from ..pipeline import stages
from ..pipeline.errors import SettingsError
from ..pipeline.export import AlphaMode
from ..pipeline.render import MODES, Camera
from .host import output
from .host.memory import make_room
from .host.progress import Progress
from .host.report import told
from .host.run import explained, run
from .sockets import CATEGORY, GLB, Mesh, TexturedMesh, Voxels, advanced, aliases, node_schema

_BYTES_A_PIXEL = 16  # of every frame that is drawn: IMAGE and MASK are float32
_BYTES_A_TEXEL = 400  # in the bake, rounded up from its peaks in `bench-mesh` on an H200 (voxels and tree included)


class ProcessMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2ProcessMesh",
            display_name="TRELLIS.2 Process Mesh",
            category=CATEGORY,
            **aliases(
                "simplify, decimate, remesh, fill holes, repair mesh, watertight, clean mesh, lod, "
                "low poly, retopology, mesh report"
            ),
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
                    "side 1. Longer ones in shapes of less than 512 voxels, as theirs are larger. 0 fills nothing.",
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
                        "count as closed, and solid has this much detail, but no more than the shape has voxels.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "lods",
                        default="",
                        tooltip="Triangles of coarser levels of detail, for example 100000, 20000, 5000. They share "
                        "the textures; Export GLB writes a file for each. Empty: none.",
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
    def validate_inputs(cls, faces=None, shells=None, lods=None) -> bool | str:
        # what comes through a link is None here
        return explained(_check_processing, faces, shells, lods)

    @classmethod
    def execute(
        cls,
        mesh: stages.Mesh,
        faces: int = 500_000,
        hole_perimeter: float = 0.03,
        shells: str = "outer",
        shell_resolution: int = 512,
        lods: str = "",
    ) -> io.NodeOutput:
        result = run(
            *(stages.process_mesh, None, Progress(), mesh),
            target_faces=faces,
            max_hole_perimeter=hole_perimeter,
            shells=shells,
            resolution=shell_resolution,
            lods=_counts(lods),
        )
        return io.NodeOutput(result, json.dumps(result.facts, indent=1), ui={"text": [told(result)]})


def _check_processing(faces: int | None, shells: str | None, lods: str | None) -> None:
    levels = _counts(lods or "")
    stages.check_levels([max(levels, default=4) + 1 if faces is None else faces, *levels])
    stages.check_shells(shells or stages.SHELLS[0])


def _counts(text: str) -> list[int]:
    """Numbers between commas or spaces."""
    try:
        return [int(each) for each in text.replace(",", " ").split()]
    except ValueError as error:
        raise SettingsError(
            f"lods must be numbers of triangles between commas, for example 100000, 20000; got {text!r}."
        ) from error


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
        min=stages.MIN_FACES,
        max=20_000_000,
        step=1000,
        tooltip="Maximum number of triangles: 500,000 for close views, 20,000 for games.",
    )


def texture_size_input() -> io.Input:
    """The side of the baked maps."""
    least, most = stages.TEXTURE_SIZES
    return io.Int.Input(
        "texture_size", default=2048, min=least, max=most, step=64, tooltip="Pixels along a side of each texture."
    )


class BakeTexture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2BakeTexture",
            display_name="TRELLIS.2 Bake Texture",
            category=CATEGORY,
            **aliases("unwrap, uv, texture bake, pbr, normal map, ambient occlusion"),
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
                advanced(
                    io.Boolean.Input(
                        "keep_uvs",
                        default=False,
                        tooltip="Bake into the UVs that a mesh from TRELLIS.2 Mesh from ComfyUI brings along, in place "
                        "of new ones.",
                    )
                ),
            ],
            outputs=[
                TexturedMesh.Output(display_name="textured_mesh", tooltip="For export."),
                io.Image.Output(display_name="base_color", tooltip="Base colour, sRGB."),
                io.Image.Output(
                    display_name="metallic_roughness",
                    tooltip="glTF's packing: red is occlusion, green is roughness, blue is metallic, linear.",
                ),
                io.Mask.Output(display_name="alpha", tooltip="Opacity; 1: opaque."),
                io.Image.Output(
                    display_name="normal_map", tooltip="Tangent space, green up, linear; flat unless it was asked for."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, normal_map=None, occlusion=None) -> bool | str:
        return explained(stages.check_maps, bool(normal_map), bool(occlusion))

    @classmethod
    def execute(
        cls,
        mesh: stages.Mesh,
        voxels: stages.PBRVoxels,
        texture_size: int = 2048,
        padding: int = 4,
        original: stages.Mesh | None = None,
        normal_map: bool = False,
        occlusion: bool = False,
        keep_uvs: bool = False,
    ) -> io.NodeOutput:
        make_room(_BYTES_A_TEXEL * texture_size**2)
        textured = run(
            *(stages.bake_texture, None, Progress(2), mesh, voxels),
            size=texture_size,
            padding=padding,
            original=original,
            normal_map=normal_map,
            occlusion=occlusion,
            keep_uvs=keep_uvs,
        )
        return io.NodeOutput(textured, *maps(textured))


def maps(textured: stages.TexturedMesh) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Base colour [1, S, S, 3], occlusion-roughness-metallic as glTF packs it [1, S, S, 3], alpha [1, S, S], normal map
    [1, S, S, 3]."""
    attrs, occlusion, normal = textured.maps, textured.occlusion, textured.normal_map
    light = np.full_like(attrs[:, :, 0], 255) if occlusion is None else occlusion
    packed = np.stack([light, attrs[:, :, stages.ROUGHNESS], attrs[:, :, stages.METALLIC]], 2)
    flat = torch.tensor([0.5, 0.5, 1.0]).expand(1, *attrs.shape[:2], 3)
    base_color, packed, alpha = (
        _image(each) for each in (attrs[:, :, stages.BASE_COLOR], packed, attrs[:, :, stages.ALPHA])
    )
    return base_color, packed, alpha, flat if normal is None else _image(normal)


def _image(values: np.ndarray) -> torch.Tensor:
    """uint8 -> IMAGE or MASK: a batch of one, 0-1."""
    return torch.from_numpy(np.ascontiguousarray(values))[None].float() / 255


class ColorVertices(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2ColorVertices",
            display_name="TRELLIS.2 Color Vertices",
            category=CATEGORY,
            **aliases("vertex colors, vertex colours, vertex paint"),
            description="Gives a mesh the colours of the material voxels at its vertices, in place of textures: no "
            "unwrapping, a smaller file, and enough for a first look at a mesh of many faces.",
            inputs=[
                Mesh.Input("mesh", tooltip="From TRELLIS.2 Process Mesh."),
                Voxels.Input("voxels", tooltip="From TRELLIS.2 Decode Texture."),
                Mesh.Input(
                    "original",
                    optional=True,
                    tooltip="The raw mesh from TRELLIS.2 Decode Shape. Colours are then looked up on it rather than on "
                    "the simplified mesh.",
                ),
            ],
            outputs=[Mesh.Output(display_name="mesh", tooltip="With vertex colours, for Export GLB or Render Mesh.")],
        )

    @classmethod
    def execute(cls, mesh: stages.Mesh, voxels: stages.PBRVoxels, original: stages.Mesh | None = None) -> io.NodeOutput:
        return io.NodeOutput(run(stages.color_vertices, None, Progress(), mesh, voxels, original=original))


class RenderMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2RenderMesh",
            display_name="TRELLIS.2 Render Mesh",
            category=CATEGORY,
            **aliases("turntable, render 3d, mesh to image, wireframe, preview mesh"),
            description="Draws a mesh from one side, or from all round as frames of a turntable.",
            inputs=[
                io.MultiType.Input(
                    "mesh",
                    types=[Mesh, TexturedMesh],
                    tooltip="Raw, processed, with vertex colours, or textured.",
                ),
                io.Combo.Input(
                    "mode",
                    options=["material", *(mode for mode in MODES if mode != "pbr")],
                    default="material",
                    tooltip="material: colours, metal and roughness under studio light (clay if the mesh has no "
                    "colours); shaded: clay; base_color: colours without light; normals; wireframe.",
                ),
                io.Int.Input(
                    "frames",
                    default=1,
                    min=1,
                    max=360,
                    tooltip="Pictures from a full circle, evenly spaced; 1: only the one from the azimuth.",
                ),
                io.Int.Input(
                    "size",
                    default=512,
                    min=64,
                    max=4096,
                    step=64,
                    tooltip="Pixels along a side. All frames together may take 8 GB at 16 bytes a pixel: 360 frames of "
                    "1024, 29 of 4096.",
                ),
                io.Float.Input(
                    "azimuth",
                    default=30.0,
                    min=-360.0,
                    max=360.0,
                    step=5.0,
                    tooltip="Degrees round the object, anticlockwise seen from above; 0: from the front.",
                ),
                io.Float.Input(
                    "elevation",
                    default=20.0,
                    min=-90.0,
                    max=90.0,
                    step=5.0,
                    tooltip="Degrees above the horizon from which the camera looks.",
                ),
                io.Combo.Input(
                    "alpha_mode",
                    options=[mode.name.lower() for mode in AlphaMode],
                    default="opaque",
                    tooltip="How alpha is drawn: ignore it, cut at one half, or blend.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="On black; a batch of frames."),
                io.Mask.Output(display_name="mask", tooltip="1 where the object is."),
            ],
        )

    @classmethod
    def validate_inputs(cls, frames=None, size=None) -> bool | str:
        # what comes through a link is None here
        frames, size = (1 if frames is None else frames), (512 if size is None else size)
        return explained(stages.check_frames, frames, size, _BYTES_A_PIXEL)

    @classmethod
    def execute(
        cls,
        mesh: stages.Mesh | stages.TexturedMesh,
        mode: str = "material",
        frames: int = 1,
        size: int = 512,
        azimuth: float = 30.0,
        elevation: float = 20.0,
        alpha_mode: str = "opaque",
    ) -> io.NodeOutput:
        stages.check_pictures(frames, size, _BYTES_A_PIXEL)
        image, mask = torch.empty(frames, size, size, 3), torch.empty(frames, size, size)

        def receive(number: int, picture: np.ndarray) -> None:
            values = torch.from_numpy(picture).float() / 255
            torch.mul(values[..., :3], values[..., 3:], out=image[number])
            mask[number] = values[..., 3]

        run(
            *(stages.draw_each, None, Progress(), mesh),
            receive=receive,
            frames=frames,
            size=size,
            mode=None if mode == "material" else mode,
            camera=Camera(azimuth, elevation),
            alpha_mode=AlphaMode[alpha_mode.upper()],
        )
        return io.NodeOutput(image, mask)


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
                advanced(
                    io.Boolean.Input(
                        "lods_in_one_file",
                        default=False,
                        optional=True,
                        tooltip="Levels of detail in the one GLB (MSFT_lod) in place of a file each. Programs that do "
                        "not know the extension, such as Blender, may show all of them at once.",
                    )
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
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        # None: linked, and not known yet; with a % it may be another name in the end
        known = filename_prefix is not None and "%" not in filename_prefix
        return (output.why_not(filename_prefix) if known else "") or True

    @classmethod
    def execute(
        cls,
        mesh: stages.Mesh | stages.TexturedMesh,
        filename_prefix: str = output.DEFAULT_PREFIX,
        texture_format: str = "png",
        alpha_mode: str = "opaque",
        double_sided: bool = True,
        lods_in_one_file: bool = False,
    ) -> io.NodeOutput:
        path, relative = output.new_file(filename_prefix, ".glb", cls.hidden)
        settings = stages.ExportSettings(
            alpha_mode=AlphaMode[alpha_mode.upper()],
            double_sided=double_sided,
            image_format=texture_format,
            lods_in_one_file=lods_in_one_file,
        )
        facts = {**_facts(mesh), **_graph(cls.hidden)}
        # named without the counter: the same graph gives the same bytes
        name = Path(output.filled(filename_prefix, cls.hidden)).name
        written = run(stages.export_glb, None, Progress(), mesh, path=path, settings=settings, extras=facts, name=name)
        subfolder = Path(relative).parent.as_posix()
        subfolder = "" if subfolder == "." else subfolder
        # the mesh itself last, as clients of the queue fetch the last file
        shown = [{"filename": each.name, "subfolder": subfolder, "type": "output"} for each in reversed(written)]
        text = f"{relative}, {path.stat().st_size / 1e6:,.1f} MB\n{told(mesh)}"
        return io.NodeOutput(_file_3d(path), relative, ui={"3d": shown, "text": [text]})


def filename_prefix_input() -> io.Input:
    """Where a GLB is written."""
    return io.String.Input(
        "filename_prefix",
        default=output.DEFAULT_PREFIX,
        tooltip="Folder and start of the file's name below ComfyUI's output folder; a number is appended.",
    )


def _facts(mesh: stages.Mesh | stages.TexturedMesh) -> dict:
    """What the file says of itself."""
    plain = mesh.levels[0].mesh if isinstance(mesh, stages.TexturedMesh) else mesh
    return {"vertices": len(plain.vertices), "faces": len(plain.faces), **mesh.facts}


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
