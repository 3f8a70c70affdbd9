"""The curve of sRGB (IEC 61966-2-1): between encoded values, as pictures have them, and linear light."""

from __future__ import annotations

import numpy as np
import torch


def srgb_to_linear(values: np.ndarray) -> np.ndarray:
    """Encoded -> linear, any shape, in the values' dtype; 0-1 stays 0-1, values above 1 go on along the curve."""
    return np.where(values <= 0.04045, values / 12.92, ((np.maximum(values, 0) + 0.055) / 1.055) ** 2.4)


def tensor_to_linear(values: torch.Tensor) -> torch.Tensor:
    """As srgb_to_linear."""
    return torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055).clamp_min(0) ** 2.4)


def tensor_to_srgb(values: torch.Tensor) -> torch.Tensor:
    """Linear -> encoded, any shape, in the values' dtype. On a CPU the last bit depends on how torch shares the values
    among threads (render.scene has a form that does not)."""
    return torch.where(values <= 0.0031308, values * 12.92, 1.055 * values.clamp_min(1e-9) ** (1 / 2.4) - 0.055)
