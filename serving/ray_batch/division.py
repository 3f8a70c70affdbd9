"""How the CPUs and GPUs of a cluster are shared among samplers and finishers."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.batch.finishing import AUTO, CPU, GPU
from pipeline.errors import SettingsError
from pipeline.words import counted

_FINISHING_CPUS = 2  # of a finisher beside a GPU; its kernels take as many threads as there are cores
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Shares:
    """Actors, and what each of them takes of the cluster.

    samplers: how many; each takes sampler_cpus and gpu_share GPUs. finishers: at most; each takes finisher_cpus.
    processing: where meshes are processed and textured, CPU (by finishers) or GPU (by samplers).
    """

    samplers: int
    gpu_share: float
    sampler_cpus: float
    finishers: int
    finisher_cpus: float
    processing: str = CPU

    def __str__(self) -> str:
        on = f"{counted(self.gpu_share, 'GPU')} each" if self.gpu_share else "on the CPU"
        doing = "writing what these have processed" if self.processing == GPU else "processing and writing"
        samplers, finishers = counted(self.samplers, "sampler"), counted(self.finishers, "finisher")
        return f"{samplers}, {on}; at most {finishers} on the CPU, {doing}."


def shares(nodes: Sequence[Mapping[str, float]], options: argparse.Namespace) -> Shares:
    """How a cluster's resources are divided, so that all actors fit it at once, each onto one machine.

    With GPUs: a sampler for each --gpu-share of --gpus, and on the CPUs that are left finishers, of which Ray Data
    starts as many as keep pace: where they only write files, no more than samplers. Without: --samplers (1), and a
    finisher for each of them.

    Args:
        nodes: what each machine has: {"CPU": 32, "GPU": 2}.

    Raises:
        SettingsError: what is asked for is not there, or makes no sense.
    """
    nodes = [node for node in nodes if node.get("CPU", 0) > 0]  # the head of a cluster often has none
    if not nodes:
        raise SettingsError("No machine of the cluster has CPUs for Ray; start one with `ray start --num-cpus`.")
    there = sum(node.get("GPU", 0.0) for node in nodes)
    gpus = there if options.gpus is None else options.gpus
    if not 0 <= gpus <= there:
        raise SettingsError(f"--gpus {gpus:g}: the cluster has {counted(there, 'GPU')}.")
    if not 0 < options.gpu_share <= 1:
        raise SettingsError(f"--gpu-share must be above 0 and at most 1, got {options.gpu_share:g}.")
    for name in ("samplers", "finishers"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise SettingsError(f"--{name} must be at least 1, got {value}.")
    if gpus:
        samplers = options.samplers or max(1, _floor(gpus / options.gpu_share))
        if samplers * options.gpu_share > gpus + _ROUNDING:
            wanted = counted(samplers, "sampler"), "needs" if samplers == 1 else "need"
            raise SettingsError(
                f"{wanted[0]} of {counted(options.gpu_share, 'GPU')} {wanted[1]} more than {gpus:g}: give fewer "
                "--samplers or a lower --gpu-share."
            )
        processing = GPU if options.finish_on == AUTO else options.finish_on
        return _on_gpus(nodes, samplers, options.gpu_share, options.finishers, processing)
    if options.gpu_share != 1:
        raise SettingsError(
            "--gpu-share would have no effect: there is no GPU, or --gpus 0 says to use none. Leave it out."
        )
    if options.finish_on == GPU:
        raise SettingsError("--finish-on gpu: there is no GPU, or --gpus 0 says to use none.")
    return _on_cpus(nodes, options.samplers or 1, options.finishers or options.samplers or 1)


def _on_gpus(
    nodes: Sequence[Mapping[str, float]], samplers: int, gpu_share: float, finishers: int | None, processing: str
) -> Shares:
    """Samplers on GPUs, of which any machine may get as many as it has room for."""
    counts = [min(samplers, _floor(node.get("GPU", 0.0) / gpu_share)) for node in nodes]
    cpus = min([1.0, *(node["CPU"] / (2 * count) for node, count in zip(nodes, counts) if count)])
    left = [node["CPU"] - cpus * count for node, count in zip(nodes, counts)]
    fitting = max(1, sum(_floor(rest / _FINISHING_CPUS) for rest in left))
    finishers = finishers or (min(fitting, samplers) if processing == GPU else fitting)
    return Shares(samplers, gpu_share, cpus, finishers, _fitting(left, finishers, _FINISHING_CPUS), processing)


def _on_cpus(nodes: Sequence[Mapping[str, float]], samplers: int, finishers: int) -> Shares:
    """Without GPUs. Finishers may come to lie on one machine, before samplers do."""
    finishing = min([1.0, *(node["CPU"] / (samplers + finishers) for node in nodes)])
    left = [node["CPU"] - finishing * finishers for node in nodes]
    return Shares(samplers, 0.0, _fitting(left, samplers, max(left)), finishers, finishing)


def _fitting(rooms: Sequence[float], count: int, most: float) -> float:
    """The most that each of `count` equal parts may be, so that all fit, each into one of the rooms."""
    parts = [most, *(room / number for room in rooms for number in range(1, count + 1))]
    fitting = (part for part in parts if 0 < part <= most and sum(_floor(room / part) for room in rooms) >= count)
    return max(fitting)


def _floor(number: float) -> int:
    return math.floor(number + _ROUNDING)
