"""The rows of the backend table for sparse operations, with the small problems they must agree on."""

from __future__ import annotations

import torch

from .. import triton_launch
from ..backends import PLAIN, Backend, Operation
from ..warp import DEVICES, unavailable_reason
from . import attention_rows, flex_gemm, reference
from .bricks import trilinear_warp
from .resample import subdivide
from .tensor import Voxels

ATTENTION, SUBMANIFOLD_CONV, CHILD_CONV = "attention", "submanifold_conv", "child_conv"
ADD_TO_CHILDREN, TRILINEAR = "add_to_children", "trilinear"
_CONV_KERNELS = f"{__package__}.conv_kernels"
# The examples are in the precision that decoders have on a GPU. The reference rounds each of up to 27 products to fp16
# before it adds them in fp32, the kernel only the sum; on an H200 they differ by 4e-4 of the largest value.
_CONV_TOLERANCE = 2e-3


def _random_voxels(device: torch.device) -> Voxels:
    generator = torch.Generator().manual_seed(0)
    return Voxels.single(torch.rand(9, 9, 9, generator=generator).lt(0.3).nonzero().to(device))


def _randn(*shape: int, device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)


def _attention_example(device: torch.device) -> tuple:
    lengths = (70, 33)
    q, k, v = _randn(3, sum(lengths), 2, 64, device=device, dtype=torch.bfloat16)
    return q, k, v, lengths, lengths


def _conv_example(device: torch.device, c_out: int = 48) -> tuple:
    voxels = _random_voxels(device)
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    shapes = (len(voxels), 80), (c_out, 3, 3, 3, 80), (c_out,)
    feats, weight, bias = (_randn(*shape, device=device, dtype=dtype) for shape in shapes)
    return feats, voxels, weight, bias


def _child_conv_example(device: torch.device) -> tuple:
    feats, voxels, weight, bias = _conv_example(device, 8 * 24)
    occupied = torch.rand(len(voxels), 8, generator=torch.Generator().manual_seed(2)) < 0.5
    return feats, subdivide(voxels, occupied.to(device)), weight, bias


def _add_to_children_example(device: torch.device) -> tuple:
    slots = (torch.rand(40 * 8, generator=torch.Generator().manual_seed(3)) < 0.5).nonzero().squeeze(1)
    return _randn(len(slots), 12, device=device), _randn(40, 32, device=device), slots.to(device)


def _trilinear_example(device: torch.device) -> tuple:
    voxels = _random_voxels(device)
    return _randn(len(voxels), 6, device=device), voxels, _randn(200, 3, device=device).abs() * 4


OPERATIONS = (
    Operation(
        ATTENTION,
        (*attention_rows.preferred(), Backend(PLAIN, reference.attention), *attention_rows.on_request()),
        reference=reference.attention,
        example=_attention_example,
        tolerance=2e-2,  # bf16; torch's kernels lie within 3e-3 (in norm) of fp64 on an H200
    ),
    Operation(
        SUBMANIFOLD_CONV,
        (triton_launch.row(_CONV_KERNELS, "submanifold_conv", reference.submanifold_conv), flex_gemm.conv_row()),
        reference=reference.submanifold_conv,
        example=_conv_example,
        tolerance=_CONV_TOLERANCE,
    ),
    Operation(
        CHILD_CONV,
        (triton_launch.row(_CONV_KERNELS, "child_conv", reference.child_conv), flex_gemm.child_conv_row()),
        reference=reference.child_conv,
        example=_child_conv_example,
        tolerance=_CONV_TOLERANCE,
    ),
    Operation(
        ADD_TO_CHILDREN,
        (triton_launch.row(_CONV_KERNELS, "add_to_children", reference.add_to_children),),
        reference=reference.add_to_children,
        example=_add_to_children_example,
        tolerance=1e-6,
    ),
    Operation(
        TRILINEAR,
        (Backend("warp", trilinear_warp, unavailable_reason, DEVICES),),
        reference=reference.trilinear,
        example=_trilinear_example,
        tolerance=1e-5,
    ),
)
