"""ComfyUI's own attention (SageAttention, FlashAttention, xFormers, ... as it was started) as a backend row."""

from __future__ import annotations

import torch
from comfy.ldm.modules.attention import optimized_attention

from ...pipeline.backends import Backend


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, q_lengths: tuple[int, ...], k_lengths: tuple[int, ...]
) -> torch.Tensor:
    """As sparse.reference.attention."""
    results = []
    for one in zip(q.split(q_lengths), k.split(k_lengths), v.split(k_lengths)):
        dense = (x.transpose(0, 1)[None] for x in one)  # [1, H, L, D]
        result = optimized_attention(*dense, heads=q.shape[1], skip_reshape=True, skip_output_reshape=True)
        results.append(result[0].transpose(0, 1))
    return torch.cat(results)


COMFYUI = Backend("comfyui", _attention)
