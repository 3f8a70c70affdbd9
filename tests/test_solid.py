"""Solids by dual contouring, projection onto the original, and meshes and settings that are refused."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import trimesh
from devices import on_device
from meshes import outer_shell, project, solid, tensors

from pipeline.errors import EmptyResultError, MeshError, SettingsError

pytest.importorskip("warp", reason="warp-lang is not installed")

from bodies import BALL, CELL, box, euler_of_manifold, random_blocks, random_soup, sphere, together, volume

from pipeline.mesh.query.surface import Surface
from pipeline.mesh.remesh import contour
from pipeline.mesh.remesh.project import _normals

pytestmark = pytest.mark.usefixtures("device")
Surface, _normals = (on_device(each) for each in (Surface, _normals))


# --- solid


def tube():
    """A closed tube that passes through itself."""
    t = np.linspace(0, 2 * np.pi, 160, endpoint=False)
    path = np.stack([0.3 * np.sin(t), 0.25 * np.sin(2 * t), 0.005 * np.cos(t)], 1)
    tangent = np.roll(path, -1, 0) - np.roll(path, 1, 0)
    side = np.cross(tangent, [0, 0, 1])
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    u = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = 0.07 * (np.cos(u)[None, :, None] * side[:, None] + np.sin(u)[None, :, None] * np.array([0, 0, 1.0]))
    i, j = np.meshgrid(np.arange(160), np.arange(24), indexing="ij")
    a, b = i * 24 + j, (i + 1) % 160 * 24 + j
    c, d = (i + 1) % 160 * 24 + (j + 1) % 24, i * 24 + (j + 1) % 24
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return torch.from_numpy((path[:, None] + ring).reshape(-1, 3)).float(), torch.from_numpy(faces).int()


def sliced_box():
    """A box of slivers: each side a fan of long thin triangles round one corner."""
    mesh = trimesh.creation.box(extents=(0.8, 0.6, 0.5))
    return tensors(trimesh.Trimesh(*trimesh.remesh.subdivide_loop(*_fan(mesh), iterations=0), process=False))


def _fan(mesh, parts=60):
    vertices, faces = list(mesh.vertices), []
    for a, b, c in mesh.faces:
        ids = [b]
        for k in range(1, parts):
            vertices.append(mesh.vertices[b] + (mesh.vertices[c] - mesh.vertices[b]) * k / parts)
            ids.append(len(vertices) - 1)
        ids.append(c)
        faces += [(a, p, q) for p, q in pairwise(ids)]
    return np.array(vertices), np.array(faces)


FAMILY = {
    "sphere": (lambda: sphere(0.4), BALL, 2),
    "torus": (lambda: tensors(trimesh.creation.torus(0.3, 0.12, 96, 48)), 0.08497, 0),
    "cube": (lambda: box((0.5, 0.6, 0.7)), 0.21, 2),
    "nested spheres": (lambda: together(sphere(0.4), sphere(0.3), sphere(0.2)), BALL, 2),
    "double wall": (lambda: together(sphere(0.4), sphere(0.4 - 0.8 * CELL)), BALL, 2),
    "overlapping boxes": (lambda: together(box((0.4,) * 3, (-0.1,) * 3), box((0.4,) * 3, (0.1,) * 3)), 0.12, 2),
    "touching boxes": (lambda: together(box((0.3,) * 3, (-0.15, 0, 0)), box((0.3,) * 3, (0.15, 0, 0))), 0.054, 2),
    "gap": (lambda: together(box((0.3,) * 3, (-0.16, 0, 0)), box((0.3,) * 3, (0.15, 0, 0))), 0.054, 4),
    "closed gap": (lambda: together(box((0.3,) * 3, (-0.1502, 0, 0)), box((0.3,) * 3, (0.1502, 0, 0))), 0.054, 2),
    "tube": (tube, None, -2),
    "plate": (lambda: box((0.8, 0.8, 2.5 * 0.8 * CELL)), 0.64 * 2.5 * 0.8 * CELL, 2),
    "slivers": (sliced_box, 0.24, 2),
    "pinhole": (lambda: (lambda v, f: (v, f[2:]))(*sphere(0.4, 5)), BALL, 2),
}


@pytest.mark.parametrize("name", FAMILY)
def test_solid_has_the_right_topology_and_volume(name):
    build, expected, euler = FAMILY[name]
    vertices, faces, report = solid(*build(), 64)
    assert euler_of_manifold(vertices, faces) == euler
    if expected:
        assert volume(vertices, faces) == pytest.approx(expected, rel=0.01)
    assert report["resolution"] == 64
    assert (report["closed_edges"] > 0) == (name == "pinhole")


def test_a_tube_through_itself_is_hollow_nowhere():
    vertices, faces, _ = solid(*tube(), 64)
    one_pass = np.pi * 0.07**2  # the crossing is counted once
    length = np.linalg.norm(
        np.diff(np.concatenate([tube()[0].reshape(160, 24, 3).mean(1)] * 2)[:161], axis=0), axis=1
    ).sum()
    assert 0.93 * one_pass * length < volume(vertices, faces) < one_pass * length


@pytest.mark.parametrize("seed", range(3))
def test_solid_is_manifold_whatever_comes(seed):
    euler_of_manifold(*solid(*random_blocks(300, 10, seed), 23)[:2])
    euler_of_manifold(*solid(*random_soup(300, 0.1, seed), 30)[:2])


def test_faces_resolved_the_other_way_are_needed(monkeypatch):
    meshes = [random_soup(600, 0.03, seed) for seed in range(2)]
    for mesh in meshes:
        euler_of_manifold(*solid(*mesh, 32)[:2])
    monkeypatch.setattr(contour, "_resolve", lambda lattice, cells: cells.signs * 64)
    with pytest.raises(AssertionError, match="same way|boundary edges"):
        for mesh in meshes:
            euler_of_manifold(*solid(*mesh, 32)[:2])


def test_loops_use_every_crossed_edge_once():
    table = contour._loops()
    for kind in range(0, 256 * 64, 7):
        signs = kind // 64
        for edge in range(12):
            axis, b, c = edge // 4, edge % 2, edge // 2 % 2
            low = (b << (axis + 1) % 3) + (c << (axis + 2) % 3)
            crossed = (signs >> low & 1) != (signs >> (low + (1 << axis)) & 1)
            assert (table.loop[kind, edge] >= 0) == crossed
        used = table.loop[kind][table.loop[kind] >= 0]
        assert sorted(set(used.tolist())) == list(range(table.count[kind]))
        assert (np.bincount(used, minlength=1) != 1).all() and (np.bincount(used, minlength=1) != 2).all()


def test_corners_and_edges_stay_sharp():
    vertices, faces, report = solid(*box((0.5, 0.6, 0.7)), 32)
    half = torch.tensor([0.25, 0.3, 0.35])
    corners = torch.cartesian_prod(*(torch.tensor([-1.0, 1.0]),) * 3) * half
    assert torch.cdist(corners, vertices).amin(1).max() < 0.05 * report["cell"]
    outside_by = (vertices.abs() - half).amax(1)
    assert outside_by.abs().max() < 0.05 * report["cell"]
    middles = vertices[faces.long()].mean(1)  # no triangle cuts an edge of the box
    assert (middles.abs() - half).amax(1).abs().max() < 0.05 * report["cell"]


def test_solid_turns_no_triangle_over():
    vertices, faces, _ = solid(*sphere(0.4, 5), 40)
    a, b, c = vertices[faces.long()].unbind(1)
    normal = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=1)
    assert (normal * torch.nn.functional.normalize(a + b + c, dim=1)).sum(1).min() > 0.9


def test_an_open_sheet_becomes_a_plate():
    side = torch.tensor([[-0.4, -0.4, 0.02], [0.4, -0.4, 0.02], [0.4, 0.4, 0.02], [-0.4, 0.4, 0.02]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    vertices, plate, report = solid(side, faces, 64)
    assert euler_of_manifold(vertices, plate) == 2
    assert report["thickened"] > 0
    thickness = 2 * report["cell"]
    assert volume(vertices, plate) == pytest.approx(0.64 * thickness, rel=0.08)  # and the rounded rim
    assert vertices[:, 2].max() == pytest.approx(0.02 + thickness / 2, abs=0.05 * thickness)


def test_solid_does_not_depend_on_order_winding_or_repeats():
    vertices, faces = together(sphere(0.4), sphere(0.2))
    random = torch.Generator().manual_seed(0)
    flipped = torch.where(torch.rand(len(faces), 1, generator=random) < 0.5, faces.flip(1), faces)
    mixed = torch.cat([flipped, flipped[:50], torch.zeros(5, 3, dtype=torch.int32)])
    mixed = mixed[torch.randperm(len(mixed), generator=random)]
    first, again = solid(vertices, faces, 48), solid(vertices, mixed, 48)
    assert first[0].shape == again[0].shape
    # where a lattice edge meets an edge of the mesh, either face's normal is right
    assert (first[0] - again[0]).norm(dim=1).max() < 0.05 * first[2]["cell"]
    assert (first[1] != again[1]).any(1).sum() < 0.001 * len(first[1])


def test_solid_far_from_the_origin_and_of_any_size():
    vertices, faces = sphere(0.4)
    moved, more, report = solid(vertices * 300 + torch.tensor([5000.0, 0, -900]), faces, 48)
    assert euler_of_manifold(moved, more) == 2
    assert volume(moved - moved.mean(0), more) == pytest.approx(volume(vertices, faces) * 300**3, rel=0.01)
    assert report["cell"] == pytest.approx(240 / 48, rel=1e-3)


# --- project


def test_project_lands_on_the_original_and_turns_nothing():
    original = sphere(0.4, 5)
    vertices, faces = tensors(trimesh.creation.icosphere(subdivisions=3, radius=0.42))
    moved = project(vertices, faces, *original)
    assert Surface(*original).closest(moved).distance.max() < 1e-6
    assert torch.equal(project(vertices, faces, *original, limit=0.01), vertices)


def test_project_undoes_moves_that_turn_faces():
    generator = torch.Generator().manual_seed(0)
    vertices, faces = tensors(trimesh.creation.icosphere(subdivisions=4, radius=0.4))
    rough = vertices + 0.015 * torch.randn(vertices.shape, generator=generator)
    goal = together(sphere(0.3, 3, (0.2, 0, 0)), sphere(0.3, 3, (-0.2, 0.1, 0)))

    def normals(points):
        return _normals(points, faces)

    free = Surface(*goal).closest(rough).points(*goal)
    assert ((normals(free) * normals(rough)).sum(1) < 0).any()  # there is something to undo
    moved = project(rough, faces, *goal)
    assert ((normals(moved) * normals(rough)).sum(1) > 0).all()
    assert Surface(*goal).closest(moved).distance.mean() < 0.7 * Surface(*goal).closest(rough).distance.mean()


# --- bad input


def as_solid(vertices, faces):
    return solid(vertices, faces, 16)


def as_shell(vertices, faces):
    return outer_shell(vertices, faces, 16)


@pytest.mark.parametrize("work", [as_solid, as_shell])
def test_bad_meshes_are_named(work):
    vertices, faces = box((0.5,) * 3)
    with pytest.raises(EmptyResultError, match="no faces"):
        work(vertices, faces[:0])
    with pytest.raises(MeshError, match=r"Vertices are \[8, 2\].*\[V, 3\]"):
        work(vertices[:, :2], faces)
    with pytest.raises(MeshError, match="0 to 8.*has 8"):
        work(vertices, torch.cat([faces, torch.tensor([[0, 1, 8]]).int()]))
    with pytest.raises(MeshError, match="-1"):
        work(vertices, faces - 1)
    spoiled = vertices.clone()
    spoiled[3, 1] = torch.nan
    with pytest.raises(MeshError, match="NaN"):
        work(spoiled, faces)
    with pytest.raises(EmptyResultError, match="one point"):
        work(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]).int())


def test_one_triangle_and_faces_without_area():
    triangle = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0.0]])
    one, flat = torch.tensor([[0, 1, 2]]).int(), torch.tensor([[0, 1, 1], [2, 2, 0]]).int()
    for faces in (one, torch.cat([flat, one])):
        vertices, closed, _ = solid(triangle, faces, 16)
        assert euler_of_manifold(vertices, closed) == 2
        assert torch.equal(outer_shell(triangle, faces, 16)[1], faces)
    assert torch.equal(outer_shell(triangle, flat, 16)[1], flat)
    with pytest.raises(EmptyResultError, match="without area"):
        solid(triangle, flat, 16)


def test_settings_out_of_range_are_named():
    mesh = box((0.5,) * 3)
    for resolution in (0, 7, 4096):
        with pytest.raises(SettingsError, match=f"resolution is {resolution}"):
            solid(*mesh, resolution)
    for limit in (-1.0, float("nan")):
        with pytest.raises(SettingsError, match="limit is"):
            project(*mesh, *mesh, limit)
    with pytest.raises(EmptyResultError):
        project(*mesh, mesh[0], mesh[1][:0])
