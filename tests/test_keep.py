"""What of a mesh's textures is kept: by mask, by vertex colours, by node; to the bit, and in the latent too."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import Builder, cube

from pipeline import stages
from pipeline.errors import SettingsError
from pipeline.export.scene_textures import textured_document
from pipeline.mesh.io import Gltf, read_scene
from pipeline.mesh.io.atlas import groups_of, unwrapped_group
from pipeline.mesh.operations import RASTER, UNWRAP
from pipeline.models import build
from pipeline.project import Photo, Projection
from pipeline.runtime import Runtime
from pipeline.sparse import SparseTensor, Voxels
from pipeline.spec import PIPELINE_TYPES
from pipeline.stages.user_mesh.existing import Materials, Places
from pipeline.views import PictureCamera
from pipeline.weights import Models, open_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 64
CLOTH = np.float64([0.2, 0.4, 0.6])  # linear
CLOTH_SRGB = np.round(255 * (1.055 * CLOTH ** (1 / 2.4) - 0.055))
TYPE = PIPELINE_TYPES["512"]


def png(pixels):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def painted(colored=False) -> tuple[Builder, np.ndarray]:
    """Two cubes side by side, one with a noisy texture, one of plain material; and the texture [64, 64, 3]. colored:
    with vertex colours that are white where x > 0, black elsewhere."""
    scene = Builder()
    pixels = np.random.default_rng(3).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    scene.accessor(np.frombuffer(png(pixels), np.uint8).copy(), "SCALAR", 5121)
    scene.json["accessors"].pop()  # bytes of an image, no numbers
    scene.json["images"] = [{"bufferView": len(scene.json["bufferViews"]) - 1, "mimeType": "image/png"}]
    scene.json["textures"] = [{"source": 0}]
    skin = scene.material("skin", pbrMetallicRoughness={"baseColorTexture": {"index": 0}, "metallicFactor": 0.0})
    plain = {"baseColorFactor": [*CLOTH, 1], "roughnessFactor": 0.5}
    vertices, uvs, faces = cube()
    for number, material in enumerate((skin, scene.material("cloth", pbrMetallicRoughness=plain))):
        name = ("body", "shirt")[number]
        mesh = scene.mesh(name, (vertices + np.float32([2 * number, 0, 0]), uvs, faces, material))
        if colored:
            white = np.repeat(np.float32(vertices[:, :1] > 0), 3, 1)
            colors = scene.accessor(np.ascontiguousarray(white), "VEC3", 5126)
            scene.json["meshes"][mesh]["primitives"][0]["attributes"]["COLOR_0"] = colors
        scene.node(name, mesh=mesh)
    return scene, pixels


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return read_scene(painted()[0].save(tmp_path_factory.mktemp("scene") / "painted.glb"))


@pytest.fixture(scope="module")
def colored(tmp_path_factory):
    return read_scene(painted(True)[0].save(tmp_path_factory.mktemp("scene") / "colored.glb"))


@pytest.fixture
def runtime():
    return Runtime("cpu", stages.default_backends(), torch.float32, keep_models=True)


def left_half() -> stages.Mask:
    return stages.Mask(np.repeat(np.float32([[1, 0]]), SIZE, 0).repeat(SIZE // 2, 1))


def voxels() -> stages.PBRVoxels:
    """All voxels of a grid, each of one grey that no texture above has everywhere."""
    coords = torch.stack(torch.meshgrid(*[torch.arange(16)] * 3, indexing="ij"), -1).reshape(-1, 3)
    return stages.PBRVoxels(SparseTensor(Voxels.single(coords.int()), torch.full((len(coords), 6), 0.5)), 16)


def bake(runtime, scene, keep, uvs="keep"):
    parts, frame = keep.changed_parts(scene), scene.frame()
    if uvs == "keep":
        groups = groups_of(scene, parts, runtime.backends.pick(RASTER, "cpu"))
    else:
        unwrap = runtime.backends.pick(UNWRAP, "cpu")
        groups = [unwrapped_group(scene, frame, parts, lambda v, f: unwrap(v, f, 128, 4, lambda *_: None)[:3])]
    return stages.bake_scene(runtime, scene, frame, voxels(), groups, SIZE if uvs == "keep" else 128, keep)


def covered(scene, number) -> np.ndarray:
    """[64, 64] bool: texels whose centre lies in a face's UVs, which are squares here."""
    at = (np.arange(SIZE) + 0.5) / SIZE
    corners = scene.parts[number].uvs[scene.parts[number].faces]
    found = np.zeros((SIZE, SIZE), bool)
    for (left, top), (right, bottom) in zip(corners.min(1) + 0.01, corners.max(1) - 0.01):
        found |= ((at > top) & (at < bottom))[:, None] & ((at > left) & (at < right))
    return found


def test_kept_texels_are_those_of_the_source_to_the_bit(runtime, scene):
    texture = painted()[1]
    made = bake(runtime, scene, stages.Keep(masks=(left_half(),)))
    body = next(each.maps for each in made.groups if each.group.material == 0)
    inside = covered(scene, 0)
    left = inside & (np.arange(SIZE) < SIZE // 2 - 1)
    right = inside & (np.arange(SIZE) > SIZE // 2)
    assert left.sum() > 500 and np.array_equal(body[left][:, :3], texture[left])
    assert (body[left][:, 3:] == [0, 255, 255]).all(), "metallic and roughness of the source, opaque"
    assert (body[right] == 128).all(), "what is not kept is as the voxels say"
    shirt = next(each.maps for each in made.groups if each.group.material == 1)
    assert (shirt[left] == [*CLOTH_SRGB, 255, 128, 255]).all() and (shirt[right] == 128).all()
    assert made.facts["texels_kept"] > 1000


def test_a_mask_can_be_for_one_material(runtime, scene):
    made = bake(runtime, scene, stages.Keep(masks=(stages.Mask(np.ones((2, 2), np.float32), ("cloth",)),)))
    body, shirt = (next(e.maps for e in made.groups if e.group.material == number) for number in (0, 1))
    assert (body[covered(scene, 0)] == 128).all() and (shirt[covered(scene, 1)][:, :3] == CLOTH_SRGB).all()


def test_grey_mixes(runtime, scene):
    made = bake(runtime, scene, stages.Keep(masks=(stages.Mask(np.full((1, 1), 0.5, np.float32), ("skin",)),)))
    body = next(each.maps for each in made.groups if each.group.material == 0)
    inside = covered(scene, 0)
    expected = painted()[1][inside] / 2 + 255 / 4
    assert np.abs(body[inside][:, :3] - expected).max() <= 1 and made.facts["texels_kept"] == 0


def test_vertex_colours_are_a_mask_and_no_tint(runtime, colored):
    keep = stages.Keep(vertex_colors=True)
    texture, inside = painted()[1], covered(colored, 0)
    body = next(each.maps for each in bake(runtime, colored, keep).groups if each.group.material == 0)
    vertices, uvs, _ = cube()
    (left, top), (right, bottom) = uvs[4:8].min(0), uvs[4:8].max(0)  # the side x > 0 is one square of the UVs
    at = (np.arange(SIZE) + 0.5) / SIZE
    kept = ((at > top) & (at < bottom))[:, None] & ((at > left) & (at < right)) & inside
    assert (vertices[4:8, 0] > 0).all() and kept.sum() > 100
    assert np.array_equal(body[kept][:, :3], texture[kept])
    places = Places(colored, colored.frame(), torch.device("cpu")).nearest(torch.tensor([[-0.5, 0, 0]]))
    assert (Materials(colored).at(places[0])[:, :3] == 0).all(), "as a colour, black would tint"
    assert (Materials(colored, tinted=False).at(places[0])[:, :3] > 0).any()


def test_vertex_colours_of_an_object_are_no_mask(runtime, colored, monkeypatch):
    """Red would count as partly kept."""
    from pipeline.stages.user_mesh import keep as module

    found = module.attribute

    def red(scene, part, name):
        values = found(scene, part, name)
        return values if values is None or name != module.VERTEX_COLORS else np.tile([1.0, 0.0, 0.0], (len(values), 1))

    monkeypatch.setattr(module, "attribute", red)
    with pytest.raises(SettingsError, match="are no mask: 100% of them are in colour"):
        bake(runtime, colored, stages.Keep(vertex_colors=True))


def test_new_uvs_take_kept_places_along(runtime, scene):
    """Kept by the mask in the old UVs, found in the new ones."""
    keep = stages.Keep(masks=(stages.Mask(np.ones((1, 1), np.float32), ("cloth",)),))
    (baked,) = bake(runtime, scene, keep, "new").groups
    assert {tuple(row) for row in baked.maps.reshape(-1, 6)} == {(128,) * 6, (*CLOTH_SRGB, 255, 128, 255)}


def test_projected_pictures_leave_kept_texels_alone(runtime, scene):
    texture = painted()[1]
    photo = Photo(Image.new("RGBA", (128, 128), (0, 200, 0, 255)), PictureCamera(0, 20, 30, 1.0))
    settings = Projection(min_iou=0.01, largest=SIZE)
    seen = {}
    for name, keep in (("free", stages.Keep()), ("held", stages.Keep(masks=(left_half(),)))):
        made = bake(runtime, scene, keep)
        done = stages.project_scene(runtime, scene, scene.frame(), made, [photo], settings)
        seen[name] = next(each.maps for each in done.groups if each.group.material == 0)[:, :, :3]
    left = covered(scene, 0) & (np.arange(SIZE) < SIZE // 2 - 1)
    right = covered(scene, 0) & (np.arange(SIZE) > SIZE // 2)
    assert (seen["free"][left] != 128).any() and (seen["held"][right] != 128).any(), "the picture is seen on both"
    assert np.array_equal(seen["held"][left], texture[left])


def test_what_cannot_be_kept_is_said(scene, tmp_path):
    black = np.zeros((4, 4), np.float32)
    with pytest.raises(SettingsError, match="black all over. White marks what stays"):
        stages.Mask(black)
    with pytest.raises(SettingsError, match="No mesh node is called sofa; there are body, shirt"):
        stages.Keep(("sofa",)).changed_parts(scene)
    with pytest.raises(SettingsError, match="Every mesh node is to be kept"):
        stages.Keep(("body", "shirt")).changed_parts(scene)
    white = np.ones((1, 1), np.float32)
    with pytest.raises(SettingsError, match="No mesh that changes has a material called cloth; there are skin"):
        stages.Keep(("shirt",), (stages.Mask(white, ("cloth",)),)).changed_parts(scene)
    with pytest.raises(SettingsError, match="white all over, so nothing would change. Black marks what is new"):
        stages.Keep(("shirt",), (stages.Mask(white),)).changed_parts(scene)
    assert stages.Keep(("shirt",), (stages.Mask(white * 0.9),)).changed_parts(scene)  # mixed
    assert stages.Keep((), (stages.Mask(white, ("skin",)),)).changed_parts(scene)  # the rest is new
    bare = Builder()
    vertices, _, faces = cube()
    bare.node("bare", mesh=bare.mesh("bare", (vertices, None, faces, None)))
    bare = read_scene(bare.save(tmp_path / "bare.glb"))
    with pytest.raises(SettingsError, match="no mesh that it is for has UVs"):
        stages.Keep(masks=(stages.Mask(white),)).changed_parts(bare)
    with pytest.raises(SettingsError, match="No mesh that changes has vertex colours"):
        stages.Keep(vertex_colors=True).changed_parts(bare)


def test_a_transparent_mask_is_black_where_it_is_clear(tmp_path):
    pixels = np.full((4, 4, 4), 255, np.uint8)
    pixels[:2, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    assert stages.Mask.read(tmp_path / "mask.png").values.tolist() == [[0] * 4] * 2 + [[1] * 4] * 2


def test_baked_colours_are_not_multiplied_by_vertex_colours(runtime, colored):
    """Viewers multiply COLOR_0 with the base colour; the baked textures hold both. The numbers stay, under a name of
    their own."""
    made = bake(runtime, colored, stages.Keep(("shirt",)))
    meshes = textured_document(colored, made.groups).json["meshes"]
    body, shirt = (mesh["primitives"][0]["attributes"] for mesh in meshes)
    source = colored.document.json["meshes"][0]["primitives"][0]["attributes"]
    assert "COLOR_0" not in body and body["_COLOR_0"] == source["COLOR_0"]
    assert "COLOR_0" in shirt and "COLOR_0" in source, "what is kept, and the source, are as they were"


def test_through_the_command_line(run, encoders, picture, scene, tmp_path, monkeypatch):
    """Kept texels are the source's; the sampler was held to the old latent there, and free elsewhere."""
    seen = {}
    sample = stages.user_mesh.texture_mesh.sample_texture

    def watched(*arguments):
        seen["start"], seen["made"] = arguments[-1], sample(*arguments)
        return seen["made"]

    monkeypatch.setattr(stages.user_mesh.texture_mesh, "sample_texture", watched)
    source, out = painted()[0].save(tmp_path / "in.glb"), tmp_path / "out.glb"
    Image.fromarray(np.uint8(255 * left_half().values)).save(tmp_path / "mask.png")
    options = ("--checkpoint", encoders, "--type", "512", "--texture-size", SIZE, "--device", "cpu", "--output", out)
    code, _, err = run("texture", source, picture, *options, "--keep", tmp_path / "mask.png", "skin")
    assert code == 0, err
    start, made = seen["start"], seen["made"]
    assert 0 < int(start.keep.sum()) < len(start.keep)
    assert torch.allclose(made.sparse.feats[start.keep], start.latent.sparse.feats[start.keep], atol=1e-5)
    apart = (made.sparse.feats - start.latent.sparse.feats)[~start.keep].abs().amax(1)
    assert float(apart.min()) > 1e-3
    document = Gltf.open(out)
    image = document.list("materials")[-2]["pbrMetallicRoughness"]["baseColorTexture"]["index"]
    pixels = np.asarray(Image.open(io.BytesIO(document.image(document.list("textures")[image]["source"]))))
    left = covered(scene, 0) & (np.arange(SIZE) < SIZE // 2 - 1)
    assert np.array_equal(pixels[left], painted()[1][left])
    code, _, err = run("texture", source, picture, *options, "--keep", "body")
    assert code == 1 and "body is a mesh node: --keep-nodes body keeps it" in err


def test_the_kept_latent_is_where_the_mask_is(runtime, encoders, scene):
    models = Models(open_checkpoint(encoders), build)
    frame = scene.frame()
    encoded = stages.encode_mesh(
        runtime, models, stages.scene_mesh(scene, frame), stages.texture_resolution(models, TYPE)
    )
    start = stages.user_mesh.texture_mesh._start(runtime, models, scene, frame, encoded, 1.0, stages.Keep(("shirt",)))
    x = encoded.shape.sparse.voxels.xyz[:, 0]
    middle = (int(x.min()) + int(x.max())) / 2
    assert torch.equal(start.keep.cpu(), (x > middle).cpu()), "the shirt is on the right"


def test_a_picture_in_colour_is_no_mask(tmp_path):
    """The picture that a mask editor saves, with its mask as transparency, kept what is bright in it."""
    picture = np.zeros((16, 16, 4), np.uint8)
    picture[..., 0], picture[..., 3] = 200, 255
    Image.fromarray(picture).save(tmp_path / "painted.png")
    with pytest.raises(SettingsError, match="painted.png is in colour .100% of it.; expected white for what stays"):
        stages.Mask.read(tmp_path / "painted.png")
    grey = picture[..., :1].repeat(3, 2) + np.arange(3, dtype=np.uint8)  # as JPEGs tint
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.allclose(stages.Mask.read(tmp_path / "grey.png").values, 201 / 255, atol=0.01)
