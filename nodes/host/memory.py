"""Networks under ComfyUI's memory manager: one patcher each, weights loaded, offloaded and evicted by the host."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

import comfy.model_management as management
import comfy.model_patcher
import comfy.ops
import torch
from torch import nn

from ...pipeline.backends import Backends
from ...pipeline.models import build, working_bytes
from ...pipeline.runtime import Runtime, Step, choose_dtype
from ...pipeline.weights import Checkpoint, Models

log = logging.getLogger(__name__)

opened: weakref.WeakSet[ManagedModels] = weakref.WeakSet()  # for the health report


class ManagedModels(Models):
    """The models of a checkpoint, each under a patcher of ComfyUI once it is used.

    Args:
        dtype: torso dtype in place of the checkpoint's; None keeps it.
        backends: the table of operations that runs with these models use.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype | None, backends: Backends) -> None:
        super().__init__(checkpoint, build)
        self.dtype, self.backends = dtype, backends
        self._patchers: dict[str, comfy.model_patcher.ModelPatcher] = {}
        opened.add(self)

    def patcher(self, role: str) -> comfy.model_patcher.ModelPatcher:
        """The patcher of a model, whose weights are read when it is first asked for."""
        if role not in self._patchers:
            self.config(role)
            offload = management.unet_offload_device()
            model = castable(self._files[role].load(self._build, offload, self.dtype))
            # the name moves between versions, and main.py may point it at the dynamic patcher
            patcher_class = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
            self._patchers[role] = patcher_class(
                model, load_device=management.get_torch_device(), offload_device=offload
            )
        return self._patchers[role]

    def loaded(self) -> dict[str, int]:
        """Bytes on the device of every model that has been used."""
        return {role: patcher.loaded_size() for role, patcher in list(self._patchers.items())}


class HostRuntime(Runtime):
    """A run inside ComfyUI: its device and its memory manager.

    Args:
        beside: models to keep on the device beside another one, by that one's role.
    """

    def __init__(
        self,
        backends: Backends,
        on_step: Callable[[Step], None],
        beside: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        super().__init__(management.get_torch_device(), backends, on_step=on_step)
        self._beside = beside

    @contextmanager
    def use(
        self, models: ManagedModels, role: str, tokens: int, condition: int = 0, voxels: int | None = None
    ) -> Iterator[nn.Module]:
        start = time.perf_counter()
        patchers = [models.patcher(each) for each in (role, *self._beside.get(role, ()))]
        model = patchers[0].model
        room = management.get_total_memory(self.device) - sum(patcher.model_size() for patcher in patchers)
        room -= management.minimum_inference_memory()
        needed = working_bytes(model, tokens, condition, voxels, int(room))
        management.load_models_gpu(patchers, memory_required=needed)
        for patcher in patchers:
            _bring_what_cannot_be_cast(patcher.model, self.device)
        self._loading += time.perf_counter() - start
        yield model

    def free_bytes(self) -> int:
        """What the manager says is free, less what it keeps for others."""
        return max(0, int(management.get_free_memory(self.device)) - management.extra_reserved_memory())

    def replays(self, model: nn.Module, tokens: int) -> bool:
        """Only where the manager has put the whole model on the device: what it casts must not be recorded."""
        stays = all(not layer.comfy_cast_weights for layer in model.modules() if isinstance(layer, _Cast))
        return stays and super().replays(model, tokens)


def device_dtype() -> torch.dtype | None:
    """The torso dtype that suits ComfyUI's device; None keeps the checkpoint's."""
    return choose_dtype(management.get_torch_device())


def make_room(size: int) -> None:
    """Have the manager free so many bytes of the device for work without a model."""
    device = management.get_torch_device()
    if device.type != "cpu":
        management.free_memory(size + management.minimum_inference_memory(), device)


class _Cast(comfy.ops.CastWeightBiasOp):
    """Mixed into a layer's class: lets the manager keep the weights elsewhere and cast them when the layer runs.

    comfy.ops has such classes for torch's layers; this one serves any layer whose parameters are called weight
    and bias, the sparse convolution included, and casts to the parameters' own dtypes, so that an offloaded
    layer gives the same bits as a loaded one.
    """

    def forward(self, *inputs, **named):
        _stop_if_cancelled()
        if not (self.comfy_cast_weights or self.weight_function or self.bias_function):
            return super().forward(*inputs, **named)
        own = dict(self._parameters)
        dtypes = {"dtype": own["weight"].dtype, "bias_dtype": None if own["bias"] is None else own["bias"].dtype}
        with _cast_weights(self, _device_of(inputs[0]), dtypes) as (weight, bias):
            self._parameters.update(weight=weight, bias=bias)
            try:
                return super().forward(*inputs, **named)
            finally:
                self._parameters.update(own)

    def fetch_weights(self, device: torch.device) -> tuple:
        """Weight and bias on the device, to be kept for a while: what the manager streams in is copied, since it may
        reuse the memory for the next layer."""
        _stop_if_cancelled()
        if not (self.comfy_cast_weights or self.weight_function or self.bias_function):
            return self.weight, self.bias
        dtypes = {"dtype": self.weight.dtype, "bias_dtype": None if self.bias is None else self.bias.dtype}
        with _cast_weights(self, device, dtypes) as (weight, bias):
            return weight.clone(), None if bias is None else bias.clone()


_stop_if_cancelled = getattr(comfy.ops, "run_every_op", management.throw_exception_if_processing_interrupted)


@contextmanager
def _cast_weights(layer: nn.Module, device: torch.device, dtypes: dict) -> Iterator[tuple]:
    """Weight and bias on the device; handed back afterwards where the host streams them in (since late 2025)."""
    if not hasattr(comfy.ops, "uncast_bias_weight"):
        yield comfy.ops.cast_bias_weight(layer, device=device, **dtypes)
        return
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, device=device, offloadable=True, **dtypes)
    try:
        yield weight, bias
    finally:
        comfy.ops.uncast_bias_weight(layer, weight, bias, stream)


def _device_of(value) -> torch.device:
    """The device of a tensor or a SparseTensor."""
    return value.device if isinstance(value, torch.Tensor) else value.feats.device


_cast_classes: dict[type, type] = {}


def castable(model: nn.Module) -> nn.Module:
    """Give every layer of a model that has a weight, and at most a bias beside it, the class that can cast them."""
    for layer in model.modules():
        names = set(layer._parameters)
        if names and names <= {"weight", "bias"} and layer._parameters.get("weight") is not None:
            layer._parameters.setdefault("bias", None)
            own = type(layer)
            if own not in _cast_classes:
                _cast_classes[own] = type(own.__name__, (_Cast, own), {"__module__": own.__module__})
            layer.__class__ = _cast_classes[own]
    return model


def _bring_what_cannot_be_cast(model: nn.Module, device: torch.device) -> None:
    """Small tensors that no layer casts (gains, modulation, tokens) must be on the device; a manager that loads or
    unloads a model in part may have left them elsewhere."""
    for layer in model.modules():
        cast = [] if isinstance(layer, _Cast) else layer.parameters(recurse=False)
        for tensor in (*cast, *layer.buffers(recurse=False)):  # such as the factors of quantised weights
            tensor.data = tensor.data.to(device)
