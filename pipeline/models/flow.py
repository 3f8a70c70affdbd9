"""The flow transformers: dense (structure) and packed (shape and texture latents), one network.

DiT with one shared modulation plus a learned offset per block, 3D rotary positions, RMS-normalised
queries and keys, and cross-attention to image tokens (TRELLIS.2, arXiv 2512.14692).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from ..backends import Backends
from ..sparse import ATTENTION, SparseTensor
from .layers import PLAIN, LayerNorm, Linear, final_norm, to_torso_dtype, weights_of
from .operations import GATED_RESIDUAL, HEAD_NORM, LINEAR_GELU, MODULATED_NORM, QK_ROTARY, by_rows

Phases = tuple[torch.Tensor, torch.Tensor]
_AGAIN = 0.01  # of a pass: what keys and values of a condition may cost that are made at each pass and not kept
_TILES = 4  # of 128 x 256 results that each multiprocessor gets of a product in a block of rows


@dataclass(frozen=True)
class Context:
    """What the cross-attention of each block sees of a condition; the same for every step of a run.

    For each block keys and values, each [B * L, H, D]; or the condition [B, L, Cc] itself, of which the block makes
    them at each pass; or, for the all-zero condition (lengths None), one [C] row: every key and value is then the bias,
    so attention returns the same vector for every token.
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
        angles = t.float()[:, None] * torch.exp(-math.log(10000) * steps / half)  # [B, half]
        return self.mlp(torch.cat([angles.cos(), angles.sin()], 1))  # [B, 2 half] -> [B, C]


class HeadRMSNorm(nn.Module):
    """x over |x| * sqrt(D) * gamma over the last dim of [T, H, D], in fp32; without gradients x may be overwritten."""

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
    angles = (xyz.float()[:, :, None] * (base / period ** (j / per_axis))).flatten(1)  # [T, 3 n]
    angles = F.pad(angles, (0, head_channels // 2 - 3 * per_axis))  # [T, D / 2]
    return angles.cos(), angles.sin()


class SelfAttention(nn.Module):
    def __init__(self, channels: int, heads: int, rms_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = Linear(channels, 3 * channels)
        self.q_rms_norm = HeadRMSNorm(heads, channels // heads) if rms_norm else None
        self.k_rms_norm = HeadRMSNorm(heads, channels // heads) if rms_norm else None
        self.to_out = Linear(channels, channels)

    def forward(self, x, scale, shift, phases, lengths: tuple[int, ...], backends: Backends) -> torch.Tensor:
        """Of norm(x) * (1 + scale) + shift, which is made here so that the product is all that holds it."""
        modulated = backends.pick(MODULATED_NORM, x.device)
        qkv = self.to_qkv(modulated(x, scale, shift), backends)  # [T, 3 C]
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(1)  # each [T, H, D]
        del qkv
        gammas = [None if norm is None else norm.gamma for norm in (self.q_rms_norm, self.k_rms_norm)]
        q, k = backends.pick(QK_ROTARY, x.device)(q, k, *gammas, *phases)
        attended = backends.pick(ATTENTION, x.device)(q, k, v, lengths, lengths)
        del q, k, v
        return self.to_out(attended.flatten(1), backends)  # [T, H, D] -> [T, C]


class CrossAttention(nn.Module):
    def __init__(self, channels: int, cond_channels: int, heads: int, rms_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = Linear(channels, channels)
        self.to_kv = Linear(cond_channels, 2 * channels)
        self.q_rms_norm = HeadRMSNorm(heads, channels // heads) if rms_norm else None
        self.k_rms_norm = HeadRMSNorm(heads, channels // heads) if rms_norm else None
        self.to_out = Linear(channels, channels)

    def keys_values(self, cond: torch.Tensor, backends: Backends = PLAIN) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, L, Cc] -> keys and values, each [B * L, H, D]."""
        both = self.to_kv(cond, backends).flatten(0, 1)  # [B * L, 2 C]
        k, v = both.unflatten(-1, (2, self.heads, -1)).unbind(1)  # each [B * L, H, D]
        return (k if self.k_rms_norm is None else self.k_rms_norm(k, backends)), v

    def constant(self, device: torch.device | str) -> torch.Tensor:
        """[C]: the result for an all-zero condition."""
        zeros = torch.zeros(self.to_kv.in_features, dtype=self.to_kv.bias.dtype, device=device)
        return self.to_out(self.to_kv(zeros[None]).chunk(2, 1)[1])[0]  # [1, 2 C] -> values [1, C] -> [C]

    def forward(self, x: torch.Tensor, norm: LayerNorm, context, lengths, cond_lengths, backends) -> torch.Tensor:
        """Of norm(x); context: keys and values, or the condition."""
        q = self.to_q(norm(x, backends), backends).unflatten(-1, (self.heads, -1))  # [T, H, D]
        if self.q_rms_norm is not None:
            q = self.q_rms_norm(q, backends)
        k, v = self.keys_values(context, backends) if isinstance(context, torch.Tensor) else context
        attended = backends.pick(ATTENTION, x.device)(q, k, v, lengths, cond_lengths)
        del q, k, v
        return self.to_out(attended.flatten(1), backends)  # [T, H, D] -> [T, C]


class LinearGELU(nn.Linear):
    """A linear layer and the activation behind it, which a backend may do at once."""

    def forward(self, input: torch.Tensor, backends: Backends = PLAIN) -> torch.Tensor:
        return backends.pick(LINEAR_GELU, input.device)(input, self.weight, self.bias)

    def prepared(self, device: torch.device, backends: Backends) -> Callable[[torch.Tensor], torch.Tensor]:
        """As Linear.prepared."""
        return prepared_gelu(self, device, backends)


def prepared_gelu(layer: nn.Linear, device: torch.device, backends: Backends) -> Callable[[torch.Tensor], torch.Tensor]:
    """A linear layer and the activation as a function, as Linear.prepared."""
    weight, bias = weights_of(layer, device, backends)
    return lambda x: backends.pick(LINEAR_GELU, device)(x, weight, bias)


@cache
def block_rows(device: torch.device, channels: int) -> int:
    """Rows of a block of an MLP, so that a product to `channels` fills the multiprocessors as without blocks."""
    if device.type != "cuda":
        return 1 << 14
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    return max(4096, 128 * (_TILES * multiprocessors // -(-channels // 256)))


class FeedForward(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        # checkpoints count the activation as a layer
        self.mlp = nn.ModuleList([LinearGELU(channels, hidden), nn.Identity(), Linear(hidden, channels)])

    def forward(self, x, scale, shift, gate, backends: Backends) -> torch.Tensor:
        """x + gate * mlp(norm(x) * (1 + scale) + shift), in blocks of rows: the hidden channels are the most of all.

        x: [T, C], overwritten where no gradient is asked for; scale, shift, gate: [1 or T, C].
        """
        layers, size = (cast(Linear, self.mlp[0]), cast(Linear, self.mlp[2])), block_rows(x.device, x.shape[1])
        calls = [partial(layer, backends=backends) for layer in layers]
        if len(x) > size:
            calls = [layer.prepared(x.device, backends) for layer in layers]
        first, second = calls
        modulated, gated = (backends.pick(op, x.device) for op in (MODULATED_NORM, GATED_RESIDUAL))

        def rows(x, scale, shift, gate) -> torch.Tensor:
            return gated(x, second(first(modulated(x, scale, shift))), gate)

        return by_rows(rows, x, scale, shift, gate, size=size, out=x)


class Block(nn.Module):
    """Self-attention, cross-attention and MLP on packed tokens [T, C]."""

    def __init__(self, channels, cond_channels, heads, hidden, shared_modulation, rms_norm, rms_norm_cross) -> None:
        super().__init__()
        self.norm2 = LayerNorm(channels)  # those before self-attention and MLP have no parameters
        self.self_attn = SelfAttention(channels, heads, rms_norm)
        self.cross_attn = CrossAttention(channels, cond_channels, heads, rms_norm_cross)
        self.mlp = FeedForward(channels, hidden)
        if shared_modulation:
            self.modulation = nn.Parameter(torch.empty(6 * channels))
            if not self.modulation.is_meta:  # where that would import torch._dynamo, which takes seconds
                nn.init.normal_(self.modulation, std=channels**-0.5)
        else:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(channels, 6 * channels))
        self.shared_modulation = shared_modulation

    def forward(self, x, modulation, sample, context, phases, lengths, cond_lengths, backends) -> torch.Tensor:
        """modulation: [B, 6 C] shared, or the [B, C] time embedding; sample: [T] each token's, None if there is one;
        x and the result: [T, C], torso dtype; x is overwritten where no gradient is asked for."""
        if self.shared_modulation:
            modulation = (self.modulation + modulation).to(modulation.dtype)
        else:
            modulation = self.adaLN_modulation(modulation)
        if sample is not None:
            modulation = modulation.index_select(0, sample)  # its gradient is a sum, that of [] a sort
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation.chunk(6, 1)  # each [1 or T, C]
        gated = backends.pick(GATED_RESIDUAL, x.device)
        x = gated(x, self.self_attn(x, scale_1, shift_1, phases, lengths, backends), gate_1)
        if cond_lengths is None:  # of the all-zero condition: what attention would return
            seen = context
        else:
            seen = self.cross_attn(x, self.norm2, context, lengths, cond_lengths, backends)
        x = x + seen if torch.is_grad_enabled() else x.add_(seen)
        del seen
        return self.mlp(x, scale_2, shift_2, gate_2, backends)


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

    def context(self, cond: torch.Tensor, tokens: int = 0, backends: Backends = PLAIN) -> Context:
        """What every block needs of a condition [B, L, Cc], all of the same length L.

        tokens: positions of the input in a pass. Where there are so many that making keys and values costs next to
        nothing beside them, they are not kept: of all blocks they take more than the rest of a pass.
        """
        cond = cond.to(self.dtype)
        lengths = (cond.shape[1],) * cond.shape[0]
        if self.makes_context_again(tokens, cond.shape[1]):
            return Context((cond,) * len(self.blocks), lengths)
        return Context(tuple(each.keys_values(cond, backends) for each in self._cross()), lengths)

    def makes_context_again(self, tokens: int, seen: int) -> bool:
        """Whether keys and values of `seen` tokens of a condition are made in each pass: their products are few beside
        those of a block's pass on so many tokens."""
        block, width = cast(Block, self.blocks[0]), self.input_layer.out_features
        made = 2 * width * block.cross_attn.to_kv.in_features
        layers = sum(each.in_features * each.out_features for each in block.modules() if isinstance(each, nn.Linear))
        a_pass = tokens * (layers - made + 2 * width * (tokens + seen))
        return made * seen <= _AGAIN * a_pass

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
            sample = torch.repeat_interleave(torch.tensor(lengths, device=x.device), output_size=len(x))  # [T]
        for block, seen in zip(self.blocks, context.blocks):
            h = block(h, modulation, sample, seen, phases, lengths, context.lengths, backends)
        return self.out_layer(final_norm(h.to(x.dtype)))


class SparseStructureFlowModel(FlowTransformer):
    """Velocity of a dense latent [B, C, R, R, R]."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, context: Context, backends: Backends = PLAIN) -> torch.Tensor:
        """x: [B, C_in, R, R, R] fp32 -> [B, C_out, R, R, R]; t and context as in `tokens`."""
        batch, shape = x.shape[0], x.shape[2:]
        axes = (torch.arange(size, device=x.device) for size in shape)
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)  # [R, R, R, 3]
        xyz = grid.reshape(-1, 3).repeat(batch, 1)  # [B * R^3, 3]
        packed = x.flatten(2).transpose(1, 2).flatten(0, 1)  # [B * R^3, C]
        lengths = (shape.numel(),) * batch
        v = self.tokens(packed, t, context, xyz, lengths, backends)  # [B * R^3, C_out]
        return v.unflatten(0, (batch, -1)).transpose(1, 2).unflatten(2, shape)  # [B, C_out, R, R, R]


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
        feats = x.feats if concat is None else torch.cat([x.feats, concat], 1)  # [T, C_in]
        return self.tokens(feats, t, context, x.voxels.xyz, x.voxels.lengths, backends)
