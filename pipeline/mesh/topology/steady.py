"""Sums and angles whose last bit does not depend on how many threads torch has.

On a CPU torch parts a sum over everything, and the ends of the vectors of a function of two arguments, by its threads.
numpy does either on one.
"""

from __future__ import annotations

import numpy as np
import torch


def steady_sum(values: torch.Tensor) -> torch.Tensor:
    """[] float64 sum of all values, on their device."""
    if values.device.type != "cpu":
        return values.sum(dtype=torch.float64)
    return torch.tensor(values.detach().numpy().sum(dtype=np.float64))


def steady_angle(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """[N] radians, as torch.atan2 of y [N] and x [N]."""
    return torch.from_numpy(np.arctan2(y.numpy(), x.numpy())) if y.device.type == "cpu" else torch.atan2(y, x)
