"""The command `texture`: a mesh and pictures of it to the same mesh with new materials."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from .. import stages
from ..console import Bars, Written
from ..errors import SettingsError
from ..export import AlphaMode
from ..export.files import check_outputs
from ..export.scene_textures import write_scene
from ..make import TextureSettings, texture_object
from ..mesh.io import FORMATS, Scene, read_scene
from ..mesh.io.atlas import UVS
from ..models import build
from ..record import job_record
from ..runtime import choose_device, named_dtype
from ..sampling import check_strength
from ..speed import SPEEDS
from ..weights import SMALL_CHECKPOINT, Models
from .drawing import add_drawing, wants_drawing, write_drawings
from .generate import named_outputs
from .objects import type_of
from .options import (
    add_backend,
    add_checkpoint,
    add_device,
    add_dtype,
    add_pictures,
    add_pipeline_type,
    add_report,
    add_seed,
    add_speed,
    add_views,
    backend_choices,
    opened_checkpoint,
    posed_pictures,
    tell_checkpoint,
)
from .planning import Run, add_log, add_plan
from .project import add_projection, photos, projection
from .results import report_result
from .samplers import add_samplers, samplers
from .settings import settings_of


def add(parser: argparse.ArgumentParser) -> None:
    add_mesh_and_pictures(parser, ["texture"])
    parser.add_argument(
        "--output", type=Path, required=True, metavar="OUT.glb", help="the mesh with its new textures, GLB"
    )
    parser.add_argument(
        "--uvs",
        choices=UVS,
        default="keep",
        help="keep: bake into the existing UVs; fill: make UVs for meshes without; new: make UVs for all; "
        "default: keep",
    )
    parser.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="S",
        help="1: textures from the pictures alone; below 1: start from the mesh's textures, which change less at lower "
        "values; default: 1",
    )
    add_keep(parser)
    least, most = stages.TEXTURE_SIZES
    parser.add_argument(
        "--texture-size", type=int, default=2048, metavar="N", help=f"pixels a side, {least} to {most}; default: 2048"
    )
    parser.add_argument(
        "--texture-format", choices=("png", "webp"), default="png", help="default: png, which every viewer reads"
    )
    add_projection(parser)
    add_samplers(parser, ["texture"])
    # of the options that other commands have for what they write: one file, whose numbers no preset has
    parser.set_defaults(preset="standard", faces=None, lods=[], lods_in_one_file=False)
    parser.set_defaults(normal_map=False, seams=None)


def add_keep(parser: argparse.ArgumentParser) -> None:
    """What of the mesh stays as it is."""
    parser.add_argument(
        "--keep",
        nargs="+",
        action="append",
        default=[],
        metavar="MASK.png [MATERIAL ...]",
        help="a mask in the UVs of the mesh; white is kept as it is. With names of materials it applies to these only; "
        "may be given several times",
    )
    parser.add_argument("--keep-vertex-colors", action="store_true", help="keep what has white vertex colours")
    parser.add_argument("--keep-nodes", nargs="+", default=[], metavar="NODE", help="mesh nodes to keep as they are")


def add_mesh_and_pictures(parser: argparse.ArgumentParser, sampled: Sequence[str]) -> None:
    """A mesh, pictures of it, and the models that `texture` and `refine` run. sampled: the stages that mix views."""
    parser.add_argument("mesh", type=Path, metavar="MESH", help=f"a file of {', '.join(FORMATS)}")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a picture; several are views of the same object")
    parser.add_argument("--up", choices=("y", "z"), default="", help="which axis is up in OBJ (y), PLY and STL (z)")
    add_checkpoint(parser)
    add_pipeline_type(parser, "resolution")
    add_seed(parser)
    add_device(parser)
    add_dtype(parser)
    add_report(parser, "write seconds and peak memory per stage")
    add_pictures(parser)
    add_views(parser, sampled)
    add_plan(parser)
    add_log(parser)
    add_backend(parser)
    add_speed(parser)
    add_drawing(parser)


def check_paths(options: argparse.Namespace) -> None:
    """That no output overwrites another or what is read.

    Raises:
        SettingsError: the output is no GLB, the one format that holds a scene's nodes as they are. OutputError.
    """
    if options.output.suffix.lower() != ".glb":
        raise SettingsError(
            f"The output must end in .glb, which keeps nodes and transforms; got {options.output.name}."
        )
    inputs = [("mesh", options.mesh), *(("picture", path) for path in options.images)]
    inputs += [("mask", path) for path in options.mask]
    inputs += [("mask of what is kept", path) for path, *_ in vars(options).get("keep", ())]
    inputs += [("checkpoint", options.checkpoint or SMALL_CHECKPOINT), ("image encoder", options.image_encoder)]
    inputs += [("environment", options.environment)]
    check_outputs(named_outputs(options, options.output), [(what, Path(path)) for what, path in inputs if path])


def kept(options: argparse.Namespace, scene: Scene) -> stages.Keep:
    """What the options say is to stay."""
    names = {part.name for part in scene.parts}
    for path, *_ in options.keep:
        if path in names and not Path(path).exists():
            raise SettingsError(f"--keep takes a mask; {path} is a mesh node: --keep-nodes {path} keeps it.")
    masks = tuple(stages.Mask.read(Path(path), tuple(materials)) for path, *materials in options.keep)
    return stages.Keep(tuple(options.keep_nodes), masks, options.keep_vertex_colors)


def run(options: argparse.Namespace) -> int:
    check_paths(options)
    stages.check_texture_size(options.texture_size)
    check_strength(options.strength)
    projected, asked = projection(options, textured=True), type_of(options)
    scene = read_scene(options.mesh, options.up)
    keep = kept(options, scene)
    keep.changed_parts(scene)  # what is wrong with it is said first
    device = choose_device(options.device)
    dtype = named_dtype(options.dtype, device)
    backends = stages.default_backends(backend_choices(options))
    stages.check_finish(None, pictures=wants_drawing(options))
    checkpoint = opened_checkpoint(options)
    chosen = asked or checkpoint.default_pipeline_type
    settings = settings_of(
        TextureSettings,
        options,
        pipeline_type=chosen,
        keep=keep,
        samplers=samplers(options, checkpoint.spec),
        projection=projected,
    )
    settings.check(checkpoint, wants_drawing(options), backends, device)
    images, models = posed_pictures(options), Models(checkpoint, build)
    shots = photos(options) if projected else []
    tell_checkpoint(options, checkpoint)
    models.fetch(settings.roles)
    run = Run(options, device, backends, dtype, str(options.output), SPEEDS[options.speed])
    with Written() as written, Bars(options.check) as bars, run.logged(bars):
        made = texture_object(run.planned, models, images, scene, settings, shots)
        written.errors += made.refused
        groups, extras = made.result.groups, {"trellis2": job_record(made.facts).lasting()}
        with written.or_not():
            write_scene(options.output, scene, groups, options.texture_format, extras)
            written.paths.append(options.output)
        if wants_drawing(options):
            drawn = stages.scene_subject(scene, groups, stages.geometry_device(device))
            write_drawings(options, run.runtime, drawn, AlphaMode.OPAQUE, written)
        bars.close()
        report_result(options, run, made.plan, made.facts, written)
    return 1 if written.errors else 0
