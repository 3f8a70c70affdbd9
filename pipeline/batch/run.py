"""A batch in this process: sample one object after another, finish each here or in a process beside this one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from ..errors import OutputError, PipelineError
from .beside import Beside
from .maker import Maker, Outcome, guarded
from .record import Record


def run(maker: Maker, record: Record, folder: Path, overlap: bool, finish_on: torch.device | None = None) -> None:
    """Make what is left to do of a run; every job that ends is accounted for at once.

    Args:
        maker: of the record's recipe.
        overlap: finish objects in a process beside this one as long as it keeps pace; what it cannot take is finished
            here, on the same device, as another one may place other triangles.
        finish_on: that device; None: the maker's.

    Raises:
        OutputError: the disk is full; what was made until then is accounted for.
    """
    device = finish_on or maker.device
    record.begin(device=str(maker.device), overlap=overlap, finish_on=device.type)
    with ended(record), Beside(maker.recipe, folder, device) as beside:
        for job in record.todo:
            sampled = guarded(maker.sample, job)
            _collect(maker, record, folder, beside, device)
            if isinstance(sampled, Outcome):
                record.take(job, sampled)
            elif not (overlap and beside.takes(sampled)):
                record.take(job, maker.finish(sampled, folder, device))
        _collect(maker, record, folder, beside, device, wait=True)


def _collect(
    maker: Maker, record: Record, folder: Path, beside: Beside, device: torch.device, wait: bool = False
) -> None:
    """Account for what the process beside has done; what it died of is done again here."""
    if found := beside.result(wait):
        sampled, outcome = found
        record.take(sampled.job, outcome or maker.finish(sampled, folder, device))


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
