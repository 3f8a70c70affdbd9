"""One call of a pipeline stage from a node: values to the device and back, a second try when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar

import comfy.model_management as management

from ...pipeline import stages
from ...pipeline.backends import Backends
from ...pipeline.errors import OutOfMemoryError, PipelineError
from ...pipeline.speed import EXACT
from .memory import HostRuntime, ManagedModels
from .progress import Progress

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")
_Value = TypeVar("_Value")


@cache
def default_backends() -> Backends:
    """The table for nodes that have no models, kept so that each row is checked once."""
    return stages.default_backends()


def run(
    stage: Callable[..., _Result],
    models: ManagedModels | None,
    progress: Progress,
    *inputs,
    beside: Mapping[str, Sequence[str]] = MappingProxyType({}),
    **more,
) -> _Result:
    """Call a stage of the pipeline with inputs, which may be values of sockets, and more keyword arguments.

    Values that can move go to the device first; results come back to where ComfyUI keeps them. If the device
    runs out of memory, every model is unloaded and the stage gets one more try. What it took goes to ComfyUI's
    log. beside as for HostRuntime.
    """
    backends, speed = (models.backends, models.speed) if models else (default_backends(), EXACT)
    runtime = HostRuntime(backends, progress, beside, speed)
    arguments = (runtime, models) if models else (runtime,)

    def call() -> _Result:
        here = [_moved(value, runtime.device) for value in inputs]
        result = _moved(stage(*arguments, *here, **more), management.intermediate_device())
        for record in runtime.records:
            log.info(
                "TRELLIS.2 %s: %.2f s, of these %.2f s loading; peak memory %.2f GB",
                record.stage,
                record.seconds,
                record.loading_seconds,
                record.peak_bytes / 1e9,
            )
        return result

    try:
        return call()
    except OutOfMemoryError as error:
        log.warning("%s Unloading all models and trying once more.", error)
    management.unload_all_models()
    management.soft_empty_cache()
    return call()


def explained(check: Callable, *arguments, **more) -> bool | str:
    """Whether a check of the pipeline accepts its arguments, as validate_inputs tells it: True, or what is wrong."""
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
