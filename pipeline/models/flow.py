"""The flow transformers: dense (structure) and packed (shape and texture latents), one network.

DiT with one shared modulation plus a learned offset per block, 3D rotary positions, RMS-normalised
queries and keys, and cross-attention to image tokens (TRELLIS.2, arXiv 2512.14692).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from ..backends import Backends
from ..sparse import ATTENTION, SparseTensor
from .layers import PLAIN, LayerNorm, Linear, final_norm, to_torso_dtype
from .operations import GATED_RESIDUAL, HEAD_NORM, LINEAR_GELU, MODULATED_NORM, QK_ROTARY

Phases = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Context:
    """What the cross-attention of each block sees of a condition; the same for every step of a run.

    Either keys and values per block, each [B * L, H, D], or, for the all-zero condition, one [C] row per
    block: every key and value is then the bias, so attention returns the same vector for every token.
    """

    blocks: tuple
    lengths: tuple[int, ...] | None


class TimestepEmbedder(nn.Module):
    """[B] times (1000 t, fp32) -> [B, C] through 256 sinusoids and an MLP."""

    def __init__(self, channels: int, frequencies: int = 256) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(frequencies, channels), nn.SiLU(), nn.Linear(channels, channels))
        self.frequencies = frequencies

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        half = self.frequencies // 2
        steps = torch.arange(half, dtype=torch.float32, device=t.device)
        angles = t.float()[:, None] * torch.exp(-math.log(10000) * steps / half)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], 1))


class HeadRMSNorm(nn.Module):
    """x / |x| * sqrt(D) * gamma over the last dim of [T, H, D], in fp32."""

    def __init__(self, heads: int, head_channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(heads, head_channels))

    def forward(self, x: torch.Tensor, backends: Backends = PLAIN) -> torch.Tensor:
        return backends.pick(HEAD_NORM, x.device)(x, self.gamma)


def rotary_phases(xyz: torch.Tensor, head_channels: int, base: float, period: float) -> Phases:
    """cos and sin [T, D / 2] of each channel pair's rotation: a third of the pairs for each axis, the rest unrotated.

    Args:
        xyz: [T, 3] voxel coordinates.
        base, period: pair j of an axis turns by coordinate * base / period^(j / n).
    """
    per_axis = head_channels // 2 // 3
    j = torch.arange(per_axis, dtype=torch.float32, device=xyz.device)
    angles = (xyz.float()[:, :, None] * (base / period ** (j / per_axis))).flatten(1)
    angles = F.pad(angles, (0, head_channels // 2 - 3 * per_axis))
    return angles.cos(), angles.sin()


class SelfAttention(nn.Module):
    def __init__(self, channels: int, heads: int, rms_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = Linear(channels, 3 * channels)
        self.q_rms_norm = HeadRMSNorm(heads, channels // heads) if rms_norm else None
        self.k_rms_norm = HeadRMSNorm(heads, channels // heads) if rms_norm else None
        self.to_out = Linear(channels, channels)

    def forward(self, x: torch.Tensor, phases, lengths: tuple[int, ...], backends: Backends) -> torch.Tensor:
        q, k, v = self.to_qkv(x, backends).unflatten(-1, (3, self.heads, -1)).unbind(1)  # each [T, H, D]
        gammas = [None if norm is None else norm.gamma for norm in (self.q_rms_norm, self.k_rms_norm)]
        q, k = backends.pick(QK_ROTARY, x.device)(q, k, *gammas, *phases)
        return self.to_out(backends.pick(ATTENTION, x.device)(q, k, v, lengths, lengths).flatten(1), backends)


class CrossAttention(nn.Module):
    def __init__(self, channels: int, cond_channels: int, heads: int, rms_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = Linear(channels, channels)
        self.to_kv = Linear(cond_channels, 2 * channels)
        self.q_rms_norm = HeadRMSNorm(heads, channels // heads) if rms_norm else None
        self.k_rms_norm = HeadRMSNorm(heads, channels // heads) if rms_norm else None
        self.to_out = Linear(channels, channels)

    def keys_values(self, cond: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, L, Cc] -> keys and values, each [B * L, H, D]."""
        k, v = self.to_kv(cond).flatten(0, 1).unflatten(-1, (2, self.heads, -1)).unbind(1)
        return (k if self.k_rms_norm is None else self.k_rms_norm(k)), v

    def constant(self, device: torch.device | str) -> torch.Tensor:
        """[C]: the result for an all-zero condition."""
        zeros = torch.zeros(self.to_kv.in_features, dtype=self.to_kv.bias.dtype, device=device)
        return self.to_out(self.to_kv(zeros[None]).chunk(2, 1)[1])[0]

    def forward(self, x: torch.Tensor, context, lengths, cond_lengths, backends: Backends) -> torch.Tensor:
        q = self.to_q(x, backends).unflatten(-1, (self.heads, -1))
        if self.q_rms_norm is not None:
            q = self.q_rms_norm(q, backends)
        attended = backends.pick(ATTENTION, x.device)(q, *context, lengths, cond_lengths)
        return self.to_out(attended.flatten(1), backends)


class LinearGELU(nn.Linear):
    """A linear layer and the activation behind it, which a backend may do at once."""

    def forward(self, input: torch.Tensor, backends: Backends = PLAIN) -> torch.Tensor:
        return backends.pick(LINEAR_GELU, input.device)(input, self.weight, self.bias)


class FeedForward(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        # checkpoints count the activation as a layer
        self.mlp = nn.ModuleList([LinearGELU(channels, hidden), nn.Identity(), Linear(hidden, channels)])

    def forward(self, x: torch.Tensor, backends: Backends = PLAIN) -> torch.Tensor:
        first, _, second = self.mlp
        return second(first(x, backends), backends)


class Block(nn.Module):
    """Self-attention, cross-attention and MLP on packed tokens [T, C]."""

    def __init__(self, channels, cond_channels, heads, hidden, shared_modulation, rms_norm, rms_norm_cross) -> None:
        super().__init__()
        self.norm2 = LayerNorm(channels)  # those before self-attention and MLP have no parameters
        self.self_attn = SelfAttention(channels, heads, rms_norm)
        self.cross_attn = CrossAttention(channels, cond_channels, heads, rms_norm_cross)
        self.mlp = FeedForward(channels, hidden)
        if shared_modulation:
            self.modulation = nn.Parameter(torch.randn(6 * channels) / channels**0.5)
        else:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(channels, 6 * channels))
        self.shared_modulation = shared_modulation

    def forward(self, x, modulation, sample, context, phases, lengths, cond_lengths, backends) -> torch.Tensor:
        """modulation: [B, 6 C] shared, or the [B, C] time embedding; sample: [T] each token's, None if there is one;
        x and the result: [T, C], torso dtype."""
        if self.shared_modulation:
            modulation = (self.modulation + modulation).to(modulation.dtype)
        else:
            modulation = self.adaLN_modulation(modulation)
        if sample is not None:
            modulation = modulation.index_select(0, sample)  # its gradient is a sum, that of [] a sort
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation.chunk(6, 1)  # each [1 or T, C]
        modulated, gated = (backends.pick(op, x.device) for op in (MODULATED_NORM, GATED_RESIDUAL))
        h = modulated(x, scale_1, shift_1)
        x = gated(x, self.self_attn(h, phases, lengths, backends), gate_1)
        if isinstance(context, torch.Tensor):  # of the all-zero condition: what attention would return
            x = x + context
        else:
            x = x + self.cross_attn(self.norm2(x, backends), context, lengths, cond_lengths, backends)
        h = modulated(x, scale_2, shift_2)
        return gated(x, self.mlp(h, backends), gate_2)


class FlowTransformer(nn.Module):
    """Velocity of packed tokens at integer positions.

    Linear layers inside the blocks run in the torso dtype; input and output layers, time embedding,
    modulation and norms in fp32.
    """

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        model_channels: int,
        cond_channels: int,
        out_channels: int,
        num_blocks: int,
        num_heads: int | None = None,
        num_head_channels: int = 64,
        mlp_ratio: float = 4.0,
        rope_freq: tuple[float, float] = (1.0, 10000.0),
        dtype: torch.dtype = torch.float32,
        share_mod: bool = False,
        qk_rms_norm: bool = False,
        qk_rms_norm_cross: bool = False,
    ) -> None:
        super().__init__()
        heads = num_heads or model_channels // num_head_channels
        self.resolution, self.in_channels, self.out_channels = resolution, in_channels, out_channels
        self.head_channels, self.rope_freq, self.dtype = model_channels // heads, rope_freq, dtype
        self.t_embedder = TimestepEmbedder(model_channels)
        if share_mod:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(model_channels, 6 * model_channels))
        self.share_mod = share_mod
        self.input_layer = nn.Linear(in_channels, model_channels)
        hidden = int(model_channels * mlp_ratio)
        self.blocks = nn.ModuleList(
            Block(model_channels, cond_channels, heads, hidden, share_mod, qk_rms_norm, qk_rms_norm_cross)
            for _ in range(num_blocks)
        )
        self.out_layer = nn.Linear(model_channels, out_channels)
        to_torso_dtype(self.blocks, dtype)

    def _cross(self) -> Iterator[CrossAttention]:
        return (cast(Block, block).cross_attn for block in self.blocks)

    def context(self, cond: torch.Tensor) -> Context:
        """Keys and values of a condition [B, L, Cc] for every block; all the same length L."""
        cond = cond.to(self.dtype)
        lengths = (cond.shape[1],) * cond.shape[0]
        return Context(tuple(each.keys_values(cond) for each in self._cross()), lengths)

    def zero_context(self, device: torch.device | str) -> Context:
        """The context of the all-zero condition, whatever its length."""
        return Context(tuple(each.constant(device) for each in self._cross()), None)

    def tokens(self, x, t, context: Context, xyz, lengths: tuple[int, ...], backends: Backends) -> torch.Tensor:
        """Velocity of packed tokens.

        Args:
            x: [T, C_in] fp32.
            t: [B] fp32, 1000 times the time in 0-1.
            context: of a condition with B samples, or zero_context().
            xyz: [T, 3] positions.
            lengths: tokens of each sample.

        Returns:
            [T, C_out] fp32.
        """
        h = self.input_layer(x).to(self.dtype)
        modulation = self.t_embedder(t)
        if self.share_mod:
            modulation = self.adaLN_modulation(modulation)
        modulation = modulation.to(self.dtype)
        phases = rotary_phases(xyz, self.head_channels, *self.rope_freq)
        sample = None
        if len(lengths) > 1:
            sample = torch.repeat_interleave(torch.tensor(lengths, device=x.device), output_size=len(x))
        for block, seen in zip(self.blocks, context.blocks):
            h = block(h, modulation, sample, seen, phases, lengths, context.lengths, backends)
        return self.out_layer(final_norm(h.to(x.dtype)))


class SparseStructureFlowModel(FlowTransformer):
    """Velocity of a dense latent [B, C, R, R, R]."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, context: Context, backends: Backends = PLAIN) -> torch.Tensor:
        """x: [B, C_in, R, R, R] fp32 -> [B, C_out, R, R, R]; t and context as in `tokens`."""
        batch, shape = x.shape[0], x.shape[2:]
        axes = (torch.arange(size, device=x.device) for size in shape)
        xyz = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).repeat(batch, 1)
        packed = x.flatten(2).transpose(1, 2).flatten(0, 1)  # [B * R^3, C]
        lengths = (shape.numel(),) * batch
        v = self.tokens(packed, t, context, xyz, lengths, backends)
        return v.unflatten(0, (batch, -1)).transpose(1, 2).unflatten(2, shape)


class SLatFlowModel(FlowTransformer):
    """Velocity of a structured latent: features on voxels."""

    def forward(
        self,
        x: SparseTensor,
        t: torch.Tensor,
        context: Context,
        concat: torch.Tensor | None = None,
        backends: Backends = PLAIN,
    ) -> torch.Tensor:
        """Args: x with feats [T, C] fp32; concat [T, C'] is put behind them (C + C' = C_in). Returns [T, C_out]."""
        feats = x.feats if concat is None else torch.cat([x.feats, concat], 1)
        return self.tokens(feats, t, context, x.voxels.xyz, x.voxels.lengths, backends)
