"""T2ExportGLB: a mesh into a file of ComfyUI's output folder."""

from __future__ import annotations

import json
from pathlib import Path

from comfy.cli_args import args
from comfy_api.latest import io

from ..pipeline import stages
from ..pipeline.export import AlphaMode
from .host import output
from .host.progress import Progress
from .host.report import told
from .host.run import run
from .sockets import CATEGORY, GLB, Mesh, TexturedMesh, advanced, aliases, node_schema


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
