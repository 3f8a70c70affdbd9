"""The command `texture`: a mesh and pictures of it to the same mesh with new materials."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from .. import __version__, stages
from ..console import Bars, Written
from ..errors import ImageError, SettingsError
from ..export import AlphaMode
from ..export.files import check_outputs
from ..export.scene_textures import write_scene
from ..mesh.io import FORMATS, read_scene
from ..mesh.io.atlas import UVS
from ..models import build
from ..runtime import Runtime, choose_device, choose_dtype
from ..sampling import check_strength
from ..spec import PIPELINE_TYPES, PipelineType
from ..speed import SPEEDS
from ..weights import SMALL_CHECKPOINT, Models
from .drawing import add_drawing, wants_drawing, write_drawings
from .generate import named_outputs
from .options import (
    DTYPES,
    add_backend,
    add_device,
    add_dtype,
    add_image_encoder,
    add_pictures,
    add_report,
    add_seed,
    add_speed,
    add_views,
    backend_choices,
    opened_checkpoint,
    posed_pictures,
    told_of,
)
from .project import add_projection, photos, projection
from .results import report_result

HELP = "texture a mesh that you have"


def add(parser: argparse.ArgumentParser) -> None:
    add_mesh_and_pictures(parser)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="OUT.glb", help="the mesh with its new textures, GLB"
    )
    parser.add_argument(
        "--uvs",
        choices=UVS,
        default="keep",
        help="keep: bake into the UVs that are there; fill: make new ones for meshes without; new: for all; "
        "default: keep",
    )
    parser.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="S",
        help="1: textures from the pictures alone; below, from those that the mesh has, which change the less the "
        "lower; default: 1",
    )
    parser.add_argument("--keep", nargs="+", default=[], metavar="NODE", help="mesh nodes that stay as they are")
    least, most = stages.TEXTURE_SIZES
    parser.add_argument(
        "--texture-size", type=int, default=2048, metavar="N", help=f"pixels a side, {least} to {most}; default: 2048"
    )
    parser.add_argument(
        "--texture-format", choices=("png", "webp"), default="png", help="default: png, which every viewer reads"
    )
    add_projection(parser)


def add_mesh_and_pictures(parser: argparse.ArgumentParser) -> None:
    """A mesh, pictures of it, and the models that `texture` and `refine` run."""
    parser.add_argument("mesh", type=Path, metavar="MESH", help=f"a file of {', '.join(FORMATS)}")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a picture; several are views of the same object")
    parser.add_argument("--up", choices=("y", "z"), default="", help="which axis is up in OBJ (y), PLY and STL (z)")
    parser.add_argument(
        "--checkpoint",
        metavar="DIR_OR_HF_ID",
        help="folder, ComfyUI bundle or Hugging Face repository; default: the bundled small one",
    )
    add_image_encoder(parser)
    parser.add_argument(
        "--type", metavar="{" + ",".join(PIPELINE_TYPES) + "}", help="resolution; default: the checkpoint's"
    )
    add_seed(parser)
    add_device(parser)
    add_dtype(parser)
    add_report(parser, "write seconds and peak memory per stage")
    add_pictures(parser)
    add_views(parser)
    add_backend(parser)
    add_speed(parser)
    add_drawing(parser)
    parser.set_defaults(lods=[], lods_in_one_file=False)


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
    inputs += [("checkpoint", options.checkpoint or SMALL_CHECKPOINT), ("image encoder", options.image_encoder)]
    inputs += [("environment", options.environment)]
    check_outputs(named_outputs(options, options.output), [(what, Path(path)) for what, path in inputs if path])


def run(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    check_paths(options)
    stages.check_texture_size(options.texture_size)
    check_strength(options.strength)
    projected = projection(options, textured=True)
    scene = read_scene(options.mesh, options.up)
    device = choose_device(options.device)
    dtype = choose_dtype(device) if options.dtype == "auto" else DTYPES[options.dtype]
    asked = PipelineType.named(options.type) if options.type else None
    backends = stages.default_backends(backend_choices(options))
    stages.check_finish(None, pictures=wants_drawing(options))
    checkpoint = opened_checkpoint(options)
    chosen = asked or checkpoint.default_pipeline_type
    models = Models(checkpoint, build)
    roles = stages.texturing_roles(chosen, options.strength < 1 or bool(options.keep))
    checkpoint.require_models(roles, "Texturing a mesh")
    images = posed_pictures(options)
    shots = photos(options) if projected else []
    models.fetch(roles)
    with Written() as written, Bars(options.check) as bars:
        runtime = Runtime(device, backends, dtype, bars, speed=SPEEDS[options.speed])
        condition = stages.encode_images(runtime, models, images, (chosen.texture.image_scale,))
        made = stages.texture_scene(
            runtime,
            models,
            condition,
            scene,
            chosen,
            size=options.texture_size,
            seed=options.seed,
            uvs=options.uvs,
            strength=options.strength,
            keep=options.keep,
        )
        if projected:
            with written.or_not(ImageError):
                made = stages.project_scene(runtime, scene, scene.frame(), made, shots, projected)
        settings = {"checkpoint": checkpoint.name, "pipeline_type": chosen.name, "seed": options.seed}
        settings |= told_of(images)
        settings |= {"strength": options.strength, "uvs": options.uvs, "speed": options.speed, "version": __version__}
        with written.or_not():
            write_scene(options.output, scene, made.groups, options.texture_format)
            written.paths.append(options.output)
        if wants_drawing(options):
            drawn = stages.scene_subject(scene, made, "cpu" if device.type == "mps" else device)
            write_drawings(options, runtime, drawn, AlphaMode.OPAQUE, written)
        bars.close()
        report_result(options, runtime, {**settings, **made.facts}, written, time.perf_counter() - start)
    return 1 if written.errors else 0
