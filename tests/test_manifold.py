"""Edges of many faces and vertices of many fans are parted, and surfaces wound outward."""

import itertools

import numpy as np
import pytest
import torch
import trimesh
from devices import on_device
from manifolds import (
    KEEP_ALL,
    assert_manifold,
    crossed_cap,
    cubes,
    moebius,
    same_corners,
    same_faces,
    turned,
    voxel_mesh,
)
from meshes import clean, measure, needs_warp, tensors

from pipeline.bench.shapes import surface_net
from pipeline.mesh import Mesh
from pipeline.mesh.examples import ball
from pipeline.mesh.repair.clean import AFTER_SIMPLIFYING
from pipeline.mesh.topology.half_edges import HalfEdges, Sheets
from pipeline.mesh.topology.measures import _in_any_order, face_measures

pytestmark = pytest.mark.usefixtures("device")

edges_of, sheets_of = on_device(HalfEdges.of), on_device(Sheets.of)


def test_two_cubes_that_share_an_edge_part():
    vertices, faces = cubes((0, 0, 0), (1, 1, 0))
    assert measure(vertices, faces).non_manifold_edges == 1
    done = clean(vertices, faces, KEEP_ALL)
    assert done.changes["non_manifold_edges"] == 1 and done.changes["copied_vertices"] == 2
    assert len(done.faces) == len(faces)
    assert same_corners(done, vertices, faces)  # nothing moved
    assert_manifold(done.vertices, done.faces)
    found = measure(done.vertices, done.faces)
    assert (found.components, found.euler, found.volume) == (2, 4, 2.0)


def test_two_cubes_that_share_a_vertex_part():
    vertices, faces = cubes((0, 0, 0), (1, 1, 1))
    assert measure(vertices, faces).euler == 3
    done = clean(vertices, faces, KEEP_ALL)
    assert done.changes["copied_vertices"] == 1 and same_corners(done, vertices, faces)
    assert_manifold(done.vertices, done.faces)
    assert measure(done.vertices, done.faces).euler == 4


def test_an_edge_whose_bodies_hang_together_at_both_ends_gets_a_midpoint():
    """Copies of its ends cannot part the two surfaces here: both go round the same vertices."""
    blocks = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 2)] + [(0, 0, 1), (1, 1, 1)]
    vertices, faces = cubes(*blocks)
    assert measure(vertices, faces).non_manifold_edges == 1
    done = clean(vertices, faces, KEEP_ALL)
    assert done.changes["midpoints"] == 1 and done.changes["copied_vertices"] == 0
    assert len(done.vertices) == len(vertices) + 1 and len(done.faces) == len(faces) + 2
    assert done.vertices[-1].tolist() == [1, 1, 1.5]
    assert_manifold(done.vertices, done.faces)
    found = measure(done.vertices, done.faces)
    assert found.volume == pytest.approx(10) and found.euler == 0  # a ring: two plates, two posts


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("spoiled", [False, True])
def test_any_set_of_voxels_becomes_a_closed_manifold_of_their_volume(seed, spoiled):
    """Non-manifold edges and vertices everywhere, hollows inside, faces wound at random: the volume is exact."""
    cells = np.random.default_rng(seed).random((5, 5, 5)) < (0.25, 0.5, 0.75)[seed % 3]
    vertices, faces = voxel_mesh(cells)
    done = clean(vertices, turned(faces) if spoiled else faces, KEEP_ALL)
    assert done.changes["non_manifold_edges"] > 0
    assert_manifold(done.vertices, done.faces)
    found = measure(done.vertices, done.faces)
    assert found.watertight and found.volume == pytest.approx(int(cells.sum()))
    assert found.area == pytest.approx(measure(vertices, faces).area)
    again = clean(done.vertices, done.faces, AFTER_SIMPLIFYING)
    assert not any(again.changes.values()) and same_faces(again.faces, done.faces)


@pytest.mark.parametrize("seed", range(4))
def test_dual_grids_of_noise_are_repaired_without_a_slit(seed):
    grid = torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(seed))

    def noise(points):
        value = torch.nn.functional.grid_sample(grid[None, None], 2 * points[None, None, None], align_corners=True)
        return torch.where(points.abs().amax(1) > 0.4, 1.0, value.reshape(-1))

    vertices, faces = surface_net(noise, 18)
    before = measure(vertices, faces)
    assert before.non_manifold_edges > 0 and before.boundary_edges == 0
    done = clean(vertices, turned(faces, seed), KEEP_ALL)
    assert_manifold(done.vertices, done.faces)
    assert measure(done.vertices, done.faces).area == pytest.approx(before.area, rel=1e-5)


def test_a_fin_on_a_body_leaves_the_body_closed():
    """Three faces at each of its edges, wound either way: the two that are nearest to flat belong together."""
    turn = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    ring = np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1)
    vertices = torch.tensor(np.concatenate([ring, 1.3 * ring, [[0, 0, 0.5], [0, 0, -0.5]]]), dtype=torch.float32)
    i, top = torch.arange(32), torch.full((32,), 64)
    j = (i + 1) % 32
    body = torch.cat([torch.stack([i, j, top], 1), torch.stack([j, i, top + 1], 1)])
    fin = torch.cat([torch.stack([i, j, j + 32], 1), torch.stack([i, j + 32, i + 32], 1)])
    for part in (fin, fin.flip(1), turned(fin)):
        done = clean(vertices, torch.cat([body, part]), KEEP_ALL)
        assert done.changes["non_manifold_edges"] == 32
        assert_manifold(done.vertices, done.faces, closed=False)
        found = measure(done.vertices, done.faces)
        assert (found.components, found.boundary_edges, found.boundary_loops, found.euler) == (2, 64, 2, 2)
        part_of = sheets_of(edges_of(done.faces)).label
        closed = [measure(done.vertices, done.faces[part_of == i]).watertight for i in range(2)]
        assert sorted(closed) == [False, True] and (part_of == closed.index(True)).sum() == 64


def test_a_vertex_of_many_faces():
    """A cone of 3,000 faces is walked round the slow way, and two that share their tip part."""
    turn = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    rim = np.stack([np.cos(turn), np.sin(turn), np.ones(3000)], 1)
    vertices = torch.tensor(np.concatenate([[[0, 0, 0]], rim, -rim, [[0, 0, 1], [0, 0, -1]]]), dtype=torch.float32)
    i = torch.arange(3000)
    j, tip = (i + 1) % 3000, torch.zeros_like(i)
    faces = [torch.stack([tip, j + 1, i + 1], 1), torch.stack([tip + 6001, i + 1, j + 1], 1)]
    faces += [torch.stack([tip, i + 3001, j + 3001], 1), torch.stack([tip + 6002, j + 3001, i + 3001], 1)]
    done = clean(vertices, torch.cat(faces))
    assert done.changes["copied_vertices"] == 1 and done.faces.dtype == torch.int64
    assert measure(done.vertices, done.faces).euler == 4
    assert_manifold(done.vertices, done.faces)


def test_nested_balls_face_from_material_to_empty_space():
    radii = (0.45, 0.35, 0.25, 0.15)
    balls = [trimesh.creation.icosphere(3, radius) for radius in radii]
    vertices, faces = tensors(trimesh.util.concatenate(balls))
    done = clean(vertices, turned(faces), KEEP_ALL)
    ball = done.vertices.norm(dim=1)[done.faces[:, 0].long()]
    volumes = [measure(done.vertices, done.faces[(ball - radius).abs() < 0.02]).volume for radius in radii]
    assert volumes == pytest.approx([s * b.volume for s, b in zip((1, -1, 1, -1), balls)], rel=1e-5)


def test_many_balls_in_a_ball():
    """Eight in a hollow, eight beside it, at random places, wound at random."""
    outer, inner = trimesh.creation.icosphere(4, 0.5), trimesh.creation.icosphere(4, 0.45)
    small = []
    for i, place in enumerate(itertools.product((-0.2, 0.2), repeat=3)):
        ball = trimesh.creation.icosphere(2, 0.05 + 0.01 * i)
        small += [ball.copy().apply_translation(place), ball.copy().apply_translation(np.add(place, (1.2, 0.1, 0)))]
    parts = [outer, inner, *small]
    vertices, faces = tensors(trimesh.util.concatenate(parts))
    done = clean(vertices, turned(faces), KEEP_ALL)
    expected = sum(part.volume for part in parts) - 2 * inner.volume
    assert measure(done.vertices, done.faces).volume == pytest.approx(expected, rel=1e-5)


def test_a_moebius_strip_is_left_as_it_is():
    vertices, faces = moebius()
    done = clean(vertices, faces)
    assert torch.equal(done.vertices, vertices) and same_faces(done.faces, faces) and not any(done.changes.values())
    found = measure(vertices, faces)
    assert (found.inconsistent_edges, found.boundary_loops, found.components, found.euler) == (1, 1, 1, 0)


@needs_warp
@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("hollow", [False, True])
def test_one_misplaced_spot_does_not_leave_a_surface_wound_anyhow(hollow):
    """A non-orientable ball, also with a thousand faces missing, wound at random: outward but for the spot."""
    vertices, faces = crossed_cap(trimesh.creation.icosphere(5, 0.4))
    if hollow:
        keep = torch.rand(len(faces), generator=torch.Generator().manual_seed(0)) > 0.05
        keep[-5:] = True
        faces = faces[keep]
    assert measure(vertices, faces).inconsistent_edges > 0
    done = clean(vertices, turned(faces), KEEP_ALL)
    a, b, c = done.vertices[done.faces.long()].unbind(1)
    inward = (torch.linalg.cross(b - a, c - a) * (a + b + c)).sum(1) < 0
    assert len(done.faces) == len(faces) and int(inward.sum()) <= 5
    assert measure(done.vertices, done.faces).inconsistent_edges <= 12
    again = clean(vertices, turned(faces), KEEP_ALL)
    assert torch.equal(again.faces, done.faces)


def test_an_open_sheet_faces_away_from_the_middle():
    ball, sheet = tensors(trimesh.creation.icosphere(3, 0.3)), torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    square = torch.tensor([[-0.1, -0.1, 0.45], [0.1, -0.1, 0.45], [0.1, 0.1, 0.45], [-0.1, 0.1, 0.45]])
    vertices = torch.cat([ball[0], square])
    for given in (sheet, sheet.flip(1)):
        done = clean(vertices, torch.cat([ball[1], given + len(ball[0])]))
        a, b, c = done.vertices[done.faces[-1].long()]
        assert torch.linalg.cross(b - a, c - a)[2] > 0


@pytest.mark.parametrize("groups", [1, 5])
@pytest.mark.parametrize("size", [1e-9, 1.0, 3e8])
def test_sums_on_a_gpu_are_the_same_in_any_order(groups, size):
    """Its additions come in another order each time, and those to one place wait for each other. A speck of a millionth
    of the mesh keeps its digits."""
    one = ball(torch.device("cpu"), 20)
    shift = torch.tensor([0.7, 0.1, -0.3])
    mesh = Mesh(
        size * torch.cat([one.vertices, 1e-6 * one.vertices + shift]).double(),
        torch.cat([one.faces, one.faces + len(one.vertices)]),
    )
    group = torch.arange(len(mesh.faces)) // len(one.faces) if groups == 1 else torch.arange(len(mesh.faces)) % groups
    count = int(group.max()) + 1
    expected = face_measures(mesh.vertices, mesh.faces, group, count, False)
    for lanes in (1, 7):
        found = _in_any_order(mesh.vertices, mesh.faces, group, count, lanes)
        shuffled = torch.randperm(len(group), generator=torch.Generator().manual_seed(1))
        again = _in_any_order(mesh.vertices, mesh.faces[shuffled], group[shuffled], count, lanes)
        for right, one_sum, other in zip(expected, found, again):
            torch.testing.assert_close(one_sum, right, rtol=1e-8, atol=0)
            assert torch.equal(one_sum, other) and one_sum.shape == (count,)
