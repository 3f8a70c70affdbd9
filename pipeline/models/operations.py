"""Elementwise work between the products of the networks, as rows of the backend table: references and what fuses them.

On a GPU a third of a network's time goes into such passes over its activations when each is a kernel of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from itertools import chain, pairwise

import torch
import torch.nn.functional as F

from .. import triton_launch
from ..backends import Backend, Operation, lazy
from ..packing import Int8

LAYER_NORM, MODULATED_NORM, GATED_RESIDUAL = "layer_norm", "modulated_norm", "gated_residual"
HEAD_NORM, QK_ROTARY, LINEAR_GELU = "head_norm", "qk_rotary", "linear_gelu"
RESIDUAL_MLP, NORM_LINEAR, PACKED_LINEAR = "residual_mlp", "norm_linear", "packed_linear"
UNPACK_INT8 = "unpack_int8"
_KERNELS = f"{__package__}.fused_kernels"
_EPS = 1e-6  # of every norm before the last one
_ROWS = 1 << 18  # of a block of by_rows
_VECTORS = 64  # elements of torch's innermost step on a CPU at most: 4 vectors of 16 floats
_SHARE = 1 << 15  # elements for which torch takes one thread (at::internal::GRAIN_SIZE)


def by_rows(
    function: Callable[..., torch.Tensor],
    *tensors: torch.Tensor,
    size: int | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """function(*tensors) for a function of single rows, in blocks, so that what it makes on the way is small.

    Args:
        tensors: [T, ...], or of one row, which goes with every block.
        size: rows of a block; the last one has a quarter of them at least, as a product of very few rows may be added
            up in another order. None: blocks of one size, at most 2^18.
        out: what may take the result where no gradient is asked for; it may be one of the tensors.
    """
    count = len(tensors[0])
    size = size or -(-count // max(1, -(-count // _ROWS)))
    starts = list(range(0, count, max(1, size)))
    if len(starts) > 1 and count - starts[-1] < size // 4:
        starts.pop()
    if len(starts) < 2:
        return function(*tensors)
    blocks = [slice(*ends) for ends in pairwise((*starts, count))]
    calls = (function(*(each if len(each) == 1 else each[block] for each in tensors)) for block in blocks)
    if torch.is_grad_enabled():
        return torch.cat(list(calls))
    first = next(calls)
    whole = first.new_empty(count, *first.shape[1:]) if out is None else out
    calls = chain([first], calls)
    del first  # a block is let go when the next is made
    for block, rows in zip(blocks, calls):
        if rows.data_ptr() != whole[block].data_ptr():  # unless the function has worked in place
            whole[block] = rows
    return whole


def silu(x: torch.Tensor) -> torch.Tensor:
    """x sigmoid(x), each element's bits the same whatever else x holds, so that tiles of a level agree with the whole.

    torch computes what its vectors leave over at the end of each thread's share by another formula on a CPU; here
    every share is a whole number of them, filled up with zeros if need be.
    """
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return F.silu(x)
    flat, threads = x.reshape(-1), torch.get_num_threads()
    out = torch.empty(x.shape, dtype=x.dtype)
    shared = len(flat) // (_VECTORS * threads) * _VECTORS * threads if len(flat) >= _SHARE * threads else 0
    flat_out = out.view(-1)
    if shared:
        torch.ops.aten.silu.out(flat[:shared], out=flat_out[:shared])
    for first in range(shared, len(flat), _SHARE):
        piece = flat[first : first + _SHARE]
        flat_out[first : first + _SHARE] = F.silu(F.pad(piece, (0, -len(piece) % _VECTORS)))[: len(piece)]
    return out


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, activate: bool, over: bool = False
) -> torch.Tensor:
    """Layer norm over the last dim of x [T, C] in fp32, result in x's dtype; if asked for, SiLU behind it.

    weight, bias: [C], or None for a norm without an affine part. over: whether x may be overwritten.
    """

    def rows(x: torch.Tensor) -> torch.Tensor:
        if weight is None:  # torch's kernel already works in fp32 inside
            y = F.layer_norm(x, x.shape[-1:], eps=_EPS)
        else:
            y = F.layer_norm(x.float(), x.shape[-1:], weight, bias, _EPS).to(x.dtype)
        return silu(y) if activate else y

    return by_rows(rows, x, out=x if over else None)


def modulated_norm(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """layer_norm(x) * (1 + scale) + shift; x [T, C], scale and shift [1 or T, C] in x's dtype."""
    return layer_norm(x, None, None, False) * (1 + scale) + shift


def gated_residual(x: torch.Tensor, y: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """x + y * gate; x and y [T, C], gate [1 or T, C], all of one dtype. x may be overwritten where no gradient is asked
    for."""
    return x + y * gate


def head_norm(x: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """x / |x| * sqrt(D) * gamma over the last dim of x [T, H, D], in fp32, result in x's dtype; gamma [H, D].

    x may be overwritten where no gradient is asked for.
    """
    return (F.normalize(x.float(), dim=-1) * gamma * x.shape[-1] ** 0.5).to(x.dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn neighbouring channel pairs of x [T, H, D] by the angles of cos and sin [T, D / 2], in fp32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)  # each [T, H, D / 2]
    cos, sin = cos[:, None, :], sin[:, None, :]  # each [T, 1, D / 2]
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1)  # [T, H, D / 2, 2]
    return turned.flatten(-2).to(x.dtype)  # [T, H, D]


def qk_rotary(
    q: torch.Tensor,
    k: torch.Tensor,
    q_gamma: torch.Tensor | None,
    k_gamma: torch.Tensor | None,
    cos: torch.Tensor,
    sin: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys [T, H, D] normalised per head (gammas [H, D], or None for no norm) and turned as by `rotate`.

    Both may be overwritten where no gradient is asked for.
    """
    if q_gamma is not None:
        q = head_norm(q, q_gamma)
    if k_gamma is not None:
        k = head_norm(k, k_gamma)
    return rotate(q, cos, sin), rotate(k, cos, sin)


def linear_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """gelu(x weight^T + bias) with the tanh approximation; x [T, Ci], weight [Co, Ci], bias [Co]."""
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


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
    """x + second(silu(first(layer_norm(h)))); x and h [T, C], gain and offset [C] fp32, first [H, C], second [C, H].

    h may be overwritten where no gradient is asked for.
    """

    def rows(x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        inner = silu(F.linear(layer_norm(h, gain, offset, False), first, first_bias))
        return x + F.linear(inner, second, second_bias)

    return by_rows(rows, x, h, out=h)


def norm_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Layer norm without affine part (eps 1e-5) and a linear layer, both in the weights' dtype; x [T, C]."""
    return by_rows(lambda x: F.linear(F.layer_norm(x.to(weight.dtype), x.shape[-1:]), weight, bias), x)


def unpack_int8(weight: torch.Tensor, scale: torch.Tensor, group: int, dtype: torch.dtype) -> torch.Tensor:
    """The weights [Co, Ci] in dtype of int8 numbers [Co, Ci] with factors [Co, 1], rotated in groups of columns."""
    return Int8(group).unpack(weight, scale, dtype)


def packed_linear(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, group: int
) -> torch.Tensor:
    """x [T, Ci] through a linear layer of int8 weights [Co, Ci] with factors [Co, 1], rotated in groups of columns."""
    return F.linear(x, Int8(group).unpack(weight, scale, x.dtype), bias)


def _kitchen_row() -> Backend:
    """comfy-kitchen's product of int8 numbers, which rounds x to 8 bits as well: ComfyUI's own, faster, less exact."""
    if find_spec("comfy_kitchen") is None:
        return Backend("comfy_kitchen", None, "the package comfy-kitchen, which ComfyUI brings, is not installed.")

    def load() -> Callable:
        from comfy_kitchen import int8_linear

        def linear(x, weight, scale, bias, group):
            return int8_linear(x, weight, scale, bias, x.dtype, convrot=group > 0, convrot_groupsize=group or 256)

        return linear

    return Backend("comfy_kitchen", lazy(load, packed_linear))


def _cublaslt_linear_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """As linear_gelu, the activation in the product's epilogue."""
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return linear_gelu(x, weight, bias)
    return torch.ops.aten._addmm_activation(bias, x, weight.t(), use_gelu=True)


def _epilogue() -> Backend:
    name, missing = "cublaslt", "this torch has no product with an activation in its epilogue."
    if torch.version.hip or not hasattr(torch, "_addmm_activation"):
        return Backend(name, None, missing)
    return Backend(name, _cublaslt_linear_gelu, devices=("cuda",))


def _random(device: torch.device, *shapes: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    dtype = torch.float32 if device.type == "cpu" else dtype
    return [torch.randn(*shape, generator=generator).to(device, dtype) for shape in shapes]


def _angles(device: torch.device, rows: int, pairs: int) -> list[torch.Tensor]:
    angle = torch.randn(rows, pairs, generator=torch.Generator().manual_seed(6)).to(device)
    return [angle.cos(), angle.sin()]


def _heads(device: torch.device) -> list[torch.Tensor]:
    qkv = _random(device, (70, 3, 3, 64))[0]
    return [*qkv.unbind(1)[:2], *(gamma.float() for gamma in _random(device, (3, 64), (3, 64)))]


def _mlp_example(device: torch.device) -> tuple:
    tensors = _random(
        device, (300, 64), (300, 64), (64,), (64,), (128, 64), (128,), (64, 128), (64,), dtype=torch.float16
    )
    x, h, gain, offset, first, *rest = tensors
    return x, h, gain.float(), offset.float(), first / 8, *rest


def _norm_linear_example(device: torch.device) -> tuple:
    x, weight, bias = _random(device, (70, 96), (7, 96), (7,), dtype=torch.float16)
    return x, weight.float(), bias.float()


def _packed_example(device: torch.device) -> tuple:
    x, bias = _random(device, (70, 512), (96,))
    weight, scale = Int8(256).pack(torch.randn(96, 512, generator=torch.Generator().manual_seed(7)))
    return x, weight.to(device), scale.to(device), bias, 256


def _unpack_example(device: torch.device) -> tuple:
    _, weight, scale, _, group = _packed_example(device)
    return weight, scale, group, torch.float32 if device.type == "cpu" else torch.bfloat16


def _norm_example(device: torch.device) -> list[torch.Tensor]:
    x, weight, bias = _random(device, (70, 96), (96,), (96,))
    return [x, weight.float(), bias.float()]


def _operation(name: str, reference, example, tolerance: float = 2e-2, row: Backend | None = None) -> Operation:
    """bf16 rounds to 4e-3 of a value; the references round up to four times on the way, the kernels once."""
    row = row or triton_launch.row(_KERNELS, name, reference)
    return Operation(name, (row,), reference=reference, example=example, tolerance=tolerance)


OPERATIONS = (
    _operation(LAYER_NORM, layer_norm, lambda device: (*_norm_example(device), True)),
    _operation(MODULATED_NORM, modulated_norm, lambda device: tuple(_random(device, (70, 96), (1, 96), (1, 96)))),
    _operation(GATED_RESIDUAL, gated_residual, lambda device: tuple(_random(device, (70, 96), (70, 96), (1, 96)))),
    _operation(HEAD_NORM, head_norm, lambda device: tuple(_heads(device)[i] for i in (0, 2))),
    _operation(QK_ROTARY, qk_rotary, lambda device: (*_heads(device), *_angles(device, 70, 32))),
    _operation(
        LINEAR_GELU, linear_gelu, lambda device: tuple(_random(device, (64, 32), (48, 32), (48,))), row=_epilogue()
    ),
    _operation(RESIDUAL_MLP, residual_mlp, _mlp_example, 4e-3),
    _operation(NORM_LINEAR, norm_linear, _norm_linear_example, 1e-5),
    _operation(UNPACK_INT8, unpack_int8, _unpack_example, 1e-2),
    # the exact rows first: the other one has to be chosen
    Operation(
        PACKED_LINEAR,
        (
            triton_launch.row(_KERNELS, PACKED_LINEAR, packed_linear),
            Backend("torch", packed_linear),
            _kitchen_row(),
        ),
        packed_linear,
        _packed_example,
        3e-2,
    ),
)
