"""The memory plan and the log of a command: their options, and a run along them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TextIO

import torch

from .. import plan as planning
from ..backends import Backends
from ..budget import bound
from ..errors import OutputError, PipelineError
from ..export.files import check_writable
from ..make import PlannedRun
from ..plan import Plan
from ..record import Journal, device_name
from ..runtime import Runtime, Step
from ..speed import EXACT, Speed
from .options import add_memory_limit
from .settings import settings_of

ON_STDERR = Path("-")


def add_plan(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("memory", "how the run is made to fit")
    add_memory_limit(group)
    group.add_argument(
        "--memory-plan",
        choices=(planning.AUTO, *(rung.name for rung in planning.RUNGS)),
        default=planning.AUTO,
        help="auto: the largest that should fit, by an estimate; a name: start with that plan. "
        + "; ".join(f"{rung.name}: {rung.description}" for rung in planning.RUNGS)
        + ". If memory runs out, the next smaller one is tried. All give the same shape",
    )
    add_allow_lower(group)


def add_allow_lower(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--allow-lower",
        action="store_true",
        help="if no memory plan fits, lower the quality, with a warning: half the maximum tokens, then lower types; "
        "by default that is an error",
    )


def add_log(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-json",
        type=Path,
        metavar="FILE",
        help="append a line of JSON for every stage and one for the whole run (docs/log.md); -: standard error",
    )


class Run:
    """A command's run: `planned` is what its tries share, `runtime` their surroundings, `journal` the log.

    speed: of the samplers. Records of stages, the log and the plan are those of all tries together.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        device: torch.device,
        backends: Backends,
        dtype: torch.dtype | None,
        job: str,
        speed: Speed = EXACT,
    ) -> None:
        self.start, self._log, self._stream = time.perf_counter(), options.log_json, None
        self.journal = Journal(self._write if options.log_json else None, job, device_name(device))
        self.runtime = Runtime(device, backends, dtype, memory_limit=options.memory_limit, speed=speed)
        self.runtime.on_record = self.journal.stage
        self.planned = settings_of(
            PlannedRun,
            options,
            runtime=self.runtime,
            journal=self.journal,
            chosen=partial(_tell, options.memory_plan),
        )
        if options.memory_limit:
            bound(device, options.memory_limit)

    @contextmanager
    def logged(self, on_step: Callable[[Step], None]) -> Iterator[None]:
        """While the block runs, steps are shown and the log is open; what ends it early is the log's last line."""
        self.runtime.on_step = on_step
        with opened_log(self._log) as self._stream:
            try:
                yield
            except PipelineError as error:
                self.journal.end({}, self.runtime.records, time.perf_counter() - self.start, error)
                raise

    def _write(self, line: str) -> None:
        assert self._stream is not None, "stages run inside of logged()"
        self._stream.write(line)
        self._stream.flush()


def _tell(asked: str, chosen: Plan) -> None:
    """Print the plan of a run before it begins. asked: the value of --memory-plan."""
    print(chosen.summary())
    if asked not in (planning.AUTO, chosen.rung.name):
        print(f"{asked} would save nothing on a CPU, whose memory is the main memory.")


def check_log(options: argparse.Namespace) -> Sequence[tuple[str, Path]]:
    """The log, if it is a file, as an output that must not be another one's."""
    return [("--log-json", options.log_json)] if options.log_json not in (None, ON_STDERR) else []


@contextmanager
def opened_log(path: Path | None) -> Iterator[TextIO | None]:
    """The file of --log-json, to be appended to; None where there is none. Raises OutputError: it cannot be written."""
    if path is None or path == ON_STDERR:
        yield None if path is None else sys.stderr
        return
    try:
        stream = open(check_writable(path), "a", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}. Choose another file for --log-json.") from error
    with stream:
        yield stream
