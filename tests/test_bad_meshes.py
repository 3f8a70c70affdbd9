"""Meshes, voxels and settings that nobody should give to the post-processing: a clear error or a stated result."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
import trimesh

pytest.importorskip("warp")
from pipeline import stages
from pipeline.errors import EmptyResultError, MeshError, NotFiniteError, SettingsError
from pipeline.export import WRITERS
from pipeline.runtime import Runtime
from pipeline.sparse import SparseTensor, Voxels

RESOLUTION = 64  # of voxels and shells


def runtime():
    return Runtime("cpu", stages.table())


def mesh(vertices, faces):
    vertices, faces = torch.as_tensor(np.asarray(vertices)), torch.as_tensor(np.asarray(faces))
    return stages.Mesh(vertices.float().reshape(-1, 3), faces.int().reshape(-1, 3))


def ball(radius=0.4, subdivisions=3, at=0.0):
    shape = trimesh.creation.icosphere(subdivisions, radius)
    return mesh(shape.vertices + at, shape.faces)


def voxels_on(points, colour=0.6):
    xyz = ((points + 0.5) * RESOLUTION).long().clamp(0, RESOLUTION - 1).unique(dim=0)
    return stages.PBRVoxels(SparseTensor(Voxels.single(xyz.int()), torch.full((len(xyz), 6), colour)), RESOLUTION)


def finished(raw, faces=2000, size=128, shells="outer", voxels=None, **options):
    """The whole of the post-processing up to the file."""
    used = runtime()
    done = stages.process_mesh(used, raw, faces, shells=shells, resolution=RESOLUTION)
    voxels = voxels_on(raw.vertices) if voxels is None else voxels
    return done, stages.bake_texture(used, done, voxels, size, original=raw, **options)


def broken(vertex=None, index=None):
    """A ball with another coordinate, or another index."""
    shape = trimesh.creation.icosphere(3, 0.4)
    vertices, faces = shape.vertices.copy(), shape.faces.copy()
    if vertex is not None:
        vertices[7, 1] = vertex
    if index is not None:
        faces[3, 2] = index
    return mesh(vertices, faces)


UNUSABLE = {
    "empty": (lambda: mesh([], []), EmptyResultError, "no faces"),
    "vertices alone": (lambda: mesh([[0, 0, 0]], []), EmptyResultError, "no faces"),
    "all degenerate": (lambda: mesh(np.eye(3), [[0, 1, 1], [2, 2, 2]]), EmptyResultError, "zero area"),
    "all in one point": (lambda: mesh(np.zeros((3, 3)), [[0, 1, 2]]), EmptyResultError, "zero area"),
    "NaN": (lambda: broken(np.nan), MeshError, "NaN or infinite"),
    "infinite": (lambda: broken(np.inf), MeshError, "NaN or infinite"),
    "index too high": (lambda: broken(index=642), MeshError, "name vertices"),
    "index negative": (lambda: broken(index=-1), MeshError, "name vertices -1"),
}


@pytest.mark.parametrize("shells", stages.SHELLS)
@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_processed_is_named(name, shells):
    make, error, words = UNUSABLE[name]
    with pytest.raises(error, match=words):
        stages.process_mesh(runtime(), make(), 1000, shells=shells, resolution=RESOLUTION)


@pytest.mark.parametrize("shells", stages.SHELLS)
def test_one_triangle(shells):
    """An open sheet stays one; solid makes a thin closed body of it."""
    raw = mesh([[-0.3, 0, -0.3], [0.3, 0, -0.3], [0, 0, 0.3]], [[0, 1, 2]])
    done, textured = finished(raw, shells=shells)
    facts = done.facts["mesh"]
    if shells == "solid":
        assert facts["watertight"] and facts["euler"] == 2
    else:
        assert facts["faces"] == 1 and facts["boundary_edges"] == 3
        assert any("not watertight" in text or "open" in text for text in done.facts["warnings"])
    assert (np.abs(textured.maps.astype(int) - round(0.6 * 255)) <= 1).all()


def frame():
    """Of a picture, flat and open: four quads round a hole."""
    outer = np.array([[-0.4, -0.3, 0], [0.4, -0.3, 0], [0.4, 0.3, 0], [-0.4, 0.3, 0]])
    after = np.array([1, 2, 3, 0])
    faces = [[[i, j, 4 + j], [i, 4 + j, 4 + i]] for i, j in enumerate(after)]
    return mesh(np.concatenate([outer, 0.7 * outer]), faces)


THIN = {
    "a picture frame": frame,
    "a needle": lambda: mesh(*_box(1e-6, 1e-6, 0.9)),
    "a voxel": lambda: mesh(*_box(1 / 64, 1 / 64, 1 / 64)),
    "two triangles at a vertex": lambda: mesh(
        [[0, 0, 0], [0.3, 0.1, 0], [0.3, -0.1, 0], [-0.3, 0.1, 0.1], [-0.3, -0.1, 0.1]], [[0, 1, 2], [0, 3, 4]]
    ),
    "three triangles at an edge": lambda: mesh(
        [[0, 0, -0.3], [0, 0, 0.3], [0.3, 0, 0], [-0.3, 0.1, 0], [0, -0.3, 0]], [[0, 1, 2], [0, 1, 3], [0, 1, 4]]
    ),
}


def _box(*sides):
    box = trimesh.creation.box(sides)
    return box.vertices, box.faces


@pytest.mark.parametrize("name", THIN)
def test_what_is_hardly_a_body_becomes_one_and_reaches_every_writer(name, tmp_path):
    used, raw = runtime(), THIN[name]()
    done = stages.process_mesh(used, raw, 2000, shells="solid", resolution=RESOLUTION)
    assert done.facts["mesh"]["watertight"] and done.report.volume > 0
    for suffix in WRITERS:
        if suffix != ".usdz" or find_spec("pxr"):
            assert stages.export_mesh(used, done, tmp_path / f"x{suffix}", stages.ExportSettings(), {})
    with pytest.raises(SettingsError, match="wall of a hollow is"):
        stages.process_mesh(used, raw, 2000, shells="solid", hollow=stages.Hollowing.parse("0.6"))


@pytest.mark.parametrize("cells", [7, 9, 11, 20, 27])
def test_a_sheet_becomes_as_thick_as_asked_in_any_number_of_cells(cells):
    """From 9 cells on bricks of the lattice's border were stored too, and flooding from there left nothing."""
    size = 0.6
    raw = mesh([[0, 0, 0], [size, 0, 0], [size, size, 0], [0, size, 0]], [[0, 1, 2], [0, 2, 3]])
    wall = cells * size / 64
    done = stages.process_mesh(runtime(), raw, 20_000, shells="solid", wall=wall, resolution=64)
    heights = done.vertices[:, 2]
    assert float(heights.max() - heights.min()) == pytest.approx(wall, rel=0.02)
    assert done.facts["mesh"]["watertight"] and done.facts["mesh"]["euler"] == 2


def test_ten_thousand_fragments():
    """Specks round a ball go, with a count; fragments alone are what the mesh is, and stay."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(10_000, 1, 3))
    centres *= 0.45 / np.linalg.norm(centres, axis=2, keepdims=True)
    specks = (centres + random.normal(size=(10_000, 3, 3)) * 2e-4).reshape(-1, 3)
    rows = np.arange(len(specks)).reshape(-1, 3)
    whole = ball()
    both = mesh(np.concatenate([whole.vertices, specks]), np.concatenate([whole.faces, rows + len(whole.vertices)]))
    done, _ = finished(both)
    assert done.facts["cleaned"]["small_components"] == 10_000 and done.facts["mesh"]["components"] == 1
    alone, textured = finished(mesh(specks * 1.0, rows), faces=20_000, size=1024, shells="surface")
    assert alone.facts["mesh"]["components"] > 9_000 and textured.facts["charts"] > 9_000


@pytest.mark.parametrize("faces", [-1, 0, 3])
def test_too_few_faces_asked_for(faces):
    with pytest.raises(SettingsError, match="at least 4 faces"):
        stages.process_mesh(runtime(), ball(), faces)


def test_more_faces_asked_for_than_there_are():
    raw = ball()
    done = stages.process_mesh(runtime(), raw, 10**9, resolution=RESOLUTION)
    assert len(done.faces) == len(raw.faces) and done.facts["mesh"]["watertight"]


def test_the_least_that_a_ball_can_be():
    done = stages.process_mesh(runtime(), ball(), 4, resolution=RESOLUTION)
    assert 4 <= len(done.faces) <= 20 and done.facts["mesh"]["watertight"]


def test_textures_too_small_and_too_large():
    done = stages.process_mesh(runtime(), ball(), 500, resolution=RESOLUTION)
    for size in (0, 63, 16385):
        with pytest.raises(SettingsError, match="must lie in 64-16384"):
            stages.bake_texture(runtime(), done, voxels_on(done.vertices), size)
        with pytest.raises(SettingsError, match="must lie in 64-16384"):
            stages.ExportSettings(texture_size=size)


def test_a_large_texture():
    done = stages.process_mesh(runtime(), ball(subdivisions=1), 500, resolution=RESOLUTION)
    textured = stages.bake_texture(runtime(), done, voxels_on(done.vertices), 2048)  # 16384: 64 times the memory
    assert textured.maps.shape == (2048, 2048, 6)


def test_a_mesh_outside_the_cube():
    """Nothing needs the cube but the voxels: far texels take the nearest, and are counted."""
    raw = ball(radius=3.0, at=20.0)
    done, textured = finished(raw, voxels=voxels_on(ball().vertices))
    assert done.facts["mesh"]["watertight"] and textured.facts["texels_far"] > 0
    assert (np.abs(textured.maps.astype(int) - round(0.6 * 255)) <= 1).all()


def test_voxels_that_do_not_touch_the_mesh():
    _, textured = finished(ball(0.2), voxels=voxels_on(torch.tensor([[0.45, 0.45, 0.45]])))
    assert textured.facts["texels_far"] > 1000 and textured.maps.min() > 0


def test_voxels_that_cannot_be_used():
    none = stages.PBRVoxels(SparseTensor(Voxels.single(torch.zeros(0, 3).int()), torch.zeros(0, 6)), RESOLUTION)
    with pytest.raises(EmptyResultError, match="no PBR voxels"):
        finished(ball(), voxels=none)
    voxels = voxels_on(ball().vertices)
    voxels.sparse.feats[3, 2] = torch.nan
    with pytest.raises(NotFiniteError, match="PBR voxels hold NaN"):
        finished(ball(), voxels=voxels)
    with pytest.raises(NotFiniteError, match="PBR voxels hold NaN"):
        stages.color_vertices(runtime(), ball(), voxels)
