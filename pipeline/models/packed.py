"""Linear layers whose weights stay quantised in memory and are unpacked when the layer runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from ..backends import Backends
from ..packing import Int8, Packing
from .flow import LinearGELU, prepared_gelu
from .layers import PLAIN, Linear, weights_of
from .operations import LINEAR_GELU, PACKED_LINEAR, UNPACK_INT8


class PackedLinear(nn.Linear):
    """A linear layer with its weight as the file stores it.

    `weight` is the stored tensor, so that a host moves what is small; `weight_scale` [out, 1] fp32 are the factors of
    its rows, None for formats that have none.
    """

    weight_scale: torch.Tensor | None

    def __init__(self, layer: nn.Linear, packing: Packing) -> None:
        """layer: the one that it replaces, on any device, for its sizes and its dtype."""
        nn.Module.__init__(self)  # nn.Linear's own makes a floating-point weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.packing, self.dtype = packing, layer.weight.dtype
        stored = packing.stored(tuple(layer.weight.shape))
        place = layer.weight.device
        self.weight = nn.Parameter(torch.empty(stored, dtype=packing.dtype, device=place), requires_grad=False)
        self.register_parameter("bias", layer.bias)
        scale = torch.empty(layer.out_features, 1, device=place) if packing.scaled else None
        self.register_buffer("weight_scale", scale)

    def unpack(self, weight: torch.Tensor, backends: Backends = PLAIN) -> torch.Tensor:
        """A stored weight -> [out, in] in the layer's dtype."""
        if not isinstance(self.packing, Int8) or self.weight_scale is None:
            return self.packing.unpack(weight, self.weight_scale, self.dtype)
        scale = self.weight_scale.to(weight.device)
        return backends.pick(UNPACK_INT8, weight.device)(weight, scale, self.packing.group, self.dtype)

    def forward(self, input: torch.Tensor, backends: Backends = PLAIN) -> torch.Tensor:
        if not isinstance(self.packing, Int8) or self.weight_scale is None:
            return F.linear(input, self.unpack(self.weight, backends), self.bias)
        linear = backends.pick(PACKED_LINEAR, input.device)
        scale = self.weight_scale.to(input.device)
        return linear(input, self.weight, scale, self.bias, self.packing.group)

    def prepared(self, device: torch.device, backends: Backends) -> Callable[[torch.Tensor], torch.Tensor]:
        """As Linear.prepared: unpacked once, unless a row of the product with stored weights is chosen."""
        if PACKED_LINEAR in backends.choices:
            return lambda x: self(x, backends)
        weight, bias = weights_of(self, device, backends)
        return lambda x: F.linear(x, weight, bias)


class PackedLinearGELU(PackedLinear):
    """As LinearGELU."""

    def forward(self, input: torch.Tensor, backends: Backends = PLAIN) -> torch.Tensor:
        return backends.pick(LINEAR_GELU, input.device)(input, self.unpack(self.weight, backends), self.bias)

    def prepared(self, device: torch.device, backends: Backends) -> Callable[[torch.Tensor], torch.Tensor]:
        """As LinearGELU.prepared."""
        return prepared_gelu(self, device, backends)


_PACKED = {Linear: PackedLinear, LinearGELU: PackedLinearGELU}


def pack(model: nn.Module, packings: Mapping[str, Packing]) -> nn.Module:
    """Give the layers of these names packed ones in their place; layers of other kinds stay as they are, and what
    reads their weights unpacks them."""
    for name, packing in packings.items():
        layer = model.get_submodule(name)
        if isinstance(layer, nn.Linear) and type(layer) in _PACKED and packing.fits(tuple(layer.weight.shape)):
            home, _, own = name.rpartition(".")
            setattr(model.get_submodule(home), own, _PACKED[type(layer)](layer, packing))
    return model
