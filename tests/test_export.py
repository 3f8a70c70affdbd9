"""GLB files: read back by trimesh, judged by Khronos' validator."""

import io
import json
import os
import struct

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from safetensors import safe_open

from pipeline.errors import OutputError
from pipeline.export import AlphaMode, Geometry, Material, Scene, level_path, write
from pipeline.export import write_levels as write_scene_levels
from pipeline.export.files import check_outputs, writing
from pipeline.export.state import save_state


def write_glb(path, levels, material=Material(), extras=None, name=""):  # noqa: B008
    write(path, Scene(tuple(levels), material, extras, name))


def write_levels(path, levels, material, extras):
    return write_scene_levels(path, Scene(tuple(levels), material), extras)


def arrays(seed=0):
    """A ball with made-up UVs."""
    ball = trimesh.creation.icosphere(2, 0.4)
    uvs = np.random.default_rng(seed).random((len(ball.vertices), 2)).astype(np.float32)
    normals = (ball.vertices / np.linalg.norm(ball.vertices, axis=1, keepdims=True)).astype(np.float32)
    return ball.vertices.astype(np.float32), ball.faces, normals, uvs


def material(size=16, seed=0, **options):
    texels = np.random.default_rng(seed).integers(0, 256, (size, size, 6), np.uint8)
    return Material(texels[:, :, [0, 1, 2, 5]], texels[:, :, 3], texels[:, :, 4], **options)


def parts(path):
    """The JSON and the binary chunk."""
    data = path.read_bytes()
    magic, version, total = struct.unpack_from("<4sII", data)
    assert (magic, version, total) == (b"glTF", 2, len(data))
    length = struct.unpack_from("<I", data, 12)[0]
    return json.loads(data[20 : 20 + length]), data[28 + length :]


def images(path):
    document, binary = parts(path)
    views = (document["bufferViews"][image["bufferView"]] for image in document["images"])
    return [Image.open(io.BytesIO(binary[v["byteOffset"] : v["byteOffset"] + v["byteLength"]])) for v in views]


@pytest.mark.parametrize("image_format", ["png", "webp"])
@pytest.mark.parametrize("alpha_mode", list(AlphaMode))
def test_trimesh_reads_the_same_arrays(tmp_path, alpha_mode, image_format):
    path, (vertices, faces, normals, uvs) = tmp_path / "ball.glb", arrays()
    source = material(alpha_mode=alpha_mode, image_format=image_format)
    write_glb(path, [Geometry(vertices, faces, normals, uvs)], source)
    (mesh,) = trimesh.load(path, process=False).geometry.values()
    x, y, z = vertices.T
    assert np.array_equal(mesh.vertices, np.stack([x, z, -y], 1)) and np.array_equal(mesh.faces, faces)
    np.testing.assert_allclose(mesh.vertex_normals, np.stack([*normals.T[[0, 2]], -normals.T[1]], 1), atol=1e-6)
    np.testing.assert_allclose(
        mesh.visual.uv, np.stack([uvs[:, 0], 1 - uvs[:, 1]], 1), atol=1e-6
    )  # trimesh's v goes up
    found = mesh.visual.material
    assert found.alphaMode == alpha_mode.value and found.doubleSided
    base, packed = (np.asarray(image) for image in (found.baseColorTexture, found.metallicRoughnessTexture))
    if image_format == "png":
        assert np.array_equal(base, source.base_color[:, :, : base.shape[2]])
    assert base.shape[2] == (3 if alpha_mode is AlphaMode.OPAQUE else 4)
    assert np.array_equal(packed[:, :, 1], source.roughness) and np.array_equal(packed[:, :, 2], source.metallic)


def test_metallic_and_roughness_survive_webp(tmp_path):
    """Never lossy: 4:2:0 chroma would mix the two."""
    path, source = tmp_path / "ball.glb", material(64, image_format="webp")
    write_glb(path, [Geometry(*arrays())], source)
    packed = np.asarray(images(path)[1])
    assert np.array_equal(packed[:, :, 1], source.roughness) and np.array_equal(packed[:, :, 2], source.metallic)


@pytest.mark.parametrize("image_format", ["png", "webp", None])
@pytest.mark.parametrize("alpha_mode", list(AlphaMode))
def test_the_validator_finds_nothing(tmp_path, validate, alpha_mode, image_format):
    path, (vertices, faces, normals, uvs) = tmp_path / "ball.glb", arrays()
    if image_format:
        source = material(alpha_mode=alpha_mode, image_format=image_format)
        write_glb(path, [Geometry(vertices, faces, normals, uvs)], source)
    else:
        write_glb(path, [Geometry(vertices, faces, normals)], Material(alpha_mode=alpha_mode), {"seed": 1})
    issues = validate(path)["issues"]
    assert issues["numErrors"] == issues["numWarnings"] == issues["numHints"] == 0, issues["messages"]


def test_up_is_up(tmp_path):
    """The world's +Z is glTF's +Y, the world's -Y its +Z."""
    vertices = np.array([[0, 0, 1], [0, -1, 0], [1, 0, 0]], np.float32)
    write_glb(tmp_path / "t.glb", [Geometry(vertices, np.array([[0, 1, 2]]), vertices)])
    (mesh,) = trimesh.load(tmp_path / "t.glb", process=False).geometry.values()
    assert mesh.vertices.tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_the_same_input_gives_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_glb(tmp_path / folder / "ball.glb", [Geometry(*arrays())], material(), {"seed": 7})
    assert (tmp_path / "a" / "ball.glb").read_bytes() == (tmp_path / "b" / "ball.glb").read_bytes()


def test_extras(tmp_path):
    write_glb(tmp_path / "t.glb", [Geometry(*arrays()[:3])], extras={"seed": 7, "backends": {"unwrap": "xatlas"}})
    assert parts(tmp_path / "t.glb")[0]["asset"]["extras"] == {"seed": 7, "backends": {"unwrap": "xatlas"}}


@pytest.mark.parametrize("broken", ["vertices", "normals", "uvs"])
def test_nothing_that_gltf_cannot_hold(tmp_path, broken):
    mesh = dict(zip(("vertices", "faces", "normals", "uvs"), arrays()))
    mesh[broken] = np.where(np.arange(len(mesh[broken]))[:, None] == 3, np.nan, mesh[broken])
    with pytest.raises(OutputError, match=f"{broken} hold NaN"):
        write_glb(tmp_path / "t.glb", [Geometry(**mesh)])
    with pytest.raises(OutputError, match="no faces"):
        write_glb(tmp_path / "t.glb", [Geometry(mesh["vertices"], mesh["faces"][:0], mesh["normals"])])
    assert not list(tmp_path.iterdir())


def test_files_appear_whole_or_not_at_all(tmp_path):
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), writing(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"] and target.read_text() == "old"
    with writing(target) as temporary:
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"] and target.read_text() == "new"


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError, match="does not exist; create it"), writing(tmp_path / "absent" / "x"):
        pass
    with pytest.raises(OutputError, match="is a folder; name a file"), writing(tmp_path):
        pass


def test_state(tmp_path):
    save_state(tmp_path / "s.safetensors", {"a": torch.arange(6).reshape(2, 3).t()}, {"seed": 3, "type": "512"})
    with safe_open(tmp_path / "s.safetensors", "pt") as file:
        assert file.get_tensor("a").tolist() == [[0, 3], [1, 4], [2, 5]]
        assert file.metadata() == {"seed": "3", "type": '"512"', "state_version": "1"}


@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_normal_map_and_occlusion(tmp_path, validate, image_format):
    path, (vertices, faces, normals, uvs) = tmp_path / "ball.glb", arrays()
    across = np.cross([0.0, 0, 1], normals)
    across[np.linalg.norm(across, axis=1) < 1e-6] = [1, 0, 0]
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    tangents = np.concatenate([across, np.where(uvs[:, :1] > 0.5, 1, -1)], 1).astype(np.float32)
    random = np.random.default_rng(1)
    occlusion, normal = random.integers(0, 256, (16, 16), np.uint8), random.integers(0, 256, (32, 32, 3), np.uint8)
    source = material(image_format=image_format, occlusion=occlusion, normal=normal)
    write_glb(path, [Geometry(vertices, faces, normals, uvs, tangents)], source)
    issues = validate(path)["issues"]
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues
    entry = parts(path)[0]["materials"][0]
    assert entry["occlusionTexture"]["index"] == entry["pbrMetallicRoughness"]["metallicRoughnessTexture"]["index"] == 1
    assert entry["normalTexture"]["index"] == 2
    _, packed, relief = images(path)
    assert np.array_equal(np.asarray(packed)[:, :, 0], occlusion)
    assert np.array_equal(np.asarray(packed)[:, :, 1], source.roughness)
    assert np.array_equal(np.asarray(relief), normal)
    accessor = parts(path)[0]["accessors"][parts(path)[0]["meshes"][0]["primitives"][0]["attributes"]["TANGENT"]]
    view = parts(path)[0]["bufferViews"][accessor["bufferView"]]
    written = np.frombuffer(parts(path)[1], np.float32, 4 * len(vertices), view["byteOffset"]).reshape(-1, 4)
    x, y, z, sign = tangents.T
    assert np.array_equal(written, np.stack([x, z, -y, sign], 1))


def test_vertex_colours(tmp_path, validate):
    path, (vertices, faces, normals, _) = tmp_path / "ball.glb", arrays()
    colors = np.zeros((len(vertices), 4), np.uint8)
    colors[:] = [255, 128, 0, 255]
    write_glb(path, [Geometry(vertices, faces, normals, colors=colors)], Material(metallic=0.25, roughness=0.75))
    issues = validate(path)["issues"]
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues
    (mesh,) = trimesh.load(path, process=False).geometry.values()
    linear = np.asarray(
        mesh.visual.vertex_attributes["color"] if mesh.visual.kind != "vertex" else mesh.visual.vertex_colors
    )
    assert len(np.unique(linear, axis=0)) == 1
    red, green, blue = linear[0][:3] / (255 if linear.dtype == np.uint8 else 1)
    assert (red, blue) == (1, 0) and abs(green - 0.2159) < 0.003  # 128 of 255 in sRGB is 21.6 % of the light


def names(path, kind):
    return [each["name"] for each in parts(path)[0].get(kind, [])]


def test_a_level_is_a_file(tmp_path, validate):
    """Importers that do not know MSFT_lod show every node of a file at once."""
    levels = [Geometry(*arrays()), Geometry(*arrays(1))]
    facts = [{"faces": 320, "seed": 1}, {"faces": 320, "seed": 2}]
    paths = write_levels(tmp_path / "chair_.glb", levels, material(), facts)
    assert [path.name for path in paths] == ["chair_.glb", "chair_LOD1.glb"]
    assert paths == [level_path(tmp_path / "chair_.glb", number) for number in (0, 1)]
    for path, level, own in zip(paths, levels, facts):
        document, _ = parts(path)
        assert len(document["nodes"]) == len(document["meshes"]) == 1 and "MSFT_lod" not in json.dumps(document)
        assert document["asset"]["extras"] == own
        (mesh,) = trimesh.load(path, process=False).geometry.values()
        assert np.allclose(mesh.visual.uv[:, 0], level.uvs[:, 0])
        issues = validate(path)["issues"]
        assert issues["numErrors"] == issues["numWarnings"] == issues["numHints"] == 0, issues
    one, other = (images(path) for path in paths)
    assert all(np.array_equal(*pair) for pair in zip(one, other))
    assert names(paths[1], "nodes") == names(paths[1], "meshes") == ["chair_LOD1"]


@pytest.mark.parametrize(
    ("stem", "shown"), [("chair", "chair"), ("my chair.v2", "my chair.v2"), ("椅子", "椅子"), ("c\udcff", "c?")]
)
def test_names_are_the_files(tmp_path, stem, shown):
    path = tmp_path / f"{stem}.glb"
    try:
        path.touch()
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such name")
    write_glb(path, [Geometry(*arrays()), Geometry(*arrays())], material())
    assert names(path, "nodes") == names(path, "meshes") == [shown, f"{shown}_LOD1"]
    assert names(path, "materials") == [f"{shown}_material"]
    assert names(path, "images") == [f"{shown}_base_color", f"{shown}_occlusion_roughness_metallic"]
    write_glb(path, [Geometry(*arrays())], name="prefix")
    assert names(path, "nodes") == names(path, "meshes") == ["prefix"]


def link(path, target, hard=False):
    try:
        os.link(target, path) if hard else path.symlink_to(target)
    except OSError:
        pytest.skip("no links here")
    return path


def test_a_link_stays_and_is_written_through(tmp_path):
    (tmp_path / "far").mkdir()
    target = tmp_path / "far" / "real.txt"
    for path in (link(tmp_path / "one", target), link(tmp_path / "two", tmp_path / "one")):
        with writing(path) as temporary:
            temporary.write_text(path.name)
        assert path.is_symlink() and target.read_text() == path.name
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["real.txt"]
    loop = link(tmp_path / "loop", tmp_path / "loop")
    with pytest.raises(OutputError, match="loop cannot be written: Too many levels|cannot be written"), writing(loop):
        pass
    with pytest.raises(OutputError, match="does not exist"), writing(link(tmp_path / "dead", tmp_path / "no" / "x")):
        pass
    assert loop.is_symlink()


def test_long_names(tmp_path):
    """File systems allow 255 bytes."""
    with writing(tmp_path / ("a" * 251 + ".glb")) as temporary:
        temporary.write_text("new")
    assert len([*tmp_path.iterdir()]) == 1
    for name in ("a" * 256, "b" * 5000, "zero\0byte"):
        with pytest.raises(OutputError, match="cannot be written"), writing(tmp_path / name):
            pass


@pytest.mark.skipif(os.name == "nt", reason="Windows has no devices in folders")
def test_a_device_is_no_file(tmp_path):
    """Replacing /dev/null would harm the whole machine."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", link(tmp_path / "null", "/dev/null")):
        with pytest.raises(OutputError, match="is a device or a pipe; name a file"), writing(path):
            pass


def test_what_a_killed_run_left_is_removed(tmp_path):
    """But not what somebody is writing."""
    (tmp_path / ".trellis2-0123456789abcdef.tmp").write_text("half")
    with writing(tmp_path / "a.txt") as one:
        one.write_text("a")
        with writing(tmp_path / "b.txt") as other:
            other.write_text("b")
            assert sorted(path.name for path in tmp_path.iterdir()) == sorted([one.name, other.name])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]


@pytest.mark.parametrize("way", ["same", "relative", "link", "hard link", "case", "dead link"])
def test_outputs_that_are_one_file(tmp_path, monkeypatch, way):
    monkeypatch.chdir(tmp_path)
    one = tmp_path / "x.json"
    if way == "same":
        other = one
    elif way == "relative":
        other = type(one)("./x.json")
    elif way == "case":
        other = tmp_path / "X.JSON"
    else:
        if way != "dead link":
            one.write_text("old")
        other = link(tmp_path / "y.json", one, hard=way == "hard link")
    with pytest.raises(OutputError, match=r"^--report and --save-state both name .*; give each a file of its own"):
        check_outputs([("--report", one), ("--save-state", other)], [])
    check_outputs([("--report", one), ("--save-state", tmp_path / "z.json")], [])


@pytest.mark.parametrize("way", ["same", "link", "hard link", "in a folder", "in a folder's folder"])
def test_an_output_that_is_an_input(tmp_path, way):
    folder = tmp_path / "checkpoint"
    file = folder / "ckpts" / "x.safetensors" if way == "in a folder's folder" else folder / "x.safetensors"
    file.parent.mkdir(parents=True)
    file.write_text("weights")
    output = link(tmp_path / "y", file, hard=way == "hard link") if "link" in way else file
    source = folder if "folder" in way else file
    with pytest.raises(OutputError, match=r"^--save-state would overwrite .*x.safetensors, the checkpoint; choose"):
        check_outputs([("--save-state", output)], [("mask", tmp_path / "absent"), ("checkpoint", source)])
    check_outputs([("--save-state", folder / "new.safetensors")], [("checkpoint", source)])
    assert file.read_text() == "weights"
