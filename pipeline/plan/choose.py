"""Choosing a plan before a run, and going down the ladder where memory runs out all the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from .. import triton_launch
from ..budget import device_bytes, held_bytes
from ..errors import OutOfMemoryError, SettingsError, unknown
from ..runtime import Runtime
from ..spec import PipelineType
from ..weights import Models
from .demand import STATE, Demand
from .ladder import AS_ASKED, LAST_ON_CPU, LESS, RUNGS, Less, Rung, heeds_max_tokens, lowered
from .peaks import TILED_STAGES, Estimate, estimate, estimated_as, networks_of

log = logging.getLogger(__name__)

AUTO = "auto"
LASTING = ("tiles", "finish_on_cpu", "stream", "lower")  # what of a plan goes into files
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Plan:
    """How a run is done, and what it falls back to.

    asked: what was asked for. demand: what is made, the same unless something lower was allowed and needed.
    free, held: bytes of the device that could be taken when it was chosen, and that the process held. limit: bytes it
    may hold there in all, for Runtime(memory_limit); None: what is free.
    estimates: peak of each stage. below: smaller plans, the largest first. tried: what ran out of memory before it.
    """

    rung: Rung
    asked: Demand
    demand: Demand
    free: int
    held: int
    limit: int | None
    estimates: tuple[Estimate, ...]
    below: tuple[Plan, ...] = ()
    tried: tuple[str, ...] = ()

    @property
    def pipeline_type(self) -> PipelineType:
        return self.demand.pipeline_type

    @property
    def max_tokens(self) -> int:
        return self.demand.max_tokens

    @property
    def peak_bytes(self) -> int:
        """The most that a stage is estimated to take on the device."""
        return max((each.peak_bytes for each in self.estimates), default=0)

    @property
    def fits(self) -> bool:
        return self.peak_bytes <= self.free

    @property
    def lower(self) -> str:
        """What is made in place of what was asked for, "" where it is the same."""
        parts = []
        if self.pipeline_type != self.asked.pipeline_type:
            parts.append(f"type {self.pipeline_type.name} in place of {self.asked.pipeline_type.name}")
        if self.max_tokens != self.asked.max_tokens:
            parts.append(f"at most {self.max_tokens:,} tokens in place of {self.asked.max_tokens:,}")
        return ", ".join(parts)

    @property
    def name(self) -> str:
        """The rung and, where less is made, what: "tiled", "tiled, type 512 in place of 1024_cascade"."""
        return ", ".join(filter(None, (self.rung.name, self.lower)))

    def summary(self) -> str:
        """One line for people: what it is, and how it compares with what is free."""
        worst = max(self.estimates, key=lambda each: each.peak_bytes, default=None)
        most = f"about {worst.peak_bytes / 1e9:.1f} GB in {worst.stage}" if worst else "nothing on the device"
        how = self.rung.finishing if self.demand.source == STATE else f"{self.name}: {self.rung.description}"
        text = f"Memory plan {how}; {most}, {self.free / 1e9:.1f} GB free."
        if not self.fits:
            text += " That may not suffice; it is the smallest plan."
        return " ".join([text, *self.tried])

    def runtime(self, runtime: Runtime, models: Models | None = None) -> Runtime:
        """A run's surroundings as this plan has them: the same records, callbacks and backends. models: of which
        those that another try has kept on the device are let go where this plan keeps none."""
        if models is not None and not self.rung.keep_models:
            models.release()
        planned = copy(runtime)
        planned.memory_limit, planned.stream = self.limit, self.rung.stream
        planned.keep_models = self.rung.keep_models
        return planned

    def finishing(self, runtime: Runtime) -> Runtime:
        """The surroundings of the post-processing: `runtime`, or the same run on the CPU."""
        return runtime.on("cpu") if self.rung.finish_on_cpu else runtime

    def finished_by(self, other: Plan) -> Plan:
        """This plan, but for where the mesh was finished, which another one decided when its size was known."""
        rung = replace(self.rung, finish_on_cpu=other.rung.finish_on_cpu)
        alike = (each for each in RUNGS if replace(each, name=rung.name, description=rung.description) == rung)
        return replace(self, rung=next(alike, rung))

    def noted(self, facts: Mapping) -> dict:
        """Facts of a run with what of its plan goes into files: how it was made to fit, and what was made in place of
        what was asked for, as a warning too. Whether networks are kept changes no file."""
        found = {**facts, "plan": {name: value for name, value in self.as_dict().items() if name in LASTING}}
        if self.lower:
            warning = f"Memory did not suffice for what was asked for: {self.lower}."
            found["warnings"] = list(dict.fromkeys([warning, *facts.get("warnings", ())]))
        return found

    def as_dict(self) -> dict:
        """For records and reports."""
        return {
            "name": self.rung.name,
            "tiles": self.rung.tiles,
            "finish_on_cpu": self.rung.finish_on_cpu,
            "stream": self.rung.stream,
            "lower": self.lower,
            "pipeline_type": self.pipeline_type.name,
            "max_tokens": self.max_tokens,
            "free_bytes": self.free,
            "estimates": {each.stage: each.peak_bytes for each in self.estimates},
            "tried": list(self.tried),
        }


def named(name: str) -> Rung:
    """The row of RUNGS. Raises SettingsError, which lists the names."""
    for rung in RUNGS:
        if rung.name == name:
            return rung
    raise SettingsError(unknown("memory plan", name, (AUTO, *(rung.name for rung in RUNGS))))


def choose(
    models: Models | None,
    demand: Demand,
    device: torch.device | str,
    *,
    memory_limit: int | None = None,
    dtype: torch.dtype | None = None,
    name: str = AUTO,
    allow_lower: bool = False,
    reuse: bool = False,
    free: int | None = None,
) -> Plan:
    """The largest plan whose estimates fit into what is free, with the smaller ones behind it. Where none fits, the
    smallest: estimates are no more than that. Reads no weight.

    Args:
        models: whose files are here (Models.fetch); None: the run uses none (STATE).
        memory_limit: bytes of the device that this process may hold in all; None: what is free.
        dtype: torso dtype in place of the checkpoint's, as for Runtime.
        name: AUTO, or the name of the rung to begin with.
        allow_lower: whether plans that make less than was asked for (fewer tokens, a lower type) may be chosen.
        reuse: whether the networks serve more runs than one, so that it is worth keeping them.
        free: bytes that can be taken now, those of the models' own networks included; asked if not given.

    Raises:
        SettingsError: there is no rung of that name.
    """
    where = torch.device(device)
    first = RUNGS.index(named(name)) if name != AUTO else 0 if reuse else 1
    rungs = [rung for rung in RUNGS[first:] if where.type != "cpu" or not rung.finish_on_cpu]
    makes = [made for less in (LESS if allow_lower else LESS[:1]) if (made := _less(models, demand, less))]
    if free is None:
        free = device_bytes(where, memory_limit) + (models.held_bytes() if models is not None else 0)
    fused = where.type == "cuda" and not triton_launch.unavailable_reason()
    held, image_size, networks = held_bytes(where), 0, {}
    if models is not None:
        image_size = models.spec.image_size
        networks = networks_of(models, [role for made in makes for role in made.roles], dtype)

    def plan(made: Demand, rung: Rung) -> Plan:
        found = estimate(networks, made, rung, image_size, free, fused)
        limit = None if memory_limit is None and rung.share == 1 else held + int(rung.share * free)
        return Plan(rung, demand, made, free, held, limit, tuple(found))

    plans = [plan(made, rung) for made in makes for rung in rungs or [LAST_ON_CPU]]
    start = 0
    if name == AUTO:
        start = next((number for number, each in enumerate(plans) if each.fits), len(plans) - 1)
    return replace(plans[start], below=tuple(plans[start + 1 :]))


def _less(models: Models | None, asked: Demand, less: Less) -> Demand | None:
    """What to make in place of what was asked for; None where there is no such thing."""
    if less == AS_ASKED:
        return asked
    kind = lowered(asked.pipeline_type, less.lower)
    if kind is None or models is None or asked.source == STATE:
        return None
    if any(role not in models.checkpoint.roles for role in replace(asked, pipeline_type=kind).roles):
        return None
    if less.tokens != 1 and not heeds_max_tokens(kind):
        return None
    tokens = max(1, round(asked.max_tokens * less.tokens))
    known = asked.tokens
    if known is not None:
        # a lower type has a coarser grid; fewer max tokens lower the grid until there are fewer
        known = min(known, tokens) if not less.lower else round(known / 2.25**less.lower)
    return replace(asked, pipeline_type=kind, max_tokens=tokens, tokens=known)


def run(plan: Plan, attempt: Callable[[Plan], _Result]) -> tuple[_Result, Plan]:
    """attempt(plan); where memory runs out, once more with the next smaller plan that asks less of the stage where it
    did. Returns the result and the plan that made it.

    Raises:
        OutOfMemoryError: the smallest plan ran out of memory too; the text says what was tried and what to lower.
    """
    while True:
        try:
            return attempt(plan), plan
        except OutOfMemoryError as error:
            message, stage = str(error), error.stage
        smaller = _next(plan, stage)
        if smaller is None:
            raise OutOfMemoryError(_last_words(plan, message), stage)
        plan = replace(smaller, tried=(*plan.tried, f"{plan.name} ran out of memory in {stage or 'a stage'}."))
        log.warning("%s %s", message, plan.summary())


def _next(plan: Plan, stage: str) -> Plan | None:
    """The largest plan below that asks less of a stage: that is estimated to take less, or has smaller tiles if it can
    be cut into such. Where none does, or the stage is not estimated, the next that leaves more memory alone."""
    needed, tiled = _of(plan, stage), estimated_as(stage) in TILED_STAGES
    spare = [number for number, each in enumerate(plan.below) if each.rung.share < plan.rung.share]
    less = [n for n, each in enumerate(plan.below) if needed is not None and (_of(each, stage) or 0) < needed]
    for number in (sorted({*less, *spare}) if tiled else less or spare)[:1]:
        below = tuple(_within(each, needed) for each in plan.below[number:])
        return replace(below[0], below=below[1:])
    return None


def _within(plan: Plan, failed: int | None) -> Plan:
    """The plan, whose tiles stay below a share of what a stage was estimated to take when it failed: there is less than
    was thought."""
    if failed is None or not plan.rung.tiles:
        return plan
    most = plan.held + int(plan.rung.share * failed)
    return replace(plan, limit=most if plan.limit is None else min(plan.limit, most))


def _of(plan: Plan, stage: str) -> int | None:
    """The estimate of a stage; None if there is none."""
    return next((each.peak_bytes for each in plan.estimates if each.stage == estimated_as(stage)), None)


def _last_words(plan: Plan, message: str) -> str:
    names = [text.split(" ran out")[0] for text in plan.tried] + [plan.name]
    text = f"{message} All memory plans that are allowed and ask less of it were tried: {'; '.join(names)}."
    allowed = plan.lower or any(each.lower for each in plan.below)
    if not allowed and plan.asked.source != STATE and lowered(plan.pipeline_type, 1):
        text += " Ask for less yourself, or let the run make less and say so (--allow-lower)."
    return text
