"""Attention by packages that a user may have installed; torch's own needs none of them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import torch

from .. import foreign
from ..backends import Backend
from . import reference

# Below this many queries a sample torch's kernels are faster. H200, 12 heads of 128, bf16, TFLOP/s (2026-11-30):
# 4 k tokens 345 against 417, 19 k 692 against 622, 44 k 659 against 570.
_FLASH_4_TOKENS = 8192


def _dense(attend: Callable) -> Callable:
    """A kernel on [B, L, H, D] as reference.attention: equal samples in one call, others one by one; fp32 by torch."""

    def attention(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, q_lengths: tuple[int, ...], k_lengths: tuple[int, ...]
    ) -> torch.Tensor:
        if q.dtype.itemsize != 2:
            return reference.attention(q, k, v, q_lengths, k_lengths)
        if len(set(q_lengths)) == 1 and len(set(k_lengths)) == 1:
            out = attend(*(x.unflatten(0, (len(q_lengths), -1)) for x in (q, k, v)))  # [B, L, H, D]
            return (out[0] if isinstance(out, tuple) else out).flatten(0, 1)
        samples = zip(q.split(q_lengths), k.split(k_lengths), v.split(k_lengths))
        return torch.cat([attention(*one, (len(one[0]),), (len(one[1]),)) for one in samples])

    return attention


def _row(name: str, package: str, module: str, function: str, suits: Callable | None = None) -> Backend:
    def load() -> Callable:
        return _dense(getattr(import_module(module), function))

    return foreign.row(name, package, load, reference.attention, suits=suits)


def _many_tokens(q: torch.Tensor, *others) -> bool:
    return len(q) >= _FLASH_4_TOKENS * len(others[2])


def preferred() -> tuple[Backend, ...]:
    """Rows that come before torch's own where they suit. flash-attn-4 runs on Hopper and Blackwell."""
    return (_row("flash-attn-4", "flash-attn-4", "flash_attn.cute", "flash_attn_func", _many_tokens),)


def on_request() -> tuple[Backend, ...]:
    """Rows that run where they are asked for."""
    return (
        _row("flash-attn-3", "flash-attn-3", "flash_attn_interface", "flash_attn_func"),
        _row("flash-attn", "flash-attn", "flash_attn", "flash_attn_func"),
        _row("xformers", "xformers", "xformers.ops", "memory_efficient_attention"),
    )
