"""The command line: python -m pipeline generate | inspect | bench | bench-mesh."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import time
from pathlib import Path

from .signals import interruptible, leave_at_once

if __name__ == "__main__":
    leave_at_once()  # before torch is imported, which takes seconds

import numpy as np
import torch
from PIL import Image

from . import __version__, bench, bench_mesh, stages
from .budget import bound
from .console import Bars, Written, patient_console
from .errors import PipelineError, SettingsError
from .export import AlphaMode, level_path
from .export.files import check_outputs, writing
from .export.state import save_state
from .image import DEFAULT_MODEL, KINDS, background_remover, prepare, read_mask, read_picture
from .models import build
from .runtime import Runtime, choose_device, choose_dtype
from .spec import MAX_TOKENS, ROUTES, route
from .weights import RELEASED_CHECKPOINT, SMALL_CHECKPOINT, SMALL_IS, Models, open_checkpoint, survey

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0 done, 1 an error that names its cure, 2 wrong usage, 128 + the signal's
    number if interrupted: 130 for Ctrl-C."""
    with patient_console(), interruptible() as interruption:
        options = _parser().parse_args(arguments)
        options.check = interruption.check
        log = logging.getLogger(__package__)
        log.handlers[:] = [logging.StreamHandler()]
        log.getChild("warp.kernel_cache").setLevel(logging.INFO)  # why a first run takes longer
        try:
            code = options.run(options)
            interruption.check()
            return code
        except PipelineError as error:
            if not interruption.number:
                print(f"error: {error}", file=sys.stderr)
                return 1
        except BaseException as error:  # an interrupted import fails in ways of its own
            if not (interruption.number or isinstance(error, KeyboardInterrupt)):
                raise
        print("interrupted", file=sys.stderr)
        return 128 + (interruption.number or signal.SIGINT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m pipeline", description="A picture to a textured GLB with TRELLIS.2.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="generate | inspect | bench | bench-mesh")

    make = commands.add_parser("generate", help="make a GLB from a picture")
    make.set_defaults(run=generate)
    make.add_argument("images", nargs="+", metavar="IMAGE", help="a picture; several are views of the same object")
    make.add_argument(
        "--checkpoint",
        metavar="DIR_OR_HF_ID",
        help="folder, ComfyUI bundle or Hugging Face repository; default: the small one that comes along",
    )
    make.add_argument("--image-encoder", metavar="PATH_OR_HF_ID", help="DINOv3 encoder in place of the checkpoint's")
    make.add_argument(
        "--type", metavar="{" + ",".join(ROUTES) + "}", help="resolution and cascade; default: the checkpoint's"
    )
    make.add_argument("--seed", type=_seed, default=42, metavar="N", help="default: 42")
    make.add_argument("--device", default="auto", help="auto, cpu, cuda or mps; default: auto")
    make.add_argument(
        "--dtype",
        choices=("auto", *_DTYPES),
        default="auto",
        help="precision inside the networks; default: what suits the device",
    )
    make.add_argument(
        "--output",
        type=Path,
        metavar="OUT.glb",
        help="default: the picture's name with .glb, unless only --save-state is asked for",
    )
    make.add_argument("--save-state", type=Path, metavar="OUT.safetensors", help="write what every stage made")
    make.add_argument("--picture", type=Path, metavar="OUT.png", help="four views of what --output holds")
    make.add_argument("--report", type=Path, metavar="OUT.json", help="write seconds and peak memory per stage")
    make.add_argument(
        "--mask",
        nargs="+",
        default=[],
        metavar="MASK",
        help="one mask for each picture; white: object; it is used instead of the picture's own transparency",
    )
    make.add_argument(
        "--background",
        choices=KINDS,
        default="auto",
        help="how a background is removed where neither a mask nor transparency cuts the object out; plain: by its "
        "colour, if it is one colour or a smooth gradient; rembg: by a model; default: auto, plain if possible",
    )
    make.add_argument(
        "--background-model",
        default=DEFAULT_MODEL,
        metavar="NAME",
        help=f"rembg model that removes backgrounds which are not plain; default: {DEFAULT_MODEL} (MIT)",
    )
    make.add_argument(
        "--reduce-first",
        action="store_true",
        help="reduce a picture above 1024 pixels before it is cropped, as the reference implementation does; "
        "by default the crop comes first, which keeps more of a small object",
    )
    make.add_argument(
        "--max-tokens",
        type=int,
        default=MAX_TOKENS,
        metavar="N",
        help=f"a cascade lowers its resolution until it has fewer; default: {MAX_TOKENS}",
    )
    make.add_argument("--geometry-only", action="store_true", help="no texture")
    make.add_argument("--faces", type=int, default=500_000, metavar="N", help="at most so many faces; default: 500000")
    make.add_argument(
        "--shells",
        choices=stages.SHELLS,
        default="outer",
        help="surface: keep inner shells and open sheets; outer: drop what cannot be reached from outside; "
        "solid: remesh to one closed surface; default: outer",
    )
    make.add_argument(
        "--lods",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="face counts of coarser levels, each in a file of its own: OUT_LOD1.glb and so on",
    )
    make.add_argument(
        "--lods-in-one-file",
        action="store_true",
        help="levels in the one GLB by MSFT_lod, for viewers that know it; others may show all of them at once",
    )
    make.add_argument("--vertex-colors", action="store_true", help="colours at the vertices in place of textures")
    make.add_argument("--normal-map", action="store_true", help="bake the raw mesh's relief into a normal map")
    make.add_argument("--occlusion", action="store_true", help="bake ambient occlusion")
    least, most = stages.TEXTURE_SIZES
    make.add_argument(
        "--texture-size", type=int, default=2048, metavar="N", help=f"pixels a side, {least} to {most}; default: 2048"
    )
    make.add_argument(
        "--texture-format", choices=("png", "webp"), default="png", help="default: png, which every viewer reads"
    )
    make.add_argument(
        "--alpha-mode",
        choices=[mode.name.lower() for mode in AlphaMode],
        default="opaque",
        help="how viewers treat the alpha channel; default: opaque",
    )
    make.add_argument("--single-sided", action="store_true", help="let viewers hide back faces")
    make.add_argument(
        "--memory-limit",
        type=_gigabytes,
        metavar="GB",
        help="use no more memory of the device: decoders work in tiles, which takes longer and gives the same result; "
        "default: what is free. On a CPU the whole process counts, and the limit is a plan, not a bound",
    )
    make.add_argument(
        "--backend", action="append", default=[], metavar="OP=NAME", help="use this row of the backend table"
    )

    look = commands.add_parser("inspect", help="what a checkpoint is, and what it is complete for")
    look.set_defaults(run=inspect)
    look.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, file or Hugging Face repository")
    look.add_argument("--image-encoder", metavar="PATH_OR_HF_ID", help="DINOv3 encoder in place of the checkpoint's")
    look.add_argument("--json", action="store_true", help="print JSON: types, roles, missing, notes")

    measure = commands.add_parser(
        "bench", help="seconds and peak memory of every stage, random weights on synthetic surfaces"
    )
    measure.set_defaults(
        run=lambda options: bench.run(
            choose_device(options.device), options.full_size, options.memory_limit, options.report
        )
    )
    measure.add_argument("--device", default="auto", help="auto, cpu, cuda or mps; default: auto")
    measure.add_argument(
        "--full-size", action="store_true", help="the released sizes, for a GPU with 12 GB; default: a small model"
    )
    measure.add_argument(
        "--memory-limit", type=float, metavar="GB", help="let the process use so much of a CUDA device"
    )
    measure.add_argument("--report", type=Path, metavar="OUT.json", help="write the numbers as JSON too")

    finish = commands.add_parser(
        "bench-mesh", help="seconds, peak memory and quality of the post-processing, on procedural meshes"
    )
    finish.set_defaults(run=measure_meshes)
    finish.add_argument("--device", default="auto", help="auto, cpu, cuda or mps; default: auto")
    finish.add_argument(
        "--mesh",
        action="append",
        choices=tuple(bench_mesh.SIDES),
        help="faces of the raw mesh, may be given several times; default: 1 M and 3 M",
    )
    finish.add_argument("--yardsticks", action="store_true", help="also fast-simplification and xatlas")
    finish.add_argument("--report", type=Path, metavar="OUT.json", help="write the numbers as JSON too")
    return parser


def measure_meshes(options: argparse.Namespace) -> int:
    """The command `bench-mesh`."""
    runtime = Runtime(choose_device(options.device), stages.table())
    return bench_mesh.run(runtime, options.mesh or ["1 M", "3 M"], options.yardsticks, options.report)


def inspect(options: argparse.Namespace) -> int:
    """The command `inspect`."""
    found = survey(open_checkpoint(options.checkpoint, options.image_encoder), build)
    print(json.dumps(found.as_json(), indent=1) if options.json else found.text())
    return 0


def _seed(text: str) -> int:
    """A seed that torch's generator takes."""
    seed = int(text)
    if not 0 <= seed < 2**64:
        raise argparse.ArgumentTypeError("must lie in 0 .. 2^64 - 1")
    return seed


def _gigabytes(text: str) -> int:
    """GB -> bytes."""
    size = float(text)
    if not 0 < size < 1e6:  # NaN too
        raise argparse.ArgumentTypeError("must be a number of GB above 0")
    return round(size * 1e9)


def generate(options: argparse.Namespace) -> int:
    """The command `generate`."""
    start = time.perf_counter()
    output = _outputs(options)
    export = stages.ExportSettings(
        options.faces,
        options.texture_size,
        AlphaMode[options.alpha_mode.upper()],
        not options.single_sided,
        options.texture_format,
        options.shells,
        options.normal_map,
        options.occlusion,
        tuple(options.lods),
        options.vertex_colors,
        options.lods_in_one_file,
    )
    device = choose_device(options.device)
    if options.memory_limit:
        bound(device, options.memory_limit)
    dtype = choose_dtype(device) if options.dtype == "auto" else _DTYPES[options.dtype]
    chosen_route = route(options.type) if options.type else None
    backends = stages.table(_choices(options.backend))
    if options.checkpoint is None:
        print(
            f"Using the small checkpoint that comes along: {SMALL_IS}. "
            f"For any object: --checkpoint {RELEASED_CHECKPOINT} (16 GB download)."
        )
    checkpoint = open_checkpoint(options.checkpoint or SMALL_CHECKPOINT, options.image_encoder)
    for note in checkpoint.notes:
        print(note)
    chosen_route = chosen_route or checkpoint.own_route
    stages.preflight(
        *(checkpoint, chosen_route, export if output else None),
        texture=not options.geometry_only,
        max_tokens=options.max_tokens,
        pictures=options.picture is not None,
        backends=backends,
        device=device,
    )
    images = _pictures(options)
    if len(images) > 1:
        print(f"{len(images)} pictures, taken for {len(images)} views of one object. Objects want a run each.")
    models = Models(checkpoint, build)
    models.fetch(chosen_route.roles(not options.geometry_only))

    with Written() as written, Bars(options.check) as bars:
        runtime = Runtime(device, backends, dtype, bars, memory_limit=options.memory_limit)
        made = stages.generate(
            runtime, models, images, chosen_route, options.seed, not options.geometry_only, options.max_tokens
        )
        settings = {
            "checkpoint": checkpoint.name,
            "pipeline_type": chosen_route.name,
            "seed": options.seed,
            "resolution": made.shape.resolution,
            "max_num_tokens": options.max_tokens,
            "version": __version__,
        }
        if options.save_state:
            with written.or_not():
                save_state(options.save_state, _state(made), settings)
                written.paths.append(options.save_state)
        facts = {"raw_vertices": len(made.mesh.vertices), "raw_faces": len(made.mesh.faces)}
        if output:
            result, more = _finish(runtime, made, export)
            extras = {**settings, **more, "backends": runtime.backends.used}
            with written.or_not():
                written.paths += stages.export_glb(runtime, result, output, export, extras)
            if options.picture:
                with written.or_not():
                    views = stages.draw(runtime, result, alpha_mode=export.alpha_mode)
                    with writing(options.picture) as temporary:
                        Image.fromarray(np.concatenate(list(views), 1)).save(temporary, "PNG")
                    written.paths.append(options.picture)
            facts |= more
        bars.close()
        facts |= {"tokens": len(made.shape.sparse.voxels), "voxels": len(made.mesh.vertices)}
        report = {
            **settings,
            **facts,
            "device": _device_name(device),
            "dtype": str(dtype or "as the checkpoint").removeprefix("torch."),
            "torch": torch.__version__,
            "backends": runtime.backends.used,
            "seconds": round(time.perf_counter() - start, 3),
            "stages": [vars(record) for record in runtime.records],
        }
        if options.report:
            report["outputs"] = [str(path) for path in (*written.paths, options.report)]
            with written.or_not():
                with writing(options.report) as temporary:
                    temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
                written.paths.append(options.report)
        print(bench.stage_table(runtime.records))
        for record in runtime.records:
            if record.notes:
                print(f"To fit into the memory, {record.stage}: {'; '.join(record.notes)}.")
        _print_result(report, written.paths)
    return 1 if written.errors else 0


def _outputs(options: argparse.Namespace) -> Path | None:
    """The GLB's path, if one is to be written. Every output is checked before any work is done."""
    output = options.output
    if output is None and options.save_state is None:
        output = Path(Path(options.images[0]).stem + ".glb")
    if output is not None and output.suffix.lower() != ".glb":
        raise SettingsError(f"The output must end in .glb, got {output.name}.")
    if options.picture is not None:
        if output is None:
            raise SettingsError("--picture shows what --output holds; give both.")
        if options.picture.suffix.lower() != ".png":
            raise SettingsError(f"The picture must end in .png, got {options.picture.name}.")
    levels = 0 if output is None or options.lods_in_one_file else len(options.lods)
    outputs = [("--output", output), ("--save-state", options.save_state)]
    outputs += [("--picture", options.picture), ("--report", options.report)]
    outputs += [("a level of --lods", level_path(output, number + 1)) for number in range(levels)]
    inputs = [*(("picture", path) for path in options.images), *(("mask", path) for path in options.mask)]
    inputs += [("checkpoint", options.checkpoint or SMALL_CHECKPOINT), ("image encoder", options.image_encoder)]
    check_outputs(*([(what, Path(path)) for what, path in group if path] for group in (outputs, inputs)))
    return output


def _pictures(options: argparse.Namespace) -> list:
    if options.mask and len(options.mask) != len(options.images):
        raise SettingsError(f"{len(options.mask)} masks for {len(options.images)} pictures; give one for each or none.")
    remover = background_remover(options.background, options.background_model)
    prepared = []
    for number, path in enumerate(options.images):
        image = read_picture(path)
        mask = read_mask(options.mask[number], image) if options.mask else None
        prepared.append(prepare(image, mask, remover, reduce_first=options.reduce_first))
    return prepared


def _choices(pairs: list[str]) -> dict[str, str]:
    choices = {}
    for pair in pairs:
        op, equals, name = pair.partition("=")
        if not equals:
            raise SettingsError(f"--backend takes OP=NAME, got {pair!r}.")
        choices[op] = name
    return choices


def _finish(runtime: Runtime, made: stages.Generation, export: stages.ExportSettings):
    """The processed, and if there are voxels textured or coloured, mesh and what there is to say about it."""
    mesh = stages.process_mesh(runtime, made.mesh, export.faces, shells=export.shells, lods=export.lods)
    facts = {"vertices": len(mesh.vertices), "faces": len(mesh.faces)}
    if made.voxels is not None and export.vertex_colors:
        mesh = stages.color_vertices(runtime, mesh, made.voxels, made.mesh)
    if made.voxels is None or export.vertex_colors:
        return mesh, {**facts, **mesh.facts}
    textured = stages.bake_texture(
        *(runtime, mesh, made.voxels, export.texture_size),
        original=made.mesh,
        normal_map=export.normal_map,
        occlusion=export.occlusion,
    )
    return textured, {**facts, **textured.facts, "texture_size": export.texture_size}


def _state(made: stages.Generation) -> dict[str, torch.Tensor]:
    tensors = {
        "structure_coords": made.structure.coords,
        "shape_slat.coords": made.shape.sparse.voxels.coords,
        "shape_slat.feats": made.shape.sparse.feats,
        "vertices": made.mesh.vertices,
        "faces": made.mesh.faces,
    }
    if made.texture is not None:
        voxels = made.voxels.sparse
        tensors |= {
            "tex_slat.feats": made.texture.sparse.feats,
            "voxel.coords": voxels.voxels.coords,
            "voxel.attrs": voxels.feats,
        }
    return tensors


def _print_result(report: dict, written: list[Path]) -> None:
    if "faces" in report:
        texture = f", {report['texture_size']} px texture" if "texture_size" in report else ""
        print(f"{report['faces']:,} faces, {report['vertices']:,} vertices{texture}.")
    for warning in report.get("warnings", ()):
        print(warning)
    if report["backends"].get("unwrap") == "triangles":
        print("Unwrapped triangle by triangle, as there is neither Warp nor xatlas: the texture is coarse.")
    if report.get("texels_far"):
        print(f"{report['texels_far']:,} texels have no voxel within reach; they take the nearest one's material.")
    if report.get("translucent", 0) > 0.01:
        print(f"{report['translucent']:.0%} of the surface is translucent; --alpha-mode blend shows it.")
    print(f"{', '.join(map(str, written)) or 'Nothing written'} in {report['seconds']:.1f} s on {report['device']}.")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


if __name__ == "__main__":
    sys.exit(main())
