"""Outside and inside of meshes: the flooded lattice against brute force, outer shells."""

import numpy as np
import pytest
import torch
import trimesh
from meshes import outer_shell, outside
from scipy import ndimage

from pipeline.bench.shapes import surface_net
from pipeline.errors import EmptyResultError, SettingsError

pytest.importorskip("warp", reason="warp-lang is not installed")

from bodies import CELL, box, random_soup, sphere, together, welded

from pipeline.mesh.grid.dual_grid import _touched_cells
from pipeline.mesh.remesh import interior
from pipeline.mesh.remesh.lattice_functions import INSIDE, OUTSIDE

pytestmark = pytest.mark.usefixtures("device")


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


# --- outer shell


def test_outer_shell_of_a_clean_body_is_itself():
    vertices, faces = sphere()
    same, kept, report = outer_shell(vertices, faces, 48)
    assert torch.equal(kept, faces) and torch.equal(same, vertices)
    assert report == {"patches": 1, "patches_removed": 0, "faces_removed": 0, "resolution": 48}


def test_one_patch_needs_no_lattice(monkeypatch):
    """It borders on the outside, however it is crumpled; a lattice of 512 cells a side takes a CPU a second."""
    monkeypatch.setattr("pipeline.mesh.remesh.outer_shell.outside", None)
    random = torch.Generator().manual_seed(0)
    vertices, faces = sphere()
    crumpled = vertices * torch.rand(len(vertices), 1, generator=random)
    assert torch.equal(outer_shell(crumpled, faces, 512)[1], faces)
    for resolution, error in ((4, SettingsError), (64, EmptyResultError)):
        with pytest.raises(error):
            outer_shell(vertices if resolution == 4 else vertices * 0, faces, resolution)


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
