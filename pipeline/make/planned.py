"""A run along a memory plan, and what it made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ..errors import PipelineError
from ..plan import AUTO, Demand, Plan, choose
from ..plan import run as run_plan
from ..record import Journal
from ..runtime import Runtime
from ..weights import Models

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """The surroundings of one run, which all of its tries share.

    runtime: its memory limit is the plan's; records of stages and backends are those of all tries together.
    memory_plan, allow_lower, reuse: as for plan.choose. journal: the log, told which plan is tried.
    chosen: told the plan before it is tried.
    """

    runtime: Runtime
    memory_plan: str = AUTO
    allow_lower: bool = False
    reuse: bool = False
    journal: Journal = field(default_factory=lambda: Journal(None))
    chosen: Callable[[Plan], object] = lambda plan: None

    def along(
        self, demand: Demand, models: Models | None, attempt: Callable[[Plan, Runtime], _Result]
    ) -> tuple[_Result, Plan]:
        """attempt(plan, the runtime as that plan has it), as plan.run. models: whose files are here; None: none run."""
        runtime = self.runtime
        first = choose(
            models,
            demand,
            runtime.device,
            memory_limit=runtime.memory_limit,
            dtype=runtime.dtype,
            name=self.memory_plan,
            allow_lower=self.allow_lower,
            reuse=self.reuse,
        )
        self.chosen(first)

        def one(plan: Plan) -> _Result:
            self.journal.plan = plan.as_dict()
            return attempt(plan, plan.runtime(runtime, models))

        return run_plan(first, one)


@dataclass(frozen=True)
class Made(Generic[_Result]):
    """What a run made.

    result: what a file is written of. facts: for the file and the report, what of the plan goes into files included.
    plan: the one that made it. refused: what was wrong with pictures that were not projected; it cost nothing else.
    """

    result: _Result
    facts: dict
    plan: Plan
    refused: tuple[PipelineError, ...] = ()
