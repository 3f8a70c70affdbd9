"""A picture of the surroundings as the renderer looks light up in it, sharp and blurred."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEVELS, FIRST_BLUR = 5, 0.05  # blurred pictures; radians of the first one's blur, of each next one twice as much
BLURRED = (64, 128)  # rows and columns of each


@dataclass(frozen=True, eq=False)
class Environment:
    """sharp: [H, W, 3] float32 linear radiance without the sun; blurred: [LEVELS, h, w, 3], each by its angle."""

    sharp: np.ndarray
    blurred: np.ndarray

    def radiance(self, directions: np.ndarray) -> np.ndarray:
        """[N, 3] from unit directions [N, 3] in the studio's frame, slightly blurred."""
        rows, columns = self.blurred.shape[1:3]
        x, y, z = directions.T
        row = ((0.5 - np.arcsin(z.clip(-1, 1)) / np.pi) * rows).astype(int).clip(0, rows - 1)
        column = ((0.5 + np.arctan2(x, y) / (2 * np.pi)) * columns).astype(int) % columns
        return self.blurred[0][row, column].astype(np.float64)
