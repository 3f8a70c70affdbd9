"""True sizes and flat bases, and every bad mesh through every writer."""

import math

import numpy as np
import pytest
import test_bad_meshes as bad
import torch
import trimesh

from pipeline import stages
from pipeline.errors import OutputError, PipelineError, SettingsError
from pipeline.export import WRITERS, Geometry, Scene, TrueSize, for_print
from pipeline.runtime import Runtime


def geometry(shape, **more):
    vertices, normals = (np.asarray(each, np.float32) for each in (shape.vertices, shape.vertex_normals))
    return Geometry(vertices, np.asarray(shape.faces), normals, **more)


@pytest.mark.parametrize(
    ("text", "metres", "along"),
    [
        ("80mm", 0.08, "longest"),
        ("height=8 cm", 0.08, "height"),
        ("longest=1.5m", 1.5, "longest"),
        ("2in", 0.0508, "longest"),
        ("HEIGHT=1e2MM", 0.1, "height"),
    ],
)
def test_sizes_are_read(text, metres, along):
    found = TrueSize.parse(text)
    assert (found.metres, found.along) == (pytest.approx(metres), along)


@pytest.mark.parametrize("text", ["80", "mm", "80 parsec", "width=3mm", "8-0mm", "", "1e1e1mm"])
def test_what_is_no_size_is_named(text):
    with pytest.raises(SettingsError, match="A size is a number and mm, cm, m or in, for example 80mm"):
        TrueSize.parse(text)


@pytest.mark.parametrize("text", ["0mm", "-80mm", "1e9m", "nan mm", "inf mm", "1e-9m"])
def test_sizes_that_cannot_be_are_refused(text):
    with pytest.raises(SettingsError, match=r"A size must lie in 0\.1 mm to 1000 m"):
        TrueSize.parse(text)


@pytest.mark.parametrize("share", [-0.1, 0.6, math.nan, 1e9])
def test_bases_that_cannot_be_are_refused(share):
    with pytest.raises(SettingsError, match=r"A flat base can take 0 to 0\.5 of the height"):
        stages.ExportSettings(flat_base=share)


@pytest.mark.parametrize(("along", "side"), [("longest", 0), ("height", 2)])
def test_the_size_is_that_of_the_mesh(along, side):
    """Vertices that no face uses do not count, nor does where the mesh is."""
    shape = trimesh.creation.box((0.8, 0.4, 0.2))
    shape.apply_translation((5, 5, 5))
    shape.vertices = np.concatenate([shape.vertices, [[100, 100, 100]]])
    scene = for_print(Scene((geometry(shape),)), TrueSize(0.08, along), 0)
    sides = np.array([0.8, 0.4, 0.2]) * scene.metres
    assert sides[side] == pytest.approx(0.08)


def test_a_mesh_without_height_has_no_size_by_height():
    flat = geometry(trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]))
    assert for_print(Scene((flat,)), TrueSize(0.1), 0).metres == pytest.approx(0.1)
    with pytest.raises(OutputError, match="has no height that could be scaled to 80 mm"):
        for_print(Scene((flat,)), TrueSize(0.08, "height"), 0)


@pytest.mark.parametrize(
    "shape",
    [
        trimesh.creation.icosphere(3, 0.4),
        trimesh.creation.torus(0.3, 0.1),
        trimesh.creation.capsule(0.4, 0.2).subdivide(),
        trimesh.creation.box((0.3, 0.3, 0.9)).subdivide().subdivide().subdivide(),  # upright walls fall together
    ],
    ids=["ball", "torus", "capsule", "box"],
)
def test_a_flat_base_keeps_a_mesh_closed(shape):
    low, height = shape.bounds[0, 2], np.ptp(shape.vertices[:, 2])
    scene = for_print(Scene((geometry(shape),)), None, 0.05)
    (level,) = scene.levels
    places, place = level.welded()
    made = trimesh.Trimesh(places, place[level.faces], process=False)
    base = low + 0.05 * height
    assert made.is_watertight and made.is_winding_consistent and made.euler_number == shape.euler_number
    assert made.bounds[0, 2] == pytest.approx(base, abs=1e-6)
    flat = np.isclose(made.triangles[:, :, 2], base, atol=1e-6).all(1)
    assert made.area_faces[flat].sum() > 0.01 * made.area  # to stand on
    # no more is lost than lies below the base
    assert 0.9 * shape.volume < made.volume < shape.volume and (made.vertices[:, 2] >= base - 1e-6).all()
    normals = level.normals[np.isclose(level.vertices[:, 2], base, atol=1e-6) & (shape.vertices[:, 2] < base)]
    assert len(normals) and (normals == [0, 0, -1]).all()


def test_tangents_stay_unit_and_across():
    ball = trimesh.creation.icosphere(2, 0.4)
    tangents = np.cross(ball.vertex_normals, [0.3, 0.5, 0.8])
    tangents = np.concatenate(
        [tangents / np.linalg.norm(tangents, axis=1, keepdims=True), np.ones((len(tangents), 1))], 1
    )
    (level,) = for_print(Scene((geometry(ball, tangents=tangents),)), None, 0.3).levels
    np.testing.assert_allclose(np.linalg.norm(level.tangents[:, :3], axis=1), 1, atol=1e-6)
    below = ball.vertices[:, 2] < -0.16
    assert below.any() and np.abs((level.tangents[:, :3] * level.normals).sum(1))[below].max() < 1e-6


@pytest.fixture(params=[each for each in WRITERS if not WRITERS[each].unavailable_reason()])
def suffix(request):
    return request.param


def test_a_size_reaches_the_file(tmp_path, suffix):
    """From the stage on, right to 0.01 mm; the height is along the format's up-axis."""
    path = tmp_path / f"x{suffix}"
    settings = stages.ExportSettings(size=TrueSize.parse("height=80mm"), flat_base=0.1)
    paths = stages.export_mesh(Runtime("cpu", stages.table()), bad.ball(), path, settings, {})
    files = {each.name: each.read_bytes() for each in [*paths, *(each for each in tmp_path.iterdir() if each != path)]}
    ((vertices, faces),) = WRITERS[suffix].read(files).levels
    up = 1 if WRITERS[suffix].y_up else 2
    assert np.ptp(vertices[np.unique(faces)][:, up]) * WRITERS[suffix].unit == pytest.approx(0.08, abs=1e-5)


def sheets():
    return bad.mesh([[-0.3, 0, -0.3], [0.3, 0, -0.3], [0, 0, 0.3]], [[0, 1, 2]])


def specks():
    random = np.random.default_rng(0)
    return bad.mesh(random.random((3000, 3)), np.arange(3000).reshape(-1, 3))


def crossed():
    """Edges of three faces, faces twice, wound against each other."""
    vertices = [[0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, 0, 0]]
    return bad.mesh(vertices, [[0, 1, 2], [0, 1, 3], [0, 1, 4], [0, 1, 4], [4, 1, 0]])


USABLE = {
    "one triangle": sheets,
    "specks": specks,
    "outside the cube": lambda: bad.ball(3.0, at=20.0),
    "crossed": crossed,
    "tiny": lambda: bad.ball(1e-6, 1),
    "large": lambda: bad.ball(1e6, 1),
    "a face without area": lambda: bad.mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2], [0, 1, 1]]),
}


@pytest.mark.parametrize("name", USABLE)
def test_odd_meshes_are_written(tmp_path, suffix, name):
    paths = stages.export_mesh(
        Runtime("cpu", stages.table()), USABLE[name](), tmp_path / f"x{suffix}", stages.ExportSettings(), {}
    )
    assert paths == [tmp_path / f"x{suffix}"] and paths[0].stat().st_size > 80


@pytest.mark.parametrize("name", bad.UNUSABLE)
def test_what_cannot_be_written_is_named_and_nothing_is_left(tmp_path, suffix, name):
    settings = stages.ExportSettings(size=TrueSize(0.08), flat_base=0.1)
    try:
        raw = bad.UNUSABLE[name][0]()
        stages.export_mesh(Runtime("cpu", stages.table()), raw, tmp_path / f"x{suffix}", settings, {})
    except PipelineError as error:
        assert not list(tmp_path.iterdir()) and str(error)
    else:  # nothing but area is missing, which some formats allow
        assert name == "all degenerate" and torch.isfinite(raw.vertices).all()
