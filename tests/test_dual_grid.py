"""Mesh -> dual grid by kernels, on every device, against the reference in numpy."""

import numpy as np
import pytest
import torch
import trimesh
from devices import on_device
from meshes import needs_warp

from pipeline.errors import SettingsError
from pipeline.mesh.grid.dual_grid import mesh_to_dual_grid
from pipeline.mesh.operations import dual_grid_by_kernels

pytestmark = [needs_warp, pytest.mark.usefixtures("device")]
by_kernels = on_device(dual_grid_by_kernels)


def open_torus():
    torus = trimesh.creation.torus(0.3, 0.15)
    torus.update_faces(np.arange(len(torus.faces)) % 7 != 0)
    return torus.vertices, torus.faces


def turned_box():
    """Faces that each cross hundreds of cells, in no plane of the grid."""
    box = trimesh.creation.box((0.5, 0.4, 0.55))
    box.apply_transform(trimesh.transformations.rotation_matrix(0.7, [1, 0.3, 0.5]))
    return box.vertices, box.faces


def whole_cube():
    """Faces on the border of the grid."""
    box = trimesh.creation.box((1, 1, 1))
    return box.vertices, box.faces


def soup():
    random = np.random.default_rng(1)
    return random.uniform(-0.5, 0.5, (90, 3)), random.integers(0, 90, (60, 3))  # some of no area, many on each other


MESHES = {make.__name__: make for make in (open_torus, turned_box, whole_cube, soup)}


def found(mesh, resolution, **weights):
    vertices, faces = mesh
    return by_kernels(torch.tensor(vertices).float(), torch.tensor(faces).int(), resolution, **weights)


def assert_equal(found, expected, tolerance=1e-6):
    coords, offsets, crossed = found
    assert np.array_equal(coords.numpy(), expected.coords) and np.array_equal(crossed.numpy(), expected.crossed)
    assert coords.dtype == torch.int32 and crossed.dtype == torch.bool
    assert np.abs(offsets.numpy() - expected.offsets).max(initial=0) < tolerance


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("weights", [{}, {"face_weight": 0.0, "boundary_weight": 0.0}, {"boundary_weight": 3.0}])
def test_kernels_give_the_reference(mesh, weights):
    mesh = MESHES[mesh]()
    assert_equal(found(mesh, 40, **weights), mesh_to_dual_grid(*mesh, 40, **weights))


def test_kernels_give_the_golden_grid(golden):
    data = golden("mesh_to_dual_grid")
    resolution, mesh = int(data.facts["grid_size"]), (data["in.vertices"].numpy(), data["in.faces"].numpy())
    weights = {name: float(data.facts[name]) for name in ("face_weight", "boundary_weight")}
    weights["regularisation"] = float(data.facts["regularization_weight"])
    coords, offsets, crossed = found(mesh, resolution, **weights)
    assert torch.equal(coords, data["out.coords"].int()) and torch.equal(crossed, data["out.intersected"])
    error = ((coords + offsets) / resolution - data["out.dual_vertices"]).abs().amax(1)
    assert (error <= 1e-4).sum() >= len(error) - 1  # the golden grid is of fp32: see test_golden_mesh_to_dual_grid


def test_any_number_of_cores_gives_the_same_bits(monkeypatch):
    from pipeline.mesh.grid import dual_grid_warp

    grids = []
    for cores in (1, 7):
        monkeypatch.setattr(dual_grid_warp, "cores", lambda cores=cores: cores)
        monkeypatch.setattr(dual_grid_warp, "_ROWS", 1000 * cores)
        grids.append(found(open_torus(), 50))
    assert all(torch.equal(*pair) for pair in zip(*grids, strict=True))


def test_what_crosses_nothing_and_what_is_too_fine():
    tiny = np.array([[0.003, 0.003, 0.003], [0.004, 0.003, 0.003], [0.003, 0.004, 0.003]]), np.array([[0, 1, 2]])
    assert [len(each) for each in found(tiny, 16)] == [0, 0, 0]
    with pytest.raises(SettingsError, match="5000 voxels a side; at most 4064"):
        found(tiny, 5000)


def test_a_mesh_inside_out_has_the_same_grid():
    vertices, faces = open_torus()
    (coords, offsets, crossed), other = found((vertices, faces), 40), found((vertices, faces[:, ::-1].copy()), 40)
    assert torch.equal(coords, other[0]) and torch.equal(crossed, other[2])
    assert (offsets - other[1]).abs().max() < 1e-6
