"""How the CPUs and GPUs of a cluster are shared among samplers and finishers."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import SettingsError

_FINISHING_CPUS = 2  # of a finisher beside a GPU; its kernels take as many threads as there are cores
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Finishing:
    """A way of finishing. device: of torch. each_gpu: finishers for each GPU; 0: as many as the CPUs allow. gpu: what
    all finishers of a GPU take of it, as Ray counts."""

    device: str
    each_gpu: int = 0
    gpu: float = 0.0


# On a GPU a finisher takes 3 s an object (5 M raw faces, H200), a part of it on the CPU, in which another one has the
# GPU; with two the sampler (10 s, 1024_cascade) has room to spare.
FINISHING = {"cpu": Finishing("cpu"), "gpu": Finishing("cuda", each_gpu=2, gpu=0.1)}


@dataclass(frozen=True)
class Shares:
    """Actors, and what each of them takes of the cluster.

    samplers: how many; each takes sampler_cpus and gpu_share GPUs. finishers: at most; each takes finisher_cpus and
    finisher_gpus. gpus: how many GPUs they share.
    """

    samplers: int
    gpu_share: float
    sampler_cpus: float
    finishers: int
    finisher_cpus: float
    finisher_gpus: float = 0.0
    gpus: int = 0

    @property
    def of_one_gpu(self) -> tuple[int, int]:
        """Samplers and finishers of one GPU, at most."""
        return math.ceil(self.samplers / self.gpus), math.ceil(self.finishers / self.gpus)

    def __str__(self) -> str:
        on = f"{self.gpu_share:g} GPUs each" if self.gpu_share else "on the CPU"
        finishing = "finishers on the same GPUs" if self.finisher_gpus else "finishers on the CPU, at most"
        return f"{self.samplers} samplers, {on}; {self.finishers} {finishing}."


def shares(nodes: Sequence[Mapping[str, float]], options: argparse.Namespace, finishing: Finishing) -> Shares:
    """How a cluster's resources are divided, so that all actors fit it at once, each onto one machine.

    With GPUs: a sampler for each --gpu-share of --gpus. Finishers share these GPUs, or work on the CPUs that are left,
    of which Ray Data starts as many as keep pace. Without: --samplers (1), and a finisher for each of them.

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
        raise SettingsError(f"--gpus {gpus:g}: the cluster has {there:g} GPUs.")
    if not 0 < options.gpu_share <= 1:
        raise SettingsError(f"--gpu-share must be above 0 and at most 1, got {options.gpu_share:g}.")
    for name in ("samplers", "finishers"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise SettingsError(f"--{name} must be at least 1, got {value}.")
    if gpus:
        samplers = options.samplers or max(1, _floor(gpus / options.gpu_share))
        if samplers * options.gpu_share > gpus + _ROUNDING:
            raise SettingsError(f"{samplers} samplers of {options.gpu_share:g} GPUs need more than {gpus:g}.")
        return _on_gpus(nodes, samplers, options.gpu_share, options.finishers, finishing)
    if finishing.gpu:
        raise SettingsError("--finish-on gpu: there is no GPU, or --gpus 0 says to use none.")
    return _on_cpus(nodes, options.samplers or 1, options.finishers or options.samplers or 1)


def _on_gpus(
    nodes: Sequence[Mapping[str, float]], samplers: int, gpu_share: float, finishers: int | None, finishing: Finishing
) -> Shares:
    """Samplers on GPUs, of which any machine may get as many as it has room for."""
    counts = [min(samplers, _floor(node.get("GPU", 0.0) / gpu_share)) for node in nodes]
    cpus = min([1.0, *(node["CPU"] / (2 * count) for node, count in zip(nodes, counts) if count)])
    left = [node["CPU"] - cpus * count for node, count in zip(nodes, counts)]
    in_one = _floor(1 / gpu_share)
    used = math.ceil(samplers / in_one)
    if not finishing.gpu:
        finishers = finishers or max(1, sum(_floor(rest / _FINISHING_CPUS) for rest in left))
        return Shares(samplers, gpu_share, cpus, finishers, _fitting(left, finishers, _FINISHING_CPUS), gpus=used)
    finishers = finishers or finishing.each_gpu * used
    together = math.ceil(finishers / used)
    rests = (rest / (together * math.ceil(count / in_one)) for rest, count in zip(left, counts) if count)
    own, share = min([_FINISHING_CPUS, *rests]), (1 - finishing.gpu) / in_one
    return Shares(samplers, _down(share), cpus, finishers, _down(own), _down(finishing.gpu / together), used)


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


def _down(share: float) -> float:
    """As Ray counts, so that parts are never more than the whole."""
    return math.floor(share * 1e4 + _ROUNDING) / 1e4
