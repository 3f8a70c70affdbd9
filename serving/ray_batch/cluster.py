"""Ray for a batch: started or joined, what its machines have, and places on them."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pipeline.errors import BackendError
from pipeline.signals import handlers_kept

from ..joining import OWN, joined, why_not


def imported() -> Any:
    """The module ray. Raises BackendError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # turns Ray's telemetry off
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BackendError(f"Ray cannot be imported ({error}): pip install -r requirements-serving.txt") from error
    quiet()
    return ray


def quiet() -> None:
    """Show only errors of Ray: Ray Data warns of rows that are Python objects, as ours are."""
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def connected(address: str | None, gpus: float | None = None) -> Iterator[Any]:
    """The module ray, connected to the cluster at an address ("auto": the one that runs here), or to one of this
    process's own, which ends with the block. gpus: to use of this machine's; the own cluster has no more, so that
    nothing is placed on others.

    Raises:
        BackendError: there is no Ray, or no cluster at the address.
    """
    ray = imported()
    own = dict(OWN)
    if gpus is not None and gpus < torch.cuda.device_count():
        own["num_gpus"] = math.ceil(gpus)
    try:
        with handlers_kept():
            ray.init(logging_level=logging.ERROR, **(joined(address) if address else own))
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise BackendError(f"Ray could not be started or joined: {why_not(error)}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    try:
        yield ray
    finally:
        ray.shutdown()


def machines(ray: Any) -> list[dict[str, float]]:
    """What each machine of the cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def reason(error: BaseException) -> str:
    """The line with the reason in an error of Ray: the last that names an error; Ray may append advice."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    named = [line.strip() for line in lines if re.match(r"[\w.]*(Error|Exception)\b.*:", line.strip())]
    return (named or lines)[-1]
