"""What inspect and Mesh Report say of meshes whose answers are known."""

import json
import math
import sys

import numpy as np
import pytest
import torch
import trimesh
from meshes import needs_warp

from pipeline.backends import PLAIN
from pipeline.errors import BackendError, EmptyResultError, MeshError, SettingsError
from pipeline.export import WRITERS, Geometry, Material, Scene, TrueSize, write
from pipeline.export.read import read_mesh
from pipeline.export.state import save_state
from pipeline.mesh import CROSSING, WALL_THICKNESS, Mesh
from pipeline.stages import default_backends, inspect_file, inspect_mesh
from pipeline.warp import unavailable_reason


@pytest.fixture(params=[PLAIN, pytest.param("warp", marks=needs_warp)])
def backends(request):
    """The table with one row chosen for both measurements."""
    return default_backends(dict.fromkeys((CROSSING, WALL_THICKNESS), request.param))


def mesh_of(shape):
    return Mesh(torch.from_numpy(np.array(shape.vertices)), torch.from_numpy(np.array(shape.faces)))


def geometry(shape):
    return Geometry(np.asarray(shape.vertices), np.asarray(shape.faces), np.asarray(shape.vertex_normals))


def moved(shape, *offset):
    return shape.copy().apply_translation(offset)


def test_crossing_faces_are_counted(backends):
    """Of two balls that cross: as many faces as trimesh's sections of each by the other, and none of balls apart, of
    one inside the other, or of one alone."""

    def crossing_faces(mesh):
        return inspect_mesh(mesh, backends=backends).prints.crossing_faces

    ball = trimesh.creation.icosphere(2, 0.5)
    apart, inside = moved(ball, 2, 0, 0), trimesh.creation.icosphere(2, 0.3)
    assert crossing_faces(mesh_of(ball)) == 0
    for other in (apart, inside):
        assert crossing_faces(mesh_of(trimesh.util.concatenate([ball, other]))) == 0
    crossed = crossing_faces(mesh_of(trimesh.util.concatenate([ball, moved(ball, 0.61, 0.13, 0.07)])))
    assert 30 < crossed < 120  # a ring round each
    blade = trimesh.Trimesh([[0, 0, -2], [2, 0.1, 0.2], [0.1, 2, 0.3]], [[0, 1, 2]])
    pierced = trimesh.util.concatenate([trimesh.Trimesh([[-1, -1, 0], [3, -1, 0], [-1, 3, 0]], [[0, 1, 2]]), blade])
    assert crossing_faces(mesh_of(pierced)) == 2


def brute_force(vertices, faces):
    """Faces that cross others, each pair by its edges, without a tree: as the kernel, in numpy."""

    def through(one, other):
        a, b, c = other
        n = np.cross(b - a, c - a)
        for start, end in ((0, 1), (1, 2), (2, 0)):
            above, below = (one[start] - a) @ n, (one[end] - a) @ n
            if above * below >= 0:
                continue
            at = one[start] + (one[end] - one[start]) * (above / (above - below))
            if min(np.cross(q - p, at - p) @ n for p, q in ((a, b), (b, c), (c, a))) > 0:
                return True
        return False

    corners, crossed = vertices[faces], set()
    for i in range(len(faces)):
        for j in range(i):
            if not set(faces[i]) & set(faces[j]) and (
                through(corners[i], corners[j]) or through(corners[j], corners[i])
            ):
                crossed |= {i, j}
    return len(crossed)


def test_crossing_faces_are_those_of_all_pairs(backends):
    random = np.random.default_rng(3)
    vertices = random.random((60, 3)).astype(np.float32).astype(np.float64)
    faces = np.stack([random.permutation(60)[:3] for _ in range(60)])
    wanted = brute_force(vertices, faces)
    found = inspect_mesh(Mesh(torch.from_numpy(vertices), torch.from_numpy(faces)), backends=backends)
    assert 10 < wanted < 60 and found.prints.crossing_faces == wanted


@pytest.mark.parametrize("thickness", [0.02, 0.1, 0.5])
def test_the_thinnest_wall(backends, thickness):
    plate = trimesh.creation.box((1, 1, thickness)).subdivide().subdivide()
    found = inspect_mesh(mesh_of(plate), backends=backends).prints
    assert found.wall_min == pytest.approx(thickness, rel=1e-4)
    assert found.wall_thin == pytest.approx(thickness, rel=1e-4)


def test_a_hollow_ball_has_the_wall_between_its_shells(backends):
    inner = trimesh.creation.icosphere(4, 0.4)
    inner.invert()
    hollow = mesh_of(trimesh.util.concatenate([trimesh.creation.icosphere(4, 0.5), inner]))
    found = inspect_mesh(hollow, backends=backends).prints
    assert found.wall_min == pytest.approx(0.1, rel=0.05)
    assert inspect_mesh(mesh_of(inner)).warnings()  # inside out: its volume is negative


def test_an_open_sheet_has_no_wall(backends):
    sheet = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])
    found = inspect_mesh(mesh_of(sheet), backends=backends).prints
    assert found.wall_min is None and found.wall_thin is None


@needs_warp
@pytest.mark.parametrize("stretch", [(1, 1, 1), (1, 30, 0.02)])
def test_rows_measure_alike(rng, stretch):
    """Faces of all sizes in boxes of any shape, and walls between them."""
    size = torch.tensor([0.01, 0.1, 0.5], dtype=torch.float64)[torch.randint(3, (400, 1, 1), generator=rng)]
    places, spread = torch.rand(400, 1, 3, generator=rng), torch.randn(400, 3, 3, generator=rng)
    vertices = (places + size * spread).reshape(-1, 3) * torch.tensor(stretch)
    mesh = Mesh(vertices, torch.arange(1200).reshape(400, 3))
    rows = default_backends()
    plain, warp = ([rows.pick(op, name=name) for op in (CROSSING, WALL_THICKNESS)] for name in (PLAIN, "warp"))
    assert torch.equal(plain[0](mesh.vertices, mesh.faces), warp[0](mesh.vertices, mesh.faces))
    asked = torch.arange(0, 400, 3)
    one, other = plain[1](mesh, asked), warp[1](mesh, asked)
    assert torch.equal(one.isfinite(), other.isfinite()) and 30 < one.isfinite().sum() < 120
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_what_measured_is_recorded(run, tmp_path):
    write(tmp_path / "x.stl", Scene((geometry(trimesh.creation.icosphere(1, 0.5)),)))
    chosen = ("--backend", f"{CROSSING}={PLAIN}")
    code, out, err = run("inspect", tmp_path / "x.stl", "--json", *chosen)
    assert code == 0, err
    preferred = PLAIN if unavailable_reason() else "warp"
    assert json.loads(out)["backends"] == {CROSSING: PLAIN, WALL_THICKNESS: preferred}
    code, _, err = run("inspect", tmp_path / "x.stl", "--backend", "wall_thickness=cumesh")
    assert code == 1 and "'wall_thickness' has no backend 'cumesh'; it has warp, torch" in err


def test_without_warp_all_is_measured_but_by_a_row_that_needs_it(no_warp):
    ball = mesh_of(trimesh.creation.icosphere(2, 0.5))
    found = inspect_mesh(ball)
    assert found.backends == {CROSSING: PLAIN, WALL_THICKNESS: PLAIN}
    assert found.prints.crossing_faces == 0 and found.prints.wall_min == pytest.approx(1, abs=0.05)
    with pytest.raises(BackendError, match="warp is not installed"):
        inspect_mesh(ball, backends=default_backends({CROSSING: "warp"}))


def test_overhangs():
    """A mushroom's cap from below; what lies on the bed does not count; 44 degrees are fine, 46 are not."""
    stem, cap = (
        moved(trimesh.creation.box((0.2, 0.2, 1)), 0, 0, 0.5),
        moved(trimesh.creation.box((1, 1, 0.2)), 0, 0, 1.1),
    )
    both = mesh_of(trimesh.util.concatenate([stem, cap]))
    assert inspect_mesh(both).prints.overhang_area == pytest.approx(1.0)
    for degrees, area in ((44, 0.0), (46, 1.0)):
        turn = math.radians(degrees)
        slope = [[0, 0, 0], [math.sin(turn), 0, math.cos(turn)], [0, 2, 0]]  # looks down, leaning from the vertical
        mesh = Mesh(torch.tensor(slope, dtype=torch.float64), torch.tensor([[0, 1, 2], [0, 1, 2]]))
        normal = np.cross(np.subtract(slope[1], slope[0]), np.subtract(slope[2], slope[0]))
        faces = mesh.faces if normal[2] < 0 else mesh.faces.flip(1)
        assert inspect_mesh(Mesh(mesh.vertices, faces)).prints.overhang_area == pytest.approx(2 * area)


@pytest.mark.parametrize("suffix", [each for each in WRITERS if not WRITERS[each].unavailable_reason()])
def test_every_format_gives_the_same_report(tmp_path, suffix):
    """Axes, units and seams are the format's business: 20 x 40 x 80 mm, Z up, closed, 64 cm3 of 1.24 g."""
    shape = trimesh.creation.box((0.2, 0.4, 0.8))
    shape.unmerge_vertices()
    write(tmp_path / f"x{suffix}", Scene((geometry(shape),), metres=0.1))
    found = inspect_file(tmp_path / f"x{suffix}")
    facts = found.as_dict()
    assert facts["size_mm"] == pytest.approx([20, 40, 80], abs=1e-2)
    assert facts["mesh"]["watertight"] and facts["mesh"]["vertices"] == 8 and facts["reader"] == "own"
    assert facts["volume_cm3"] == pytest.approx(64, rel=1e-4) and facts["weight_g"] == pytest.approx(79.36, rel=1e-4)
    assert json.dumps(facts) and not facts["warnings"]
    assert "20 x 40 x 80 mm (Z up)" in found.text() and "weight 79.36 g" in found.text()


def test_files_of_other_programs(tmp_path, monkeypatch):
    """Read by trimesh; without it, a message that says so."""
    box = trimesh.creation.box((1, 2, 3))
    for name in ("x.ply", "x.off"):
        box.export(tmp_path / name)
        found = inspect_file(tmp_path / name)
        assert found.file["reader"] == "trimesh" and found.report.watertight and found.report.faces == 12
    from pipeline.export import read

    monkeypatch.setattr(read, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(MeshError, match=r"x\.ply is not as the writers here make it.*pip install trimesh"):
        read_mesh(tmp_path / "x.ply")


@pytest.mark.parametrize("suffix", [*WRITERS, ".off"])
@pytest.mark.parametrize(
    "data", [b"", b"not a mesh", bytes(100), b"glTF" + bytes(40), b"PK\x03\x04" + bytes(60), b"{}"]
)
def test_what_is_no_mesh_is_named(tmp_path, suffix, data):
    if suffix == ".usdz" and WRITERS[suffix].unavailable_reason():
        pytest.skip("usd-core is not installed")
    path = tmp_path / f"x{suffix}"
    path.write_bytes(data)
    with pytest.raises(MeshError, match="cannot be read as a mesh"):
        read_mesh(path)


@pytest.mark.parametrize("suffix", [*WRITERS, ".off"])
@pytest.mark.parametrize(
    ("data", "found"),
    [(b"", "empty"), (b"<!DOCTYPE html><html>", "a web page"), (b"version https://git-lfs", "a git-lfs pointer")],
)
def test_what_a_file_is_in_place_of_a_mesh(tmp_path, suffix, data, found):
    if suffix == ".usdz" and WRITERS[suffix].unavailable_reason():
        pytest.skip("usd-core is not installed")
    (tmp_path / f"x{suffix}").write_bytes(data)
    with pytest.raises(MeshError, match=f"cannot be read as a mesh: it is {found}.*Export it again"):
        read_mesh(tmp_path / f"x{suffix}")


@pytest.mark.parametrize(
    ("key", "value"), [("nodes", [{"mesh": 0, "translation": [10**400, 0, 0]}]), ("bufferViews", [{"byteOffset": -1}])]
)
def test_what_another_reader_trips_over_is_named(tmp_path, key, value):
    """A whole number that no float holds and a negative offset: errors of trimesh that were tracebacks."""
    write(tmp_path / "x.glb", Scene((geometry(trimesh.creation.box()),)))
    data = (tmp_path / "x.glb").read_bytes()
    end = 20 + int.from_bytes(data[12:16], "little")
    root = {**json.loads(data[20:end]), key: value}
    if key == "bufferViews":
        root[key] = [{**each, **value[0]} for each in json.loads(data[20:end])[key]]
    text = json.dumps(root).encode()
    text += b" " * (-len(text) % 4)
    sizes = [len(each).to_bytes(4, "little") for each in (text, bytes(12 + 8 + len(text)) + data[end:])]
    (tmp_path / "x.glb").write_bytes(data[:8] + sizes[1] + sizes[0] + data[16:20] + text + data[end:])
    with pytest.raises(MeshError, match="cannot be read as a mesh"):
        read_mesh(tmp_path / "x.glb")


def test_large_volumes_have_no_exponent(tmp_path):
    write(tmp_path / "x.stl", Scene((geometry(trimesh.creation.box()),), metres=0.5))
    assert "volume 125,000 cm3, weight 155,000 g at" in inspect_file(tmp_path / "x.stl").text()


def test_inspect_of_a_checkpoint_has_no_backends(run, root):
    code, _, err = run("inspect", root / "checkpoints" / "small", "--backend", "crossing=torch")
    assert code == 1 and "a checkpoint is inspected without" in err


def test_inspect_on_the_command_line(run, tmp_path):
    write(tmp_path / "x.stl", Scene((geometry(trimesh.creation.icosphere(2, 0.5)),), metres=0.08))
    code, out, err = run("inspect", tmp_path / "x.stl", "--density", 2)
    assert code == 0, err
    assert "320 faces, 162 vertices, 1 component, watertight" in out and "at 2 g/cm3" in out
    code, out, _ = run("inspect", tmp_path / "x.stl", "--json")
    assert code == 0 and json.loads(out)["mesh"]["euler"] == 2
    code, _, err = run("inspect", tmp_path / "absent.glb")
    assert code == 1 and "absent.glb cannot be read: No such file" in err
    for density in ("0", "-1", "1e9"):
        code, _, err = run("inspect", tmp_path / "x.stl", "--density", density)
        assert code == 1 and "A density must lie in" in err
    code, _, err = run("inspect", tmp_path / "x.stl", "--density", "nan")
    assert code == 2 and "--density: must be a finite number" in err


def test_what_is_neither_mesh_nor_checkpoint_is_told_both(run, tmp_path):
    (tmp_path / "x.fbx").write_bytes(b"Kaydara FBX Binary")
    code, _, err = run("inspect", tmp_path / "x.fbx")
    assert code == 1 and "neither a checkpoint" in err and "Or a mesh file: .glb, .gltf, .obj, " in err


def test_a_state_file_is_called_so(run, tmp_path):
    save_state(tmp_path / "x.safetensors", {"vertices": torch.zeros(3, 3)}, {"resolution": 512})
    code, _, err = run("inspect", tmp_path / "x.safetensors")
    assert code == 1 and "is a state file" in err and "`finish`" in err


def test_an_image_that_does_not_decode_is_said(tmp_path):
    texels = np.zeros((8, 8, 4), np.uint8)
    shape = trimesh.creation.box()
    uvs = np.zeros((len(shape.vertices), 2))
    textured = Geometry(shape.vertices, shape.faces, shape.vertex_normals, uvs)
    path = tmp_path / "x.gltf"
    write(path, Scene((textured,), Material(texels, texels[:, :, 0], texels[:, :, 0])))
    assert inspect_file(path).file["images"] == {"x_base_color": [8, 8], "x_occlusion_roughness_metallic": [8, 8]}
    (tmp_path / "x_base_color.png").write_bytes(b"\x89PNG")
    assert any("x_base_color does not decode" in warning for warning in inspect_file(path).warnings())


def test_walls_thinner_than_a_nozzle_are_said():
    plate = mesh_of(trimesh.creation.box((1, 1, 0.003)).subdivide())
    said = "thinner than a nozzle"
    assert any(said in each for each in inspect_mesh(plate, TrueSize(0.1)).warnings())
    assert not any(said in each for each in inspect_mesh(plate, TrueSize(1.0)).warnings())


def test_meshes_that_cannot_be_inspected():
    none = Mesh(torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.int64))
    with pytest.raises(EmptyResultError):
        inspect_mesh(none)
    huge = Mesh(torch.eye(3) * 1e30, torch.tensor([[0, 1, 2]]))
    with pytest.raises(MeshError, match="Scale it down"):
        inspect_mesh(huge)
    with pytest.raises(SettingsError, match="A density"):
        inspect_mesh(mesh_of(trimesh.creation.box()), density=math.inf)
    point = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    assert "The mesh has no area." in inspect_mesh(point).warnings()
