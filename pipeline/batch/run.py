"""A batch in this process: make one object after another; what is left for the CPU is done in a process beside it."""

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
    """Make what is left to do of a run; every job that ends is accounted for at once.

    Args:
        maker: of the record's recipe.
        overlap: do what the CPU is to do (write files, and where finish_on is the CPU all that follows sampling) in a
            process beside this one as long as it keeps pace; what it cannot take is done here.
        finish_on: where meshes are processed, textured and drawn: the CPU, or the maker's device (None).

    Raises:
        OutputError: the disk is full; what was made until then is accounted for.
    """
    device = finish_on or maker.device
    # as the option names it, and so a batch on Ray
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
    """As far as it is made here: all that is for the device."""
    sampled = maker.sample(job)
    return sampled if device.type == "cpu" else maker.process(sampled)


def _collect(maker: Maker, record: Record, folder: Path, beside: Beside, wait: bool = False) -> None:
    """Account for what the process beside has done; what it died of is done again here."""
    if found := beside.result(wait):
        made, outcome = found
        record.take(made.job, outcome or guarded(maker.complete, made, folder))


@contextmanager
def ended(record: Record) -> Iterator[None]:
    """Account for how the block ended: at its end, by an error or by an interruption."""
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
