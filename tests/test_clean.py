"""Cleaning and measuring meshes: nothing non-manifold is left, nothing is opened, nothing else changes."""

import itertools
import json
import time
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
import trimesh
from meshes import clean, measure, needs_warp

from pipeline.bench_shapes import bench_field, spoil, surface_net
from pipeline.errors import MeshError, SettingsError
from pipeline.mesh.repair.clean import AFTER_SIMPLIFYING, CleanSettings
from pipeline.mesh.repair.repair import degenerate, weld
from pipeline.mesh.topology import half_edges
from pipeline.mesh.topology.half_edges import HalfEdges, Sheets, by_corners, components, grouped, hook, two_colour
from pipeline.warp import unavailable_reason

KEEP_ALL = CleanSettings(min_area_share=0, max_hole_perimeter=0)


def tensors(mesh):
    return torch.from_numpy(mesh.vertices.astype(np.float32)), torch.from_numpy(mesh.faces.astype(np.int32))


def turned(faces, seed=0):
    """Half of the faces wound the other way."""
    flip = torch.rand(len(faces), generator=torch.Generator().manual_seed(seed)) < 0.5
    return torch.where(flip[:, None], faces.flip(1), faces)


def same_faces(one, other):
    """The same corners, consistently oriented; in any order."""
    return sorted(one.tolist()) == sorted(other.tolist())


def same_corners(done, vertices, faces):
    """Each face lies where one of the faces lay; in any order."""
    one, other = (
        sorted(sorted(face) for face in points[corners.long()].tolist())
        for points, corners in ((done.vertices, done.faces), (vertices, faces))
    )
    return one == other


def fans(faces):
    """How many fans of faces each vertex has, by brute force."""
    around = defaultdict(list)
    for face in faces.tolist():
        for vertex in face:
            around[vertex].append(set(face) - {vertex})
    found = {}
    for vertex, rims in around.items():
        groups = []
        for rim in rims:
            touching = [group for group in groups if group & rim]
            groups = [group for group in groups if not group & rim] + [set.union(rim, *touching)]
        found[vertex] = len(groups)
    return found


def assert_manifold(vertices, faces, closed=True):
    """Every edge has two faces (one at a border), consistently oriented; every vertex has one fan and is used."""
    directed = Counter((a, b) for face in faces.tolist() for a, b in zip(face, face[1:] + face[:1]))
    assert max(directed.values()) == 1
    if closed:
        assert all((b, a) in directed for a, b in directed)
    assert set(fans(faces)) == set(range(len(vertices))) and set(fans(faces).values()) == {1}


def voxel_mesh(cells):
    """The surface of a set of unit cubes [X, Y, Z] bool, wound outward; cubes share the vertices they touch in."""
    solid = np.pad(cells, 1)
    quads = []
    for axis in range(3):
        u, v = np.eye(3, dtype=int)[(axis + 1) % 3], np.eye(3, dtype=int)[(axis + 2) % 3]
        for side in (0, 1):
            there = np.roll(solid, 1 - 2 * side, axis)
            corner = np.argwhere(solid & ~there) - 1 + side * np.eye(3, dtype=int)[axis]
            ring = np.stack([corner, corner + u, corner + u + v, corner + v], 1)
            quads.append(ring if side else ring[:, ::-1])
    quads = np.concatenate(quads)
    vertices, index = np.unique(quads.reshape(-1, 3), axis=0, return_inverse=True)
    index = index.reshape(-1, 4)
    faces = np.concatenate([index[:, [0, 1, 2]], index[:, [0, 2, 3]]])
    return torch.from_numpy(vertices.astype(np.float32)), torch.from_numpy(faces.astype(np.int32))


def cubes(*places):
    cells = np.zeros(np.max(places, 0) + 1, bool)
    cells[tuple(np.transpose(places))] = True
    return voxel_mesh(cells)


def moebius():
    turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    rim = [
        [np.cos(a) * (1 + s * np.cos(a / 2)), np.sin(a) * (1 + s * np.cos(a / 2)), s * np.sin(a / 2)]
        for a in turns
        for s in (-0.2, 0.2)
    ]
    faces = []
    for i in range(24):
        a, b, c, d = 2 * i, 2 * i + 1, 2 * i + 2, 2 * i + 3
        c, d = (c, d) if i < 23 else (1, 0)
        faces += [[a, b, c], [c, b, d]]
    return torch.tensor(rim, dtype=torch.float32), torch.tensor(faces, dtype=torch.int32)


# --- half-edges, components, colours


@pytest.fixture(params=["warp", "plain"])
def path(request, monkeypatch):
    """Both ways of doing the large steps: by kernels, and by torch and scipy where there is no Warp."""
    if request.param == "plain":
        without_warp(monkeypatch)
    elif unavailable_reason():
        pytest.skip(unavailable_reason())


def without_warp(monkeypatch):
    monkeypatch.setattr(half_edges, "unavailable_reason", lambda: "not for this test")


@pytest.mark.usefixtures("path")
def test_half_edges_against_a_dictionary():
    faces = torch.randint(30, (400, 3), generator=torch.Generator().manual_seed(1))
    edges, expected = HalfEdges.of(faces), defaultdict(list)
    for h, (a, b) in enumerate(torch.stack(edges.ends(torch.arange(1200)), 1).tolist()):
        assert a == faces[h // 3, h % 3] and b == faces[h // 3, (h + 1) % 3]
        expected[min(a, b), max(a, b)].append(h)
    found = [expected[key] for key in sorted(expected)]
    assert edges.count == len(found) and edges.non_manifold_edges == sum(len(part) > 2 for part in found)
    assert [edges.non_manifold[edges.edge == i].tolist() for i in range(edges.non_manifold_edges)] == [
        part for part in found if len(part) > 2
    ]
    assert edges.border().tolist() == sorted(part[0] for part in found if len(part) == 1)
    pairs = sorted(part for part in found if len(part) == 2)
    assert pairs and torch.stack(edges.pairs(), 1).tolist() == pairs
    twins = dict(pairs) | {b: a for a, b in pairs}
    assert edges.twin.tolist() == [twins.get(h, -1) for h in range(1200)]


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("keys", [0, 1, 1000])
def test_grouped(keys):
    key = torch.randint(50, (keys,), generator=torch.Generator().manual_seed(0)).int()
    order, first = grouped(key, 52)
    assert torch.equal(order.long(), key.sort(stable=True).indices)
    assert first.tolist() == torch.searchsorted(key.sort().values, torch.arange(53)).tolist()


@pytest.mark.usefixtures("path")
def test_the_order_of_corners():
    faces = torch.randint(9, (300, 3), generator=torch.Generator().manual_seed(0)).int()
    expected = sorted(range(300), key=lambda f: (sorted(faces[f].tolist()), f))
    order, again = by_corners(faces)
    assert order.tolist() == expected
    corners = [sorted(faces[f].tolist()) for f in expected]
    assert again.tolist() == [False] + [one == other for one, other in itertools.pairwise(corners)]


@pytest.mark.parametrize("links", [0, 30, 120, 1000])
def test_components_by_hooking_equal_scipys(links):
    a, b = torch.randint(200, (2, links), generator=torch.Generator().manual_seed(links))
    root, (label, count) = hook(a, b, 200), components(a, b, 200)
    assert torch.equal(torch.unique(root, return_inverse=True)[1], label) and count == len(root.unique())
    assert all((root[label == i] == (label == i).nonzero().min()).all() for i in range(count))


def test_hooking_on_a_long_path():
    order = torch.randperm(20_000, generator=torch.Generator().manual_seed(0))
    assert (hook(order[1:], order[:-1], 20_000) == 0).all()
    straight = torch.arange(20_000)
    assert (hook(straight[1:], straight[:-1], 20_000) == 0).all()


def test_two_colours():
    """Colours that were chosen at random are found again, and an odd ring is told apart."""
    random = torch.Generator().manual_seed(2)
    colour = torch.rand(300, generator=random) < 0.5
    a, b = torch.randint(300, (2, 250), generator=random)
    label, found, possible = two_colour(a, b, colour[a] != colour[b], 300)
    assert torch.equal(found[a] != found[b], colour[a] != colour[b]) and possible.all()
    assert not any(found[label == i][0] for i in range(len(possible)))
    ring = torch.tensor([0, 1, 2])
    label, found, possible = two_colour(ring, ring.roll(-1), torch.tensor([True, True, True]), 4)
    assert label.tolist() == [0, 0, 0, 1] and possible.tolist() == [False, True] and not found.any()


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("shuffled", [False, True])
def test_sheets_of_a_cpu_equal_those_by_labelling(shuffled):
    """Nine balls (large ones are searched, the rest labelled), three Moebius strips, all with random winding."""
    parts = [tensors(trimesh.creation.icosphere(4 - i // 2, 0.1)) for i in range(9)] + [moebius()] * 3
    shift = np.cumsum([0] + [len(v) for v, _ in parts])
    faces = turned(torch.cat([f + int(s) for (_, f), s in zip(parts, shift)])).int()
    if shuffled:
        faces = faces[torch.randperm(len(faces), generator=torch.Generator().manual_seed(1))]
    edges = HalfEdges.of(faces)
    twin = edges.twin
    half = ((twin >= 0) & (twin > torch.arange(len(twin)))).nonzero().squeeze(1)
    same = faces.reshape(-1)[half] == faces.reshape(-1)[twin[half]]
    expected = two_colour(half // 3, twin[half].long() // 3, same, len(faces))
    sheets = Sheets.of(edges)
    for found, wanted in zip((sheets.label, sheets.flip, sheets.orientable), expected):
        assert torch.equal(found, wanted)
    assert int(sheets.orientable.sum()) == 9 and len(sheets.orientable) == 12


# --- edges of many faces, vertices of many fans


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
        part_of = Sheets.of(HalfEdges.of(done.faces)).label
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


# --- winding


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


def crossed_cap(ball):
    """A ball of which a corner of five faces is replaced by a Moebius strip of five on the same rim: non-orientable."""
    corner = int(np.flatnonzero(np.bincount(ball.faces.ravel()) == 5)[0])
    around = (ball.faces == corner).any(1)
    following = {face[list(face).index(corner) - 2]: face[list(face).index(corner) - 1] for face in ball.faces[around]}
    rim = [next(iter(following))]
    while len(rim) < 5:
        rim.append(following[rim[-1]])
    a, d, b, e, c = rim  # the strip's border runs a d b e c
    strip = [(a, e, d), (e, d, c), (d, c, b), (c, b, a), (b, a, e)]
    return torch.tensor(ball.vertices).float(), torch.tensor(
        np.concatenate([ball.faces[~around], strip]), dtype=torch.int32
    )


@needs_warp
@pytest.mark.usefixtures("path")
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


# --- the other repairs


def test_weld_makes_a_soup_a_ball_again():
    vertices, faces = tensors(trimesh.creation.icosphere(3, 0.4))
    soup, corners = vertices[faces.long()].reshape(-1, 3), torch.arange(3840, dtype=torch.int32).reshape(-1, 3)
    soup[soup == 0] = torch.where(torch.arange(int((soup == 0).sum())) % 2 == 0, 0.0, -0.0)  # the same place
    new_vertices, new_faces, count = weld(soup, corners)
    assert len(new_vertices) == 642 and count == 3840 - 642 and measure(new_vertices, new_faces).euler == 2
    assert torch.equal(new_vertices[new_faces.long()], soup.reshape(-1, 3, 3))
    jitter = soup + (torch.rand(soup.shape, generator=torch.Generator().manual_seed(0)) - 0.5) * 1e-7
    assert measure(*weld(jitter, corners)[:2]).euler != 2


def test_weld_keeps_the_first_and_the_order():
    vertices = torch.tensor([[2.0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 0, 1], [1, 0, 0]])
    new, faces, count = weld(vertices, torch.tensor([[0, 1, 3], [2, 3, 4]]))
    assert new.tolist() == [[2, 0, 0], [1, 0, 0], [0, 0, 1]] and faces.tolist() == [[0, 1, 2], [0, 2, 1]] and count == 2


def test_degenerate_and_repeated_faces_are_dropped():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 1, 2], [2, 0, 1], [0, 1, 3], [2, 2, 1], [2, 1, 0], [0, 1, 4]], dtype=torch.int32)
    assert degenerate(vertices, faces).tolist() == [False, False, True, True, False, False]
    done = clean(vertices, faces, KEEP_ALL)
    assert (done.changes["degenerate_faces"], done.changes["repeated_faces"]) == (2, 2)
    assert sorted(sorted(face) for face in done.vertices[done.faces.long()].tolist()) == sorted(
        sorted(face) for face in vertices[torch.tensor([[0, 1, 2], [0, 1, 4]])].tolist()
    )


def test_repeats_against_a_set():
    faces = torch.randint(9, (300, 3), generator=torch.Generator().manual_seed(0))
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])]
    seen, expected = set(), []
    for face in faces.tolist():
        if frozenset(face) not in seen:
            expected.append(face)
        seen.add(frozenset(face))
    order, again = by_corners(faces)
    assert faces[order[~again].long().sort().values].tolist() == expected  # the first of each stays


def test_small_components_are_dropped_and_the_largest_stays():
    parts = [
        trimesh.creation.icosphere(2, r).apply_translation((x, 0, 0)) for r, x in ((0.01, 0.4), (0.3, 0), (0.02, -0.4))
    ]
    vertices, faces = tensors(trimesh.util.concatenate(parts))
    done = clean(vertices, faces, CleanSettings(min_area_share=2e-3))
    assert done.changes["small_components"] == 1 and len(done.faces) == 640
    done = clean(vertices, faces, CleanSettings(min_area_share=1.0))
    assert done.changes["small_components"] == 2 and len(done.faces) == 320
    assert done.changes["unused_vertices"] == 324 and torch.equal(done.vertices, vertices[162:324])


def test_ten_thousand_fragments():
    shell = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], dtype=torch.int32)
    random = torch.Generator().manual_seed(0)
    corners = torch.rand(10_000, 1, 3, generator=random) + torch.rand(10_000, 4, 3, generator=random) * 1e-2
    faces = (shell + 4 * torch.arange(10_000, dtype=torch.int32)[:, None, None]).reshape(-1, 3)

    def seconds(fragments):
        started = time.process_time()
        clean(corners[:fragments].reshape(-1, 3), turned(faces[: 4 * fragments]), KEEP_ALL)
        return time.process_time() - started

    seconds(10)  # compiles
    assert seconds(10_000) < 40 * max(seconds(1_000), 0.02)  # a pass per fragment would take 100 times as long
    done = clean(corners.reshape(-1, 3), turned(faces), KEEP_ALL)
    found = measure(done.vertices, done.faces)
    assert found.watertight and found.components == 10_000 and found.euler == 20_000 and found.inconsistent_edges == 0
    assert clean(corners.reshape(-1, 3), faces, CleanSettings(min_area_share=1.0)).changes["small_components"] == 9_999


@pytest.mark.parametrize(
    "shape, euler", [(trimesh.creation.icosphere(4, 0.4), 2), (trimesh.creation.torus(0.3, 0.1, 64, 32), 0)]
)
def test_damage_is_undone(shape, euler):
    """Missing, repeated, turned and degenerate faces, fragments, unused vertices: the Euler number comes back."""
    vertices, faces = tensors(shape)
    random = torch.Generator().manual_seed(5)
    missing = torch.zeros(len(faces), dtype=torch.bool)
    missing[::150] = True
    hurt = turned(faces)[~missing]
    bad = hurt[:40].clone()
    bad[:, 2] = bad[:, 0]
    speck = torch.tensor([[0.45, 0.45, 0.45], [0.451, 0.45, 0.45], [0.45, 0.451, 0.45]])
    hurt = torch.cat([hurt, hurt[100:130], bad, torch.tensor([[0, 1, 2]], dtype=torch.int32) + len(vertices)])
    hurt = hurt[torch.randperm(len(hurt), generator=random)]
    done = clean(torch.cat([vertices, speck]), hurt, CleanSettings(max_hole_perimeter=0.3))
    assert done.changes["filled_holes"] == int(missing.sum()) and done.changes["small_components"] == 1
    assert done.changes["repeated_faces"] == 30 and done.changes["degenerate_faces"] == 40
    assert_manifold(done.vertices, done.faces)
    found = measure(done.vertices, done.faces)
    assert found.euler == euler and found.components == 1 and found.volume == pytest.approx(shape.volume, rel=1e-2)


def test_holes_are_filled():
    ball = trimesh.creation.icosphere(3, 0.4)
    keep = ~np.isin(ball.faces, [0, 100, 300]).any(1)
    vertices, faces = tensors(trimesh.Trimesh(ball.vertices, ball.faces[keep], process=False))
    done = clean(vertices, faces, CleanSettings(max_hole_perimeter=1.0))
    found = measure(done.vertices, done.faces)
    assert done.changes["filled_holes"] == 3 and found.watertight and found.euler == 2
    assert found.volume == pytest.approx(ball.volume, rel=0.02)
    assert clean(vertices, faces, CleanSettings(max_hole_perimeter=0.1)).changes["filled_holes"] == 0


def test_a_slit_is_not_filled():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0.5, 0, 0], [0.5, -1, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 4, 3], [3, 4, 1], [2, 1, 4], [0, 2, 4]], dtype=torch.int32)
    assert measure(vertices, faces).boundary_edges == 3  # 0-1, and the same line by way of 3
    assert clean(vertices, faces, CleanSettings(max_hole_perimeter=10.0)).changes["filled_holes"] == 0


def test_the_hole_of_a_non_orientable_strip_is_not_filled():
    """Its rim is one loop, round which the faces cannot be consistently oriented."""
    vertices, faces = moebius()
    done = clean(vertices, faces, CleanSettings(max_hole_perimeter=100.0))
    assert done.changes["filled_holes"] == 0 and same_faces(done.faces, faces)


def test_the_spoiled_bench_mesh_comes_out_manifold():
    done = clean(*spoil(*surface_net(bench_field, 48)), CleanSettings(max_hole_perimeter=0.15))
    found = measure(done.vertices, done.faces)
    assert found.non_manifold_edges == found.inconsistent_edges == 0
    assert_manifold(done.vertices, done.faces, closed=False)
    assert done.changes["degenerate_faces"] == 200 and done.changes["small_components"] >= 60
    assert done.changes["filled_holes"] > 300


def test_kernels_and_plain_torch_clean_alike(monkeypatch):
    vertices, faces = spoil(*surface_net(bench_field, 40))
    by_kernels = clean(vertices, faces, CleanSettings(max_hole_perimeter=0.15))
    without_warp(monkeypatch)
    plain = clean(vertices, faces, CleanSettings(max_hole_perimeter=0.15))
    # lines of sight, which decide on non-orientable components, are other ones
    turned = by_kernels.changes.pop("turned_faces"), plain.changes.pop("turned_faces")
    assert plain.changes == by_kernels.changes and abs(turned[0] - turned[1]) < 0.1 * turned[0]
    assert torch.equal(plain.faces.sort(1).values, by_kernels.faces.sort(1).values)
    assert torch.equal(plain.vertices, by_kernels.vertices)
    wrong = measure(plain.vertices, plain.faces).inconsistent_edges
    assert wrong <= 1.2 * measure(by_kernels.vertices, by_kernels.faces).inconsistent_edges


def test_the_order_of_faces_does_not_matter():
    vertices, faces = spoil(*surface_net(bench_field, 40))
    faces = faces[~by_repeats(faces)]
    one, other = clean(vertices, faces), clean(vertices, faces[torch.randperm(len(faces))])
    assert one.changes == other.changes and torch.equal(one.faces, other.faces)
    assert torch.equal(one.vertices, other.vertices)
    low = one.faces[: len(faces) // 2].amin(1)
    assert (low[1:] < low[:-1]).float().mean() < 0.05  # neighbours in memory, but at vertices that were copied


def by_repeats(faces):
    """[F] bool: has the same corners as another face."""
    _, place, uses = torch.unique(faces.sort(1).values, dim=0, return_inverse=True, return_counts=True)
    return uses[place] > 1


def test_inputs_are_not_changed():
    vertices, faces = voxel_mesh(np.random.default_rng(0).random((4, 4, 4)) < 0.5)
    before = vertices.clone(), faces.clone()
    clean(vertices, faces)
    assert torch.equal(vertices, before[0]) and torch.equal(faces, before[1])


# --- report


def test_report_of_a_ball():
    ball = trimesh.creation.icosphere(3, 0.4)
    found = measure(*tensors(ball))
    assert found.watertight and found.warnings() == []
    assert (found.vertices, found.faces, found.components, found.euler) == (642, 1280, 1, 2)
    assert found.volume == pytest.approx(ball.volume) and found.area == pytest.approx(ball.area)
    facts = json.loads(json.dumps(found.as_dict()))
    assert facts["bounds"][0] == pytest.approx([-0.4] * 3) and facts["watertight"] is True


def test_report_of_defects():
    vertices, faces = cubes((0, 0, 0), (1, 1, 0))
    faces = faces[1:].clone()
    faces[20] = faces[20].flip(0)
    found = measure(torch.cat([vertices, vertices[:1] + 5]), faces)
    assert (found.components, found.boundary_edges, found.boundary_loops, found.non_manifold_edges) == (1, 3, 1, 1)
    assert found.inconsistent_edges == 3 and not found.watertight and found.volume is None
    assert found.bounds[1] == (5, 5, 5)
    assert found.warnings() == [
        "3 boundary edges in 1 hole or border: the mesh is not watertight.",
        "1 edge with more than two faces: the mesh is not manifold.",
        "3 edges with faces wound against each other: parts of the mesh may look inside out.",
    ]
    inside_out = measure(vertices, cubes((0, 0, 0), (1, 1, 0))[1].flip(1))
    assert inside_out.volume is None  # edges of four faces
    box = tensors(trimesh.creation.box())
    assert measure(box[0], box[1].flip(1)).warnings() == [
        "The enclosed volume is not positive: the mesh is inside out."
    ]


# --- bad input

ONE = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
FACE = torch.tensor([[0, 1, 2]], dtype=torch.int32)


def test_an_empty_mesh_stays_empty():
    for vertices in (ONE, ONE[:0]):
        done = clean(vertices, FACE[:0])
        assert done.vertices.shape == (0, 3) and done.faces.shape == (0, 3)
        found = measure(vertices, FACE[:0])
        assert not found.watertight and found.volume is None and found.warnings() == ["The mesh has no faces."]
        json.dumps(found.as_dict())
        assert len(weld(vertices, FACE[:0])[1]) == 0


def test_one_triangle_stays():
    done = clean(ONE, FACE)
    assert torch.equal(done.faces, FACE) and torch.equal(done.vertices, ONE)
    assert measure(ONE, FACE).boundary_edges == 3


def test_a_mesh_of_degenerate_faces_comes_out_empty():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [1, 0, 0]])
    done = clean(vertices, torch.tensor([[0, 1, 2], [0, 0, 1], [1, 3, 2], [2, 2, 2]]))
    assert len(done.faces) == len(done.vertices) == 0 and done.changes["degenerate_faces"] == 4
    measure(vertices, torch.tensor([[0, 1, 2], [0, 0, 1], [1, 3, 2], [2, 2, 2]]))  # counts, whatever they mean


def test_random_faces_come_out_manifold():
    """Faces that join random vertices: edges of dozens of faces, non-orientable parts."""
    for seed in range(5):
        random = torch.Generator().manual_seed(seed)
        vertices = torch.rand(12, 3, generator=random)
        done = clean(vertices, torch.randint(12, (150, 3), generator=random), KEEP_ALL)
        found = measure(done.vertices, done.faces)
        assert found.non_manifold_edges == 0 and set(fans(done.faces).values()) == {1}


@pytest.mark.parametrize(
    "vertices, faces, message",
    [
        (torch.tensor([[0, 0, 0], [float("nan"), 0, 0], [0, float("inf"), 0]]), FACE, "2 of 3 vertices .* is number 1"),
        (ONE, torch.tensor([[0, 1, 3]]), "vertices 0 to 3, but the mesh has 3"),
        (ONE, torch.tensor([[0, -1, 2]]), "vertices -1 to 2"),
        (ONE[:0], FACE, "the mesh has 0"),
        (ONE[:, :2], FACE, r"Vertices are \[3, 2\] float32"),
        (ONE.int(), FACE, r"\[3, 3\] int32; expected \[V, 3\] of a float type"),
        (ONE, torch.tensor([[0, 1, 2, 0]]), r"Faces are \[1, 4\] int64.* triangulate"),
        (ONE, FACE.float(), "Faces are .* float32"),
    ],
)
def test_meshes_that_are_none_are_refused(vertices, faces, message):
    for function in (clean, measure):
        with pytest.raises(MeshError, match=message):
            function(vertices, faces)


@pytest.mark.parametrize(
    "wrong", [{"min_area_share": -1.0}, {"min_area_share": 2.0}, {"max_hole_perimeter": float("nan")}]
)
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        CleanSettings(**wrong)


def test_the_rim_of_a_sheet_is_no_hole():
    """A cap of a ball, cut at a height: a deep one is closed by its fan, a flat one stays a sheet."""
    ball = trimesh.creation.icosphere(4, 1e-3)
    for height, holes in ((-0.5, 1), (0.6, 0)):
        faces = ball.faces[(ball.vertices[ball.faces][:, :, 2] > height * 1e-3).all(1)]
        done = clean(torch.tensor(ball.vertices).float(), torch.tensor(faces).int(), CleanSettings())
        assert done.changes["filled_holes"] == holes
    triangle = torch.tensor([[0.0, 0, 0], [1e-3, 0, 0], [0, 1e-3, 0]]), torch.tensor([[0, 1, 2]], dtype=torch.int32)
    assert len(clean(*triangle, CleanSettings()).faces) == 1


@pytest.mark.parametrize(("holes", "handles"), [(0, 0), (3, 0), (0, 1), (4, 1)])
def test_a_report_knows_handles_and_the_faces_that_they_need(holes, handles):
    mesh = trimesh.creation.torus(0.4, 0.15, 48, 24) if handles else trimesh.creation.icosphere(3, 0.4)
    faces = torch.from_numpy(np.delete(mesh.faces, [100 * k for k in range(holes)], axis=0).astype(np.int32))
    report = measure(torch.from_numpy(mesh.vertices), faces)
    assert (report.boundary_loops, report.handles) == (holes, handles)
    assert report.least_faces == 4 + 5 * holes + 12 * handles
