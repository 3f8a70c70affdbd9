"""Decimation by quadric edge collapse, many edges at once, on the mesh's device."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field

import torch

from ...errors import SettingsError
from ..mesh import Mesh
from ..topology.steady import steady_sum
from .bounded import ErrorBound, within
from .fit import FitConfig, Source, fit
from .relax import Relaxation, RelaxConfig
from .stars import Stars, find_stars

_SAMPLES = 1 << 20  # costs or faces from which a limit or a mean is estimated
_QUERIES = 1 << 17  # of all rounds of the fit together, at most: bounds the time; 20,000 faces still have two rounds


@dataclass(frozen=True)
class CollapseConfig:
    """What an edge collapse weighs."""

    # Of the planes that stand on boundary edges, per squared length, against 1 per area for a face: keeps boundaries.
    border_weight: float = 1.0
    # Of what holds the ends where a handle or a rod is cut through, per squared length: a rod's planes lie along it.
    end_weight: float = 0.1
    # Pull of a merged vertex towards its edge's middle, as a part of the quadric's trace: decides only what the planes
    # leave free (Trettner & Kobbelt 2020).
    tikhonov_weight: float = 1e-4
    # Price of an edge's length, per area and squared length: a length counts like 0.5 % of it in distance. Short edges
    # go first where all is flat, and needles before what is as far from the surface.
    length_cost: float = 2e-5
    # The same under an error bound, where a fair shape would cost faces.
    bounded_length_cost: float = 1e-6
    # Added to every face's weight, in mean areas: or the tiny faces at the tips of thin parts would count for nothing.
    least_area: float = 0.02
    # Most faces round both ends of an edge that may be collapsed: bounds the work of a thread, and valences.
    largest_star: int = 48
    # No face may turn further in one collapse than the angle of this cosine. Less than a right angle would keep the
    # narrow sides of boards, which turn when these become flat.
    max_normal_change_cos: float = 0.0
    # Shape (1 for an equilateral triangle, 0 for a line) below which the worst face that a collapse leaves raises its
    # price, in inverse proportion,
    good_shape: float = 0.15
    # up to so many times: slivers are spared where that costs little.
    sliver_cost: float = 30.0
    # By how much a flip may move the surface where the collapse has not moved it at all, in sizes of the mesh; and the
    # least step of a vertex towards the surface.
    flip_tolerance: float = 1e-6
    # Times its price that a collapse has to be worth which cuts the surface between two holes, so that they become one,
    bridge_cost: float = 0.3
    # which cuts a handle or a rod through (not one that closes a tunnel),
    cut_cost: float = 10.0
    # and that of the last tetrahedron or face of a component, which then is gone,
    vanish_cost: float = 70.0
    # but no less than so much for its area and squared length: planes along a rod do not know how long it is.
    vanish_length_cost: float = 0.01
    # Independent sets that are drawn from the costs of one round, before all edges are priced again.
    passes: int = 4
    # Of the edges, the part that may go in a round however few collapses are still wanted: bounds the rounds.
    least_part: float = 0.02
    # Costs up to so many times the last round's limit are examined in full.
    examined: float = 2.0
    # Rounds in which vertices are moved at the end, so that faces lie on the surface on the average: at most, and fewer
    # above 20,000 faces.
    fit_rounds: int = 2
    # How slivers and faces that go through others are relaxed at the end.
    relax: RelaxConfig = field(default_factory=RelaxConfig)


# what kernels take of it
_WEIGHTS = (
    "border_weight",
    "end_weight",
    "tikhonov_weight",
    "length_cost",
    "largest_star",
    "max_normal_change_cos",
    "good_shape",
    "sliver_cost",
    "flip_tolerance",
    "bridge_cost",
    "cut_cost",
    "vanish_cost",
    "vanish_length_cost",
)


def collapse(
    mesh: Mesh,
    target_faces: int,
    tick: Callable[[], None],
    bound: ErrorBound | None = None,
    config: CollapseConfig = CollapseConfig(),
) -> Mesh:
    """Quadric edge collapse to target_faces faces, or to as few as an error bound allows.

    Garland & Heckbert 1997 (quadrics weighted by area, planes that stand on boundary edges) in rounds: all edges are
    priced, the cheap ones that are cheapest among all edges round their two ends' neighbours are collapsed together
    (their faces are disjoint, so each is classified alone), until the count is met. Boundaries and sharp edges stay, by
    their planes; no face turns over or becomes a sliver as long as anything else can be collapsed. Topology has its
    price, too: a hole, a handle or a component goes where it costs no more than what else could go (see
    link_kernels.classify), and each such step leaves the surface manifold and consistently oriented where it was, and
    closed where it was closed. Faces that repeat a vertex are dropped first. What is left is fitted to the mesh (see
    fit.py) and relaxed (see relax.py). Deterministic on one machine.

    Args:
        mesh: of any scale; need not be manifold.
        tick: called once a round; may raise to stop.
        bound: how far the surfaces may lie apart. The collapse stops where the quadrics pass it; what then is measured
            decides how it goes on.

    Returns:
        the mesh, float32 and int32, without unused vertices, on the input's device. It has target_faces faces or one
        less (a few less where non-manifold edges or components go), but more where nothing more can be collapsed: the
        last component stays, a closed one with at least four faces. A target of at least the mesh's faces
        returns the mesh itself.

    Raises:
        SettingsError: a target below 1.
    """
    if target_faces < 1:
        raise SettingsError(f"The target is {target_faces:,} faces; at least 1 is needed.")
    if target_faces >= len(mesh.faces):
        return mesh

    reduction = _Reduction(mesh, config, tick)
    if bound is not None:
        return within(mesh, bound, reduction, target_faces)
    reduction.reduce(target_faces)
    return reduction.finish()


class _Reduction:
    """A mesh under reduction. Positions are scaled by a power of two to about the unit box and else kept as they are;
    kernels look at differences only."""

    def __init__(self, mesh: Mesh, config: CollapseConfig, tick: Callable[[], None]) -> None:
        from ...warp.launch import launch_parallel
        from . import collapse_kernels, link_kernels, quadric_kernels

        self._kernels, self._launch, self._config = collapse_kernels, launch_parallel, config
        self._link_kernels, self._quadric_kernels = link_kernels, quadric_kernels
        self._mesh, self._tick, self._sources = mesh, tick, []
        vertices, faces = mesh.vertices, mesh.faces
        self._device = vertices.device
        size = (vertices.amax(0) - vertices.amin(0)).amax().item()
        self._scale = 2.0 ** min(max(-round(math.log2(size)), -120), 120) if 0 < size < math.inf else 1.0
        self._bound = math.inf
        self._points = vertices.float() * self._scale  # [V, 3]
        self._faces = faces.to(torch.int32, copy=True).reshape(-1)  # [3 F]
        self._limit = torch.full((1,), math.inf, device=self._device)  # of the costs of the last round
        self._heir = torch.arange(len(self._points), dtype=torch.int32, device=self._device)
        self._weigh(keeps_shape=True)  # until nothing else can be collapsed
        self._quadrics = None  # [V, 10]
        self._rename(None)
        self._pack()
        self._quadrics = self._first_quadrics()

    def _weigh(self, keeps_shape: bool) -> None:
        self._keeps_shape, self._weights = keeps_shape, self._quadric_kernels.Weights()
        for name in _WEIGHTS:
            setattr(self._weights, name, getattr(self._config, name))
        self._weights.largest_mean_square = min(self._bound**2, 1e300)
        self._weights.largest_change = self._bound
        if self._bound < math.inf:
            self._weights.length_cost = self._config.bounded_length_cost
        if not keeps_shape:
            self._weights.max_normal_change_cos = -1.0

    def copy(self) -> _Reduction:
        """Where it is now, for other ways from here on."""
        self._pack()
        other = copy(self)
        assert self._quadrics is not None
        other._points, other._quadrics = self._points.clone(), self._quadrics.clone()
        other._faces, other._heir, other._limit = self._faces.clone(), self._heir.clone(), self._limit.clone()
        return other

    def bound(self, distance: float) -> None:
        """Stop where the planes of a vertex lie so far from it, in the mesh's units, by their mean square."""
        self._bound = distance * self._scale
        self._limit = torch.full_like(self._limit, math.inf)
        self._weigh(keeps_shape=True)

    def finished(self) -> Mesh:
        """What finish would make of it now."""
        return self.copy().finish()

    def reduce(self, target_faces: int) -> None:
        """Down to so many faces, or as few as can be."""
        tick = self._tick
        while self.count > target_faces:
            tick()
            if self.count < self._packed // 2:
                self._pack()
            stars = self._find_stars()
            costs = self._find_costs(stars, wanted=(self.count - target_faces) / 2)
            removed, changed = self._choose(stars, costs)
            total, changes = torch.stack([each.sum(dtype=torch.int64) for each in (removed, changed)]).tolist()
            if total > self.count - target_faces or total >= self.count:
                total = _keep_cheapest(removed, costs, self.count - target_faces, self.count - 1)
                if total == 0:  # the last component would go
                    break
            if total == 0 and not self._limit.isfinite():
                if not self._keeps_shape or self._bound < math.inf:  # faces that turn over keep within no bound
                    break
                self._weigh(keeps_shape=False)
            if total == 0:  # all that is cheap must stay: look at everything
                self._limit.fill_(math.inf)
                continue
            del costs
            faces = self._faces
            if changes:
                self._change_topology(stars, removed, changed)
            arrays = faces, removed, changed, stars.feature, self._points, self._quadrics, self._heir
            self._launch(self._kernels.merge_ends, len(removed), self._weights, *arrays)
            del stars, removed, changed, faces, arrays
            self._rename(None if changes else self.count - total)

    def finish(self) -> Mesh:
        """Nearer to the mesh that it was, with fewer slivers and faces that go through others."""
        self._pack()
        assert self._quadrics is not None
        if not self._sources:  # which all copies share
            self._sources.append(Source(self._mesh.vertices.float() * self._scale, self._mesh.faces))
        rounds = min(self._config.fit_rounds, _QUERIES // max(len(self._faces), 1))
        weights = FitConfig(rounds, self._config.flip_tolerance, self._config.good_shape)
        fit(self._points, self._faces, self._sources[0], weights, self._quadrics)
        given = self._points, self._quadrics, self._faces, self._weights
        Relaxation(*given, self._config.relax).run(self._tick)
        self._pack()
        return Mesh.known(self._points / self._scale, self._faces.reshape(-1, 3).clone(), kernels=self._mesh.kernels)

    @property
    def count(self) -> int:
        return len(self._faces) // 3

    def _find_stars(self) -> Stars:
        return find_stars(self._faces, len(self._points))

    def _first_quadrics(self) -> torch.Tensor:
        quadrics = torch.zeros(len(self._points), 10, device=self._device)
        if self.count == 0:
            return quadrics
        stars = self._find_stars()
        some = self._faces.reshape(-1, 3)[:: 1 + self.count // _SAMPLES].long()
        a, b, c = self._points[some].unbind(1)
        doubled = steady_sum(torch.linalg.cross(b - a, c - a).norm(dim=1)) / len(some)
        least = (doubled * (0.5 * self._config.least_area)).float().reshape(1)
        mesh = self._points, self._faces, stars.offsets, stars.corners, stars.edges
        self._launch(self._quadric_kernels.first_quadrics, len(quadrics), self._weights, *mesh, least, quadrics)
        return quadrics

    def _find_costs(self, stars: Stars, wanted: float) -> torch.Tensor:
        """[3 F] float32 costs by half-edge, and the limit up to which edges may go: as many edges cost less as
        collapses are wanted, so that expensive edges wait until the cheap ones round them have been spent."""
        costs = torch.empty(len(self._faces), device=self._device)
        examined = self._limit * self._config.examined
        mesh = self._points, self._quadrics, self._faces, stars.offsets, stars.corners, stars.edges, stars.feature
        self._launch(self._kernels.find_costs, len(costs), self._weights, examined, *mesh, costs)
        step = 1 + len(costs) // _SAMPLES
        sample = costs[::step].sort().values
        edges = max(wanted, self._config.least_part * len(costs) / 2)
        limit = sample[min(int(edges / step), len(sample) - 1)]
        self._limit = torch.minimum(limit, examined)
        return costs

    def _choose(self, stars: Stars, costs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[3 F] uint8: how many faces go with the half-edge's edge if it is collapsed in this round, else 0; and
        [3 F] uint8: what that does to the topology (see link_kernels.classify), 0 for nothing."""
        kernels, corners, vertices = self._kernels, len(costs), len(self._points)
        removed = torch.zeros(corners, dtype=torch.uint8, device=self._device)
        changed = torch.zeros_like(removed)
        taken = torch.zeros(vertices, dtype=torch.uint8, device=self._device)
        keys = torch.empty(vertices, dtype=torch.int64, device=self._device)
        around = torch.empty_like(keys)
        limit = self._limit.clamp_max(3e38)  # costs of inf stay above
        round_each = self._faces, stars.offsets, stars.corners
        for _ in range(self._config.passes):
            self._launch(kernels.least_key, vertices, limit, *round_each, costs, taken, keys)
            self._launch(kernels.least_around, vertices, *round_each, keys, around)
            edges = stars.edges, stars.feature, costs, around
            self._launch(kernels.choose, corners, limit, *round_each, *edges, removed, changed, taken)
        return removed, changed

    def _change_topology(self, stars: Stars, removed: torch.Tensor, changed: torch.Tensor) -> None:
        """Cut the surface where that is chosen; faces are renamed, vertices are added."""
        cut = (changed == self._link_kernels.CUT) & (removed > 0)
        first, copies = len(self._points), int(cut.count_nonzero())
        self._points = torch.cat([self._points, self._points.new_zeros(copies, 3)])
        assert self._quadrics is not None
        self._quadrics = torch.cat([self._quadrics, self._quadrics.new_zeros(copies, 10)])
        own = torch.arange(first, first + copies, dtype=torch.int32, device=self._device)
        self._heir = torch.cat([self._heir, own])
        rank = cut.cumsum(0, dtype=torch.int32)
        renamed = self._faces.clone()
        mesh = self._faces, stars.offsets, stars.corners, stars.edges, stars.feature
        arrays = self._points, self._quadrics, self._heir, renamed
        given = self._weights, *mesh, removed, changed, rank, first
        self._launch(self._kernels.change_topology, len(removed), *given, *arrays)
        self._faces = renamed

    def _rename(self, left: int | None) -> None:
        """Give faces their vertices' heirs and drop those that repeat a vertex; `left` is how many stay, if known."""
        count = self.count
        alive = torch.empty(count, dtype=torch.uint8, device=self._device)
        self._launch(self._kernels.rename, count, self._heir, self._faces, alive)
        place = alive.cumsum(0, dtype=torch.int32)
        left = int(place[-1]) if left is None else left
        moved = torch.empty(3 * left, dtype=torch.int32, device=self._device)
        self._launch(self._kernels.move_faces, count, self._faces, alive, place, moved)
        self._faces = moved

    def _pack(self) -> None:
        """Drop vertices that no face uses."""
        used = torch.zeros(len(self._points), dtype=torch.uint8, device=self._device)
        self._launch(self._kernels.mark_used, len(self._faces), self._faces, used)
        number = used.cumsum(0, dtype=torch.int32) - 1
        self._launch(self._kernels.renumber, len(self._faces), number, self._faces)
        rows = used.nonzero()[:, 0]
        self._points = self._points[rows]
        if self._quadrics is not None:
            self._quadrics = self._quadrics[rows]
        self._heir = torch.arange(len(rows), dtype=torch.int32, device=self._device)
        self._packed = self.count


def _keep_cheapest(removed: torch.Tensor, costs: torch.Tensor, wanted: int, most: int) -> int:
    """Unchoose all but the cheapest edges that together remove `wanted` faces, or a few more, but no more than `most`;
    returns how many these remove."""
    chosen = removed.nonzero()[:, 0]
    chosen = chosen[costs[chosen].argsort(stable=True)]
    faces = removed[chosen].long()
    total = faces.cumsum(0)
    keep = (total - faces < wanted) & (total <= most)
    removed[chosen[~keep]] = 0
    return int(faces[keep].sum())
