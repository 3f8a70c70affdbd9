"""Layers shared by the networks, and their mixed precision: 16-bit torso, fp32 normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import nn

from .. import sparse
from ..backends import Backends, References
from ..sparse import CHILD_CONV, SUBMANIFOLD_CONV, SparseTensor, Subdivision
from .operations import LAYER_NORM, NORM_LINEAR, OPERATIONS, RESIDUAL_MLP

PLAIN = References((*sparse.OPERATIONS, *OPERATIONS))  # what a model uses if nothing is handed down


class LayerNorm(nn.LayerNorm):
    """Layer norm over the last dim in fp32, result in the input's dtype; eps 1e-6."""

    def __init__(self, channels: int, affine: bool = True) -> None:
        super().__init__(channels, eps=1e-6, elementwise_affine=affine)

    def forward(
        self, input: torch.Tensor, backends: Backends = PLAIN, silu: bool = False, over: bool = False
    ) -> torch.Tensor:
        """input [T, C]; with silu that activation behind the norm; with over the input may be overwritten."""
        return backends.pick(LAYER_NORM, input.device)(input, self.weight, self.bias, silu, over)


class Linear(nn.Linear):
    """A linear layer that is handed the table of operations, which its packed form uses (see packed.py)."""

    def forward(self, input: torch.Tensor, backends: Backends = PLAIN) -> torch.Tensor:
        return super().forward(input)

    def prepared(self, device: torch.device, backends: Backends) -> Callable[[torch.Tensor], torch.Tensor]:
        """The layer as a function for several calls in a row, for which its weights are brought once."""
        weight, bias = weights_of(self, device, backends)
        return lambda x: F.linear(x, weight, bias)


class SparseConv3d(nn.Module):
    """3 x 3 x 3 submanifold convolution; weight [Co, 3, 3, 3, Ci], kernel axes x, y, z."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, 3, 3, 3, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels))
        bound = 1 / math.sqrt(27 * in_channels)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: SparseTensor, backends: Backends, subdivision: Subdivision | None = None) -> SparseTensor:
        """[T, Ci] -> [T, Co]; with a subdivision of its voxels [T', Co / 8] on their children, each its octant's."""
        if subdivision is None:
            conv = backends.pick(SUBMANIFOLD_CONV, x.feats.device)
            return x.replace(conv(x.feats, x.voxels, self.weight, self.bias))
        conv = backends.pick(CHILD_CONV, x.feats.device)
        return SparseTensor(subdivision.children, conv(x.feats, subdivision, self.weight, self.bias))


class _Weighted(Protocol):
    @property
    def weight(self) -> torch.Tensor: ...

    @property
    def bias(self) -> torch.Tensor: ...


def weights_of(layer: _Weighted, device: torch.device, backends: Backends = PLAIN) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a layer on a device, for operations that take those of several layers at once.

    A host that keeps weights elsewhere gives its layers `fetch_weights(layer, device)` as an attribute; layers whose
    weights are packed have a method `unpack`.
    """
    fetch, unpack = getattr(layer, "fetch_weights", None), getattr(layer, "unpack", None)
    weight, bias = (layer.weight, layer.bias) if fetch is None else fetch(layer, device)
    return weight if unpack is None else unpack(weight, backends), bias


class ResidualMLP(nn.ModuleList):
    """[T, C] plus two linear layers of a normalised [T, C], SiLU between them; the layer between has no parameters."""

    def __init__(self, channels: int, hidden: int) -> None:
        # checkpoints count the activation as a layer
        super().__init__([Linear(channels, hidden), nn.Identity(), Linear(hidden, channels)])

    def forward(self, x: torch.Tensor, h: torch.Tensor, norm: LayerNorm, backends: Backends) -> torch.Tensor:
        """x + mlp(norm(h)); h may be overwritten where no gradient is asked for."""
        layers = (norm, cast(Linear, self[0]), cast(Linear, self[2]))
        tensors = [tensor for layer in layers for tensor in weights_of(layer, x.device, backends)]
        return backends.pick(RESIDUAL_MLP, x.device)(x, h, *tensors)


class NormLinear(nn.Linear):
    """The last layer norm, without affine part, and a linear layer; both in the layer's own dtype."""

    def forward(self, input: torch.Tensor, backends: Backends = PLAIN) -> torch.Tensor:
        return backends.pick(NORM_LINEAR, input.device)(input, self.weight, self.bias)


def to_torso_dtype(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast linear and convolution layers; norms, gains and modulation offsets stay fp32."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv3d, SparseConv3d)):
            layer.to(dtype)


def final_norm(x: torch.Tensor) -> torch.Tensor:
    """Layer norm without affine (eps 1e-5): what the reference puts before every output layer."""
    return F.layer_norm(x, x.shape[-1:])
