"""Networks under ComfyUI's memory manager: one patcher each, weights loaded, offloaded and evicted by the host."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import comfy.model_management as management
import comfy.model_patcher
import torch
from torch import nn

from ...pipeline.backends import Backends
from ...pipeline.models import build, working_bytes
from ...pipeline.plan import RUNGS, Rung
from ...pipeline.runtime import Runtime, Step, choose_dtype
from ...pipeline.spec import PipelineType
from ...pipeline.speed import EXACT, Speed
from ...pipeline.stages.checks import prepare_networks
from ...pipeline.weights import Checkpoint, Models
from .casting import is_castable, make_castable

log = logging.getLogger(__name__)

opened: weakref.WeakSet[ManagedModels] = weakref.WeakSet()  # for the health report


class ManagedModels(Models):
    """The models of a checkpoint, each under a patcher of ComfyUI once it is used.

    Args:
        dtype: torso dtype in place of the checkpoint's; None keeps it.
        backends: the table of operations that runs with these models use.
        speed: which velocities of samplers their runs predict.
    """

    def __init__(
        self, checkpoint: Checkpoint, dtype: torch.dtype | None, backends: Backends, speed: Speed = EXACT
    ) -> None:
        super().__init__(checkpoint, build)
        self.dtype, self.backends, self.speed = dtype, backends, speed
        self._patchers: dict[str, comfy.model_patcher.ModelPatcher] = {}
        opened.add(self)

    def patcher(self, role: str) -> comfy.model_patcher.ModelPatcher:
        """The patcher of a model; its weights are read at the first call."""
        if role not in self._patchers:
            self.config(role)
            offload = management.unet_offload_device()
            model = make_castable(self._files[role].load(self._build, offload, self.dtype))
            # the name moves between versions, and main.py may point it at the dynamic patcher
            patcher_class = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
            self._patchers[role] = patcher_class(
                model, load_device=management.get_torch_device(), offload_device=offload
            )
        return self._patchers[role]

    def is_loaded(self, role: str) -> bool:
        return role in self._patchers

    def announce(self, pipeline_type: PipelineType, role: str) -> None:
        """Say that a node begins with this model of a pipeline type: while one model works, the weights of the next
        are read from the disk and their kernels compiled. Nodes that have not run yet may turn out not to need it; then
        it was read in vain."""
        roles = pipeline_type.roles()
        if role in roles:
            self.expect(roles[roles.index(role) :])
            device = management.get_torch_device()
            prepare_networks(self, roles[roles.index(role) :], self.backends, device, self.dtype)

    def loaded(self) -> dict[str, int]:
        """Bytes on the device of every model that has been used."""
        return {role: patcher.loaded_size() for role, patcher in list(self._patchers.items())}


class HostRuntime(Runtime):
    """A run inside ComfyUI: its device and its memory manager.

    Args:
        beside: models to keep on the device beside another one, by that one's role.
        rung: of the memory ladder: what tiles may fill, and whether the manager is to leave weights where they are.
    """

    def __init__(
        self,
        backends: Backends,
        on_step: Callable[[Step], None],
        beside: Mapping[str, Sequence[str]] = MappingProxyType({}),
        speed: Speed = EXACT,
        rung: Rung = RUNGS[0],
    ) -> None:
        super().__init__(management.get_torch_device(), backends, on_step=on_step, speed=speed)
        self._beside, self._rung = beside, rung

    @contextmanager
    def use(
        self, models: ManagedModels, role: str, tokens: int, condition: int = 0, voxels: int | None = None
    ) -> Iterator[Any]:
        start = time.perf_counter()
        patchers = [models.patcher(each) for each in (role, *self._beside.get(role, ()))]
        model = patchers[0].model
        room = management.get_total_memory(self.device) - sum(patcher.model_size() for patcher in patchers)
        room -= management.minimum_inference_memory()
        needed = working_bytes(model, tokens, condition, voxels, int(room))
        if self._rung.stream:  # the manager keeps most weights in main memory and casts them layer by layer
            needed = max(needed, int(management.get_total_memory(self.device)))
        management.load_models_gpu(patchers, memory_required=needed)
        for patcher in patchers:
            _bring_what_cannot_be_cast(patcher.model, self.device)
        self._loading += time.perf_counter() - start
        models.read_ahead(role)
        yield model

    def free_bytes(self) -> int:
        """Free memory by the manager, minus its reserve; of that the rung's share."""
        free = int(management.get_free_memory(self.device)) - management.extra_reserved_memory()
        return max(0, int(self._rung.share * free))

    def spend(self, part: nn.Module) -> None:
        """Nothing to do: the manager keeps the models."""

    def replays(self, model: nn.Module, tokens: int) -> bool:
        """Only if the whole model is on the device: cast weights must not be recorded in a graph."""
        stays = all(not layer.comfy_cast_weights for layer in model.modules() if is_castable(layer))
        return stays and super().replays(model, tokens)


def device_dtype() -> torch.dtype | None:
    """The torso dtype that suits ComfyUI's device; None keeps the checkpoint's."""
    return choose_dtype(management.get_torch_device())


def make_room(size: int) -> None:
    """Have the manager free so many bytes of the device for work without a model."""
    device = management.get_torch_device()
    if device.type != "cpu":
        management.free_memory(size + management.minimum_inference_memory(), device)


def _bring_what_cannot_be_cast(model: nn.Module, device: torch.device) -> None:
    """Small tensors that no layer casts (gains, modulation, tokens) must be on the device; a manager that loads or
    unloads a model in part may have left them elsewhere."""
    for layer in model.modules():
        cast = [] if is_castable(layer) else layer.parameters(recurse=False)
        for tensor in (*cast, *layer.buffers(recurse=False)):  # such as the factors of quantised weights
            tensor.data = tensor.data.to(device)
