"""Mesh files in the output folder: named, written with the graph inside, shown on the node and among the assets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from comfy.cli_args import args
from comfy_api.latest import io

from ...pipeline import stages
from ...pipeline.export import AlphaMode
from ...pipeline.export.placed import place_glb
from ...pipeline.mesh.io import Scene as SceneValue
from ...pipeline.record import job_record
from ..sockets import GLB, Mesh, Scene, TexturedMesh
from . import output
from .progress import Progress
from .report import report_lines
from .run import run


def filename_prefix_input() -> io.Input:
    """Where a file is written."""
    return io.String.Input(
        "filename_prefix",
        default=output.DEFAULT_PREFIX,
        tooltip="Folder and start of the file's name below ComfyUI's output folder; a number is appended.",
    )


def texture_format_input() -> io.Input:
    """How textures are stored in a GLB."""
    return io.Combo.Input(
        "texture_format",
        options=["png", "webp"],
        default="png",
        tooltip="png is read everywhere; webp is smaller, and some viewers lack it.",
    )


def glb_outputs() -> list[io.Output]:
    """Of a node that writes one GLB."""
    return [
        GLB.Output(display_name="model_3d", tooltip="The file, for Preview 3D and others."),
        io.String.Output(display_name="path", tooltip="The file below ComfyUI's output folder, for Preview 3D."),
    ]


def mesh_input() -> io.Input:
    """The mesh to write."""
    return io.MultiType.Input(
        "mesh", types=[Mesh, TexturedMesh], tooltip="A mesh, or a textured one from TRELLIS.2 Bake Texture."
    )


def place_input() -> io.Input:
    """The scene whose place a GLB takes."""
    return io.MultiType.Input(
        "place",
        types=[Scene, Mesh],
        optional=True,
        tooltip="The scene, or the mesh as it was before Encode Mesh: the refined mesh is scaled and moved to where it "
        "lies. Without it the mesh stays in the unit cube.",
    )


def alpha_mode_input() -> io.Input:
    """How viewers treat alpha."""
    return io.Combo.Input(
        "alpha_mode",
        options=[mode.name.lower() for mode in AlphaMode],
        default="opaque",
        tooltip="How viewers treat alpha: ignore it, cut at one half, or blend.",
    )


def double_sided_input() -> io.Input:
    """Whether viewers show back faces."""
    return io.Boolean.Input("double_sided", default=True, tooltip="Show faces from behind too; open meshes need it.")


def why_not(filename_prefix: str | None) -> str:
    """The error in the widget's value, or "". None: linked, and not known yet; with a % it may be another name in
    the end."""
    if filename_prefix is None or "%" in filename_prefix:
        return ""
    return output.why_not(filename_prefix)


def save(
    mesh: stages.Mesh | stages.TexturedMesh,
    prefix: str,
    suffix: str,
    settings: stages.ExportSettings,
    hidden,
    place: SceneValue | stages.Mesh | None = None,
) -> io.NodeOutput:
    """Write a mesh into a new file; the outputs of the node: ComfyUI's value for it, and the path.

    Args:
        prefix, hidden: as for output.new_file. suffix: of a writer, with its dot. place: what a GLB is to lie like.
    """
    path, relative = output.new_file(prefix, suffix, hidden)
    # named without the counter: the same graph gives the same bytes
    name = Path(output.filled(prefix, hidden)).name
    extras = {**_facts(mesh), **graph_of(hidden)}
    written = run(stages.export_mesh, None, Progress(), mesh, path=path, settings=settings, extras=extras, name=name)
    if place is not None:
        frame = place.frame() if isinstance(place, SceneValue) else stages.frame_of(place)
        for each in written:
            place_glb(each, frame)
    return shown(written, relative, report_lines(mesh))


def shown(written: Sequence[Path], relative: str, report: str) -> io.NodeOutput:
    """The outputs of a node that has written files, the mesh itself first, and what it shows."""
    path = written[0]
    subfolder = Path(relative).parent.as_posix()
    subfolder = "" if subfolder == "." else subfolder
    # the mesh itself last: clients of the queue fetch the last file
    files = [{"filename": each.name, "subfolder": subfolder, "type": "output"} for each in reversed(written)]
    text = f"{relative}, {path.stat().st_size / 1e6:,.1f} MB\n{report}"
    return io.NodeOutput(_file_3d(path), relative, ui={"3d": files, "text": [text]})


def _facts(mesh: stages.Mesh | stages.TexturedMesh) -> dict:
    """The facts that are stored in the file."""
    plain = mesh.levels[0].mesh if isinstance(mesh, stages.TexturedMesh) else mesh
    facts = {"vertices": len(plain.vertices), "faces": len(plain.faces), **mesh.facts}
    if isinstance(mesh, stages.Mesh) and not mesh.facts and mesh.origin.notes:  # raw
        facts["warnings"] = mesh.origin.notes.splitlines()
    return {**facts, "record": job_record(facts).lasting()}


def graph_of(hidden) -> dict:
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

        return Types.File3D(str(path), file_format=path.suffix.removeprefix("."))
    except (ImportError, AttributeError):
        return str(path)
