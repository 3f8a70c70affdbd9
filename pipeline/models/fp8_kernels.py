"""MLPs whose products are of 8-bit floats, a factor for each row, for speeds that trade exactness; from sm89 on."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..triton_launch import launch
from .operations import fast_mlp as reference

_LARGEST = 448.0  # of float8_e4m3fn


@triton.jit
def _quantise_kernel(x, out, scale, channels, largest, GELU: tl.constexpr, WIDTH: tl.constexpr):
    """A row over its factor, which is its largest size / `largest`; with GELU that of gelu(x), tanh approximation."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    inside = column < channels
    value = tl.load(x + row * channels + column, mask=inside, other=0.0).to(tl.float32)
    if GELU:
        value *= tl.sigmoid(1.5957691216057308 * (value + 0.044715 * value * value * value))
    factor = tl.maximum(tl.max(tl.abs(value), 0), 1e-12) / largest
    tl.store(out + row * channels + column, (value / factor).to(out.dtype.element_ty), mask=inside)
    tl.store(scale + row, factor)


def _quantised(x: torch.Tensor, gelu: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """[T, C] -> float8_e4m3fn [T, C] and the factors [T, 1] fp32."""
    x = x.contiguous()
    out = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(len(x), 1, device=x.device)
    launch(
        _quantise_kernel, (len(x),), x, out, scale, x.shape[1], _LARGEST,
        GELU=gelu, WIDTH=triton.next_power_of_2(x.shape[1]), num_warps=8,
    )  # fmt: skip
    return out, scale


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gelu: bool) -> torch.Tensor:
    """x weight^T + bias in bf16, of gelu(x) if asked for."""
    (a, a_scale), (b, b_scale) = _quantised(x, gelu), _quantised(weight)
    scales = {"scale_a": a_scale, "scale_b": b_scale.view(1, -1)}
    return torch._scaled_mm(a, b.t(), **scales, bias=bias, out_dtype=torch.bfloat16, use_fast_accum=True)


def fast_mlp(
    h: torch.Tensor,
    first: torch.Tensor,
    first_bias: torch.Tensor,
    second: torch.Tensor,
    second_bias: torch.Tensor,
) -> torch.Tensor:
    """As operations.fast_mlp, for bf16; other dtypes and sizes that are no multiples of 16 by the reference."""
    if h.dtype != torch.bfloat16 or len(h) == 0 or any(size % 16 for size in first.shape):
        return reference(h, first, first_bias, second, second_bias)
    hidden = _product(h, first, first_bias, False)
    return _product(hidden, second, second_bias, True)
