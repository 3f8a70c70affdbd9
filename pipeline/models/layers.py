"""Layers shared by the networks, and their mixed precision: 16-bit torso, fp32 normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from ..backends import Backends
from ..sparse import OPERATIONS, SUBMANIFOLD_CONV, SparseTensor

PLAIN = Backends(OPERATIONS, {op.name: "torch" for op in OPERATIONS})  # what a model uses when nothing is handed down


_ROWS = 1 << 18


def by_rows(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """function(x) for a function of single rows, in blocks, so that what it makes on the way is small."""
    if len(x) <= _ROWS:
        return function(x)
    return torch.cat([function(rows) for rows in x.split(_ROWS)])


class LayerNorm(nn.LayerNorm):
    """Layer norm over the last dim in fp32, result in the input's dtype; eps 1e-6."""

    def __init__(self, channels: int, affine: bool = True) -> None:
        super().__init__(channels, eps=1e-6, elementwise_affine=affine)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.weight is None:  # torch's kernel already works in fp32 inside
            return super().forward(x)
        return super().forward(x.float()).to(x.dtype)


class SparseConv3d(nn.Module):
    """3 x 3 x 3 submanifold convolution; weight [Co, 3, 3, 3, Ci], kernel axes x, y, z."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, 3, 3, 3, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels))
        bound = 1 / math.sqrt(27 * in_channels)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: SparseTensor, backends: Backends) -> SparseTensor:
        conv = backends.pick(SUBMANIFOLD_CONV, x.feats.device)
        return x.replace(conv(x.feats, x.voxels, self.weight, self.bias))


def to_torso_dtype(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast linear and convolution layers; norms, gains and modulation offsets stay fp32."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv3d, SparseConv3d)):
            layer.to(dtype)


def final_norm(x: torch.Tensor) -> torch.Tensor:
    """Layer norm without affine (eps 1e-5): what the reference puts before every output layer."""
    return F.layer_norm(x, x.shape[-1:])
