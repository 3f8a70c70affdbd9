"""The command `batch`: one object for each picture of a folder."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..batch import (
    FINISH_ON,
    MANIFEST,
    MAX_VARIATIONS,
    Job,
    Maker,
    Manifest,
    Outcome,
    Recipe,
    Record,
    find_pictures,
    log_lines,
    plan_jobs,
    processing_device,
)
from ..batch import run as run_batch
from ..batch.beside import pays
from ..export import WRITERS
from ..weights import SMALL_CHECKPOINT
from ..words import counted
from .export import add_export, export_settings, output_paths
from .options import (
    add_backend,
    add_background,
    add_checkpoint,
    add_device,
    add_dtype,
    add_max_tokens,
    add_memory_limit,
    add_pipeline_type,
    add_seed,
    add_speed,
    opened_checkpoint,
    tell_checkpoint,
)
from .planning import add_allow_lower, add_log, opened_log
from .samplers import add_samplers, samplers
from .settings import settings_of


def add(parser: argparse.ArgumentParser) -> None:
    add_jobs(parser)
    add_device(parser)
    add_memory_limit(parser)
    parser.add_argument(
        "--overlap",
        choices=("auto", "on", "off"),
        default="auto",
        help="do the CPU's part of an object in a second process while the next one is sampled; auto: on with a GPU "
        "and at least four CPU cores; default: auto",
    )
    add_finish_on(parser)


def add_finish_on(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--finish-on",
        choices=FINISH_ON,
        default=FINISH_ON[0],
        help="where meshes are processed, unwrapped and baked; gpu, auto: on the GPU that samples them, by the same "
        "process; cpu: on the CPU, whose simplifier may place other triangles, while others are sampled; "
        "default: auto",
    )


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """The options about pictures and objects, on one machine or on Ray."""
    parser.add_argument(
        "images",
        nargs="+",
        type=Path,
        metavar="FOLDER_OR_IMAGE",
        help="pictures, and folders that are searched for pictures recursively; each gives an object",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help=f"folder of the objects and of {MANIFEST}"
    )
    parser.add_argument(
        "--format",
        choices=[suffix.lstrip(".") for suffix in WRITERS],
        default="glb",
        help="format of the objects' files; default: glb",
    )
    parser.add_argument(
        "--variations",
        type=int,
        default=1,
        metavar="K",
        help="number of objects for each picture, with seeds from --seed on, and a contact sheet; at most "
        f"{MAX_VARIATIONS}; default: 1",
    )
    parser.add_argument(
        "--pictures", action="store_true", help="render each object from four sides, into a PNG beside its file"
    )
    parser.add_argument(
        "--retry",
        action="store_true",
        help="also try unchanged pictures again that were refused before, such as damaged ones",
    )
    add_log(parser)
    add_checkpoint(parser)
    add_pipeline_type(parser)
    add_seed(parser)
    add_dtype(parser)
    add_background(parser)
    add_max_tokens(parser)
    add_export(parser)
    add_allow_lower(parser)
    add_speed(parser)
    add_backend(parser)
    add_samplers(parser)


def recipe_of(options: argparse.Namespace) -> Recipe:
    """What the options of `add_jobs` say about each object.

    Raises:
        PipelineError: the checkpoint cannot be opened, or settings that cannot work.
    """
    suffix = f".{options.format}"
    output_paths(options, Path(f"object{suffix}"))
    export = export_settings(options, Path(f"object{suffix}"))
    checkpoint = opened_checkpoint(options)
    place = Path(options.checkpoint or SMALL_CHECKPOINT)
    recipe = settings_of(
        Recipe,
        options,
        checkpoint=str(place.absolute()) if place.exists() else options.checkpoint,
        pipeline_type=options.type or "",
        samplers=samplers(options, checkpoint.spec),
        export=export,
        pictures=options.pictures or options.variations > 1,
    )
    tell_checkpoint(options, checkpoint)
    return recipe


def run(options: argparse.Namespace) -> int:
    """Run all jobs in this process, with a second one beside it."""
    found = find_pictures(options.images, options.output)
    recipe = recipe_of(options)
    maker = Maker(recipe, options.device, lambda step: options.check(), options.memory_limit)
    finish_on = processing_device(options.finish_on, maker.device)
    overlap = pays(maker.device, finish_on, recipe) if options.overlap == "auto" else options.overlap == "on"
    with recorded(options, found, recipe, maker.settings) as record:
        print_begin(record)
        try:
            run_batch(maker, record, options.output, overlap, finish_on)
        finally:
            print_end(record)
    return exit_code(record)


@contextmanager
def recorded(
    options: argparse.Namespace, found: Sequence[tuple[Path, str]], recipe: Recipe, settings: Mapping
) -> Iterator[Record]:
    """The record of a run, with manifest and log open while the block runs. found: the pictures.

    Raises:
        OutputError: one of them cannot be written.
    """
    with Manifest(options.output) as manifest, opened_log(options.log_json) as log:

        def told(job: Job, outcome: Outcome, record: Record) -> None:
            tell(job, outcome, record)
            if log is not None:
                log.writelines(log_lines(str(options.output / f"{job.name}{recipe.suffix}"), outcome))
                log.flush()

        jobs = plan_jobs(found, options.output, recipe, options.seed, options.variations, manifest.pictures())
        yield Record(manifest, jobs, settings, recipe.suffix, told, options.retry)


def print_begin(record: Record) -> None:
    done = len(record.jobs) - len(record.todo) - len(record.refused)
    have = "is" if done == 1 else "are"
    print(
        f"{counted(len(record.jobs), 'object')} to make{f', {done:,} of them {have} there already' if done else ''}.",
        flush=True,
    )
    if record.refused:
        print(f"{len(record.refused):,} left out, as their pictures were refused before; --retry tries them again.")


def tell(job: Job, outcome: Outcome, record: Record) -> None:
    """Print a line for a finished job."""
    seconds = time.perf_counter() - record.start
    left = (len(record.todo) - record.ended) * seconds / record.ended
    start = f"[{record.ended}/{len(record.todo)}] {Path(job.picture).name}"
    if outcome.error:
        print(f"{start}: {outcome.error}", flush=True)
        return
    made = f"{outcome.files[0]}, {counted(outcome.report['faces'], 'face')}, {outcome.report['seconds']:.1f} s"
    print(f"{start} -> {made}{f'; about {left / 60:.0f} min left' if left >= 60 else ''}", flush=True)


def print_end(record: Record) -> None:
    counts, seconds = record.counts(), time.perf_counter() - record.start
    rate = f", {3600 * record.made / seconds:,.0f} an hour" if record.made else ""
    print(f"{counts['done']:,} done, {counts['failed']:,} failed, {counts['waiting']:,} left in {seconds:.1f} s{rate}.")
    print(f"{record.manifest.path} tells of each.")


def exit_code(record: Record) -> int:
    """1 if an object is missing, else 0."""
    return int(record.counts()["done"] < len(record.jobs))
