"""What a scene looks like before it is textured anew: old textures and colours of every format, and what is missing."""

import io

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from scenes import Builder, cube

from pipeline import stages
from pipeline.errors import MeshError
from pipeline.mesh.io import Gltf, read_scene
from pipeline.mesh.io.atlas import groups_of
from pipeline.spec import PIPELINE_TYPES
from pipeline.stages.user_mesh.existing import Materials, Place

QUAD = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
FACES = "usemtl skin\nf 1/1 2/2 3/3\nf 1/1 3/3 4/4\n"


def colors(scene, weights=(1 / 3, 1 / 3, 1 / 3)):
    """[F, 6] of the first part's faces, at a place of each."""
    faces = torch.from_numpy(scene.parts[0].faces)
    place = Place(
        0, torch.arange(len(faces)), faces, torch.tensor([weights], dtype=torch.float64).repeat(len(faces), 1)
    )
    return Materials(scene).at(place).numpy()


def quarters():
    """A picture whose quarters are red, green over blue, white."""
    return Image.fromarray(
        np.uint8([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]]).repeat(8, 0).repeat(8, 1)
    )


def textured(edit=lambda builder: None, uvs=(0.25, 0.25), picture=None):
    """A cube whose UVs are all in one place of a picture."""
    builder, (vertices, layout, faces), data = Builder(), cube(), io.BytesIO()
    (picture or quarters()).save(data, "PNG")
    builder.binary += data.getvalue()
    builder.json["bufferViews"].append({"buffer": 0, "byteOffset": 0, "byteLength": len(data.getvalue())})
    builder.json |= {"images": [{"bufferView": 0, "mimeType": "image/png"}], "textures": [{"source": 0}]}
    look = {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0}
    material = builder.material("skin", pbrMetallicRoughness=look)
    builder.node("box", mesh=builder.mesh("box", (vertices, layout * 1e-3 + np.float32(uvs), faces, material)))
    edit(builder)
    return builder


def test_the_texture_of_an_obj_is_where_it_begins(tmp_path):
    (tmp_path / "skin.mtl").write_text("newmtl skin\nKd 0.1 0.1 0.1\nmap_Kd skin.png\n")
    quarters().save(tmp_path / "skin.png")
    (tmp_path / "x.obj").write_text("mtllib skin.mtl\n" + QUAD + FACES)
    scene = read_scene(tmp_path / "x.obj")
    assert not scene.notes and scene.document.list("materials")[0]["name"] == "skin"
    lower, upper = colors(scene, (0.75, 0.0, 0.25)), colors(scene, (0.25, 0.0, 0.75))  # v counts upwards in the file
    assert np.allclose(lower[0], [0, 0, 1, 0, 1, 1], atol=0.01) and np.allclose(upper[0], [0, 1, 0, 0, 1, 1], atol=0.01)


def test_colours_of_an_obj_and_of_vertices(tmp_path):
    (tmp_path / "skin.mtl").write_text("newmtl skin\nKd 0.2 0.4 0.8\n")
    (tmp_path / "x.obj").write_text("mtllib skin.mtl\n" + QUAD + FACES)
    assert np.allclose(colors(read_scene(tmp_path / "x.obj"))[:, :3], [0.2, 0.4, 0.8], atol=1e-3)
    box = trimesh.creation.box()
    box.visual.vertex_colors = [200, 100, 50, 255]
    box.export(tmp_path / "x.ply")
    assert np.allclose(colors(read_scene(tmp_path / "x.ply"))[:, :3], np.array([200, 100, 50]) / 255, atol=1e-3)


@pytest.mark.parametrize("there, named", [(False, "skin.mtl"), (True, "skin.png")])
def test_what_an_obj_names_and_lacks_is_told(tmp_path, there, named):
    if there:
        (tmp_path / "skin.mtl").write_text("newmtl skin\nmap_Kd -s 1 1 1 sub\\skin.png\n")
    (tmp_path / "x.obj").write_text("mtllib skin.mtl\n" + QUAD + FACES)
    (note,) = read_scene(tmp_path / "x.obj").notes
    assert named in note and "not in its folder" in note


@pytest.mark.parametrize("named", ["C:\\work\\skin.png", "-s 2 2 1 skin.png", "/home/me/skin.png", "../secret.png"])
def test_textures_of_an_obj_are_those_of_its_folder(tmp_path, named):
    """Exporters write paths of their own machine; what lies elsewhere goes into no result."""
    folder = tmp_path / "inner"
    folder.mkdir()
    for place in (tmp_path / "secret.png", folder / "skin.png"):
        Image.new("RGB", (8, 8), (255, 0, 0)).save(place)
    (folder / "skin.mtl").write_text(f"newmtl skin\nmap_Kd {named}\n")
    (folder / "x.obj").write_text("mtllib skin.mtl\n" + QUAD + FACES)
    scene = read_scene(folder / "x.obj")
    assert np.allclose(colors(scene)[:, :3], [1, 1, 1] if "secret" in named else [1, 0, 0], atol=0.01)
    assert bool(scene.notes) == ("secret" in named)


@pytest.mark.parametrize(
    "moved, seen",
    [
        ({}, [1, 0, 0]),
        ({"offset": [0.5, 0]}, [0, 1, 0]),
        ({"scale": [3, 3]}, [1, 1, 1]),
        ({"offset": [0, 1], "rotation": np.pi / 2, "scale": [0.5, 0.5]}, [0, 0, 1]),  # the specification's example
    ],
)
def test_texture_transforms_are_followed(tmp_path, moved, seen):
    def move(builder):
        texture = builder.json["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]
        texture["extensions"] = {"KHR_texture_transform": moved}

    assert np.allclose(colors(read_scene(textured(move).save(tmp_path / "x.glb")))[:, :3], seen, atol=0.01)


@pytest.mark.parametrize(("scale", "told"), [([0, 0], True), ([1, 0], True), ([-1, 2], False)])
def test_textures_that_a_transform_shrinks_to_a_texel_are_told(tmp_path, scale, told):
    def move(builder):
        texture = builder.json["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]
        texture["extensions"] = {"KHR_texture_transform": {"scale": scale}}

    notes = read_scene(textured(move).save(tmp_path / "x.glb")).notes
    assert any("a scale of 0 shows one texel" in each for each in notes) == told


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"pbrMetallicRoughness": None}, "pbrMetallicRoughness of material 0 of x.glb is no JSON object"),
        ({"pbrMetallicRoughness": []}, "pbrMetallicRoughness of material 0"),
        ({"pbrMetallicRoughness": {"metallicFactor": "much"}}, "metallicFactor of material 0 .* is much; expected a n"),
        ({"pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1]}}, r"is \[1, 1, 1\]; expected 4 numbers"),
        ({"pbrMetallicRoughness": {"baseColorTexture": 0}}, "baseColorTexture of material 0"),
        ({"normalTexture": {"index": 0, "extensions": None}}, "extensions in normalTexture of material 0"),
        ({"normalTexture": {"extensions": {"KHR_texture_transform": [1]}}}, "KHR_texture_transform in normalTexture"),
    ],
)
def test_materials_that_are_none_are_told_when_the_file_is_read(tmp_path, edit, said):
    with pytest.raises(MeshError, match=said):
        read_scene(textured(lambda builder: builder.json["materials"][0].update(edit)).save(tmp_path / "x.glb"))


def test_textures_that_are_none_are_told_when_the_file_is_read(tmp_path):
    def edit(builder):
        builder.json["textures"][0]["extensions"] = {"EXT_texture_webp": 1}

    with pytest.raises(MeshError, match="EXT_texture_webp in texture 0 of x.glb is no JSON object"):
        read_scene(textured(edit).save(tmp_path / "x.glb"))


def test_uvs_that_a_texture_names_and_the_mesh_lacks_are_told(tmp_path):
    def move(builder):
        builder.json["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]["texCoord"] = 5

    with pytest.raises(MeshError, match="by the UVs TEXCOORD_5, which"):
        colors(read_scene(textured(move).save(tmp_path / "x.glb")))


@pytest.mark.parametrize("wrap, seen", [(10497, [1, 0, 0]), (33071, [1, 1, 1]), (33648, [0, 1, 0])])
def test_textures_go_on_beyond_their_border_as_the_file_says(tmp_path, wrap, seen):
    def sampler(builder):
        builder.json["samplers"] = [{"wrapS": wrap, "wrapT": 33071 if wrap == 33071 else 10497}]
        builder.json["textures"][0]["sampler"] = 0

    scene = read_scene(textured(sampler, (1.25, 1.25)).save(tmp_path / "x.glb"))
    assert np.allclose(colors(scene)[:, :3], seen, atol=0.01)


@pytest.mark.parametrize(
    ("moved", "said"),
    [
        ({"offset": ["a", None]}, "offset of KHR_texture_transform in baseColorTexture of material 0 of x.glb is .'a'"),
        ({"offset": [1e308, 0]}, r"is \[1e\+308, 0\]; expected 2 numbers of at most 1e9"),  # its texels were NaN
        ({"scale": [1]}, "scale of .* expected 2 numbers"),
        ({"scale": None}, "scale of .* is None"),
        ({"rotation": "much"}, "rotation of .* is much; expected 1 number"),
        ({"rotation": True}, "rotation of .* is True"),
    ],
)
def test_transforms_that_are_none(tmp_path, moved, said):
    def move(builder):
        texture = builder.json["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]
        texture["extensions"] = {"KHR_texture_transform": moved}

    with pytest.raises(MeshError, match=said):
        read_scene(textured(move).save(tmp_path / "x.glb"))


@pytest.mark.parametrize("written", ["NaN", "-Infinity", "1e999"])
def test_numbers_that_json_has_not_are_told_when_the_file_is_read(tmp_path, written):
    """They were read, and ended in a traceback when the new file was written."""
    path = tmp_path / "x.gltf"
    path.write_text(f'{{"asset": {{"version": "2.0"}}, "materials": [{{"alphaCutoff": {written}}}]}}')
    with pytest.raises(MeshError, match=f"x.gltf is no glTF: its JSON cannot be read .{written} is no number"):
        Gltf.open(path)


@pytest.mark.parametrize("source", [[], {"a": 1}, "x", True, 9])
def test_images_that_are_none_are_named(tmp_path, source):
    """A list ended in a traceback."""

    def edit(builder):
        builder.json["textures"][0]["source"] = source

    with pytest.raises(MeshError, match="image of texture 0 of x.glb is .*; expected a number below"):
        colors(read_scene(textured(edit).save(tmp_path / "x.glb")))


def test_textures_that_cannot_be_read(tmp_path):
    def ktx(builder):
        builder.json["textures"] = [{"extensions": {"KHR_texture_basisu": {"source": 0}}}]

    def broken(builder):
        builder.binary[8:40] = b"x" * 32

    for edit, said in ((ktx, "x.glb are KTX2, which is not read. Export it with PNG"), (broken, "Image 0 of x.glb")):
        scene = read_scene(textured(edit).save(tmp_path / "x.glb"))
        with pytest.raises(MeshError, match=said) as caught:
            colors(scene)
        assert "0x" not in str(caught.value)  # the address of an object


def test_a_missing_texture_is_told_before_a_network_runs(tmp_path):
    def elsewhere(builder):
        builder.json["images"] = [{"uri": "nowhere.png"}]

    scene = read_scene(textured(elsewhere).save(tmp_path / "x.glb"))
    with pytest.raises(MeshError, match=r"nowhere\.png.*Put the file beside it"):
        nothing: dict = {"runtime": None, "models": None, "condition": None}
        stages.texture_scene(**nothing, scene=scene, pipeline_type=PIPELINE_TYPES["512"], size=64)


def test_what_is_not_looked_at_is_told(tmp_path):
    def needs(builder):
        builder.json["extensionsUsed"] = ["EXT_mesh_gpu_instancing", "EXT_new", "KHR_materials_clearcoat"]
        builder.json["extensionsRequired"] = ["EXT_new", "KHR_materials_clearcoat"]

    told = read_scene(textured(needs).save(tmp_path / "x.glb")).notes
    assert len(told) == 2 and "EXT_mesh_gpu_instancing" in told[0] and "needs EXT_new, not known" in told[1]


@pytest.mark.parametrize("value, said", [(np.nan, "are NaN or infinite"), (0.5, "cover nothing")])
def test_uvs_that_are_none_say_why(tmp_path, value, said):
    builder, (vertices, _, faces) = Builder(), cube()
    builder.node("box", mesh=builder.mesh("box", (vertices, np.full((24, 2), value), faces, None)))
    with pytest.raises(MeshError, match=f"'box' has UVs that {said}. Make new ones with --uvs fill"):
        groups_of(read_scene(builder.save(tmp_path / "x.glb")), [0], lambda *given: None)


def test_an_stl_that_is_cut_off_says_so(tmp_path):
    data = trimesh.creation.box().export(file_type="stl")
    (tmp_path / "x.stl").write_bytes(data[:300])
    with pytest.raises(MeshError, match="cut off: it has 300 bytes of the 684 that its 12 faces take"):
        read_scene(tmp_path / "x.stl")
