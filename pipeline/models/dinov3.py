"""The vision transformer of DINOv3 (Siméoni et al. 2025): its layers, under the released checkpoints' names.

Pictures in patches, each a token, behind a class token and registers; rotary phases of the patches' places, which make
it serve any size. Written out here because importing transformers for these layers takes three seconds of every run;
`tests/test_image_encoder.py` compares them with its, bit by bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

_SPREAD = 0.02  # standard deviation of weights before training

Phases = tuple[torch.Tensor, torch.Tensor]  # cosines and sines, [P, D] each: of P patches, D channels of a head


@dataclass(frozen=True)
class VisionConfig:
    """The entries of a DINOv3 config.json that make the network, with the defaults of transformers."""

    hidden_size: int = 384
    intermediate_size: int = 1536  # of the MLPs
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    num_register_tokens: int = 0
    num_channels: int = 3
    patch_size: int = 16  # pixels along a side
    hidden_act: str = "gelu"  # or "silu"
    use_gated_mlp: bool = False
    query_bias: bool = True
    key_bias: bool = False
    value_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    layer_norm_eps: float = 1e-5
    layerscale_value: float = 1.0  # of the layer scales before training
    rope_theta: float = 100.0


def _draw(weights: torch.Tensor) -> None:
    """Values before training, of weights that have any: on the device "meta" drawing imports torch._dynamo in torch
    2.11, which takes seconds."""
    if not weights.is_meta:
        nn.init.trunc_normal_(weights, std=_SPREAD)


class Embeddings(nn.Module):
    """Pictures -> tokens: the class token, registers, then the patches row by row."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))  # of training; part of the checkpoint
        self.register_tokens = nn.Parameter(torch.empty(1, config.num_register_tokens, width))
        self.patch_embeddings = nn.Conv2d(config.num_channels, width, kernel_size=patch, stride=patch)
        for token in (self.cls_token, self.register_tokens):
            _draw(token)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] -> [B, 1 + registers + patches, C]."""
        patches = self.patch_embeddings(pixels.to(self.patch_embeddings.weight.dtype))  # [B, C, H / patch, W / patch]
        first = (token.expand(len(pixels), -1, -1) for token in (self.cls_token, self.register_tokens))
        return torch.cat([*first, patches.flatten(2).transpose(1, 2)], dim=1)


class RotaryPhases(nn.Module):
    """Phases by the places of patches: -1 to 1 down and across, at the middles of patches, whatever the size."""

    inv_freq: torch.Tensor  # [D / 4]

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self._patch = config.patch_size
        step = 4 / (config.hidden_size // config.num_attention_heads)
        frequencies = 1 / config.rope_theta ** torch.arange(0, 1, step, dtype=torch.float32)
        self.register_buffer("inv_freq", frequencies, persistent=False)

    def forward(self, pixels: torch.Tensor) -> Phases:
        """pixels: [B, 3, H, W] -> phases in their dtype."""
        axes = []
        for pixels_along in pixels.shape[2:]:
            count = pixels_along // self._patch
            axes.append(torch.arange(0.5, count, dtype=torch.float32, device=pixels.device) / count)
        places = 2.0 * torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1) - 1.0  # [P, 2]
        angles = 2 * math.pi * places[:, :, None] * self.inv_freq  # [P, 2, D / 4]
        angles = angles.flatten(1, 2).tile(2)  # [P, D]
        return angles.cos().to(pixels.dtype), angles.sin().to(pixels.dtype)


class Attention(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self._heads = config.num_attention_heads
        self.k_proj = nn.Linear(width, width, bias=config.key_bias)
        self.v_proj = nn.Linear(width, width, bias=config.value_bias)
        self.q_proj = nn.Linear(width, width, bias=config.query_bias)
        self.o_proj = nn.Linear(width, width, bias=config.proj_bias)

    def forward(self, h: torch.Tensor, phases: Phases) -> torch.Tensor:
        """[B, T, C] -> [B, T, C]."""
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (one(h).unflatten(2, (self._heads, -1)).transpose(1, 2) for one in projections)  # [B, heads, T, D]
        out = F.scaled_dot_product_attention(_turned(q, phases), _turned(k, phases), v)
        return self.o_proj(out.transpose(1, 2).flatten(2))


def _turned(x: torch.Tensor, phases: Phases) -> torch.Tensor:
    """[B, heads, T, D] with the patches, which come last, turned by their phases."""
    cos, sin = phases
    first, patches = x.split((x.shape[2] - len(cos), len(cos)), dim=2)
    left, right = patches.chunk(2, dim=3)
    return torch.cat([first, patches * cos + torch.cat([-right, left], 3) * sin], dim=2)


class LayerScale(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        # not a product: arithmetic on the device "meta" imports torch._dynamo, which takes seconds
        self.lambda1 = nn.Parameter(torch.full((config.hidden_size,), config.layerscale_value))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h * self.lambda1


class MLP(nn.Module):
    """Of two layers, or gated (SwiGLU)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        if config.use_gated_mlp:
            self.gate_proj = nn.Linear(width, inner, bias=config.mlp_bias)
        self.up_proj = nn.Linear(width, inner, bias=config.mlp_bias)
        self.down_proj = nn.Linear(inner, width, bias=config.mlp_bias)
        self._gated, self._activation = config.use_gated_mlp, F.silu if config.hidden_act == "silu" else F.gelu

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        if self._gated:
            return self.down_proj(self._activation(self.gate_proj(h)) * self.up_proj(h))
        return self.down_proj(self._activation(self.up_proj(h)))


class VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = Attention(config)
        self.layer_scale1 = LayerScale(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)
        self.layer_scale2 = LayerScale(config)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                _draw(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, h: torch.Tensor, phases: Phases) -> torch.Tensor:
        """[B, T, C] -> [B, T, C]."""
        h = self.layer_scale1(self.attention(self.norm1(h), phases)) + h
        return self.layer_scale2(self.mlp(self.norm2(h))) + h
