"""Fewer slivers and fewer faces that go through others: flips of edges and small moves of vertices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..topology.steady import steady_sum
from .stars import Stars, find_stars

_LITTLE = 0.02  # of the bad faces: where no more have changed in a round, further ones are not worth their time
_WORK = 5_000  # bad faces that all rounds together look at, or a quarter as many as there are faces: bounds the time


@dataclass(frozen=True)
class RelaxConfig:
    """What flips and moves weigh."""

    # Rounds of flips and moves; each looks at the faces that were bad and at those that have changed.
    rounds: int = 8
    # Pull of a vertex towards the middle of its neighbours, as a part of its quadric's trace.
    pull: float = 0.1
    # Of the square of the mesh's mean error, what a move may add to a vertex's square error: against slivers,
    sliver_error: float = 0.05
    # and so that faces do not go through others.
    crossing_error: float = 1.5


class Relaxation:
    """Relaxes a mesh in place.

    Args:
        points: [V, 3] float32, all used by faces. quadrics: [V, 10] float32, see quadric_kernels. faces: [3 F] int32.
        weights: quadric_kernels.Weights.
    """

    def __init__(
        self, points: torch.Tensor, quadrics: torch.Tensor, faces: torch.Tensor, weights, config: RelaxConfig
    ) -> None:
        from ...warp import launch
        from . import flip_kernels, relax_kernels

        self._launch, self._flips, self._moves = launch, flip_kernels, relax_kernels
        self._points, self._quadrics, self._faces = points, quadrics, faces
        self._weights, self._config = weights, config
        self._count, self._device = len(faces) // 3, points.device

    def run(self, tick: Callable[[], None]) -> None:
        """tick: called once a round; may raise to stop."""
        if self._count == 0:
            return
        tree = self._launch.face_tree(self._points, self._faces.reshape(-1, 3))
        bad = torch.zeros(self._count, dtype=torch.uint8, device=self._device)
        touched = torch.ones_like(bad)
        settled = torch.zeros(len(self._points), dtype=torch.uint8, device=self._device)
        allowed = self._allowed()
        stars = find_stars(self._faces, len(self._points))
        work = max(self._count // 4, _WORK)
        for _ in range(self._config.rounds):
            tick()
            mesh = self._points, self._faces
            self._launch.launch_parallel(self._moves.find_bad, self._count, self._weights, tree.id, touched, *mesh, bad)
            found, changed = torch.stack([bad.count_nonzero(), touched.count_nonzero()]).tolist()
            if found == 0 or work < 0 or changed <= _LITTLE * found:
                break
            work -= min(found, changed)
            before, touched = touched, torch.zeros_like(touched)
            self._flip(tree.id, stars, bad, touched)
            # a GPU would wait longer for the answer than for new stars
            if self._device.type != "cpu" or bool(touched.any()):
                stars = find_stars(self._faces, len(self._points))
            self._move(tree.id, stars, bad | touched, before | touched, allowed, settled, touched)
            self._launch.refit(tree)

    def _allowed(self) -> torch.Tensor:
        """[2] float64: by how much a vertex's mean square error may grow against slivers, and against crossing."""
        q = self._quadrics.double()
        error = q[:, 9].clamp_min(0) / (q[:, 0] + q[:, 3] + q[:, 5]).clamp_min(1e-30)
        shares = torch.tensor([self._config.sliver_error, self._config.crossing_error], dtype=torch.float64)
        return shares.to(self._device) * (steady_sum(error.sqrt()) / len(error)) ** 2

    def _flip(self, tree: int, stars: Stars, bad: torch.Tensor, touched: torch.Tensor) -> None:
        """Flip edges of bad faces where that leaves the surface where it is."""
        corners, launch, kernels = len(self._faces), self._launch, self._flips
        twins = torch.empty(corners, dtype=torch.int32, device=self._device)
        keys = torch.empty(corners, dtype=torch.int64, device=self._device)
        mesh = self._points, self._quadrics, self._faces, stars.offsets, stars.corners, stars.edges
        launch.launch_parallel(kernels.find_flips, corners, self._weights, tree, bad, *mesh, twins, keys)
        claims = torch.full((len(self._points),), torch.iinfo(torch.int64).max, device=self._device)
        launch.launch_atomic(kernels.claim, corners, self._faces, twins, keys, claims)
        launch.launch_parallel(kernels.flip, corners, self._faces, twins, keys, claims, touched)

    def _move(
        self,
        tree: int,
        stars: Stars,
        bad: torch.Tensor,
        changed: torch.Tensor,
        allowed: torch.Tensor,
        settled: torch.Tensor,
        touched: torch.Tensor,
    ) -> None:
        """Move vertices of bad faces, but those that are settled, unless one of their faces has changed."""
        count, launch, kernels = len(self._points), self._launch.launch_parallel, self._moves
        around = self._faces, stars.offsets, stars.corners
        keys = torch.empty(count, dtype=torch.int64, device=self._device)
        goals, moved = torch.empty_like(self._points), self._points.clone()
        counts = torch.zeros(count, dtype=torch.int32, device=self._device)
        picked = torch.zeros(count, dtype=torch.uint8, device=self._device)
        given = self._weights, tree, self._config.pull, allowed, self._points, self._quadrics, *around
        launch(kernels.propose, count, *given, stars.edges, stars.feature, bad, changed, settled, goals, counts, keys)
        launch(kernels.pick, count, keys, goals, *around, picked, moved)
        launch(kernels.take_back, count, tree, moved, *around, counts, picked)
        launch(kernels.move_vertices, count, picked, goals, self._points, self._quadrics)
        launch(kernels.mark_moved, self._count, picked, self._faces, touched)
