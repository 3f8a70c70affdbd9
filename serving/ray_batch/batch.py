"""The command `batch`: many pictures on Ray Data, with samplers on GPUs and finishers on CPUs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

from pipeline.batch import Job, Recipe, Record, ended, find_pictures, settings_of
from pipeline.batch.finishing import GPU
from pipeline.cli.batch import add_finish_on, add_jobs, exit_code, print_begin, print_end, recipe_of, recorded
from pipeline.cli.options import add_memory_limit
from pipeline.errors import BackendError

from . import timeline
from .actors import Finisher, Ledger, Row, Sampler
from .cluster import connected, machines, reason
from .division import Shares, shares

# Tasks of a sampler at once: its own thread samples one object while another hands the one before it on, which takes a
# second for 5 million faces. Ray Data sees to it that there is one such thread.
_OVERLAPPING = 2


def add(parser: argparse.ArgumentParser) -> None:
    add_jobs(parser)
    add_memory_limit(parser)
    group = parser.add_argument_group("Ray", "processes, and where they run")
    group.add_argument("--address", help="of a Ray cluster, or auto for the one of this machine; default: start one")
    group.add_argument("--gpus", type=float, metavar="N", help="GPUs to use; 0: the CPU alone; default: all there are")
    group.add_argument(
        "--gpu-share", type=float, default=1.0, metavar="S", help="of a GPU for each sampler, 0 to 1; default: 1"
    )
    group.add_argument(
        "--samplers", type=int, metavar="N", help="processes with the models; default: as many as fit the GPUs, or 1"
    )
    group.add_argument(
        "--finishers",
        type=int,
        metavar="N",
        help="processes for the rest at most; default: as many as samplers where these process meshes too, else as "
        "many as the CPUs allow",
    )
    add_finish_on(group)
    group.add_argument(
        "--tries",
        type=int,
        default=3,
        metavar="N",
        help="how often an object is tried whose process dies; default: 3",
    )


def run(options: argparse.Namespace) -> int:
    found = find_pictures(options.images, options.output)
    recipe = recipe_of(options)
    settings = settings_of(recipe)
    spans: list[dict[str, Any]] = []
    with recorded(options, found, recipe, settings) as record:
        print_begin(record)
        try:
            if record.todo:
                _work(options, recipe, record, spans)
            else:  # no cluster for that
                record.begin()
                record.end("end")
        finally:
            print_end(record)
            if spans:
                timeline.write(options.output / timeline.TIMELINE, spans)
                print(timeline.drawn(spans))
    return exit_code(record)


def _work(options: argparse.Namespace, recipe: Recipe, record: Record, spans: list[dict[str, Any]]) -> None:
    """Run what is left to do on a cluster.

    Raises:
        OutputError: the disk is full. BackendError: the cluster failed as a whole.
    """
    with connected(options.address, options.gpus) as ray:
        divided = shares(machines(ray), options)
        print(divided, flush=True)
        facts = {"samplers": divided.samplers, "gpu_share": divided.gpu_share, "finishers": divided.finishers}
        record.begin(**facts, finish_on=divided.processing)
        with ended(record):
            try:
                for row in _rows(ray, options, recipe, record.todo, divided):
                    spans += row.spans
                    assert row.outcome is not None  # of whichever step ended it
                    record.take(row.job, row.outcome, tries=row.tries)
            except ray.exceptions.RayError as error:
                raise BackendError(
                    f"The batch failed on Ray: {reason(error)} Run the same command again to go on."
                ) from error


def _rows(ray: Any, options: argparse.Namespace, recipe: Recipe, todo: list[Job], divided: Shares) -> Iterator[Row]:
    """The rows of the jobs as they end, in any order. A block of Ray Data is one row: what a process that dies takes
    with it is one try of one object."""
    from ray.data import ActorPoolStrategy
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # on this machine: another one that dies must not take the tries of all objects with it
    ledger = ray.remote(num_cpus=0, scheduling_strategy=here)(Ledger).remote()
    common = (ledger, options.tries, str(Path(options.output).absolute()))
    device = "cuda" if divided.gpu_share else "cpu"
    together, older = {"max_concurrent_calls_per_actor": _OVERLAPPING}, {}
    if not together.keys() <= signature(ActorPoolStrategy).parameters.keys():
        together, older = {}, {"max_concurrency": _OVERLAPPING}  # as Ray's actors call it
    rows = ray.data.from_items([{"row": Row(job)} for job in todo], override_num_blocks=len(todo))
    sampled = rows.map(
        Sampler,
        fn_constructor_args=(*common, device, recipe, options.memory_limit, divided.processing == GPU),
        compute=ActorPoolStrategy(size=divided.samplers, max_tasks_in_flight_per_actor=_OVERLAPPING, **together),
        num_gpus=divided.gpu_share or None,
        num_cpus=divided.sampler_cpus,
        **older,
    )
    finished = sampled.map(
        Finisher,
        fn_constructor_args=(*common, "cpu", recipe),
        compute=ActorPoolStrategy(min_size=1, max_size=divided.finishers),
        num_cpus=divided.finisher_cpus,
    )
    for batch in finished.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        yield from batch["row"]
