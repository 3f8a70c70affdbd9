"""The command `generate`: pictures to a file."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from .. import stages
from ..console import Bars, Written
from ..export.files import check_outputs
from ..make import make_object
from ..models import build
from ..runtime import choose_device, named_dtype
from ..speed import SPEEDS
from ..weights import SMALL_CHECKPOINT, Models
from .drawing import add_drawing, drawn_outputs, wants_drawing
from .export import add_export, add_output, output_paths
from .objects import object_settings
from .options import (
    add_backend,
    add_checkpoint,
    add_device,
    add_dtype,
    add_max_tokens,
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
from .planning import Run, add_log, add_plan, check_log
from .project import add_projection, photos
from .results import report_result, write_result
from .samplers import add_samplers


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a picture; several are views of the same object")
    add_checkpoint(parser)
    add_pipeline_type(parser)
    add_seed(parser)
    add_device(parser)
    add_dtype(parser)
    add_output(parser, "the picture's name with .glb, unless only --save-state is asked for")
    parser.add_argument("--save-state", type=Path, metavar="OUT.safetensors", help="write the results of every stage")
    add_report(parser, "write seconds and peak memory per stage")
    add_pictures(parser)
    add_views(parser)
    add_projection(parser)
    add_max_tokens(parser)
    add_export(parser)
    add_drawing(parser)
    add_plan(parser)
    add_log(parser)
    add_speed(parser)
    add_backend(parser)
    add_samplers(parser)


def run(options: argparse.Namespace) -> int:
    output = _outputs(options)
    device = choose_device(options.device)
    dtype = named_dtype(options.dtype, device)
    backends = stages.default_backends(backend_choices(options))
    settings, checkpoint = object_settings(options, output, partial(opened_checkpoint, options))
    settings.check(checkpoint, wants_drawing(options), backends, device)
    images = posed_pictures(options)
    shots = photos(options) if settings.projection else []
    tell_checkpoint(options, checkpoint)
    count = len(images.pictures)
    if count > 1 and not images.views:
        print(
            f"{count} pictures, taken for {count} views of one object. Objects want a run each. If you know where the "
            "pictures were taken from, say so with --views."
        )
    models = Models(checkpoint, build)
    models.fetch(settings.roles)
    run = Run(options, device, backends, dtype, str(output or options.save_state), SPEEDS[options.speed])
    with Written() as written, Bars(options.check) as bars, run.logged(bars):
        save = partial(_save_state, options.save_state, written)
        made = make_object(run.planned, models, images, settings, shots, save)
        written.errors += made.refused
        if output and settings.export and not isinstance(made.result, stages.Generation):
            write_result(options, run.runtime, made.result, output, settings.export, made.facts, written)
        bars.close()
        report_result(options, run, made.plan, made.facts, written)
    return 1 if written.errors else 0


def _save_state(path: Path | None, written: Written, made: stages.Generation, facts: dict) -> None:
    """Write the state, if asked for, before anything else can go wrong with the mesh."""
    if path is None:
        return
    with written.or_not():
        stages.write_generation(path, made, facts)
        if path not in written.paths:
            written.paths.append(path)


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
