"""Values in 0-1 to the bytes that textures and vertex colours are stored in."""

from __future__ import annotations

import numpy as np
import torch


def to_uint8(values: torch.Tensor) -> torch.Tensor:
    """0-1 -> 0-255 uint8, on their device: a quarter of what there is to move."""
    return (values * 255).round_().clamp_(0, 255).to(torch.uint8)


def to_bytes(values: torch.Tensor) -> np.ndarray:
    return to_uint8(values).cpu().numpy()
