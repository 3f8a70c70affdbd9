"""From the raw mesh to the file: shells, report, maps of the original, levels, the command bench-mesh."""

import json
import struct
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh

pytest.importorskip("warp")
from finish_meshes import SIDE, ball

from pipeline import stages
from pipeline.backends import Backend, Backends, Operation
from pipeline.bench import mesh as bench_mesh
from pipeline.bench.shapes import spoil, surface_net
from pipeline.errors import BackendError, MeshError, SettingsError
from pipeline.mesh import UNWRAP
from pipeline.mesh.bake.raster import rasterise
from pipeline.mesh.uv.fallback import triangle_by_triangle
from pipeline.runtime import Runtime
from pipeline.sparse import SparseTensor, Voxels
from pipeline.warp import unavailable_reason


def runtime(**options):
    return Runtime("cpu", stages.table(), **options)


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


def test_coarse_grids_have_larger_holes_and_fragments():
    """What a voxel is missing in a shape of 48 voxels is closed as in one of 512; a mesh from elsewhere stays."""
    vertices, faces = surface_net(ball(0.4), SIDE)
    hole = (faces == faces[0, 0]).any(1)
    fragment = torch.tensor([[0.45, 0, 0], [0.47, 0, 0], [0.45, 0.02, 0]])
    given = torch.cat([vertices, fragment]), torch.cat([faces[~hole], len(vertices) + torch.tensor([[0, 1, 2]])]).int()
    found = {}
    for resolution in (0, 512, SIDE):
        result = stages.process_mesh(runtime(), stages.Mesh(*given, resolution=resolution), 10**6, shells="surface")
        found[resolution] = result.facts["mesh"]["boundary_loops"], result.facts["mesh"]["components"]
    assert found == {0: (2, 2), 512: (2, 2), SIDE: (0, 1)}


def test_solid_is_not_finer_than_the_grid():
    """It would make faces of no detail. What a voxel is missing is closed at any resolution."""
    vertices, faces = surface_net(ball(0.4), SIDE)
    quad = (faces == faces[0, 0]).any(1) & (faces == faces[0, 2]).any(1)
    whole = 4 / 3 * np.pi * 0.4**3
    for resolution, cells in ((0, 128), (SIDE, int(0.8 * SIDE))):
        mesh = stages.Mesh(vertices, faces[~quad], resolution=resolution)
        options = {"max_hole_perimeter": 0, "shells": "solid", "resolution": 128}
        result = stages.process_mesh(runtime(), mesh, 10**6, **options)
        assert result.facts["shells"]["resolution"] == cells and result.facts["mesh"]["watertight"]
        assert result.facts["mesh"]["volume"] == pytest.approx(whole, rel=0.03)


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
    assert '"solid"' in open_ball.facts["warnings"][-1] and not result.facts["warnings"]


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
    stages.export_mesh(used, textured, path, stages.ExportSettings(), textured.facts)
    issues = validate(path)["issues"]
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues
    data = path.read_bytes()
    document = json.loads(data[20 : 20 + struct.unpack_from("<I", data, 12)[0]])
    assert document["asset"]["extras"]["mesh"]["watertight"]
    assert {"normalTexture", "occlusionTexture"} <= set(document["materials"][0])
    # the colour at a texel is the place of the original's point, which lies on the ball
    colour = textured.maps[:, :, :3].reshape(-1, 3) / 255
    assert np.abs(np.linalg.norm(colour - 0.5, axis=1) - 0.4).max() < 1.5 / SIDE
    without = stages.bake_texture(used, mesh, voxels, 128)
    assert without.normal_map is None and without.occlusion is None and without.levels[0].tangents is None


def contents(path):
    """The JSON of a GLB and its accessors as arrays."""
    data = path.read_bytes()
    length = struct.unpack_from("<I", data, 12)[0]
    document, binary = json.loads(data[20 : 20 + length]), data[28 + length :]
    arrays = []
    for accessor in document["accessors"]:
        kind = np.uint32 if accessor["componentType"] == 5125 else np.float32
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        start = document["bufferViews"][accessor["bufferView"]]["byteOffset"]
        arrays.append(np.frombuffer(binary, kind, accessor["count"] * width, start).reshape(-1, width))
    return document, arrays


def test_levels_of_detail_share_an_atlas(damaged, tmp_path, validate):
    raw, voxels = damaged
    used = runtime()
    mesh = stages.process_mesh(used, raw, 4000, max_hole_perimeter=0.2, resolution=64, lods=[1000, 250])
    assert [0.95 * goal <= len(level.faces) <= goal for level, goal in zip(mesh.levels, (4000, 1000, 250))] == [
        True
    ] * 3
    for level in (mesh.facts, *mesh.facts["lods"]):
        assert level["mesh"]["watertight"] and level["mesh"]["euler"] == 2 and not level["warnings"]
    textured = stages.bake_texture(used, mesh, voxels, 512, original=raw, normal_map=True)
    path = tmp_path / "ball.glb"
    assert stages.export_mesh(used, textured, path, stages.ExportSettings(lods_in_one_file=True), textured.facts) == [
        path
    ]
    issues = validate(path)["issues"]
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues
    document, arrays = contents(path)
    assert document["nodes"][0]["extensions"]["MSFT_lod"]["ids"] == [1, 2] and document["scenes"][0]["nodes"] == [0]
    assert len(document["images"]) == 3 and len(document["meshes"]) == 3
    taken, sizes = np.zeros((512, 512), int), []
    for level, written in zip(textured.levels, document["meshes"]):
        attributes = written["primitives"][0]["attributes"]
        x, y, z = level.mesh.vertices.numpy().T
        assert np.array_equal(arrays[attributes["POSITION"]], np.stack([x, z, -y], 1))
        assert np.array_equal(arrays[attributes["TEXCOORD_0"]], level.uvs.numpy())
        face, weights = rasterise(level.uvs, level.mesh.faces, 512)
        covered = (face >= 0).reshape(512, 512).numpy()
        taken += covered
        corners = level.mesh.vertices[level.mesh.faces.long()[face.clamp_min(0)]]
        points = (corners * weights[:, :, None]).sum(1).reshape(512, 512, 3).numpy()[covered]
        outward = points / np.linalg.norm(points, axis=1, keepdims=True)
        assert np.abs(textured.maps[covered][:, :3] / 255 - 0.5 - 0.4 * outward).max() < 2 / SIDE
        sizes.append(covered.sum())
    assert taken.max() == 1  # no texel of two levels
    assert 3 < sizes[0] / sizes[1] < 5.5 and 3 < sizes[1] / sizes[2] < 6
    paths = stages.export_mesh(used, textured, path, stages.ExportSettings(), textured.facts)
    assert [each.name for each in paths] == ["ball.glb", "ball_LOD1.glb", "ball_LOD2.glb"]
    for each, level in zip(paths, textured.levels):
        document, arrays = contents(each)
        ((written,),) = [mesh["primitives"] for mesh in document["meshes"]]
        assert np.array_equal(arrays[written["attributes"]["TEXCOORD_0"]], level.uvs.numpy())
    assert document["asset"]["extras"]["faces"] == len(textured.levels[2].mesh.faces)


def test_a_level_that_is_none_is_left_out(nested):
    mesh = stages.process_mesh(runtime(), nested, 10**6, resolution=64, lods=[10**5, 500])
    assert [len(level.faces) <= 500 for level in mesh.levels] == [False, True]
    assert mesh.facts["warnings"] == ["No level of 100,000 faces: the one before it has no more."]
    for lods in ([500, 500], [2000, 100], [100, 200]):
        with pytest.raises(SettingsError, match="Levels of detail must have fewer faces than the mesh and than each"):
            stages.process_mesh(runtime(), nested, 1000, lods=lods)


def test_vertex_colours_reach_the_file(damaged, tmp_path, validate):
    raw, voxels = damaged
    used = runtime()
    mesh = stages.process_mesh(used, raw, 2000, max_hole_perimeter=0.2, resolution=64, lods=[500])
    coloured = stages.color_vertices(used, mesh, voxels, raw)
    path = tmp_path / "ball.glb"
    stages.export_mesh(used, coloured, path, stages.ExportSettings(lods_in_one_file=True), coloured.facts)
    issues = validate(path)["issues"]
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues
    document, arrays = contents(path)
    for level, written in zip(coloured.levels, document["meshes"]):
        assert (level.attrs[:, :3] - 0.5 - 0.4 * F.normalize(level.vertices, dim=1)).abs().max() < 1.5 / SIDE
        linear = arrays[written["primitives"][0]["attributes"]["COLOR_0"]]
        srgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
        assert np.abs(srgb[:, :3] - level.attrs[:, :3].numpy()).max() < 1.01 / 255
    factors = document["materials"][0]["pbrMetallicRoughness"]
    assert factors["metallicFactor"] == pytest.approx(float(coloured.attrs[:, 3].mean()), abs=1e-6)
    assert mesh.attrs is None  # the input stays as it is


def test_uvs_from_elsewhere_are_kept(damaged):
    raw, voxels = damaged
    used = runtime()
    unwrapped = stages.bake_texture(used, stages.process_mesh(used, raw, 1000, resolution=64), voxels, 256)
    first = unwrapped.levels[0]
    mesh = stages.Mesh(first.mesh.vertices, first.mesh.faces, uvs=first.uvs)
    kept = stages.bake_texture(used, mesh, voxels, 256, keep_uvs=True)
    assert torch.equal(kept.levels[0].uvs, first.uvs) and torch.equal(kept.levels[0].mesh.faces, first.mesh.faces)
    assert np.array_equal(kept.maps, unwrapped.maps) and not kept.facts["warnings"]
    # vertices that seams parted are shaded as one
    places, place = first.mesh.vertices.unique(dim=0, return_inverse=True)
    expected = torch.zeros_like(places).index_copy_(0, place, kept.levels[0].normals)[place]
    assert len(places) < len(place) and torch.equal(kept.levels[0].normals, expected)
    folded = stages.bake_texture(used, replace(mesh, uvs=first.uvs % 0.5), voxels, 256, keep_uvs=True)
    assert "The UVs overlap" in folded.facts["warnings"][0]
    with pytest.raises(MeshError, match="UVs reach from .* to 2.* only those in 0-1"):
        stages.bake_texture(used, replace(mesh, uvs=first.uvs + 1.5), voxels, 256, keep_uvs=True)
    with pytest.raises(MeshError, match="UVs reach from"):
        stages.bake_texture(used, replace(mesh, uvs=first.uvs * torch.nan), voxels, 256, keep_uvs=True)
    with pytest.raises(SettingsError, match="has no UVs to keep"):
        stages.bake_texture(used, raw, voxels, 256, keep_uvs=True)


@pytest.mark.usefixtures("no_warp")
def test_without_warp(nested, damaged):
    result = stages.process_mesh(runtime(), nested, 10**6)
    assert result.facts["mesh"]["components"] == 2
    assert result.facts["warnings"] == [f"Inner shells stay: {unavailable_reason()}"]
    used = runtime(on_step=lambda step: pytest.fail("ran"))
    with pytest.raises(BackendError, match="A solid mesh needs Warp: warp is not installed"):
        stages.process_mesh(used, nested, 10**6, shells="solid")
    for wanted in ({"normal_map": True}, {"occlusion": True}):
        with pytest.raises(BackendError, match="Normal maps and occlusion need Warp: warp is not installed"):
            stages.bake_texture(used, result, damaged[1], 64, **wanted)
    with pytest.raises(BackendError, match="The renderer needs Warp: warp is not installed"):
        stages.draw(used, nested)


def test_unknown_shells(nested):
    with pytest.raises(SettingsError, match="Unknown shells 'inner'; choose one of surface, outer, solid"):
        stages.process_mesh(runtime(), nested, 1000, shells="inner")


def test_vertex_colours_on_the_command_line(run, root, rocket_state, tmp_path):
    glb = tmp_path / "rocket.glb"
    options = ("--vertex-colors", "--faces", 3000, "--lods", 500, "--shells", "surface", "--output", glb)
    code, out, err = run("finish", rocket_state, *options)
    assert code == 0, err
    document, _ = contents(glb)
    assert all("COLOR_0" in each["primitives"][0]["attributes"] for each in document["meshes"])
    assert "images" not in document and "| bake |" not in out  # a row of the table of stages
    level = glb.with_name("rocket_LOD1.glb")
    counts = [contents(path)[0]["asset"]["extras"]["faces"] for path in (glb, level)]
    assert counts[1] < counts[0] and f"{glb}, {level} in " in out
    code, _, err = run("generate", root / "assets" / "rocket.png", "--faces", 100, "--lods", 100, "--output", glb)
    assert code == 1 and "Levels of detail must have fewer faces than the mesh" in err


def test_bench_mesh(run, tmp_path, monkeypatch):
    """The command: each line measured once, on half the faces, seen from outside in an eighth of the cells, with an
    eighth of the texture's side, and few samples for distances."""
    bake, measure = bench_mesh._bake, bench_mesh._measure
    monkeypatch.setattr(
        bench_mesh, "_bake", lambda used, mesh, voxels, size, raw: bake(used, mesh, voxels, size // 8, raw)
    )
    monkeypatch.setattr(bench_mesh, "_process", partial(stages.process_mesh, resolution=64))
    monkeypatch.setattr(bench_mesh, "_measure", lambda used, work, call, calls=1: measure(used, work, call, 1))
    monkeypatch.setattr(bench_mesh, "_SAMPLES", 2000)
    monkeypatch.setitem(bench_mesh.SIDES, "100 k", 48)
    report = tmp_path / "mesh.json"
    options = ("--yardsticks", "--report", report, "--history", tmp_path / "history.jsonl")
    code, out, err = run("bench-mesh", "--device", "cpu", "--mesh", "100 k", *options)
    assert code == 0, err
    rows = json.loads(report.read_text())
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["work"] for line in lines] == [row["work"] for row in rows]
    assert {(line["kind"], line["mesh"]) for line in lines} == {("mesh", "100 k")}
    assert "100 k dirty faces -> clean 20,000" in out and rows[0]["seconds"] > 0
    assert "0 non manifold edges, 0 inconsistent edges" in rows[0]["notes"]
    closed = next(row for row in rows if "solid" in row["work"])
    assert "0 inconsistent edges, 0 boundary edges" in closed["notes"]
    assert any("fast-simplification" in row["work"] for row in rows) and any("to GLB" in row["work"] for row in rows)


def test_a_spoiled_mesh_has_every_defect():
    vertices, faces = surface_net(ball(0.4), SIDE)
    spoiled = trimesh.Trimesh(*(each.numpy() for each in spoil(vertices, faces)), process=False)
    assert not spoiled.is_watertight and not spoiled.is_winding_consistent
    assert (spoiled.area_faces < 1e-12).any() and len(faces) < len(spoiled.faces) + 550


@pytest.mark.parametrize(("size", "between"), [(64, 1), (128, 2), (256, 4), (512, 4)])
def test_small_textures_have_padding_in_proportion(damaged, size, between):
    """Four texels between the charts of a 64 pixel texture left next to nothing for them."""
    asked, used = [], runtime()

    def unwrap(vertices, faces, size, padding, *more):
        asked.append(padding)
        return triangle_by_triangle(vertices, faces, size, padding, *more)

    used.backends = Backends([Operation(UNWRAP, (Backend("spy", unwrap),)), *others(UNWRAP)])
    raw, voxels = damaged
    mesh = stages.process_mesh(used, raw, 100, resolution=64)
    assert stages.bake_texture(used, mesh, voxels, size).maps.shape == (size, size, 6)
    assert asked == [between]


def others(*names):
    """The table of operations without these."""
    return [each for name, each in stages.table().operations.items() if name not in names]


def test_many_charts_fit_into_the_smallest_texture():
    """Hundreds of charts, as generated objects have them, in the least texture that settings allow."""
    least, box = stages.TEXTURE_SIZES[0], trimesh.creation.box()
    at, side = torch.rand(200, 1, 3, generator=torch.Generator().manual_seed(0)).split([100, 100])
    corners, faces = torch.tensor(box.vertices).float(), torch.tensor(box.faces).int()
    vertices = (at - 0.5 + corners * (0.02 + 0.05 * side)).reshape(-1, 3)
    boxes = stages.Mesh(vertices, (faces + 8 * torch.arange(100)[:, None, None].int()).reshape(-1, 3))
    voxels = Voxels.single(((vertices.clamp(-0.5, 0.49) + 0.5) * SIDE).int().unique(dim=0))
    voxels = stages.PBRVoxels(SparseTensor(voxels, torch.rand(len(voxels), 6)), SIDE)
    textured = stages.bake_texture(runtime(), boxes, voxels, least)
    assert textured.facts["charts"] > 200 and textured.maps.shape == (least, least, 6)
