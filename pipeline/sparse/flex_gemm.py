"""Sparse convolutions by FlexGEMM (github.com/JeffreyXiang/FlexGEMM, MIT), the package that Microsoft's code uses.

It needs Triton and a compiler at installation, and tunes its kernels at their first calls, for minutes where its cache
lacks the chip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .. import foreign, triton_launch
from ..backends import Backend
from . import reference
from .resample import Subdivision
from .tensor import Voxels

_NAME = "flex_gemm"


@dataclass
class _Neighbours:
    """What convolutions on one set of voxels share: the box that holds it, and what the first of them finds."""

    box: torch.Size  # (samples, 1, x, y, z)
    found: Any = None


def conv_row() -> Backend:
    """The row of the submanifold convolution."""
    return foreign.row(_NAME, _NAME, _load_conv, reference.submanifold_conv)


def child_conv_row() -> Backend:
    """The row of the convolution to a subdivision's children, which makes those that do not exist, too."""

    def load() -> Callable:
        conv = _load_conv()

        def child_conv(
            feats: torch.Tensor, subdivision: Subdivision, weight: torch.Tensor, bias: torch.Tensor | None
        ) -> torch.Tensor:
            return subdivision.channel_to_space(conv(feats, subdivision.parents, weight, bias))

        return child_conv

    return foreign.row(_NAME, _NAME, load, reference.child_conv)


def _load_conv() -> Callable:
    from flex_gemm.ops.spconv import sparse_submanifold_conv3d  # type: ignore[import-not-found]

    conv = triton_launch.explained(sparse_submanifold_conv3d)

    def submanifold_conv(
        feats: torch.Tensor, voxels: Voxels, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """As reference.submanifold_conv, which takes over in fp32: the package would multiply in TF32."""
        if feats.dtype.itemsize != 2 or len(feats) == 0:
            return reference.submanifold_conv(feats, voxels, weight, bias)
        neighbours = voxels.kept(_NAME, _neighbours)
        with foreign.default_stream(feats.device):
            # detached: it would else prepare for gradients, which nobody asks for here
            fields = feats.detach().contiguous(), voxels.coords.contiguous(), neighbours.box
            layer = weight.detach().contiguous(), None if bias is None else bias.detach()
            out, neighbours.found = conv(*fields, *layer, neighbours.found)
        return out

    return submanifold_conv


def _neighbours(voxels: Voxels) -> _Neighbours:
    samples, *sides = (voxels.coords.amax(0) + 1).tolist()
    return _Neighbours(torch.Size([samples, 1, *sides]))
