"""DINOv3 image encoder (transformers' layers): pictures -> condition tokens."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import CheckpointError
from .layers import final_norm


class DinoV3FeatureExtractor(nn.Module):
    """The ViT of `facebook/dinov3-*` up to its last block, then layer norm without affine.

    Works with transformers 4.56 up to 5.x, whose model classes nest the blocks differently; the state
    dict has the released checkpoint's own keys with all of them. `norm` (the model's own final norm) is
    part of the checkpoint and not used.
    """

    def __init__(self, **config) -> None:
        super().__init__()
        try:
            from transformers import DINOv3ViTConfig, DINOv3ViTModel
        except ImportError as error:
            raise CheckpointError(
                "The image encoder needs transformers 4.56 or newer: pip install -U 'transformers>=4.56'."
            ) from error
        config = DINOv3ViTConfig(**config)
        model = DINOv3ViTModel(config)
        self.embeddings = model.embeddings
        self.layer = model.layer if hasattr(model, "layer") else model.model.layer
        self.norm = model.norm
        with torch.device("cpu"):  # its frequencies are no weights, so they must exist even if the rest is on "meta"
            self.rope_embeddings = type(model.rope_embeddings)(config)
        self.patch_size = config.patch_size

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels: [B, 3, H, W] normalised fp32, H and W multiples of patch_size -> [B, 1 + registers + patches, C]."""
        h = self.embeddings(pixels)
        phases = self.rope_embeddings(pixels)
        for layer in self.layer:
            h = layer(h, position_embeddings=phases)
        return final_norm(h)
