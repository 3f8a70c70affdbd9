"""The command `generate`: pictures to a file."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from .. import stages
from ..console import Bars, Written
from ..errors import ImageError
from ..export.files import check_outputs
from ..models import build
from ..plan import Demand, Plan
from ..runtime import Runtime, choose_device, named_dtype
from ..spec import MAX_TOKENS, PIPELINE_TYPES, PipelineType
from ..speed import SPEEDS
from ..views import PosedPictures
from ..weights import SMALL_CHECKPOINT, Models
from .drawing import add_drawing, drawn_outputs, wants_drawing
from .export import add_export, add_output, export_settings, output_paths
from .options import (
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
    picture_notes,
    posed_pictures,
)
from .planning import Run, add_log, add_plan, check_log
from .project import add_projection, photos, projection
from .results import report_result, write_result
from .samplers import add_samplers, samplers

HELP = "make a GLB, or another 3D file, from a picture"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a picture; several are views of the same object")
    parser.add_argument(
        "--checkpoint",
        metavar="DIR_OR_HF_ID",
        help="folder, ComfyUI bundle or Hugging Face repository; default: the bundled small one",
    )
    add_image_encoder(parser)
    parser.add_argument(
        "--type",
        "--pipeline-type",
        metavar="{" + ",".join(PIPELINE_TYPES) + "}",
        help="resolution and cascade; default: the checkpoint's",
    )
    add_seed(parser)
    add_device(parser)
    add_dtype(parser)
    add_output(parser, "the picture's name with .glb, unless only --save-state is asked for")
    parser.add_argument("--save-state", type=Path, metavar="OUT.safetensors", help="write what every stage made")
    add_report(parser, "write seconds and peak memory per stage")
    add_pictures(parser)
    add_views(parser)
    add_projection(parser)
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=MAX_TOKENS,
        metavar="N",
        help=f"a cascade lowers its resolution until it has fewer; default: {MAX_TOKENS}",
    )
    parser.add_argument("--geometry-only", action="store_true", help="no texture")
    add_export(parser)
    add_drawing(parser)
    add_plan(parser)
    add_log(parser)
    add_speed(parser)
    add_backend(parser)
    add_samplers(parser)


def run(options: argparse.Namespace) -> int:
    output = _outputs(options)
    export = export_settings(options, output)
    projected = projection(options, output is not None and not (options.geometry_only or export.vertex_colors))
    device = choose_device(options.device)
    dtype = named_dtype(options.dtype, device)
    asked = PipelineType.named(options.type) if options.type else None
    backends = stages.default_backends(backend_choices(options))
    checkpoint = opened_checkpoint(options)
    chosen = asked or checkpoint.default_pipeline_type
    sampling = samplers(options, checkpoint.spec)
    stages.preflight(
        checkpoint,
        chosen,
        export if output else None,
        texture=not options.geometry_only,
        max_tokens=options.max_tokens,
        pictures=wants_drawing(options),
        backends=backends,
        device=device,
    )
    images = posed_pictures(options)
    shots = photos(options) if projected else []
    count = len(images.pictures)
    if count > 1 and not images.views:
        print(
            f"{count} pictures, taken for {count} views of one object. Objects want a run each. If you know where the "
            "pictures were taken from, say so with --views."
        )
    models, texture = Models(checkpoint, build), not options.geometry_only
    models.fetch(chosen.roles(texture))
    size = export.baked_size(output is not None)
    demand = Demand(chosen, texture, options.max_tokens, count, bool(output), size)
    run = Run(options, device, backends, dtype, str(output or options.save_state), SPEEDS[options.speed])
    finished, saved = stages.Finished(), []
    with Written() as written, Bars(options.check) as bars, run.logged(bars):

        def attempt(plan: Plan, runtime: Runtime) -> tuple:
            made = stages.generate(
                runtime,
                models,
                images,
                plan.pipeline_type,
                options.seed,
                texture,
                plan.max_tokens,
                sampling,
                finished,
            )
            settings = stages.generation_settings(runtime, models, plan, options.seed, sampling, made)
            settings |= several_views(images)
            if options.save_state and made not in saved:
                _save_state(options, runtime, made, settings, written)
                saved.append(made)
            if not output:
                return settings, None
            where = plan.finishing(runtime)
            result, facts = stages.finish_mesh(where, made.mesh, made.voxels, export)
            if projected and isinstance(result, stages.TexturedMesh):
                with written.or_not(ImageError):  # a picture that is refused does not cost the generated texture
                    result = stages.project_texture(where, result, shots, projected)
                    facts |= {**result.facts, "texture_size": len(result.maps)}
            return settings, (result, facts)

        (settings, result), plan = run.planned(demand, models, attempt)
        facts = plan.noted({**settings, **(result[1] if result else {})})
        if output and result:
            write_result(options, run.runtime, result[0], output, export, facts, written)
        bars.close()
        report_result(options, run, plan, facts, written)
    return 1 if written.errors else 0


def several_views(images: PosedPictures) -> dict:
    """What there is to say of several pictures."""
    settings: dict = {}
    if (count := len(images.pictures)) > 1:
        settings["views"] = [view.name for view in images.views] or count
        settings["view_mixing"] = asdict(images.mixing)
    return settings | picture_notes(images)


def _save_state(
    options: argparse.Namespace, runtime: Runtime, made: stages.Generation, settings: dict, written: Written
) -> None:
    """Write the state before anything else can go wrong with the mesh; a try that is made again writes it again."""
    with written.or_not():
        used = {"backends": dict(runtime.backends.used)}  # `finish` tells the backends of the whole run
        stages.write_generation(options.save_state, made, {**settings, **used})
        if options.save_state not in written.paths:
            written.paths.append(options.save_state)


def _outputs(options: argparse.Namespace) -> Path | None:
    """The mesh's path, if one is to be written. Every output is checked before any work is done."""
    output = options.output
    if output is None and options.save_state is None:
        output = Path(Path(options.images[0]).stem + ".glb")
    outputs = named_outputs(options, output)
    inputs = [*(("picture", path) for path in options.images), *(("mask", path) for path in options.mask)]
    inputs += [("checkpoint", options.checkpoint or SMALL_CHECKPOINT), ("image encoder", options.image_encoder)]
    inputs += [("environment", options.environment)]
    check_outputs(outputs, [(what, Path(path)) for what, path in inputs if path])
    return output


def named_outputs(options: argparse.Namespace, output: Path | None) -> list[tuple[str, Path]]:
    """What a command is going to write, as (option, path); options of other commands may lack --save-state.

    Raises:
        SettingsError: a name does not end as it must, or --picture stands without --output. See drawn_outputs.
    """
    drawn = drawn_outputs(options, output)
    files = [] if output is None else output_paths(options, output)
    outputs = [*files[:1], ("--save-state", vars(options).get("save_state")), *drawn]
    outputs += [("--report", options.report), *check_log(options), *files[1:]]
    return [(what, Path(path)) for what, path in outputs if path]
