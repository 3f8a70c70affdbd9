"""One call of a pipeline stage from a node: values to the device and back, smaller plans when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar

import comfy.model_management as management

from ...pipeline import stages
from ...pipeline.backends import Backends
from ...pipeline.errors import BackendError, OutOfMemoryError, PipelineError
from ...pipeline.plan import RUNGS, Rung
from ...pipeline.runtime import StageRecord
from ...pipeline.speed import EXACT
from .memory import HostRuntime, ManagedModels
from .progress import Progress

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")
_Value = TypeVar("_Value")


@cache
def tables() -> dict[tuple[tuple[str, str], ...], Backends]:
    """Backend tables of nodes without models, by the backends they choose; kept so that reports can name what ran."""
    return {}


def default_backends(choices: Mapping[str, str] = MappingProxyType({})) -> Backends:
    """The table for nodes that have no models."""
    key = tuple(sorted(choices.items()))
    return tables().get(key) or tables().setdefault(key, stages.default_backends(dict(choices)))


@cache
def prepare_kernels() -> None:
    """Have the kernels of the post-processing compiled while the first networks work; once in a process. The table is
    one of its own: what is wrong with a row is said by the node that needs it."""
    with suppress(BackendError):
        export = stages.ExportSettings(shells="outer")
        stages.check_finish(export, backends=stages.default_backends(), device=management.get_torch_device())


def run(
    stage: Callable[..., _Result],
    models: ManagedModels | None,
    progress: Progress,
    *inputs,
    beside: Mapping[str, Sequence[str]] = MappingProxyType({}),
    choices: Mapping[str, str] = MappingProxyType({}),
    **more,
) -> _Result:
    """Call a stage of the pipeline with inputs, which may be values of sockets, and more keyword arguments.

    Values that can move go to the device first; results come back to where ComfyUI keeps them. If the device
    runs out of memory, every model is unloaded and the stage is tried again on the next rung of the memory ladder,
    which node, log and result name. What it took goes to ComfyUI's log. beside as for HostRuntime. choices:
    {operation: row} of the backend table for a stage without models; theirs have their own.
    """
    backends, speed = (models.backends, models.speed) if models else (default_backends(choices), EXACT)

    def call(rung: Rung) -> _Result:
        runtime = HostRuntime(backends, progress, beside, speed, rung)
        used = runtime.on("cpu") if rung.finish_on_cpu and models is None else runtime
        arguments = (used, models) if models else (used,)
        here = [_moved(value, used.device) for value in inputs]
        result = _moved(stage(*arguments, *here, **more), management.intermediate_device())
        for record in runtime.records:
            _log(record, rung)
        return result

    first, *smaller = rungs = rungs_of(models is not None)
    try:
        return call(first)
    except OutOfMemoryError as error:
        message, where = str(error), error.stage
    for rung in smaller:
        plan = f"Memory plan {rung.name}: {rung.description}."
        log.warning("%s Unloading all models and trying once more. %s", message, plan)
        progress.say(plan)
        management.unload_all_models()
        management.soft_empty_cache()
        try:
            return noted(call(rung), f"Memory ran out in {where or 'a stage'}. {plan}")
        except OutOfMemoryError as error:
            message, where = str(error), error.stage
    raise OutOfMemoryError(f"{message} All memory plans were tried: {', '.join(each.name for each in rungs)}.", where)


def rungs_of(with_models: bool) -> list[Rung]:
    """The rungs of the ladder that make a difference under the host's memory manager, which decides itself what stays
    on the device."""
    first, tiled, finish_on_cpu, streamed = RUNGS[1:]
    if management.get_torch_device().type == "cpu":
        return [first, tiled]
    return [first, tiled, streamed] if with_models else [first, finish_on_cpu]


def noted(value: Any, text: str) -> Any:
    """A result with a note that goes along to the report and the file; tuples item by item."""
    if isinstance(value, tuple):
        return tuple(noted(item, text) for item in value)
    if isinstance(value, (stages.Mesh, stages.TexturedMesh)) and value.facts:
        changed: dict = {"facts": {**value.facts, "warnings": [*value.facts.get("warnings", ()), text]}}
    elif isinstance(origin := getattr(value, "origin", None), stages.Origin):
        changed = {"origin": origin.noted(text)}
    else:
        return value
    return value.replace(**changed) if isinstance(value, stages.Mesh) else replace(value, **changed)


def _log(record: StageRecord, rung: Rung) -> None:
    """One line of ComfyUI's log for a stage."""
    counts = "".join(f", {number:,} {name.replace('_', ' ')}" for name, number in record.counts.items())
    log.info(
        "TRELLIS.2 %s: %.2f s, of these %.2f s loading; peak memory %.2f GB%s; memory plan %s",
        record.stage,
        record.seconds,
        record.loading_seconds,
        record.peak_bytes / 1e9,
        counts,
        rung.name,
    )


def explained(check: Callable, *arguments, **more) -> bool | str:
    """The result of a check of the pipeline as validate_inputs must return it: True, or the error's text."""
    try:
        check(*arguments, **more)
    except PipelineError as error:
        return str(error)
    return True


def _moved(value: _Value, device) -> _Value:
    """A value on a device; tuples and lists item by item."""
    found: Any = value
    if isinstance(value, (tuple, list)):
        return type(found)(_moved(item, device) for item in value)
    return found.to(device) if hasattr(found, "to") else found
