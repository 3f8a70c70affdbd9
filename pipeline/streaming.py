"""Weights that stay in main memory and come to the device one layer at a time, for devices too small for a network.

The products are those of weights on the device, to the bit; what it costs is the way there, at every pass again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_LARGE = 1 << 20  # bytes of a weight from which on it stays behind; gains, norms and the like are on the device


def streamed(model: nn.Module, device: torch.device) -> nn.Module:
    """Have a model's large weights brought to a device while their layer runs; everything else moves there now.

    model: whose weights are in main memory, or that has been made so before (nothing happens then). Layers that others
    read (see models.layers.weights_of) get `fetch_weights`, as hosts give it to them.
    """
    if vars(model).get("streamed_to") == device:
        return model
    for layer in model.modules():
        own = dict(layer._parameters)
        weight = own.get("weight")
        large = (
            weight is not None and weight.numel() * weight.element_size() >= _LARGE and set(own) <= {"weight", "bias"}
        )
        if large:
            visit = _Visit(device)
            layer.register_forward_pre_hook(visit.bring)
            layer.register_forward_hook(visit.take_back, always_call=True)
            vars(layer)["fetch_weights"] = visit.fetch
        for name, tensor in own.items():
            if tensor is not None and not (large and name == "weight"):
                tensor.data = tensor.data.to(device)
        for name, tensor in layer._buffers.items():
            if tensor is not None:
                layer._buffers[name] = tensor.to(device)
    vars(model)["streamed_to"] = device
    return model


class _Visit:
    """Hooks of one layer: its weight is on the device between them."""

    def __init__(self, device: torch.device) -> None:
        self._device: torch.device = device
        self._home: nn.Parameter | None = None

    def bring(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        home = self._home if self._home is not None else layer._parameters["weight"]  # of a run that an interrupt ended
        assert home is not None  # the hooks are those of layers with a weight
        self._home = home
        layer._parameters["weight"] = nn.Parameter(self._copy(home), requires_grad=False)

    def take_back(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        layer._parameters["weight"], self._home = self._home, None

    def fetch(self, layer: nn.Module, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight and bias on the device, for operations that take those of several layers at once."""
        return self._copy(layer.get_parameter("weight")), layer._parameters["bias"]

    def _copy(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.detach().to(self._device, copy=True)
