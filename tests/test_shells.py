"""Outside and inside of meshes: the flooded lattice, outer shells, solids by dual contouring, projection."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import trimesh
from devices import on_device
from meshes import outer_shell, outside, project, solid, tensors
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from pipeline.bench_shapes import surface_net
from pipeline.errors import EmptyResultError, MeshError, SettingsError

pytest.importorskip("warp", reason="warp-lang is not installed")

from pipeline.mesh import Mesh as TriangleMesh
from pipeline.mesh.query.surface import Surface
from pipeline.mesh.remesh import contour, interior
from pipeline.mesh.remesh.dual_grid import _touched_cells
from pipeline.mesh.remesh.lattice_functions import INSIDE, OUTSIDE
from pipeline.mesh.remesh.project import _normals
from pipeline.mesh.remesh.specks import drop_specks, fill_tunnels

pytestmark = pytest.mark.usefixtures("device")
Surface, _normals = (on_device(each) for each in (Surface, _normals))


def sphere(radius=0.4, subdivisions=4, centre=(0, 0, 0)):
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    mesh.apply_translation(centre)
    return tensors(mesh)


def box(extents, centre=(0, 0, 0)):
    mesh = trimesh.creation.box(extents=extents)
    mesh.apply_translation(centre)
    return tensors(mesh)


def together(*meshes):
    starts = np.cumsum([0] + [len(vertices) for vertices, _ in meshes]).tolist()
    faces = [faces + start for (_, faces), start in zip(meshes, starts)]
    return torch.cat([vertices for vertices, _ in meshes]), torch.cat(faces)


def volume(vertices, faces):
    a, b, c = vertices.double()[faces.long()].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def euler_of_manifold(vertices, faces):
    """Euler number; fails unless every edge has two consistently oriented faces, and every vertex one fan of faces."""
    faces = faces.numpy().astype(np.int64)
    assert len(np.unique(faces)) == len(vertices)
    start, end = faces.reshape(-1), np.roll(faces, -1, 1).reshape(-1)
    half, back = start * len(vertices) + end, end * len(vertices) + start
    order = np.argsort(half)
    assert (np.diff(half[order]) > 0).all(), "two faces run along an edge the same way"
    twin = order[np.searchsorted(half, back, sorter=order).clip(0, len(half) - 1)]
    assert (half[twin] == back).all(), "boundary edges"
    corner = np.arange(len(start))
    after_twin = twin - twin % 3 + (twin + 1) % 3  # begins at the same vertex
    fans = connected_components(coo_matrix((np.ones(len(corner)), (corner, after_twin))), directed=False)[0]
    assert fans == len(vertices), "vertices where several fans meet"
    return len(vertices) - len(start) // 2 + len(faces)


def random_soup(count, size, seed):
    random = torch.Generator().manual_seed(seed)
    centres = torch.rand(count, 1, 3, generator=random) - 0.5
    vertices = (centres + (torch.rand(count, 3, 3, generator=random) - 0.5) * size).reshape(-1, 3)
    return vertices, torch.arange(3 * count, dtype=torch.int32).reshape(-1, 3)


def random_blocks(count, grid, seed):
    """Cubes of a grid, chosen at random: they meet at faces, edges and corners."""
    places = np.random.default_rng(seed).permutation(grid**3)[:count]
    centres = (np.stack(np.unravel_index(places, (grid,) * 3), 1) + 0.5) / grid - 0.5
    return together(*(box((1 / grid,) * 3, centre) for centre in centres))


def dense(lattice, values, empty):
    """Values of stored nodes and of empty bricks as one array [X, Y, Z]."""
    full = empty[:, None].expand(-1, 512).clone()
    full[lattice.places.long()] = values.reshape(-1, 512)
    full = full.reshape(*lattice.size, 8, 8, 8).permute(0, 3, 1, 4, 2, 5)
    return full.reshape([8 * side for side in lattice.size]).numpy()


# --- the lattice against brute force


@pytest.mark.parametrize("size", [0.05, 0.6])
def test_touched_cells_are_those_of_an_independent_test(size):
    lattice = outside(*random_soup(60, size, seed=1), 40)
    triangles = lattice.points[lattice.faces.long()].double().numpy()
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 1])
    expected = np.zeros([8 * side for side in lattice.size], bool)
    for _, cell in _touched_cells(triangles, normals, expected.shape[0]):
        expected[tuple(cell.T)] = True
    found = dense(lattice, lattice.touched, torch.zeros_like(lattice.empty)) > 0
    assert not (expected & ~found).any()
    assert (found & ~expected).sum() <= 0.005 * expected.sum()  # touched to within a thousandth of a cell


def test_crossed_edges_are_those_of_brute_force():
    lattice = outside(*random_soup(40, 0.5, seed=2), 24)
    triangles = lattice.points[lattice.faces.long()].double().numpy()
    expected = set()
    for face, corners in enumerate(triangles):
        for axis in range(3):
            u, v = (axis + 1) % 3, (axis + 2) % 3
            flat = corners[:, [u, v]]
            area = np.linalg.det([flat[1] - flat[0], flat[2] - flat[0]])
            low, high = np.ceil(flat.min(0)).astype(int), np.floor(flat.max(0)).astype(int)
            for j in range(low[0], high[0] + 1):
                for k in range(low[1], high[1] + 1):
                    p = np.array([j, k])
                    weights = np.array([np.linalg.det([flat[i - 2] - p, flat[i - 1] - p]) for i in range(3)]) / area
                    if (weights >= 0).all():
                        point = np.zeros(3, int)
                        point[u], point[v], point[axis] = j, k, np.floor(weights @ corners[:, axis])
                        expected.add((*point.tolist(), axis, face))
    nodes = torch.arange(lattice.nodes)
    x, y, z = np.stack(np.unravel_index(lattice.places.numpy(), lattice.size)).repeat(512, 1) * 8
    inner = np.stack([nodes >> 6 & 7, nodes >> 3 & 7, nodes & 7])
    place = (np.stack([x, y, z]) + inner).T
    crossed = lattice.crossed.numpy()
    found = {(*place[e // 3].tolist(), int(e % 3), int(f)) for e, f in zip(crossed, lattice.face.numpy())}
    assert expected <= found
    assert len(found - expected) <= 0.02 * len(expected)
    assert len(expected) > 500


def test_flood_is_that_of_a_dense_grid():
    vertices, faces = together(sphere(0.45), sphere(0.3), box((0.1, 0.2, 0.1), (0.44, 0, 0)))
    lattice = outside(vertices, faces[30:], 50)  # with a hole
    cells, empty = interior._flood(lattice, lattice.touched)
    found = dense(lattice, cells, empty)
    free = dense(lattice, lattice.touched, torch.zeros_like(empty)) == 0
    label = ndimage.label(free)[0]
    expected = np.where(label == label[0, 0, 0], OUTSIDE, INSIDE) * free
    assert (found == expected).all()
    assert (found == INSIDE).any()


def test_signs_of_closed_bodies_are_exact():
    vertices, faces = together(sphere(0.3, centre=(-0.2, 0, 0)), sphere(0.25, centre=(0.2, 0.05, 0)))
    lattice = outside(vertices, faces, 40)
    points = np.stack(np.meshgrid(*(np.arange(8 * side) for side in lattice.size), indexing="ij"), -1).reshape(-1, 3)
    world = lattice.to_world(torch.from_numpy(points))
    radii = (
        (world - torch.tensor([-0.2, 0, 0])).norm(dim=1) / 0.3,
        (world - torch.tensor([0.2, 0.05, 0])).norm(dim=1) / 0.25,
    )
    closest = torch.minimum(*radii)
    found = torch.from_numpy(dense(lattice, lattice.states, lattice.empty).reshape(-1))
    assert (found[closest < 0.995] == INSIDE).all()
    assert (found[closest > 1] == OUTSIDE).all()


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


def welded(vertices, faces):
    """Vertices at the same place become one."""
    places, number = torch.unique(vertices, dim=0, return_inverse=True)
    return places, number[faces.long()].int()


BALL = volume(*sphere(0.4))
CELL = 1 / 64
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


# --- outer shell


def test_outer_shell_of_a_clean_body_is_itself():
    vertices, faces = sphere()
    same, kept, report = outer_shell(vertices, faces, 48)
    assert torch.equal(kept, faces) and torch.equal(same, vertices)
    assert report == {"patches": 1, "patches_removed": 0, "faces_removed": 0, "resolution": 48}


@pytest.mark.parametrize("gap", [0.15, 2.5 * CELL, CELL, 0.4 * CELL, 0.05 * CELL])
@pytest.mark.parametrize("resolution", [32, 50])
def test_inner_shells_go(gap, resolution):
    vertices, faces = sphere(0.4)
    mesh = together((vertices, faces), sphere(0.4 - gap), sphere(0.1, 2))
    kept, shell, report = outer_shell(*mesh, resolution)
    assert torch.equal(kept, vertices) and torch.equal(shell, faces)
    assert (report["patches_removed"], report["faces_removed"]) == (2, len(mesh[1]) - len(faces))


def test_an_inner_wall_on_non_manifold_edges_goes():
    vertices, faces = welded(*together(box((0.3,) * 3, (-0.15, 0, 0)), box((0.3,) * 3, (0.15, 0, 0))))
    _, shell, report = outer_shell(vertices, faces, 32)
    assert report["faces_removed"] == 4  # the wall between the boxes, once from each
    mesh = trimesh.Trimesh(*(each.numpy() for each in outer_shell(vertices, faces, 32)[:2]), process=False)
    assert mesh.is_watertight and len(shell) == 20


def test_what_pinholes_show_goes_and_no_face_of_the_outer_shell():
    outer, inner = sphere(0.4, 5), sphere(0.37, 5)
    keep = torch.ones(len(outer[1]), dtype=torch.bool)
    keep[torch.randperm(len(keep), generator=torch.Generator().manual_seed(0))[:200]] = False
    mesh = together((outer[0], outer[1][keep]), inner)
    assert torch.equal(outer_shell(*mesh, 32)[1], outer[1][keep])


def test_deep_cavities_sheets_and_specks_stay():
    def gyroid(points):
        x, y, z = (25 * points).unbind(1)
        labyrinth = (x.sin() * y.cos() + y.sin() * z.cos() + z.sin() * x.cos()).abs() - 0.4
        return torch.maximum(labyrinth / 25, points.norm(dim=1) - 0.4)

    body = surface_net(gyroid, 64)
    sheet = torch.tensor([[-0.4, -0.4, 0.45], [0.4, -0.4, 0.45], [0.4, 0.4, 0.47]]), torch.tensor([[0, 1, 2]]).int()
    specks = (sphere(0.002, 1, centre) for centre in ((0.43, 0.2, 0.1), (-0.3, -0.33, 0.2)))
    mesh = together(body, sheet, *specks)
    assert outer_shell(*mesh, 64)[2]["faces_removed"] == 0
    assert outer_shell(*mesh, 40)[2]["faces_removed"] == 0


def test_specks_inside_go():
    mesh = together(sphere(0.4), *(sphere(0.002, 1, (0.05 * i, 0, 0.1)) for i in range(5)))
    assert len(outer_shell(*mesh, 40)[1]) == len(sphere(0.4)[1])


def test_bodies_that_cross_stay_whole():
    mesh = together(box((0.8, 0.1, 0.1)), box((0.1, 0.8, 0.1)), sphere(0.1, 3, (0.2, 0.2, 0)))
    assert outer_shell(*mesh, 48)[2]["faces_removed"] == 0


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


def test_narrow_tunnels_are_filled_and_specks_dropped_near_holes_alone():
    """A plate of a lattice with tunnels of 2 and 5 points' width through it, and cubes of 3 and 5 points before it."""
    lattice = interior.outside(TriangleMesh(*box((1.0, 1.0, 0.3))), 40, 8)
    nodes = (lattice.states > 0).nonzero().squeeze(1)
    xyz = lattice.coordinates(nodes)
    low = xyz[lattice.states[nodes] == INSIDE].amin(0)
    high = xyz[lattice.states[nodes] == INSIDE].amax(0)

    def block(x, y, z, width, depth):
        corner = torch.tensor([x, y, z])
        return ((xyz >= corner) & (xyz < corner + torch.tensor([width, width, depth]))).all(1)

    x, y = (low[:2] + 4).tolist()
    narrow, wide = block(x, y, low[2], 2, 99), block(x + 8, y, low[2], 5, 99)
    speck, body = block(x, y + 10, high[2] + 2, 3, 3), block(x + 8, y + 10, high[2] + 2, 5, 5)
    lattice.states[nodes[narrow | wide]] = OUTSIDE
    lattice.states[nodes[speck | body]] = INSIDE
    before, everywhere = lattice.states.clone(), torch.ones_like(lattice.states, dtype=torch.bool)
    for near in (~everywhere, everywhere):
        drop_specks(lattice, near)
        fill_tunnels(lattice, near)
        assert torch.equal(lattice.states, before) or near.all()
    through = (xyz[:, 2] > low[2]) & (xyz[:, 2] < high[2])  # but for the mouths
    assert (lattice.states[nodes[narrow & through]] == INSIDE).all()
    assert (lattice.states[nodes[wide & through]] == OUTSIDE).all()
    assert (lattice.states[nodes[speck]] == OUTSIDE).all() and (lattice.states[nodes[body]] == INSIDE).all()
