"""Triton kernels for the operations of operations.py: one pass over the activations each, sums in fp32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from ..packing import Int8, signs
from ..triton_launch import launch
from .operations import by_rows
from .operations import norm_linear as reference_norm_linear

_FEW_OUTPUTS = 16  # which a row's sums give faster than a product
_ELEMENTS = 4096  # of a block
# Of a block of norms whose channels fill it (H200, decoder 1536: 197.5 ms; 198.8 with 4096, 197.7 with 8192).
_NORM_ELEMENTS = 2048
_EPS = 1e-6  # of norms, as in operations.py


@triton.jit(do_not_specialize=["rows", "scale_stride", "shift_stride"])
def _norm_kernel(
    x, scale, shift, out, rows, scale_stride, shift_stride, eps, CHANNELS: tl.constexpr,
    AFFINE: tl.constexpr, MODULATED: tl.constexpr, SILU: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """out = norm(x) * scale + shift, with MODULATED norm(x) * (1 + scale) + shift; row strides 0 or more."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    live = row < rows
    if CHANNELS != WIDTH:
        live = live & (column < CHANNELS)
    value = tl.load(x + row * CHANNELS + column, mask=live, other=0.0).to(tl.float32)
    value -= tl.sum(value, 1)[:, None] / CHANNELS
    if CHANNELS != WIDTH:
        value = tl.where(column < CHANNELS, value, 0.0)
    value *= tl.rsqrt(tl.sum(value * value, 1)[:, None] / CHANNELS + eps)
    if AFFINE:
        factor = tl.load(scale + row * scale_stride + column, mask=live, other=0.0).to(tl.float32)
        if MODULATED:
            factor += 1.0
        value = value * factor + tl.load(shift + row * shift_stride + column, mask=live, other=0.0).to(tl.float32)
    if SILU:
        value = value.to(out.dtype.element_ty).to(tl.float32)  # the norm's result is in the activations' dtype
        value *= tl.sigmoid(value)
    tl.store(out + row * CHANNELS + column, value.to(out.dtype.element_ty), mask=live)


def _norm(x, scale, shift, modulated: bool, silu: bool, over: bool = False) -> torch.Tensor:
    x = x.contiguous()
    out = x if over else torch.empty_like(x)  # a block of rows is read before it is written
    count, channels = x.shape
    if count == 0:
        return out
    width = triton.next_power_of_2(channels)
    rows = max(1, (_NORM_ELEMENTS if channels == width else _ELEMENTS) // width)
    strides = (0, 0) if scale is None else tuple(0 if each.ndim == 1 or len(each) == 1 else each.stride(0)
                                                 for each in (scale, shift))  # fmt: skip
    launch(_norm_kernel, (triton.cdiv(count, rows),),
        x, scale, shift, out, count, *strides, _EPS, CHANNELS=channels,
        AFFINE=scale is not None, MODULATED=modulated, SILU=silu, ROWS=rows, WIDTH=width, num_warps=4,
    )  # fmt: skip
    return out


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, silu: bool, over: bool = False
) -> torch.Tensor:
    """As operations.layer_norm."""
    return _norm(x, weight, bias, False, silu, over)


def modulated_norm(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """As operations.modulated_norm."""
    return _norm(x, scale, shift, True, False)


@triton.jit(do_not_specialize=["rows", "gate_stride"])
def _gate_kernel(x, y, gate, rows, channels, gate_stride, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """x += y * gate."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    live = (row < rows) & (column < channels)
    factor = tl.load(gate + row * gate_stride + column, mask=live, other=0.0).to(tl.float32)
    value = tl.load(x + row * channels + column, mask=live, other=0.0).to(tl.float32)
    value += tl.load(y + row * channels + column, mask=live, other=0.0).to(tl.float32) * factor
    tl.store(x + row * channels + column, value.to(x.dtype.element_ty), mask=live)


def gated_residual(x: torch.Tensor, y: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """As operations.gated_residual, in place."""
    x, y = x.contiguous(), y.contiguous()
    count, channels = x.shape
    stride = 0 if len(gate) == 1 else gate.stride(0)
    if count:
        width = triton.next_power_of_2(channels)
        rows = max(1, _ELEMENTS // width)
        launch(
            _gate_kernel,
            (triton.cdiv(count, rows),),
            x,
            y,
            gate,
            count,
            channels,
            stride,
            ROWS=rows,
            WIDTH=width,
            num_warps=8,
        )
    return x


@triton.jit(do_not_specialize=["stride"])
def _head_kernel(
    q, k, q_gamma, k_gamma, cos, sin, stride, heads, root,
    NORM: tl.constexpr, ROTATE: tl.constexpr, PAIRS: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """One token's queries (second program axis 0) or keys (1), in place: normalised per head, pairs of channels turned.

    q, k: [T, H, 2 PAIRS] whose rows lie `stride` apart. WIDTH and HEADS are PAIRS and H rounded up to powers of two.
    """
    token = tl.program_id(0).to(tl.int64)
    x, gamma = q, q_gamma
    if tl.program_id(1) == 1:
        x, gamma = k, k_gamma
    # read and written as whole rows; pairs of neighbouring channels are parted in registers
    head, channel = tl.arange(0, HEADS)[:, None], tl.arange(0, 2 * WIDTH)[None, :]
    live = (head < heads) & (channel < 2 * PAIRS)
    within = head * (2 * PAIRS) + channel
    value = tl.load(x + token * stride + within, mask=live, other=0.0).to(tl.float32)
    if NORM:
        length = tl.sqrt(tl.sum(value * value, 1))[:, None]
        value *= tl.load(gamma + within, mask=live, other=0.0).to(tl.float32) * (root / tl.maximum(length, 1e-12))
        value = value.to(x.dtype.element_ty).to(tl.float32)  # as the reference, whose norm ends in that dtype
    if ROTATE:
        pair = tl.arange(0, WIDTH)
        c = tl.load(cos + token * PAIRS + pair, mask=pair < PAIRS, other=0.0)[None, :]
        s = tl.load(sin + token * PAIRS + pair, mask=pair < PAIRS, other=0.0)[None, :]
        even, odd = tl.split(tl.reshape(value, (HEADS, WIDTH, 2)))
        value = tl.reshape(tl.join(even * c - odd * s, even * s + odd * c), (HEADS, 2 * WIDTH))
    tl.store(x + token * stride + within, value.to(x.dtype.element_ty), mask=live)


def _heads(q, k, q_gamma, k_gamma, cos, sin) -> None:
    tokens, heads, channels = q.shape
    if tokens:
        launch(_head_kernel, (tokens, 1 if k is None else 2),
            q, q if k is None else k, q_gamma, q_gamma if k is None else k_gamma, cos, sin,
            q.stride(0), heads, channels**0.5,
            NORM=q_gamma is not None, ROTATE=cos is not None, PAIRS=channels // 2,
            WIDTH=triton.next_power_of_2(channels // 2), HEADS=triton.next_power_of_2(heads), num_warps=4,
        )  # fmt: skip


def head_norm(x: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """As operations.head_norm, in place."""
    x = _rows(x)
    _heads(x, None, gamma.contiguous(), None, None, None)
    return x


def qk_rotary(
    q: torch.Tensor,
    k: torch.Tensor,
    q_gamma: torch.Tensor | None,
    k_gamma: torch.Tensor | None,
    cos: torch.Tensor,
    sin: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As operations.qk_rotary, in place."""
    q, k = _rows(q), _rows(k)
    if q.stride(0) != k.stride(0):
        q, k = q.contiguous(), k.contiguous()
    _heads(q, k, q_gamma, k_gamma, cos.contiguous(), sin.contiguous())
    return q, k


def _rows(x: torch.Tensor) -> torch.Tensor:
    """x [T, H, D] itself if each row is contiguous, as queries in the product of queries, keys and values are."""
    return x if x.stride()[1:] == (x.shape[2], 1) else x.contiguous()


@triton.jit(do_not_specialize=["count"])
def _mlp_kernel(
    x, h, gain, offset, first, first_bias, second, second_bias, count, hidden, eps,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """h = x + second(silu(first(norm(h)))) for a block of rows; the hidden channels never leave the chip."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = (row < count)[:, None]
    column = tl.arange(0, CHANNELS)
    at = row.to(tl.int64)[:, None] * CHANNELS + column[None, :]
    dtype = h.dtype.element_ty
    value = tl.load(h + at, mask=live, other=0.0).to(tl.float32)
    value -= tl.sum(value, 1)[:, None] / CHANNELS
    value *= tl.rsqrt(tl.sum(value * value, 1)[:, None] / CHANNELS + eps)
    normed = (value * tl.load(gain + column)[None, :] + tl.load(offset + column)[None, :]).to(dtype)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    step = tl.arange(0, STEP)
    for start in range(0, hidden, STEP):
        unit = start + step
        inner = tl.dot(normed, tl.load(first + unit[None, :] * CHANNELS + column[:, None]))  # [ROWS, STEP]
        inner = (inner + tl.load(first_bias + unit).to(tl.float32)[None, :]).to(dtype).to(tl.float32)
        inner = (inner * tl.sigmoid(inner)).to(dtype)
        total = tl.dot(inner, tl.load(second + column[None, :] * hidden + unit[:, None]), total)
    total = (total + tl.load(second_bias + column).to(tl.float32)[None, :]).to(dtype).to(tl.float32)
    total += tl.load(x + at, mask=live, other=0.0).to(tl.float32)
    tl.store(h + at, total.to(dtype), mask=live)


_MLP_CHANNELS = (64, 128)  # whose rows and sums fit a block's registers; wider ones are products of their own
# Of a block, and hidden channels at once. The fastest on an H200 (1.62 ms for 1.3 M rows of 128 channels, 128 rows and
# 64 hidden channels 1.85; within a hundredth of the best) that leaves room in the shared memory of smaller chips.
_MLP_ROWS, _MLP_STEP = 64, 32
# Of the wider ones' hidden channels; all rows at once would be the peak of a decoder's coarsest level.
_INNER_BYTES = 64 << 20
_INNER_ROWS = 4096  # at least, which keep a GPU busy


def residual_mlp(
    x: torch.Tensor,
    h: torch.Tensor,
    gain: torch.Tensor,
    offset: torch.Tensor,
    first: torch.Tensor,
    first_bias: torch.Tensor,
    second: torch.Tensor,
    second_bias: torch.Tensor,
) -> torch.Tensor:
    """As operations.residual_mlp, in place."""
    count, channels = x.shape
    hidden = len(first)
    x, h = x.contiguous(), h.contiguous()
    if channels not in _MLP_CHANNELS or x.dtype.itemsize != 2 or hidden % _MLP_STEP:

        def rows(x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
            inner = F.silu(F.linear(layer_norm(h, gain, offset, False), first, first_bias), inplace=True)
            return torch.add(x, F.linear(inner, second, second_bias), out=h)

        return by_rows(rows, x, h, size=max(_INNER_ROWS, _INNER_BYTES // (hidden * x.element_size())), out=h)
    if count:
        launch(_mlp_kernel, (triton.cdiv(count, _MLP_ROWS),),
            x, h, gain, offset, first, first_bias, second, second_bias, count, hidden, _EPS,
            CHANNELS=channels, ROWS=_MLP_ROWS, STEP=_MLP_STEP, num_warps=4, num_stages=3,
        )  # fmt: skip
    return h


@triton.jit(do_not_specialize=["rows"])
def _output_kernel(
    x, weight, bias, out, rows, channels, outputs, eps, ROWS: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """out = norm(x) weight^T + bias in fp32, for a handful of outputs."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, WIDTH)
    inside = column < channels
    value = tl.load(
        x + row[:, None] * channels + column[None, :], mask=(row < rows)[:, None] & inside[None, :], other=0.0
    )
    value = value.to(tl.float32)
    value = tl.where(inside[None, :], value - tl.sum(value, 1)[:, None] / channels, 0.0)
    value *= tl.rsqrt(tl.sum(value * value, 1)[:, None] / channels + eps)
    for number in range(outputs):
        factor = tl.load(weight + number * channels + column, mask=inside, other=0.0)
        answer = tl.sum(value * factor[None, :], 1) + tl.load(bias + number)
        tl.store(out + row * outputs + number, answer, mask=row < rows)


def norm_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """As operations.norm_linear."""
    if len(weight) > _FEW_OUTPUTS or weight.dtype != torch.float32:
        return reference_norm_linear(x, weight, bias)
    x = x.contiguous()
    out = x.new_empty(len(x), len(weight), dtype=torch.float32)
    if len(x):
        width = triton.next_power_of_2(x.shape[1])
        rows = max(1, _ELEMENTS // width)
        launch(
            _output_kernel,
            (triton.cdiv(len(x), rows),),
            x,
            weight,
            bias,
            out,
            len(x),
            x.shape[1],
            len(weight),
            1e-5,
            ROWS=rows,
            WIDTH=width,
            num_warps=4,
        )
    return out


@triton.jit(do_not_specialize=["rows"])
def _unpack_kernel(
    weight, scale, signs, out, rows, columns, factor,
    GROUP: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A block of weights: the int8 numbers of a group of columns times its signs, times the row's factor.

    Sums of int8 numbers are whole and exact in fp32; only the result is rounded.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = (row < rows)[:, None]
    first = tl.program_id(1) * WIDTH
    group = first // GROUP * GROUP
    at = row.to(tl.int64)[:, None] * columns
    column, depth = tl.arange(0, WIDTH), tl.arange(0, DEPTH)
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for k in range(0, GROUP, DEPTH):
        numbers = tl.load(weight + at + group + k + depth[None, :], mask=live, other=0).to(tl.float16)
        sign = tl.load(signs + (k + depth)[:, None] * GROUP + (first - group) + column[None, :])
        total = tl.dot(numbers, sign, total)
    total *= (tl.load(scale + row, mask=row < rows, other=0.0) * factor)[:, None]
    tl.store(out + at + first + column[None, :], total.to(out.dtype.element_ty), mask=live)


_UNPACK_ROWS, _UNPACK_WIDTH, _UNPACK_DEPTH = 64, 128, 64  # of a block: outputs, inputs, and inputs of a product


def unpack_int8(weight: torch.Tensor, scale: torch.Tensor, group: int, dtype: torch.dtype) -> torch.Tensor:
    """As operations.unpack_int8, without copies of the weights in other precisions."""
    if group < 16:  # which no product takes
        return Int8(group).unpack(weight, scale, dtype)
    rows, columns = weight.shape
    out = torch.empty(rows, columns, dtype=dtype, device=weight.device)
    width, depth = min(group, _UNPACK_WIDTH), min(group, _UNPACK_DEPTH)
    launch(_unpack_kernel, (triton.cdiv(rows, _UNPACK_ROWS), columns // width),
        weight.contiguous(), scale.to(weight.device).contiguous(), signs(group, weight.device, torch.float16), out,
        rows, columns, group**-0.5, GROUP=group, ROWS=_UNPACK_ROWS, WIDTH=width, DEPTH=depth, num_warps=4,
    )  # fmt: skip
    return out


def packed_linear(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, group: int
) -> torch.Tensor:
    """As operations.packed_linear."""
    return F.linear(x, unpack_int8(weight, scale, group, x.dtype), bias)
