"""Layers whose weights ComfyUI's memory manager may keep elsewhere: brought to the device while a layer runs.

comfy.ops has classes for torch's layers that do so; the hooks here serve any layer whose parameters are called weight
and bias, the sparse convolution included, and cast to the parameters' own dtypes, so that an offloaded layer gives the
same bits as a loaded one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import comfy.model_management as management
import comfy.ops
import torch
from torch import nn

_stop_if_cancelled = getattr(comfy.ops, "run_every_op", management.throw_exception_if_processing_interrupted)


def make_castable(model: nn.Module) -> nn.Module:
    """Let the manager offload every layer of a model whose parameters are a weight and at most a bias."""
    for layer in model.modules():
        names = set(layer._parameters)
        if names and names <= {"weight", "bias"} and layer._parameters.get("weight") is not None:
            layer._parameters.setdefault("bias", None)
            # the attributes of comfy.ops.CastWeightBiasOp, which the manager looks for
            vars(layer).update(comfy_cast_weights=False, weight_function=[], bias_function=[])
            vars(layer).update(fetch_weights=fetch_weights)
            here = _Here()
            layer.register_forward_pre_hook(here.bring)
            layer.register_forward_hook(here.give_back, always_call=True)
    return model


def is_castable(layer: nn.Module) -> bool:
    """Whether make_castable has prepared the layer."""
    return hasattr(layer, "comfy_cast_weights")


def fetch_weights(layer: nn.Module, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias on the device, to be kept for a while: what the manager streams in is copied, since it may reuse
    the memory for the next layer."""
    _stop_if_cancelled()
    if not _is_elsewhere(layer):
        return layer.get_parameter("weight"), layer._parameters["bias"]
    with _cast_weights(layer, device) as (weight, bias):
        return weight.clone(), None if bias is None else bias.clone()


class _Here:
    """Hooks of one layer: its weights are on the device between them, also where the layer raises."""

    def __init__(self) -> None:
        self._back = ExitStack()

    def bring(self, layer: nn.Module, inputs: tuple) -> None:
        _stop_if_cancelled()
        self._back.close()  # left by a run that was interrupted: torch then calls no forward hook
        if not _is_elsewhere(layer):
            return
        own = dict(layer._parameters)
        weight, bias = self._back.enter_context(_cast_weights(layer, _device_of(inputs[0])))
        self._back.callback(layer._parameters.update, own)
        layer._parameters.update(weight=weight, bias=bias)

    def give_back(self, layer: nn.Module, inputs: tuple, output: object) -> None:
        self._back.close()


def _is_elsewhere(layer: nn.Module) -> bool:
    """Whether the manager keeps its weights on another device, or patches them while it runs."""
    return bool(layer.comfy_cast_weights or layer.weight_function or layer.bias_function)


@contextmanager
def _cast_weights(layer: nn.Module, device: torch.device) -> Iterator[tuple]:
    """Weight and bias on the device; handed back afterwards where the host streams them in (since late 2025)."""
    weight, bias = layer.get_parameter("weight"), layer._parameters["bias"]
    dtypes = {"dtype": weight.dtype, "bias_dtype": None if bias is None else bias.dtype}
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
