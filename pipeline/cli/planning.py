"""The memory plan and the log of a command: their options, and a run along them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypeVar

import torch

from .. import plan as planning
from ..backends import Backends
from ..budget import bound
from ..errors import OutputError, PipelineError
from ..export.files import check_writable
from ..plan import Demand, Plan
from ..record import Journal, device_name
from ..runtime import Runtime, Step
from ..speed import EXACT, Speed
from ..weights import Models
from .options import add_memory_limit

_Result = TypeVar("_Result")
ON_STDERR = Path("-")


def add_plan(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("memory", "how the run is made to fit")
    add_memory_limit(group)
    group.add_argument(
        "--memory-plan",
        choices=(planning.AUTO, *(rung.name for rung in planning.RUNGS)),
        default=planning.AUTO,
        help="auto: the largest that fits, by an estimate; a name: begin with that one. "
        + "; ".join(f"{rung.name}: {rung.description}" for rung in planning.RUNGS)
        + ". Where memory runs out, the next smaller one follows. All give the same shape",
    )
    add_allow_lower(group)


def add_allow_lower(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--allow-lower",
        action="store_true",
        help="where no memory plan fits, make less than was asked for, and say so: half the max tokens, then lower "
        "types; by default that is an error",
    )


def add_log(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-json",
        type=Path,
        metavar="FILE",
        help="append a line of JSON for every stage and one for the whole run (docs/log.md); -: standard error",
    )


class Run:
    """The surroundings of a command's run, which its tries share.

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
        self.start, self._options, self._stream = time.perf_counter(), options, None
        self.journal = Journal(self._write if options.log_json else None, job, device_name(device))
        self.runtime = Runtime(device, backends, dtype, memory_limit=options.memory_limit, speed=speed)
        self.runtime.on_record = self.journal.stage
        if options.memory_limit:
            bound(device, options.memory_limit)

    @contextmanager
    def logged(self, on_step: Callable[[Step], None]) -> Iterator[None]:
        """While the block runs, steps are shown and the log is open; what ends it early is the log's last line."""
        self.runtime.on_step = on_step
        with _opened(self._options.log_json) as self._stream:
            try:
                yield
            except PipelineError as error:
                self.journal.end({}, self.runtime.records, time.perf_counter() - self.start, error)
                raise

    def planned(
        self, demand: Demand, models: Models | None, attempt: Callable[[Plan, Runtime], _Result]
    ) -> tuple[_Result, Plan]:
        """attempt(plan, its runtime) along the plan that is chosen now, which is printed; see plan.run."""
        options, runtime = self._options, self.runtime
        chosen = planning.choose(
            models,
            demand,
            runtime.device,
            memory_limit=options.memory_limit,
            dtype=runtime.dtype,
            name=options.memory_plan,
            allow_lower=options.allow_lower,
        )
        print(chosen.summary())
        if options.memory_plan not in (planning.AUTO, chosen.rung.name):
            print(f"{options.memory_plan} would save nothing on a CPU, whose memory is the main memory.")

        def one(plan: Plan) -> _Result:
            self.journal.plan = plan.as_dict()
            return attempt(plan, plan.runtime(runtime, models))

        return planning.run(chosen, one)

    def _write(self, line: str) -> None:
        assert self._stream is not None, "stages run inside of logged()"
        self._stream.write(line)
        self._stream.flush()


def check_log(options: argparse.Namespace) -> Sequence[tuple[str, Path]]:
    """The log, if it is a file, as an output that must not be another one's."""
    return [("--log-json", options.log_json)] if options.log_json not in (None, ON_STDERR) else []


@contextmanager
def _opened(path: Path | None) -> Iterator[TextIO | None]:
    if path is None or path == ON_STDERR:
        yield None if path is None else sys.stderr
        return
    try:
        stream = open(check_writable(path), "a", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}. Choose another file for --log-json.") from error
    with stream:
        yield stream
