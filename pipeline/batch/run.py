"""A batch in this process: one object after another, with the CPU's part optionally in a second process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from ..errors import OutputError, PipelineError
from .beside import Beside
from .finishing import CPU, GPU, Processed, Sampled
from .jobs import Job
from .maker import Maker
from .outcome import Outcome, guarded
from .record import Record


def run(maker: Maker, record: Record, folder: Path, overlap: bool, finish_on: torch.device | None = None) -> None:
    """Make the remaining objects of a run; every finished job is recorded at once.

    Args:
        maker: of the record's recipe.
        overlap: do the CPU's part (writing files, and if finish_on is the CPU everything after sampling) in a second
            process; while that is busy, do it here.
        finish_on: where meshes are processed, textured and drawn: the CPU, or the maker's device (None).

    Raises:
        OutputError: the disk is full; what was made until then is recorded.
    """
    device = finish_on or maker.device
    # the option's name, as in a batch on Ray
    record.begin(device=str(maker.device), overlap=overlap, finish_on=CPU if device.type == "cpu" else GPU)
    with ended(record), Beside(maker.recipe, folder) as beside:
        for job in record.todo:
            made = guarded(_made, maker, job, device)
            _collect(maker, record, folder, beside)
            if isinstance(made, Outcome):
                record.take(job, made)
            elif not (overlap and beside.takes(made)):
                record.take(job, guarded(maker.complete, made, folder))
        _collect(maker, record, folder, beside, wait=True)


def _made(maker: Maker, job: Job, device: torch.device) -> Sampled | Processed:
    """Do the device's part of a job."""
    sampled = maker.sample(job)
    return sampled if device.type == "cpu" else maker.process(sampled)


def _collect(maker: Maker, record: Record, folder: Path, beside: Beside, wait: bool = False) -> None:
    """Record what the second process has finished; if it died, do its object again here."""
    if found := beside.result(wait):
        made, outcome = found
        record.take(made.job, outcome or guarded(maker.complete, made, folder))


@contextmanager
def ended(record: Record) -> Iterator[None]:
    """Record how the block ended: normally, by an error or by an interruption."""
    try:
        yield
    except PipelineError as error:
        with suppress(OutputError):  # the manifest may be what cannot be written
            record.end("stopped", error=str(error))
        raise
    except KeyboardInterrupt:
        with suppress(OutputError):
            record.end("interrupted")
        raise
    record.end("end")
