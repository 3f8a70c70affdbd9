"""Scenes from files: every node where it lies, what cannot be read refused with a cure, documents that come back."""

import copy
import json

import numpy as np
import pytest
import torch
import trimesh
from scenes import Builder, cube, furniture

from pipeline.errors import MeshError
from pipeline.export.scene_textures import textured_document
from pipeline.mesh.bake.raster import rasterise
from pipeline.mesh.io import Frame, Gltf, read_scene
from pipeline.mesh.io.atlas import groups_of, has_uvs, unwrapped_group
from pipeline.mesh.io.read import scene_of
from pipeline.runtime import Runtime
from pipeline.sparse import SparseTensor, Voxels
from pipeline.stages import PBRVoxels, bake_scene, default_backends

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def scene(tmp_path):
    return read_scene(furniture().save(tmp_path / "furniture.glb"))


def test_every_part_lies_where_trimesh_sees_it(scene, tmp_path):
    """An independent reader: world positions of each node's geometry."""
    seen = trimesh.load(tmp_path / "furniture.glb", process=False)
    expected = {}
    for node in seen.graph.nodes_geometry:
        matrix, geometry = seen.graph.get(node)
        expected.setdefault(node, []).append(trimesh.transform_points(seen.geometry[geometry].vertices, matrix))
    assert [part.name for part in scene.parts] == ["seat", "left leg", "right leg", "cushion", "cushion", "bare"]
    for part in scene.parts:
        candidates = [one for name, places in expected.items() if name.startswith(part.name) for one in places]
        assert any(one.shape == part.placed().shape and np.abs(one - part.placed()).max() < 1e-5 for one in candidates)


def places_in(value, path=()):
    """The path of every value of a document, of long lists the first three."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*path, key)
        yield from places_in(each, (*path, key))


HUGE = 10**400  # a whole number of JSON, and no float


@pytest.mark.parametrize(
    "wrong",
    [None, True, -1, 1e300, HUGE, "x", [], [None], [HUGE] * 3, {"a": None}, [[]]],
    ids=lambda each: str(each)[:9],
)
def test_a_value_of_another_type_is_refused_or_does_no_harm_anywhere_in_a_document(wrong, tmp_path):
    """Lists and objects of the hierarchy that were something else ended in tracebacks."""
    builder, outcomes = furniture(), set()
    whole = builder.json
    whole |= {"extensionsUsed": ["KHR_texture_transform"], "buffers": [{"byteLength": len(builder.binary)}]}
    for path in list(places_in(whole)):
        builder.json = copy.deepcopy(whole)
        owner = builder.json
        for key in path[:-1]:
            owner = owner[key]
        owner[path[-1]] = wrong
        try:
            scene = scene_of(Gltf(builder.json, bytes(builder.binary), tmp_path, "x.glb"))
            scene.frame()
            outcomes.add("read")
        except MeshError as error:
            assert "x.glb" in str(error) or "node" in str(error) or "vertices" in str(error) or "scene" in str(error), (
                path
            )
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_the_frame_goes_there_and_back(scene):
    frame = scene.frame()
    placed = np.concatenate([part.placed() for part in scene.parts])
    inside = frame.inward(placed)
    assert np.abs(inside).max() <= 0.5 and (inside.max(0) - inside.min(0)).max() == pytest.approx(0.99999, abs=1e-9)
    assert np.abs(frame.outward(inside.astype(np.float32)) - placed).max() <= 1e-6 * frame.longest
    up = frame.inward(np.array([frame.centre, np.add(frame.centre, [0, 1, 0])]))
    assert up[1, 2] > up[0, 2] and np.allclose(up[1, :2], up[0, :2])


@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_tiny_and_huge_scenes(tmp_path, size):
    scene = Builder()
    vertices, uvs, faces = cube()
    scene.node("one", mesh=scene.mesh("one", (vertices * size, uvs, faces, None)), translation=[3 * size, 0, 0])
    frame = read_scene(scene.save(tmp_path / "x.glb")).frame()
    assert frame.longest == pytest.approx(size, rel=1e-6)
    back = frame.outward(frame.inward(np.array([[2.5 * size, 0, 0]])))
    assert np.abs(back - [[2.5 * size, 0, 0]]).max() <= 1e-6 * size


def by_position(resolution=64):
    """Voxels all over the unit cube whose base colour is their place."""
    axis = torch.arange(0, resolution, 2)
    coords = torch.cartesian_prod(axis, axis, axis).int()
    place = (coords + 0.5) / resolution
    rest = torch.tensor([0.25, 0.5, 1.0]).expand(len(coords), 3)
    return PBRVoxels(SparseTensor(Voxels.single(coords), torch.cat([place, rest], 1)), resolution)


@pytest.fixture
def textured(scene):
    """The furniture with its place as its colour, the part without UVs left out."""
    runtime = Runtime("cpu", default_backends())
    parts = [number for number, part in enumerate(scene.parts) if has_uvs(part)]
    groups = groups_of(scene, parts, rasterise)
    return bake_scene(runtime, scene, scene.frame(), by_position(), groups, 128)


def test_textures_show_each_face_at_its_own_place(scene, textured, tmp_path):
    """Read back by trimesh: the colour at a vertex's UV is where that vertex lies in the shared frame."""
    path = tmp_path / "out.glb"
    path.write_bytes(textured_document(scene, textured.groups).glb())
    seen, frame, checked = trimesh.load(path, process=False), scene.frame(), 0
    for node in seen.graph.nodes_geometry:
        matrix, geometry = seen.graph.get(node)
        mesh = seen.geometry[geometry]
        if "bare" in node:
            continue
        image = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB"), float) / 255
        for face in mesh.faces:
            uv = mesh.visual.uv[face].mean(0) % 1
            column, row = (np.array([uv[0], 1 - uv[1]]) * 128).astype(int)
            place = frame.inward(trimesh.transform_points(mesh.vertices[face], matrix)).mean(0) + 0.5
            assert np.abs(image[row, column] - place).max() < 0.06, node
            checked += 1
    assert checked == 12 * 6


def test_all_else_comes_back_to_the_bit(scene, textured, tmp_path, validate):
    """Names, hierarchy, transforms, cameras, vertices, UVs and indices; no error of the official validator."""
    path, source = tmp_path / "out.glb", Gltf.open(tmp_path / "furniture.glb")
    path.write_bytes(textured_document(scene, textured.groups).glb())
    made = Gltf.open(path)
    report = validate(path)
    assert report["issues"]["numErrors"] == 0 and report["issues"]["numWarnings"] == 0
    nodes = copy.deepcopy(made.json["nodes"])
    moved = [one["name"] for one, other in zip(nodes, source.json["nodes"], strict=True) if one != other]
    assert moved == ["right leg"]  # which has a mesh of its own now, as its texture is another one
    nodes[3]["mesh"] = source.json["nodes"][3]["mesh"]
    assert nodes == source.json["nodes"] and made.json["cameras"] == source.json["cameras"]
    for number, mesh in enumerate(source.json["meshes"]):
        new = made.json["meshes"][number]
        assert new["name"] == mesh["name"]
        for one, other in zip(new["primitives"], mesh["primitives"]):
            for name, accessor in other["attributes"].items():
                kept = made.accessor(one["attributes"][name])
                assert kept.tobytes() == source.accessor(accessor).tobytes()
    cushion = made.json["meshes"][2]["primitives"]
    assert len(cushion) == 3  # one of its two was parted by UV tiles
    cloth = made.json["materials"][cushion[0]["material"]]
    assert cloth["name"] == "cloth" and cloth["alphaMode"] == "BLEND"
    assert scene.document.json == Gltf.open(tmp_path / "furniture.glb").json  # the source is not changed


def test_missing_and_repeating_uvs_are_named(scene, tmp_path):
    bare = next(number for number, part in enumerate(scene.parts) if part.name == "bare")
    with pytest.raises(MeshError, match="'bare' has no UVs to bake into.*--uvs fill"):
        groups_of(scene, [bare], rasterise)
    builder = Builder()
    vertices, uvs, faces = cube()
    builder.node("brick", mesh=builder.mesh("brick", (vertices, uvs * 4, faces, None)))
    repeating = read_scene(builder.save(tmp_path / "x.glb"))
    with pytest.raises(MeshError, match="of 12 faces of 'brick' reach over the border of a UV tile"):
        groups_of(repeating, [0], rasterise)


def test_faces_between_the_texels_have_one_colour(tmp_path):
    builder = Builder()
    vertices, uvs, faces = cube()
    builder.node("dense", mesh=builder.mesh("dense", (vertices, 0.5 + (uvs - 0.5) * 3e-3, faces, None)))
    scene = read_scene(builder.save(tmp_path / "x.glb"))
    runtime = Runtime("cpu", default_backends())
    made = bake_scene(runtime, scene, scene.frame(), by_position(), groups_of(scene, [0], rasterise), 64)
    (warning,) = made.facts["warnings"]
    assert "UVs of dense cover no texel" in warning and len(np.unique(made.groups[0].maps.reshape(-1, 6), axis=0)) == 1


def test_two_meshes_in_one_place_of_a_material_get_a_texture_each(scene):
    groups = groups_of(scene, [0, 1, 4], rasterise)  # seat, left leg, knob: all of wood, all with the same UVs
    assert [len(group.pieces) for group in groups] == [1, 1, 1]


def test_new_uvs_of_a_mesh_whose_faces_share_no_vertex(tmp_path):
    """STL files have three vertices of their own for each face; the atlas knows which faces meet all the same."""
    trimesh.creation.icosphere(subdivisions=3).export(tmp_path / "ball.stl")
    scene = read_scene(tmp_path / "ball.stl")
    part = scene.parts[0]
    assert len(part.vertices) == 3 * len(part.faces)
    seen = []

    def unwrap(vertices, faces):
        seen.append((vertices, faces))
        turned = vertices[:, :2] + 0.5
        return torch.arange(len(vertices)), faces, turned

    (piece,) = unwrapped_group(scene, scene.frame(), [0], unwrap).pieces
    vertices, faces = seen[0]
    assert len(vertices) == 642 and len(faces) == 1280
    placed = scene.frame().inward(part.placed())
    assert np.array_equal(piece.source[piece.faces], part.faces)  # each corner has its own vertex
    assert np.allclose(piece.uvs, placed[piece.source][:, :2] + 0.5, atol=1e-6)


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl"])
def test_other_formats(tmp_path, suffix):
    box = trimesh.creation.box((1, 2, 3))
    box.export(tmp_path / f"box.{suffix}")
    scene = read_scene(tmp_path / f"box.{suffix}")
    size = np.ptp(np.concatenate([part.placed() for part in scene.parts]), axis=0)
    assert np.allclose(size, [1, 2, 3] if suffix == "obj" else [1, 3, 2])  # the z axis of printers' files points up
    other = read_scene(tmp_path / f"box.{suffix}", "z" if suffix == "obj" else "y")
    assert np.allclose(np.ptp(other.parts[0].placed(), axis=0), [1, 3, 2] if suffix == "obj" else [1, 2, 3])


def test_the_uvs_of_an_obj_turn_to_gltfs(tmp_path):
    path = tmp_path / "x.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\nvt 0 0\nvt 0.5 0\nvt 0 0.25\nvt 0.5 0.25\nf 1/1 2/2 4/4 3/3\n")
    (part,) = read_scene(path).parts
    assert len(part.faces) == 2 and np.allclose(part.uvs.min(0), [0, 0.75]) and np.allclose(part.uvs.max(0), [0.5, 1])


def test_without_trimesh(tmp_path, monkeypatch):
    import sys

    (tmp_path / "x.obj").write_text("v 0 0 0\n")
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(MeshError, match=r"pip install -r requirements-meshes\.txt"):
        read_scene(tmp_path / "x.obj")
    assert len(read_scene(furniture().save(tmp_path / "x.glb")).parts) == 6


def broken(name, tmp_path):
    """(path, what is said) of a file that cannot be textured."""
    builder, (vertices, uvs, faces) = furniture(), cube()
    document = builder.json
    if name == "NaN":
        vertices = vertices.copy()
        vertices[0] = np.nan
        builder.node("bad", mesh=builder.mesh("bad", (vertices, uvs, faces, None)))
        for one in document["accessors"]:
            for bound in ("min", "max"):
                one.pop(bound, None)
        return builder.save(tmp_path / "x.glb"), "no finite"
    if name == "points":
        document["meshes"] = [{"primitives": [{**document["meshes"][0]["primitives"][0], "mode": 0}]}]
        document["nodes"] = [{"mesh": 0}]
        document["scenes"] = [{"nodes": [0]}]
        return builder.save(tmp_path / "x.glb"), "no triangles.*Point clouds"
    if name == "cameras":
        document["nodes"], document["scenes"], document["meshes"] = [{"camera": 0}], [{"nodes": [0]}], []
        return builder.save(tmp_path / "x.glb"), "no triangles in its scene .1 nodes, 1 cameras"
    if name == "draco":
        document["extensionsRequired"] = ["KHR_draco_mesh_compression"]
        return builder.save(tmp_path / "x.glb"), "compressed with Draco.*npx @gltf-transform/cli"
    if name == "meshopt":
        document["extensionsUsed"] = ["EXT_meshopt_compression"]
        return builder.save(tmp_path / "x.glb"), "compressed with meshopt"
    if name == "circle":
        document["nodes"][1]["children"] = [0]
        return builder.save(tmp_path / "x.glb"), "no hierarchy"
    if name == "index":
        document["accessors"][2]["count"] = 10**9
        return builder.save(tmp_path / "x.glb"), "reaches past its buffer view"
    if name == "kind":
        document["accessors"][2]["componentType"] = [5123]
        return builder.save(tmp_path / "x.glb"), "unknown type or count"
    if name == "cut":
        path = tmp_path / "x.glb"
        path.write_bytes(builder.glb()[:-100])
        return path, "cut off"
    if name == "outside":
        document["buffers"] = [{"uri": "../secret.bin", "byteLength": 4}]
        (tmp_path / "x.gltf").write_text(json.dumps(document))
        return tmp_path / "x.gltf", "outside of its folder"
    if name == "missing buffer":
        (tmp_path / "x.gltf").write_text(json.dumps({**document, "buffers": [{"uri": "a.bin", "byteLength": 4}]}))
        return tmp_path / "x.gltf", "cannot be read: No such file"
    if name == "flat":
        builder = Builder()
        builder.node("dot", mesh=builder.mesh("dot", (vertices * 0, uvs, faces, None)))
        return builder.save(tmp_path / "x.glb"), "units large"
    if name == "version 1":
        document["asset"] = {"version": "1.0"}
        return builder.save(tmp_path / "x.glb"), "glTF 1.0; version 2.0 is read"
    if name == "text":
        (tmp_path / "x.glb").write_text("hello")
        return tmp_path / "x.glb", "no glTF"
    if name == "empty":
        (tmp_path / "x.glb").write_bytes(b"")
        return tmp_path / "x.glb", "it is empty. Export it again"
    if name == "pointer":
        (tmp_path / "x.obj").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n")
        return tmp_path / "x.obj", "it is a git-lfs pointer .git lfs pull"
    (tmp_path / "x.fbx").write_text("hello")
    return tmp_path / "x.fbx", "is none of .glb"


KINDS = ("kind", "NaN", "points", "cameras", "draco", "meshopt", "circle", "index", "cut", "outside", "flat", "text")


@pytest.mark.parametrize("name", [*KINDS, "empty", "pointer", "fbx", "missing buffer", "version 1"])
def test_what_cannot_be_textured_is_refused(tmp_path, name):
    path, said = broken(name, tmp_path)
    with pytest.raises(MeshError, match=said):
        read_scene(path).frame()


def test_skeletons_and_animations_are_mentioned(tmp_path):
    builder = furniture()
    builder.json["skins"] = [{"joints": [1]}]
    builder.json["animations"] = [{"channels": [], "samplers": []}]
    notes = read_scene(builder.save(tmp_path / "x.glb")).notes
    assert any("rest pose" in note for note in notes) and any("animated" in note for note in notes)


def test_a_frame_of_nothing():
    with pytest.raises(MeshError, match="no vertices"):
        Frame.of(np.zeros((0, 3)))
