"""The command line: python -m pipeline generate | bench | bench-mesh."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from . import __version__, bench, bench_mesh, stages
from .errors import PipelineError, SettingsError
from .export import AlphaMode
from .export.files import check_writable, writing
from .export.state import save_state
from .image import prepare, read_mask, read_picture, rembg_remover
from .models import build
from .runtime import Runtime, Step, choose_device, choose_dtype
from .spec import MAX_TOKENS, ROUTES, route
from .weights import RELEASED_CHECKPOINT, SMALL_CHECKPOINT, SMALL_IS, Models, open_checkpoint

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0 done, 1 an error that names its cure, 2 wrong usage, 130 interrupted."""
    options = _parser().parse_args(arguments)
    log = logging.getLogger(__package__)
    log.handlers[:] = [logging.StreamHandler()]
    try:
        return options.run(options)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m pipeline", description="A picture to a textured GLB with TRELLIS.2.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="generate | bench | bench-mesh")

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
        help="one mask for each picture without transparency; white: object",
    )
    make.add_argument(
        "--background-model",
        default="birefnet-general-lite",
        metavar="NAME",
        help="rembg model that removes the background; default: birefnet-general-lite (MIT)",
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
        help="face counts of coarser levels in the same file (MSFT_lod), which share the textures",
    )
    make.add_argument("--vertex-colors", action="store_true", help="colours at the vertices in place of textures")
    make.add_argument("--normal-map", action="store_true", help="bake the raw mesh's relief into a normal map")
    make.add_argument("--occlusion", action="store_true", help="bake ambient occlusion")
    make.add_argument("--texture-size", type=int, default=2048, metavar="N", help="pixels along a side; default: 2048")
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
        "--backend", action="append", default=[], metavar="OP=NAME", help="use this row of the backend table"
    )

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


def _seed(text: str) -> int:
    """A seed that torch's generator takes."""
    seed = int(text)
    if not 0 <= seed < 2**64:
        raise argparse.ArgumentTypeError("must lie in 0 .. 2^64 - 1")
    return seed


def generate(options: argparse.Namespace) -> int:
    """The command `generate`."""
    start = time.perf_counter()
    output, outputs = _outputs(options)
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
    )
    if options.max_tokens < 1:
        raise SettingsError(f"--max-tokens must be at least 1, got {options.max_tokens}.")
    device = choose_device(options.device)
    dtype = choose_dtype(device) if options.dtype == "auto" else _DTYPES[options.dtype]
    chosen_route = route(options.type) if options.type else None
    backends = stages.table(_choices(options.backend))
    if options.checkpoint is None:
        print(
            f"Using the small checkpoint that comes along: {SMALL_IS}. "
            f"For any object: --checkpoint {RELEASED_CHECKPOINT} (16 GB download)."
        )
    checkpoint = open_checkpoint(options.checkpoint or SMALL_CHECKPOINT, options.image_encoder)
    chosen_route = chosen_route or checkpoint.own_route
    checkpoint.require(chosen_route, not options.geometry_only)
    images = _pictures(options)
    if output:
        stages.check_backends(backends, device, export, options.picture is not None)
    models = Models(checkpoint, build)
    models.fetch(chosen_route.roles(not options.geometry_only))

    with _Bars() as bars:
        runtime = Runtime(device, backends, dtype, bars)
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
            save_state(options.save_state, _state(made), settings)
        facts = {"raw_vertices": len(made.mesh.vertices), "raw_faces": len(made.mesh.faces)}
        if output:
            result, more = _finish(runtime, made, export)
            extras = {**settings, **more, "backends": runtime.backends.used}
            stages.export_glb(runtime, result, output, export, extras)
            if options.picture:
                views = stages.draw(runtime, result, alpha_mode=export.alpha_mode)
                with writing(options.picture) as temporary:
                    Image.fromarray(np.concatenate(list(views), 1)).save(temporary, "PNG")
            facts |= more
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
        "outputs": [str(path) for path in outputs],
    }
    if options.report:
        with writing(options.report) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(bench.stage_table(runtime.records))
    _print_result(report)
    return 0


def _outputs(options: argparse.Namespace) -> tuple[Path | None, list[Path]]:
    """The GLB's path, if one is to be written, and all paths; each is checked before any work is done."""
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
    paths = [path for path in (output, options.save_state, options.picture, options.report) if path is not None]
    for path in paths:
        check_writable(path)
    return output, paths


def _pictures(options: argparse.Namespace) -> list:
    if options.mask and len(options.mask) != len(options.images):
        raise SettingsError(f"{len(options.mask)} masks for {len(options.images)} pictures; give one for each or none.")
    remover = cache(lambda: rembg_remover(options.background_model))
    prepared = []
    for number, path in enumerate(options.images):
        image = read_picture(path)
        mask = read_mask(options.mask[number], image) if options.mask else None
        prepared.append(prepare(image, mask, lambda picture: remover()(picture)))
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


def _print_result(report: dict) -> None:
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
    print(f"{', '.join(report['outputs'])} in {report['seconds']:.1f} s on {report['device']}.")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


class _Bars:
    """One progress bar a stage, with the time left; silent where nobody looks."""

    def __init__(self) -> None:
        self._stage, self._bar = "", None

    def __enter__(self) -> _Bars:
        return self

    def __call__(self, step: Step) -> None:
        if step.stage != self._stage:
            self._close()
            self._stage = step.stage
            self._bar = tqdm(total=step.total, desc=step.stage, disable=None, leave=True, file=sys.stderr)
        self._bar.update(step.step - self._bar.n)

    def __exit__(self, *exception) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


if __name__ == "__main__":
    sys.exit(main())
