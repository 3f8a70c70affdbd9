"""Every writer of the table, read back by other people's readers: trimesh, lib3mf, usd-core, Khronos' validator."""

import io
import json
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from PIL import Image

from pipeline.errors import OutputError, SettingsError
from pipeline.export import WRITERS, AlphaMode, Geometry, Material, Scene, write, write_levels, written_paths
from pipeline.export.formats import Contents
from pipeline.export.writers import check_files
from pipeline.mesh.used import extent

TRIMESH = (".glb", ".gltf", ".obj", ".ply", ".stl")
COLOURED = (".obj", ".ply", ".3mf")  # those that hold vertex colours as sRGB


@pytest.fixture(params=WRITERS)
def suffix(request):
    if reason := WRITERS[request.param].unavailable_reason():
        pytest.skip(reason)
    return request.param


def box(**more):
    """A box of 0.2 x 0.4 x 0.8 whose lower corner is not the origin, its corners split by UV seams as an atlas does."""
    shape = trimesh.creation.box((0.2, 0.4, 0.8))
    shape.apply_translation((0.05, -0.1, 0.2))
    shape.unmerge_vertices()
    uvs = np.random.default_rng(0).random((len(shape.vertices), 2)).astype(np.float32)
    vertices, normals = (np.asarray(each, np.float32) for each in (shape.vertices, shape.vertex_normals))
    return Geometry(vertices, np.asarray(shape.faces), normals, **{"uvs": uvs, **more})


def painted(size=16, **options):
    texels = np.random.default_rng(1).integers(0, 256, (size, size, 6), np.uint8)
    return Material(texels[:, :, [0, 1, 2, 5]], texels[:, :, 3], texels[:, :, 4], **options)


def coloured():
    colors = np.random.default_rng(2).integers(0, 256, (36, 4), np.uint8)
    colors[:, 3] = 255
    return box(uvs=None, colors=colors)


def load(path):
    """What trimesh reads: one mesh, as it stands in the file."""
    found = trimesh.load(path, process=False)
    (mesh,) = found.geometry.values() if isinstance(found, trimesh.Scene) else (found,)
    return mesh


def triangles(vertices, faces):
    """The triangles [F, 3, 3], in whatever numbers their corners are."""
    return np.asarray(vertices, np.float64)[np.asarray(faces)]


def y_up(points):
    return points[..., [0, 2, 1]] * [1, 1, -1]


def expected(geometry, suffix):
    """Its triangles as the format's axes have them."""
    own = triangles(geometry.vertices, geometry.faces)
    return y_up(own) if suffix in (".glb", ".gltf", ".obj", ".usdz") else own


@pytest.mark.parametrize("suffix", TRIMESH)
@pytest.mark.parametrize("kind", ["textured", "coloured", "plain"])
def test_trimesh_reads_the_same_triangles(tmp_path, suffix, kind):
    geometry = coloured() if kind == "coloured" else box()
    write(tmp_path / f"x{suffix}", Scene((geometry,), painted() if kind == "textured" else Material()))
    mesh = load(tmp_path / f"x{suffix}")
    np.testing.assert_allclose(triangles(mesh.vertices, mesh.faces), expected(geometry, suffix), atol=1e-7)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume == pytest.approx(0.064, rel=1e-5)


@pytest.mark.parametrize("suffix", [".gltf", ".obj"])
def test_textures_lie_beside_the_file(tmp_path, suffix):
    material = painted(alpha_mode=AlphaMode.BLEND, normal=np.full((8, 8, 3), 128, np.uint8))
    paths = write(tmp_path / f"my chair{suffix}", Scene((box(tangents=np.tile([1.0, 0, 0, 1], (36, 1))),), material))
    assert sorted(paths) == sorted(tmp_path.iterdir()) and set(paths) <= set(
        written_paths(tmp_path / f"my chair{suffix}")
    )
    mesh = load(paths[0])
    found = mesh.visual.material
    base = found.baseColorTexture if suffix == ".gltf" else found.image
    assert np.array_equal(np.asarray(base)[:, :, :3], material.base_color[:, :, :3])
    uvs = box().uvs
    corners = np.stack([uvs[:, 0], 1 - uvs[:, 1]], 1)[box().faces]
    np.testing.assert_allclose(mesh.visual.uv[mesh.faces], corners, atol=1e-6)
    if suffix == ".obj":
        maps = {line.split()[0]: line.split()[1] for line in (tmp_path / "my_chair.mtl").read_text().splitlines()[6:]}
        for key, array in (("map_Pm", material.metallic), ("map_Pr", material.roughness)):
            assert np.array_equal(np.asarray(Image.open(tmp_path / maps[key])), array)
        assert np.array_equal(np.asarray(Image.open(tmp_path / maps["map_d"])), material.base_color[:, :, 3])
        assert maps["norm"] == "my_chair_normal.png"


@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_the_validator_finds_nothing_in_gltf(tmp_path, validate, image_format):
    write(tmp_path / "x.gltf", Scene((box(),), painted(image_format=image_format), {"seed": 1}))
    issues = validate(tmp_path / "x.gltf")["issues"]
    assert issues["numErrors"] == issues["numWarnings"] == issues["numHints"] == 0, issues["messages"]


@pytest.mark.parametrize("suffix", [".obj", ".ply"])
def test_vertex_colours_are_srgb(tmp_path, suffix):
    geometry = coloured()
    if suffix == ".obj":  # its vertices are shared, so that their colours must agree
        _, place = geometry.welded()
        first = np.unique(place, return_index=True)[1]
        geometry = replace(geometry, colors=geometry.colors[first[place]])
    write(tmp_path / f"x{suffix}", Scene((geometry,)))
    mesh = load(tmp_path / f"x{suffix}")
    own = geometry.colors[geometry.faces][:, :, :3].astype(int)
    assert np.abs(np.asarray(mesh.visual.vertex_colors)[mesh.faces][:, :, :3].astype(int) - own).max() <= 1


def test_a_texture_becomes_vertex_colours_where_there_are_no_textures(tmp_path):
    """Bilinear: between two columns of texels, half of each; at the border the texel itself."""
    picture = np.zeros((2, 2, 4), np.uint8)
    picture[:, 1] = 200
    uvs = np.tile(np.float32([[0.5, 0.5], [0.0, 0.3], [1.0, 0.9]]), (12, 1))
    geometry = box(uvs=uvs)
    write(tmp_path / "x.ply", Scene((geometry,), Material(picture, picture[:, :, 0], picture[:, :, 0])))
    found = np.asarray(load(tmp_path / "x.ply").visual.vertex_colors)[:3]
    assert found.tolist() == [[100] * 4, [0] * 4, [200] * 4]


@pytest.mark.parametrize("metres", [None, 0.08])
def test_lib3mf_reads_units_colours_and_a_closed_mesh(tmp_path, metres):
    lib3mf = pytest.importorskip("lib3mf")
    geometry = coloured()
    write(tmp_path / "x.3mf", Scene((geometry,), metres=metres, name='a "b" & <c>'))
    model = lib3mf.Wrapper().CreateModel()
    reader = model.QueryReader("3mf")
    reader.SetStrictModeActive(True)
    reader.ReadFromFile(str(tmp_path / "x.3mf"))
    assert reader.GetWarningCount() == 0
    objects = model.GetMeshObjects()
    assert objects.MoveNext()
    mesh = objects.GetCurrentMeshObject()
    assert mesh.GetVertexCount() == 8 and mesh.GetTriangleCount() == 12 and mesh.IsManifoldAndOriented()
    assert mesh.GetName() == 'a "b" & <c>'
    assert model.GetUnit() == (lib3mf.ModelUnit.Meter if metres is None else lib3mf.ModelUnit.MilliMeter)
    vertices = np.array([mesh.GetVertex(n).Coordinates[:] for n in range(8)])
    size = np.ptp(vertices, axis=0)
    np.testing.assert_allclose(size, np.array([0.2, 0.4, 0.8]) * (1 if metres is None else 80), rtol=1e-6)
    groups = model.GetColorGroups()
    assert groups.MoveNext()
    group = groups.GetCurrentColorGroup()
    for number, face in enumerate(geometry.faces):
        own = mesh.GetTriangleProperties(number)
        shown = [group.GetColor(each) for each in own.PropertyIDs]
        assert [[c.Red, c.Green, c.Blue, c.Alpha] for c in shown] == geometry.colors[face].tolist()


def test_usd_reads_the_mesh_and_its_material(tmp_path):
    pytest.importorskip("pxr")
    from pxr import Usd, UsdGeom, UsdShade

    geometry, material = box(), painted(image_format="webp", alpha_mode=AlphaMode.MASK)
    write(tmp_path / "x.usdz", Scene((geometry,), material, metres=0.5))
    stage = Usd.Stage.Open(str(tmp_path / "x.usdz"))
    assert UsdGeom.GetStageUpAxis(stage) == "Y" and UsdGeom.GetStageMetersPerUnit(stage) == 1
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/Object/Mesh"))
    points, faces = np.array(mesh.GetPointsAttr().Get()), np.array(mesh.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
    np.testing.assert_allclose(triangles(points, faces), expected(geometry, ".usdz") * 0.5, atol=1e-7)
    uvs = np.array(UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st").Get())
    np.testing.assert_allclose(uvs, np.stack([geometry.uvs[:, 0], 1 - geometry.uvs[:, 1]], 1), atol=1e-6)
    bound, _ = UsdShade.MaterialBindingAPI(mesh.GetPrim()).ComputeBoundMaterial()
    surface, _, _ = bound.ComputeSurfaceSource()
    assert surface.GetIdAttr().Get() == "UsdPreviewSurface"
    assert {each.GetBaseName() for each in surface.GetInputs()} == {
        *("diffuseColor", "roughness", "metallic", "occlusion", "opacity", "opacityThreshold")
    }
    with zipfile.ZipFile(tmp_path / "x.usdz") as package:
        base = Image.open(io.BytesIO(package.read("base_color.png")))
    assert np.array_equal(np.asarray(base), material.base_color)
    UsdValidation = pytest.importorskip("pxr.UsdValidation")
    known = UsdValidation.ValidationRegistry()
    every = known.GetOrLoadValidatorsByName([each.name for each in known.GetAllValidatorMetadata()])
    found = UsdValidation.ValidationContext(every).Validate(stage)
    assert not found, [(each.GetName(), each.GetMessage()) for each in found]


def size_of(path):
    """The extent of what a file holds, which is alone in its folder but for the files that it names."""
    files = [path, *(each for each in path.parent.iterdir() if each != path)]
    ((vertices, faces),) = WRITERS[path.suffix].read({each.name: each.read_bytes() for each in files}).levels
    return np.ptp(vertices[np.unique(faces)], axis=0)


def test_the_true_size_in_each_format_s_unit(tmp_path, suffix):
    """80 mm: 0.08 in formats of metres, 80 in those that slicers take for millimetres; right to 0.01 mm."""
    path = tmp_path / f"x{suffix}"
    write(path, Scene((box(),), metres=0.1))
    metres = WRITERS[suffix].unit
    wanted = np.array([0.2, 0.8, 0.4] if WRITERS[suffix].y_up else [0.2, 0.4, 0.8]) * 0.1
    np.testing.assert_allclose(size_of(path) * metres, wanted, atol=1e-6)
    assert metres == (1.0 if suffix in (".glb", ".gltf", ".usdz") else 1e-3)


def test_the_same_scene_gives_the_same_bytes(tmp_path, suffix):
    files = []
    for name in "ab":
        (tmp_path / name).mkdir()
        paths = write(tmp_path / name / f"x{suffix}", Scene((box(),), painted()))
        files.append([path.read_bytes() for path in paths])
    if suffix != ".usdz":  # its writer is not ours
        assert files[0] == files[1]


def test_levels_are_files(tmp_path, suffix):
    scene = Scene((box(), coloured()), Material())
    paths = write_levels(tmp_path / f"x_{suffix}", scene, [{}, {}])
    assert [path.name for path in paths] == [f"x_{suffix}", f"x_LOD1{suffix}"] and all(p.exists() for p in paths)
    if WRITERS[suffix].lods:
        write(tmp_path / f"y{suffix}", scene)
    else:
        with pytest.raises(SettingsError, match="one level of detail a file"):
            write(tmp_path / f"y{suffix}", scene)


@pytest.mark.parametrize("problem", ["empty", "NaN", "absent vertex"])
def test_nothing_is_left_of_what_cannot_be_written(tmp_path, suffix, problem):
    geometry = box()
    if problem == "empty":
        geometry = replace(geometry, faces=geometry.faces[:0])
    elif problem == "NaN":
        geometry.vertices[5, 1] = np.nan
    else:
        geometry.faces[3, 1] = 36
    with pytest.raises(OutputError, match=r"no faces|vertices hold NaN|name vertices 0\.\.36"):
        write(tmp_path / f"x{suffix}", Scene((geometry,), painted()))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_files(tmp_path, monkeypatch):
    """All of a format's files change, or none."""
    from pathlib import Path

    write(tmp_path / "x.gltf", Scene((box(),), painted()))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    written = Path.write_bytes

    def full(path, data):
        if data[:4] == b"\x89PNG":
            raise OSError(28, "No space left on device")
        return written(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        write(tmp_path / "x.gltf", Scene((coloured(),), painted(32)))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_unknown_suffix_is_refused_with_the_list(tmp_path):
    with pytest.raises(SettingsError, match=r"end in one of \.glb, \.gltf, \.obj, .*; got x\.fbx"):
        write(tmp_path / "x.fbx", Scene((box(),)))


def test_usdz_without_usd_says_what_to_install(tmp_path, monkeypatch):
    import sys

    from pipeline.export import usdz

    monkeypatch.setattr(usdz, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "pxr", None)
    with pytest.raises(SettingsError, match=r"\.usdz cannot be written here: usd-core is not installed; pip install"):
        write(tmp_path / "x.usdz", Scene((box(),)))


@pytest.mark.parametrize("damage", ["faces", "bounds", "NaN", "picture"])
def test_a_file_that_reads_back_otherwise_is_not_written(damage):
    scene = Scene((box(),), Material(), name="x")
    found = WRITERS[".ply"]

    def read(files):
        ((vertices, faces),) = found.read(files).levels
        vertices = vertices.copy()
        if damage == "bounds":
            vertices[0] *= 1.01
        if damage == "NaN":
            vertices[0] = np.nan
        images = {"a.png": b"\x89PNG\r\n"} if damage == "picture" else {}
        return Contents([(vertices, faces[: -1 if damage == "faces" else None])], images)

    broken = replace(found, read=read)
    files = broken.render(scene, "x")
    check_files(found, files, scene)
    with pytest.raises(OutputError, match="x.ply was not written: read back, "):
        check_files(broken, files, scene)


def test_glb_is_read_as_it_was_written(tmp_path):
    """The reader that checks what was written, against the JSON and its buffer."""
    write(tmp_path / "x.glb", Scene((box(), coloured()), painted(), {"seed": 1}))
    data = (tmp_path / "x.glb").read_bytes()
    contents = WRITERS[".glb"].read({"x.glb": data})
    assert [len(faces) for _, faces in contents.levels] == [12, 12]
    assert list(contents.images) == ["x_base_color", "x_occlusion_roughness_metallic"]
    with pytest.raises(OutputError, match="no whole GLB"):
        WRITERS[".glb"].read({"x.glb": data[:-4]})
    length = struct.unpack_from("<I", data, 12)[0]
    assert json.loads(data[20 : 20 + length])["asset"]["extras"] == {"seed": 1}


def test_stl_and_3mf_forget_the_seams(tmp_path):
    """A textured mesh is split along its charts; a slicer must not see that."""
    write(tmp_path / "x.stl", Scene((box(),), painted()))
    for suffix in (".stl", ".3mf", ".obj"):
        files = {path.name: path.read_bytes() for path in write(tmp_path / f"x{suffix}", Scene((box(),), painted()))}
        ((vertices, faces),) = WRITERS[suffix].read(files).levels
        assert len(vertices) == 8 and trimesh.Trimesh(vertices, faces, process=False).is_watertight


def test_3mf_leaves_out_faces_without_area(tmp_path):
    flat = box()
    flat = replace(flat, faces=np.concatenate([flat.faces, [[0, 0, 1]]]))
    files = {path.name: path.read_bytes() for path in write(tmp_path / "x.3mf", Scene((flat,)))}
    assert len(WRITERS[".3mf"].read(files).levels[0][1]) == 12
    with pytest.raises(OutputError, match="nothing to print"):
        write(tmp_path / "y.3mf", Scene((replace(flat, faces=flat.faces[-1:]),)))


def test_the_largest_texture_is_no_bomb(tmp_path):
    """Pillow refuses to open pictures of more than 179 M pixels; textures may have 268 M."""
    from PIL.PngImagePlugin import PngImageFile

    from pipeline.export.images import decoded_size

    side = 14000
    buffer = io.BytesIO()
    Image.new("1", (side, side)).save(buffer, "PNG")
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(buffer.getvalue()))
    assert PngImageFile(io.BytesIO(buffer.getvalue())).size == decoded_size(buffer.getvalue()) == (side, side)
    data = bytearray(buffer.getvalue())
    data[len(data) // 2] ^= 1
    with pytest.raises(ValueError, match=r"broken|checksum"):
        decoded_size(bytes(data))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_damaged_pictures_do_not_decode(kind):
    from pipeline.export.images import decoded_size

    buffer = io.BytesIO()
    Image.effect_noise((64, 48), 90).convert("RGB").save(buffer, kind)
    assert decoded_size(buffer.getvalue()) == (64, 48)
    for data in (buffer.getvalue()[:600], b"", b"GIF89a"):
        with pytest.raises(ValueError, match="."):
            decoded_size(data)


def test_pictures_larger_than_webp_are_refused_before_and_at_the_file(tmp_path):
    from pipeline.stages import ExportSettings

    with pytest.raises(SettingsError, match="WebP holds at most 16383 pixels a side, got a texture size of 16384"):
        ExportSettings(texture_size=16384, image_format="webp")
    assert ExportSettings(texture_size=16384).texture_size == 16384
    wide = np.zeros((1, 16384, 4), np.uint8)
    long = Material(wide, wide[:, :, 0], wide[:, :, 0], image_format="webp")
    with pytest.raises(OutputError, match="WebP holds at most 16383"):
        write(tmp_path / "x.glb", Scene((box(),), long))
    assert not list(tmp_path.iterdir())


def test_the_extent_of_columns_is_that_of_min_and_max():
    points = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    low, high = extent(points)
    assert np.array_equal(low, points.min(0)) and np.array_equal(high, points.max(0)) and low.dtype == np.float32
    points[7, 1] = np.nan
    assert np.isnan(extent(points)[0]).tolist() == [False, True, False]
