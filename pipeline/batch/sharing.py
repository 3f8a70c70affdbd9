"""Where objects are finished: on the CPU, or on the GPU beside the sampling of others if memory allows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..budget import device_bytes
from ..errors import SettingsError
from ..plan import RUNGS, choose
from ..runtime import named_dtype
from ..weights import Models
from .maker import wanted
from .recipe import Recipe

AUTO, CPU, GPU = "auto", "cpu", "gpu"
FINISH_ON = (AUTO, CPU, GPU)

_CONTEXT = 1_000_000_000  # bytes of a further process on a GPU that its allocator does not count: context, kernels
_FINISHING = ("process mesh", "bake")  # the stages, as they are estimated


@dataclass(frozen=True)
class Sharing:
    """Samplers and finishers on one device.

    fits: whether the samplers keep the memory plan that they have alone. sampler_bytes: what is left to each of them.
    finisher_bytes: what each finisher is estimated to take. free: bytes of the device.
    """

    fits: bool
    sampler_bytes: int
    finisher_bytes: int
    free: int

    def __str__(self) -> str:
        parts = f"a finisher takes about {self.finisher_bytes / 1e9:.1f} GB of {self.free / 1e9:.1f} GB free"
        return f"{parts}; the samplers' memory plan {'stays the same' if self.fits else 'leaves no room for it'}"


def sharing(
    recipe: Recipe,
    models: Models,
    device: torch.device,
    samplers: int = 1,
    finishers: int = 1,
    memory_limit: int | None = None,
    free: int | None = None,
) -> Sharing:
    """Whether so many samplers and finishers fit beside each other on a device, each a process.

    Args:
        models: whose files are here (Models.fetch). memory_limit: bytes of each sampler; None: what is free.
        free: bytes of the device; asked if not given.
    """
    free = device_bytes(device) if free is None else free
    asked, dtype = wanted(recipe, models.checkpoint), named_dtype(recipe.dtype, device)
    each = free // samplers if memory_limit is None else min(free // samplers, memory_limit)
    # without kept networks, which no finisher holds
    plain = choose(models, asked.demand(1), device, dtype=dtype, name=RUNGS[1].name, free=free)
    takes = max((one.peak_bytes for one in plain.estimates if one.stage in _FINISHING), default=0) + _CONTEXT
    left = min(each, (free - finishers * takes) // samplers)
    sampling = replace(asked, export=None).demand(1)
    alone, beside = (
        choose(models, sampling, device, dtype=dtype, allow_lower=recipe.allow_lower, reuse=True, free=max(0, room))
        for room in (each, left)
    )
    same = (alone.rung, alone.demand) == (beside.rung, beside.demand)
    return Sharing(beside.fits and same, left, takes, free)


def finishing_device(choice: str, sampling: torch.device, beside: bool, shared: Sharing | None) -> torch.device:
    """Where objects of a run are finished.

    Args:
        choice: of FINISH_ON. sampling: where they are sampled. beside: whether in a process beside that.
        shared: what was found of the device, for AUTO; None: it is no GPU.

    Raises:
        SettingsError: a GPU is asked for where objects are sampled on the CPU.
    """
    if choice == GPU:
        if sampling.type == "cpu":
            raise SettingsError(
                "--finish-on gpu: objects are sampled on the CPU. Use --device cuda, or --finish-on cpu."
            )
        return sampling
    if choice == CPU or (beside and not (shared is not None and shared.fits)):
        return torch.device("cpu")
    return sampling
