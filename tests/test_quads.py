"""Quads: closed and manifold where the mesh is, and whole in the files that can hold them."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
import trimesh
from closed_shapes import SHAPES, damaged
from meshes import needs_warp

from pipeline import stages
from pipeline.bench.shapes import surface_net
from pipeline.errors import BackendError, SettingsError
from pipeline.export import WRITERS, Geometry, Scene
from pipeline.mesh import Mesh
from pipeline.runtime import Runtime

ABSENT = importlib.util.find_spec("pynanoinstantmeshes") is None
needs_package = pytest.mark.skipif(ABSENT, reason="pynanoinstantmeshes is not installed")


def cube():
    """Six quads as twelve triangles in pairs."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
    quads = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    return corners, np.stack([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]], 1).reshape(-1, 3)


def geometry(**more):
    vertices, faces = cube()
    normals = (vertices - 0.5) / np.linalg.norm(vertices - 0.5, axis=1, keepdims=True)
    return Geometry(vertices, faces, normals, **more)


def test_an_obj_holds_quads_and_reads_back_as_triangles():
    files = WRITERS[".obj"].render(Scene((geometry(quads=True),), name="x"), "x")
    lines = [line for line in files["x.obj"].decode().split("\n") if line.startswith("f ")]
    assert len(lines) == 6 and all(len(line.split()) == 5 for line in lines)
    ((vertices, faces),) = WRITERS[".obj"].read(files).levels
    made = trimesh.Trimesh(vertices, faces, process=False)
    assert made.is_watertight and made.volume == pytest.approx(1)
    plain = WRITERS[".obj"].render(Scene((geometry(),), name="x"), "x")["x.obj"].decode()
    assert sum(line.startswith("f ") for line in plain.split("\n")) == 12


def test_a_ply_holds_quads_unless_a_seam_parts_some(tmp_path):
    whole = geometry(quads=True)
    faces = whole.faces.copy()
    faces[1] += 8  # as if a seam ran along the diagonal of the first quad: its second triangle has vertices of its own
    parted = Geometry(np.tile(whole.vertices, (2, 1)), faces, np.tile(whole.normals, (2, 1)), quads=True)
    for given, quads, triangles in ((whole, 6, 0), (parted, 5, 2), (geometry(), 0, 12)):
        files = WRITERS[".ply"].render(Scene((given,), name="x"), "x")
        assert [len(each) for each in given.quad_faces] == [quads, triangles]
        assert f"element face {12 if triangles else quads}\n".encode() in files["x.ply"]
        ((vertices, read),) = WRITERS[".ply"].read(files).levels
        path = tmp_path / "x.ply"
        path.write_bytes(files["x.ply"])
        other = trimesh.load(path)
        assert len(read) == len(other.faces) == 12
        area = trimesh.Trimesh(vertices, read, process=False).area
        assert area == pytest.approx(6) and other.area == pytest.approx(6)


def test_a_flat_base_that_drops_faces_leaves_no_pairs():
    from pipeline.export.printing import flattened

    assert flattened(geometry(quads=True), -1.0).quads  # nothing is below
    assert not flattened(geometry(quads=True), 1.0).quads  # all but the lid is gone


@pytest.mark.parametrize("quads", [1, 23, -5, 2_000_001, 10**9])
def test_numbers_of_quads_that_cannot_be_are_named(quads):
    with pytest.raises(SettingsError, match="From 24 to 2,000,000 quads"):
        stages.ExportSettings(quads=quads)


def test_what_cannot_be_had_with_quads_is_named():
    with pytest.raises(SettingsError, match="Levels of detail are made of triangles"):
        stages.ExportSettings(quads=500, lods=(100,))
    with pytest.raises(SettingsError, match="max_error would have no effect"):
        stages.ExportSettings(quads=500, max_error=stages.Length(0.01))


def test_without_the_package_its_name_is_said_before_anything_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynanoinstantmeshes", None)
    with pytest.raises(BackendError, match=r"requirements-quads\.txt"):
        stages.check_finish(stages.ExportSettings(quads=500), backends=stages.default_backends())


@needs_package
@pytest.mark.parametrize("name", ["ball", "torus", "cup"])
def test_what_is_closed_stays_closed_and_keeps_its_handles(name):
    from pipeline.mesh.packages.instant_meshes import instant_meshes

    whole = Mesh(*surface_net(SHAPES[name][0], 48))
    made = instant_meshes(whole, 1500, lambda: None)
    report = made.report
    assert report.watertight and report.euler == whole.report.euler and report.inconsistent_edges == 0
    assert report.volume == pytest.approx(whole.report.volume, rel=0.05)
    assert 2 * 1000 <= len(made.faces) <= 2 * 2500
    again = instant_meshes(whole, 1500, lambda: None)
    assert torch.equal(again.vertices, made.vertices) and torch.equal(again.faces, made.faces)


@needs_package
@needs_warp
def test_quads_reach_the_file(tmp_path):
    raw, _ = damaged("ball", "voxels", 48)
    runtime = Runtime("cpu", stages.default_backends())
    made = stages.process_mesh(runtime, raw, 10**6, shells="solid", quads=800)
    assert made.quads and made.facts["quads"] * 2 == len(made.faces) and made.facts["mesh"]["watertight"]
    stages.export_mesh(runtime, made, tmp_path / "x.obj", stages.ExportSettings(), {})
    lines = [line for line in (tmp_path / "x.obj").read_text().split("\n") if line.startswith("f ")]
    assert len(lines) == made.facts["quads"] and all(len(line.split()) == 5 for line in lines)
