"""From the raw mesh to the file: shells, report, maps of the original, and the table of the command bench-mesh."""

import json
import struct

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

pytest.importorskip("warp")
from pipeline import stages
from pipeline.bench_shapes import spoil, surface_net
from pipeline.errors import BackendError, SettingsError
from pipeline.runtime import Runtime
from pipeline.sparse import SparseTensor, Voxels

SIDE = 48


def runtime():
    return Runtime("cpu", stages.table())


def ball(radius):
    return lambda points: points.norm(dim=1) - radius


@pytest.fixture(scope="module")
def nested():
    """A ball within a ball, both closed, 16 cells apart; made by flipping the sign of nothing: two meshes in one."""
    (a, f), (b, g) = surface_net(ball(0.4), SIDE), surface_net(ball(0.15), SIDE)
    return stages.Mesh(torch.cat([a, b]), torch.cat([f, g + len(a)]))


@pytest.fixture(scope="module")
def damaged():
    """A ball with the defects of generated meshes, and voxels on it whose colour is their place."""
    vertices, faces = surface_net(ball(0.4), SIDE)
    cells = torch.unique(((vertices + 0.5) * SIDE).long(), dim=0)
    place = (cells + 0.5) / SIDE
    voxels = stages.PBRVoxels(SparseTensor(Voxels.single(cells.int()), torch.cat([place, place], 1)), SIDE)
    flipped = faces.clone()
    flipped[::50] = flipped[::50].flip(1)
    pinholes = torch.ones(len(faces), dtype=torch.bool)
    pinholes[::400] = False
    return stages.Mesh(vertices, torch.cat([flipped[pinholes], faces[:20]])), voxels


@pytest.mark.parametrize(("shells", "components"), [("surface", 2), ("outer", 1), ("solid", 1)])
def test_shells(nested, shells, components):
    result = stages.process_mesh(runtime(), nested, 10**6, shells=shells, resolution=64)
    facts = result.facts["mesh"]
    assert facts["components"] == components and facts["watertight"] and not result.facts["warnings"]
    made = trimesh.Trimesh(result.vertices.numpy(), result.faces.numpy(), process=False)
    assert made.is_watertight and made.is_winding_consistent and made.euler_number == facts["euler"] == 2 * components
    assert made.volume == pytest.approx(facts["volume"], rel=1e-4)
    volume = 4 / 3 * np.pi * (0.4**3 - (0.15**3 if shells == "surface" else 0))  # the inner one is a cavity
    assert facts["volume"] == pytest.approx(volume, rel=0.02)


def test_solid_stays_closed_when_simplified(damaged):
    for target in (10_000, 1000, 300):
        result = stages.process_mesh(runtime(), damaged[0], target, shells="solid", resolution=64)
        facts = result.facts["mesh"]
        assert facts["watertight"] and facts["euler"] == 2 and 0.9 * target <= facts["faces"] <= target, facts


def test_the_report_counts_what_was_repaired(damaged):
    result = stages.process_mesh(runtime(), damaged[0], 2000, max_hole_perimeter=0.2, resolution=64)
    changes, facts = result.facts["cleaned"], result.facts["mesh"]
    assert changes["repeated_faces"] > 0 and changes["filled_holes"] > 10 and changes["turned_faces"] > 100
    assert facts["watertight"] and facts["non_manifold_edges"] == facts["inconsistent_edges"] == 0
    assert facts["euler"] == 2 and 1980 <= len(result.faces) <= 2000
    json.dumps(result.facts)
    open_ball = stages.process_mesh(runtime(), damaged[0], 2000, max_hole_perimeter=0, shells="surface")
    assert not open_ball.facts["mesh"]["watertight"] and "not watertight" in open_ball.facts["warnings"][0]


@pytest.mark.parametrize("target", [100, 500, 3000])
def test_the_face_count_is_a_ceiling(target):
    """Also where parting what touches needs faces of its own: bodies that share edges and corners."""
    solid = torch.zeros(8, 8, 8, dtype=torch.bool)
    solid[:6, :6, :6] = torch.rand(6, 6, 6, generator=torch.Generator().manual_seed(1)) > 0.5
    mesh = stages.Mesh(*surface_net(lambda p: 0.5 - solid[tuple(((p + 0.5) * 8).long().clamp(0, 7).T)].float(), SIDE))
    result = stages.process_mesh(runtime(), mesh, target, shells="surface")
    assert 0.9 * target <= len(result.faces) <= target
    assert result.facts["mesh"]["non_manifold_edges"] == 0


def test_the_input_stays_as_it_is(damaged):
    before = damaged[0].vertices.clone(), damaged[0].faces.clone()
    stages.process_mesh(runtime(), damaged[0], 1000, resolution=64)
    assert torch.equal(before[0], damaged[0].vertices) and torch.equal(before[1], damaged[0].faces)


def test_maps_of_the_original_reach_the_file(damaged, tmp_path, validate):
    raw, voxels = damaged
    used = runtime()
    mesh = stages.process_mesh(used, raw, 600, max_hole_perimeter=0.2, resolution=64)
    textured = stages.bake_texture(used, mesh, voxels, 128, original=raw, normal_map=True, occlusion=True)
    assert textured.normal_map.shape == (128, 128, 3) and textured.occlusion.shape == (128, 128)
    assert textured.occlusion.min() > 0.9  # nothing stands beside a ball
    path = tmp_path / "ball.glb"
    stages.export_glb(used, textured, path, stages.ExportSettings(), textured.facts)
    issues = validate(path)["issues"]
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues
    data = path.read_bytes()
    document = json.loads(data[20 : 20 + struct.unpack_from("<I", data, 12)[0]])
    assert document["asset"]["extras"]["mesh"]["watertight"]
    assert {"normalTexture", "occlusionTexture"} <= set(document["materials"][0])
    # the colour at a texel is the place of the original's point, which lies on the ball
    attrs = textured.maps.attrs[textured.maps.covered]
    radius = np.linalg.norm(attrs[:, :3] - 0.5, axis=1)
    assert np.abs(radius - 0.4).max() < 1.5 / SIDE
    without = stages.bake_texture(used, mesh, voxels, 128)
    assert without.normal_map is None and without.occlusion is None and without.tangents is None


def test_without_warp(nested, monkeypatch):
    monkeypatch.setattr(stages, "ABSENT", "warp is not installed")
    result = stages.process_mesh(runtime(), nested, 10**6)
    assert result.facts["mesh"]["components"] == 2
    assert result.facts["warnings"] == ["Inner shells stay: warp is not installed"]
    with pytest.raises(BackendError, match="A solid mesh needs Warp: warp is not installed"):
        stages.process_mesh(runtime(), nested, 10**6, shells="solid")


def test_unknown_shells(nested):
    with pytest.raises(SettingsError, match="Unknown shells 'inner'; choose one of surface, outer, solid"):
        stages.process_mesh(runtime(), nested, 1000, shells="inner")


def test_a_picture_of_the_result(run, root, tmp_path):
    glb, picture = tmp_path / "rocket.glb", tmp_path / "views.png"
    options = ("--seed", 8, "--type", "512", "--texture-size", 256, "--output", glb, "--picture", picture)
    code, _, err = run("generate", root / "assets" / "rocket.png", *options)
    assert code == 0, err
    with Image.open(picture) as views:
        assert views.size == (2048, 512) and views.mode == "RGBA"
        assert np.asarray(views)[:, :, 3].any() and not np.asarray(views)[0, 0, 3]
    code, _, err = run(
        "generate", root / "assets" / "rocket.png", "--save-state", tmp_path / "x.safetensors", *options[-2:]
    )
    assert code == 1 and "--picture shows what --output holds; give both" in err


def test_bench_mesh(run, tmp_path):
    report = tmp_path / "mesh.json"
    code, out, err = run("bench-mesh", "--device", "cpu", "--mesh", "100 k", "--yardsticks", "--report", report)
    assert code == 0, err
    rows = json.loads(report.read_text())
    assert "100 k dirty faces -> clean 20,000" in out and rows[0]["seconds"] > 0
    assert "0 non manifold edges, 0 inconsistent edges" in rows[0]["notes"]
    assert any("fast-simplification" in row["work"] for row in rows) and any("to GLB" in row["work"] for row in rows)


def test_a_spoiled_mesh_has_every_defect():
    vertices, faces = surface_net(ball(0.4), SIDE)
    spoiled = trimesh.Trimesh(*(each.numpy() for each in spoil(vertices, faces)), process=False)
    assert not spoiled.is_watertight and not spoiled.is_winding_consistent
    assert (spoiled.area_faces < 1e-12).any() and len(faces) < len(spoiled.faces) + 550
