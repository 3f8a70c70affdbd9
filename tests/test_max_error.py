"""Simplifying within an error bound: what is measured afterwards keeps within it, on every row."""

import math
from dataclasses import dataclass

import pytest
import torch
from meshes import needs_warp

from pipeline import stages
from pipeline.backends import PLAIN
from pipeline.bench import shapes
from pipeline.errors import SettingsError
from pipeline.mesh import FARTHEST, Mesh, examples
from pipeline.mesh.query.farthest import _square_distance, farthest_by_centres, farthest_by_tree
from pipeline.mesh.simplify.bounded import ErrorBound, deviation, within
from pipeline.mesh.simplify.collapse import collapse
from pipeline.mesh.simplify.fast_simplification import fast_simplification, hybrid
from pipeline.runtime import Runtime


def quiet():
    pass


def bounded(max_error):
    return ErrorBound(max_error, farthest_by_tree)


def rows():
    pytest.importorskip("fast_simplification")
    return {"collapse": collapse, "hybrid": hybrid, "fast-simplification": fast_simplification}


@pytest.fixture(scope="module")
def ball():
    return examples.ball(torch.device("cpu"), rows=40)  # of radius 1, 6,240 faces


@needs_warp
@pytest.mark.parametrize("row", ["collapse", "hybrid", "fast-simplification"])
def test_what_is_simplified_lies_within_the_bound_and_a_looser_bound_leaves_fewer_faces(ball, row):
    reduce, counts = rows()[row], [len(ball.faces)]
    for bound in (0.01, 0.05):
        found = reduce(ball, 4, quiet, bounded(bound))
        assert deviation(ball, found, farthest_by_tree) <= bound
        counts.append(len(found.faces))
    assert counts[0] > 2 * counts[1] > 4 * counts[2] > 16
    # a ball of radius 1 within 0.05: each face of side s is s^2 / 6 off its middle
    assert counts[2] < 1000


@needs_warp
def test_fair_shapes_cost_no_faces_under_a_bound():
    """A plate with round corners and holes: its needles may stay."""

    def plate(p):
        body = torch.maximum((p[:, :2].abs() - 0.34).clamp_min(0).norm(dim=1) - 0.1, p[:, 2].abs() - 0.05)
        return torch.maximum(body, 0.1 - (p[:, :2].abs() - 0.22).norm(dim=1))

    mesh = Mesh(*shapes.surface_net(plate, 64))
    assert len(collapse(mesh, 4, quiet, bounded(0.002)).faces) < 1800


@needs_warp
def test_the_face_count_still_counts_beside_a_bound(ball):
    assert 298 <= len(collapse(ball, 300, quiet, bounded(0.5)).faces) <= 300


@needs_warp
def test_a_bound_below_the_detail_leaves_the_mesh_as_it_is(ball):
    found = collapse(ball, 4, quiet, bounded(1e-7))
    assert torch.equal(found.vertices, ball.vertices) and torch.equal(found.faces, ball.faces)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
def test_a_bound_that_is_no_distance_is_refused(bound):
    with pytest.raises(SettingsError, match="max_error is"):
        bounded(bound)


@needs_warp
def test_distances_without_warp_are_no_less_and_hardly_more(ball):
    turned = Mesh(ball.vertices * torch.tensor([1.0, 1.1, 1.0]), ball.faces)
    right = deviation(ball, turned, farthest_by_tree)
    assert right == pytest.approx(0.1, rel=0.02)
    assert right * (1 - 1e-5) <= deviation(ball, turned, farthest_by_centres) < 1.05 * right
    nothing = Mesh(ball.vertices, ball.faces[:0])
    for measure in (farthest_by_tree, farthest_by_centres):
        assert deviation(ball, nothing, measure) == math.inf and deviation(nothing, nothing, measure) == 0
        farthest = measure(ball)
        assert farthest(turned.vertices, right / 2) == math.inf
        assert farthest(turned.vertices, 2 * right) == farthest(turned.vertices, math.inf)


def test_where_every_next_step_goes_too_far_nearer_ones_are_tried():
    """One collapse that no bound on quadrics sees ended the way at the last of steps of 0.7: 686 faces."""
    whole = examples.ball(torch.device("cpu"), rows=24)
    mesh = Mesh(whole.vertices, whole.faces[:2000])

    @dataclass
    class Way:
        count: int

        def bound(self, distance):
            assert distance > 0

        def reduce(self, target_faces):
            self.count = target_faces

        def copy(self):
            return Way(self.count)

        def finished(self):
            return Mesh(mesh.vertices, mesh.faces[: self.count])

    def measure(one):
        return lambda points, limit: limit / 2 if len(one.faces) >= 590 else math.inf

    made = within(mesh, ErrorBound(0.01, measure), Way(2000), 4)
    assert 590 <= len(made.faces) < 640


@pytest.mark.parametrize("name", ["warp", PLAIN])
def test_what_measured_an_error_is_chosen_and_recorded(ball, name):
    """Warp did wherever it was there, whatever was chosen, and no record said so."""
    runtime = Runtime("cpu", stages.default_backends({FARTHEST: name}))
    made = stages.process_mesh(
        runtime, stages.Mesh(ball.vertices / 4, ball.faces), 10_000, max_error=stages.Length(0.01)
    )
    assert runtime.backends.used[FARTHEST] == name and len(made.faces) < 2000


def test_a_point_is_as_far_from_a_triangle_as_its_nearest_point():
    torch.manual_seed(0)
    corners, points = torch.randn(500, 3, 3).double(), torch.randn(500, 3).double()
    weights = torch.rand(500, 4000, 3).double().clamp_min(1e-9).log()
    near = ((weights / weights.sum(2, keepdim=True)) @ corners - points[:, None]).square().sum(2).amin(1)
    found = torch.from_numpy(_square_distance(points.numpy(), corners.numpy()))
    assert (found <= near + 1e-12).all() and (near.sqrt() - found.sqrt()).max() < 0.15


@needs_warp
@pytest.mark.parametrize("bound", [0.002, 0.01, 0.05])
def test_a_bound_costs_two_ways_down_at_most(ball, bound, monkeypatch):
    """By the edges that are priced: to within the bound, and straight to as many faces."""
    priced: list[int] = []
    launch = pytest.importorskip("pipeline.warp.launch")
    kept = launch.launch_parallel

    def counted(kernel, count, *arguments, **rows):
        priced.append(count if kernel.key == "find_costs" else 0)
        kept(kernel, count, *arguments, **rows)

    monkeypatch.setattr(launch, "launch_parallel", counted)
    found = collapse(ball, 4, quiet, bounded(bound))
    within, priced[:] = sum(priced), []
    collapse(ball, len(found.faces), quiet)
    assert 0 < within <= 2 * sum(priced) and deviation(ball, found, farthest_by_tree) > 0.6 * bound


@needs_warp
def test_a_bound_keeps_small_parts(ball):
    """A speck far from the rest would be as far from the result as that, if it went."""
    speck = Mesh(ball.vertices * 1e-3 + 3.0, ball.faces)
    mesh = Mesh(torch.cat([ball.vertices, speck.vertices]), torch.cat([ball.faces, speck.faces + len(ball.vertices)]))
    found = collapse(mesh, 4, quiet, bounded(0.05))
    assert found.report.components == 2 and len(found.faces) < 1000
