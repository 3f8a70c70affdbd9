"""The dense structure decoder: latent [B, C, r, r, r] -> occupancy logits [B, 1, R, R, R]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .layers import to_torso_dtype


class ChannelNorm(nn.LayerNorm):
    """Layer norm over dim 1 of [B, C, ...] in fp32, result in the input's dtype; eps 1e-5."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.movedim(1, -1).float()).to(input.dtype).movedim(-1, 1)


class ResBlock3d(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class UpsampleBlock3d(nn.Module):
    """Convolution to eight times the channels, then each eighth becomes one child of the voxel."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels * 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).unflatten(1, (-1, 2, 2, 2))  # [B, C, 2, 2, 2, r, r, r], channel = (c, dx, dy, dz)
        x = x.permute(0, 1, 5, 2, 6, 3, 7, 4)  # [B, C, r, 2, r, 2, r, 2]
        return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)  # [B, C, 2 r, 2 r, 2 r]


class SparseStructureDecoder(nn.Module):
    """The torso runs in fp16 where the configuration says so, input and output layers in fp32."""

    def __init__(
        self,
        out_channels: int,
        latent_channels: int,
        num_res_blocks: int,
        channels: list[int],
        num_res_blocks_middle: int = 2,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.latent_channels, self.dtype = latent_channels, dtype
        self.upscale = 2 ** (len(channels) - 1)
        self.input_layer = nn.Conv3d(latent_channels, channels[0], 3, padding=1)
        self.middle_block = nn.Sequential(*(ResBlock3d(channels[0]) for _ in range(num_res_blocks_middle)))
        self.blocks = nn.ModuleList()
        for level, width in enumerate(channels):
            self.blocks.extend(ResBlock3d(width) for _ in range(num_res_blocks))
            if level + 1 < len(channels):
                self.blocks.append(UpsampleBlock3d(width, channels[level + 1]))
        self.last_channels = channels[-1]
        head = nn.Conv3d(channels[-1], out_channels, 3, padding=1)
        self.out_layer = nn.Sequential(ChannelNorm(channels[-1]), nn.SiLU(), head)
        to_torso_dtype(self.middle_block, dtype)
        to_torso_dtype(self.blocks, dtype)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """z: [B, C, r, r, r] fp32 -> logits [B, out, R, R, R] fp32, R = r * upscale; occupied where > 0."""
        h = self.middle_block(self.input_layer(z).to(self.dtype))
        for block in self.blocks:
            h = block(h)
        return self.out_layer(h.to(z.dtype))
