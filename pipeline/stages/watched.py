"""The mesh to bake from, asked in blocks between which a callback can interrupt."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..mesh.bake.bake import Original

_POINTS = 1 << 18  # of a block; on a CPU the rays of all texels of a large texture take minutes


class WatchedOriginal:
    """As an Original, for baking; tick is called before every block."""

    def __init__(self, original: Original, tick: Callable[[], None]) -> None:
        self._original, self._tick = original, tick
        self.normals_at = original.normals_at

    def snap(self, points: torch.Tensor, *limit: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        parts = []
        for block in points.split(_POINTS):
            self._tick()
            parts.append(self._original.snap(block, *limit))
        place, face, weights = (torch.cat(column) for column in zip(*parts))
        return place, face, weights

    def open_share(
        self, points: torch.Tensor, normals: torch.Tensor, rays: int, limit: float, seed: int
    ) -> torch.Tensor:
        """Each block has a seed of its own, as random offsets count from its first point."""
        parts = []
        for number, (at, pole) in enumerate(zip(points.split(_POINTS), normals.split(_POINTS))):
            self._tick()
            parts.append(self._original.open_share(at, pole, rays, limit, seed + number))
        return torch.cat(parts)
