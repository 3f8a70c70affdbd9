"""Cleaning and measuring meshes: nothing non-manifold is left, nothing is opened, nothing else changes."""

import json
import time

import numpy as np
import pytest
import torch
import trimesh
from devices import on_device
from manifolds import (
    KEEP_ALL,
    assert_manifold,
    cubes,
    fans,
    moebius,
    same_faces,
    turned,
    voxel_mesh,
    without_warp,
)
from meshes import clean, measure, tensors

from pipeline.bench.shapes import bench_field, spoil, surface_net
from pipeline.errors import MeshError, SettingsError
from pipeline.mesh.repair.clean import CleanSettings
from pipeline.mesh.repair.repair import degenerate, weld
from pipeline.mesh.topology.sorting import by_corners

pytestmark = pytest.mark.usefixtures("device")

by_corners = on_device(by_corners)
degenerate = on_device(degenerate)
weld = on_device(weld)


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
        "3 edges with inconsistently oriented faces: parts of the mesh may look inside out.",
    ]
    inside_out = measure(vertices, cubes((0, 0, 0), (1, 1, 0))[1].flip(1))
    assert inside_out.volume is None  # edges of four faces
    box = tensors(trimesh.creation.box())
    assert measure(box[0], box[1].flip(1)).warnings() == [
        "The enclosed volume is not positive: the mesh is inside out."
    ]


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
