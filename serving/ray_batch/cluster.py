"""Ray for a batch: started or joined, and how its CPUs and GPUs are shared among samplers and finishers."""

from __future__ import annotations

import argparse
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import BackendError, SettingsError

ROOT = Path(__file__).resolve().parents[2]
_FINISHING_CPUS = 2  # of a finisher beside a GPU; its kernels take as many threads as there are cores


@dataclass(frozen=True)
class Shares:
    """Actors, and what each of them takes of the cluster.

    samplers: how many; each takes sampler_cpus and gpu_share GPUs. finishers: at most; each takes finisher_cpus.
    """

    samplers: int
    gpu_share: float
    sampler_cpus: float
    finishers: int
    finisher_cpus: float


def imported() -> Any:
    """The module ray. Raises BackendError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it reports to its makers otherwise
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BackendError(f"Ray cannot be imported ({error}): pip install -r requirements-serving.txt") from error
    quiet()
    return ray


def quiet() -> None:
    """Of Ray's remarks only errors are shown: a row is a Python object to Ray Data, which it remarks on."""
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """The module ray, connected to the cluster at an address ("auto": the one that runs here), or to one of this
    process's own, which ends with the block.

    Raises:
        BackendError: there is no Ray, or no cluster at the address.
    """
    ray = imported()
    # another machine gets our two packages, and not the root: a folder `nodes` stands there
    packages = {"py_modules": [str(ROOT / name) for name in ("pipeline", "serving")]}
    joined = {"address": address, "runtime_env": packages} if address else {"include_dashboard": False}
    try:
        ray.init(logging_level=logging.ERROR, **joined)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BackendError(f"Ray could not be started or joined: {error}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    try:
        yield ray
    finally:
        ray.shutdown()


def shares(resources: dict[str, float], options: argparse.Namespace) -> Shares:
    """How a cluster's resources are divided.

    With GPUs: a sampler for each --gpu-share of --gpus, and finishers on the CPUs that are left, of which Ray Data
    starts as many as keep pace. Without: --samplers (1), and a finisher for each of them.

    Raises:
        SettingsError: what is asked for is not there, or makes no sense.
    """
    cpus, there = resources.get("CPU", 1.0), resources.get("GPU", 0.0)
    gpus = there if options.gpus is None else options.gpus
    if not 0 <= gpus <= there:
        raise SettingsError(f"--gpus {gpus:g}: the cluster has {there:g} GPUs.")
    if not 0 < options.gpu_share <= 1:
        raise SettingsError(f"--gpu-share must be above 0 and at most 1, got {options.gpu_share:g}.")
    for name in ("samplers", "finishers"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise SettingsError(f"--{name} must be at least 1, got {value}.")
    if gpus:
        samplers = options.samplers or max(1, math.floor(gpus / options.gpu_share + 1e-9))
        if samplers * options.gpu_share > gpus + 1e-9:
            raise SettingsError(f"{samplers} samplers of {options.gpu_share:g} GPUs need more than {gpus:g}.")
        each = min(1.0, cpus / (2 * samplers))
        left = cpus - each * samplers
        finishers = options.finishers or max(1, math.floor(left / _FINISHING_CPUS))
        return Shares(samplers, options.gpu_share, each, finishers, min(_FINISHING_CPUS, left / finishers))
    samplers = options.samplers or 1
    finishers = options.finishers or samplers
    finishing = min(1.0, cpus / (samplers + finishers))
    return Shares(samplers, 0.0, (cpus - finishing * finishers) / samplers, finishers, finishing)
