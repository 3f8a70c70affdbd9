"""The rows of the backend table for sparse operations, with the small problems they must agree on."""

from __future__ import annotations

import torch

from ..backends import Backend, Operation
from ..warp import unavailable_reason
from . import reference
from .bricks import trilinear_warp
from .tensor import Voxels

ATTENTION, SUBMANIFOLD_CONV, TRILINEAR = "attention", "submanifold_conv", "trilinear"


def _random_voxels(device: torch.device) -> Voxels:
    generator = torch.Generator().manual_seed(0)
    return Voxels.single(torch.rand(9, 9, 9, generator=generator).lt(0.3).nonzero().to(device))


def _randn(*shape: int, device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)


def _attention_example(device: torch.device) -> tuple:
    lengths = (70, 33)
    q, k, v = _randn(3, sum(lengths), 2, 64, device=device, dtype=torch.bfloat16)
    return q, k, v, lengths, lengths


def _conv_example(device: torch.device) -> tuple:
    voxels = _random_voxels(device)
    feats, weight, bias = (_randn(*shape, device=device) for shape in ((len(voxels), 8), (16, 3, 3, 3, 8), (16,)))
    return feats, voxels, weight, bias


def _trilinear_example(device: torch.device) -> tuple:
    voxels = _random_voxels(device)
    return _randn(len(voxels), 6, device=device), voxels, _randn(200, 3, device=device).abs() * 4


OPERATIONS = (
    Operation(
        ATTENTION,
        twin=reference.attention,
        example=_attention_example,
        tolerance=2e-2,  # bf16; torch's kernels lie within 3e-3 (in norm) of fp64 on an H200
    ),
    Operation(SUBMANIFOLD_CONV, twin=reference.submanifold_conv, example=_conv_example, tolerance=1e-3),
    Operation(
        TRILINEAR,
        (Backend("warp", trilinear_warp, unavailable_reason, ("cpu", "cuda")),),
        twin=reference.trilinear,
        example=_trilinear_example,
        tolerance=1e-5,
    ),
)
