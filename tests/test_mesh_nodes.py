"""The nodes that take a mesh file, with a stub of ComfyUI, on a tiny checkpoint with encoders; their graphs."""

import io
import json
import shutil

import host_modules
import numpy as np
import pytest
import torch
from comfy_server import graph
from host_run import Host
from meshes import needs_warp
from PIL import Image
from tiny import tiny_checkpoint

from pipeline.mesh.io import Gltf

TINY, BARE = "trellis2/tiny", "trellis2/bare"
MESH_GRAPHS = ("texture_my_mesh", "repaint_part", "refine_my_mesh")


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    before = host_modules.get_output_directory()
    base = tmp_path_factory.mktemp("comfyui")
    tiny_checkpoint(base / "models" / "trellis2" / "tiny")
    bare = shutil.copytree(base / "models" / "trellis2" / "tiny", base / "models" / "trellis2" / "bare")
    for path in (*bare.glob("ckpts/*_encoder*"), bare / "texturing_pipeline.json"):
        path.unlink()
    yield Host(base)
    host_modules.use_folder(type(base)(before).parent)


def written(host, ran, node) -> Gltf:
    (file,) = ran.ui[node]["3d"]
    return Gltf.open(host.base / "output" / file["subfolder"] / file["filename"])


def base_color(document: Gltf, material: int) -> np.ndarray:
    texture = document.list("materials")[material]["pbrMetallicRoughness"]["baseColorTexture"]["index"]
    data = document.image(document.list("textures")[texture]["source"])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("name", MESH_GRAPHS)
def test_without_encoders_a_graph_says_which_file_is_missing(host, name):
    with pytest.raises(Exception, match=r"mesh needs shape_slat_encoder.*, which bare lacks.*Get "):
        host.run(graph(name, n2_checkpoint=BARE))


@needs_warp
def test_repainting_changes_the_mask_and_nothing_else(host):
    """The shipped graph on the shipped mesh: outside of the mask the texture is the source's, to the bit."""
    ran = host.run(graph("repaint_part", n2_checkpoint=TINY), workflow={"nodes": []})
    document, source = written(host, ran, "7"), Gltf.open(host.base / "input" / "trellis2_rocket.glb")
    for key in ("nodes", "scenes"):
        assert document.json[key] == source.json[key]
    before, after = base_color(source, 0), base_color(document, 1)
    with Image.open(host.base / "input" / "trellis2_repaint.png") as picture:
        kept = np.asarray(picture.getchannel("A")) == 255
    uvs = ran.values["5"][0][0].parts[0]
    inside = covered(uvs.uvs[uvs.faces], len(before))
    assert np.array_equal(before[kept & inside & grown(kept)], after[kept & inside & grown(kept)])
    assert (before[~kept & inside] != after[~kept & inside]).any(1).mean() > 0.9
    extras = document.json["asset"]["extras"]
    assert extras["texels_kept"] > 10_000 and extras["faces"] == 1500
    assert json.loads(extras["prompt"])["7"]["class_type"] == "T2TextureMesh"
    assert "texels kept" in ran.ui["7"]["text"][0]


def covered(corners, size) -> np.ndarray:
    """[S, S] bool: texels whose centre lies well inside a face. corners: [F, 3, 2]."""
    from pipeline.mesh.bake.raster import rasterise

    flat = torch.from_numpy(np.ascontiguousarray(corners.reshape(-1, 2)))
    face, _ = rasterise(flat, torch.arange(len(flat)).reshape(-1, 3), size)
    return (face >= 0).reshape(size, size).numpy()


def grown(kept) -> np.ndarray:
    """Without the texels beside the mask's border, which are mixed."""
    padded = np.pad(kept, 1, mode="edge")
    height, width = kept.shape
    return np.all([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], 0)


@needs_warp
def test_a_mesh_is_textured_as_a_whole(host):
    ran = host.run(graph("texture_my_mesh", n2_checkpoint=TINY, n6_texture_size=128))
    document = written(host, ran, "6")
    assert base_color(document, 1).shape == (128, 128, 3)
    assert ran.values["6"][1][0].endswith(".glb") and "1 texture of 128 pixels" in ran.ui["6"]["text"][0]


def test_load_mesh_gives_scene_mesh_and_texture(host):
    scene, mesh, image = host.call("T2LoadMesh", path="trellis2_rocket.glb")
    assert len(scene.parts) == 1 and len(mesh.faces) == 1500 and mesh.vertices.abs().max() <= 0.5
    assert list(image.shape) == [1, 256, 256, 3] and 0 <= image.min() < image.max() <= 1
    with pytest.raises(Exception, match="There is no gone.glb in ComfyUI's output folder"):
        host.call("T2LoadMesh", path="gone.glb")
    with pytest.raises(Exception, match=r"A mesh file ends in .glb, .gltf, .obj, .ply, .stl, got '../secret.txt'"):
        host.call("T2LoadMesh", path="../secret.txt")
    (host.base / "outside.glb").write_bytes((host.base / "input" / "trellis2_rocket.glb").read_bytes())
    with pytest.raises(Exception, match="There is no ../outside.glb"):
        host.call("T2LoadMesh", path="../outside.glb")
    node = host.nodes["T2LoadMesh"]
    assert node.fingerprint_inputs("trellis2_rocket.glb") != "trellis2_rocket.glb automatic"
    assert node.fingerprint_inputs("gone.glb") == "gone.glb automatic"


def test_what_cannot_be_repainted_is_said_before_networks_run(host):
    ran = host.run(
        {key: value for key, value in graph("texture_my_mesh", n2_checkpoint=TINY).items() if key in "12345"}
    )
    given = {"models": ran.values["2"][0][0], "condition": ran.values["4"][0][0], "scene": ran.values["5"][0][0]}
    with pytest.raises(Exception, match="The mask marks nothing that is to be repainted"):
        host.call("T2TextureMesh", repaint=torch.zeros(1, 64, 64), **given)
    with pytest.raises(Exception, match=r"must be a single picture \[1, height, width\], got \[2, 64, 64\]"):
        host.call("T2TextureMesh", repaint=torch.ones(2, 64, 64), **given)
    with pytest.raises(Exception, match="No mesh node is called wheel"):
        host.call("T2TextureMesh", keep_nodes="wheel, ", **given)


@needs_warp
def test_a_refined_mesh_lies_where_the_source_lies(host):
    """The shipped graph put it into the unit cube."""
    source = Gltf.open(host.base / "input" / "trellis2_rocket.glb")
    for node in source.list("nodes"):
        node |= {"translation": [30.0, -4.0, 200.0], "scale": [5.0, 5.0, 5.0]}
    (host.base / "input" / "moved.glb").write_bytes(source.glb())
    loaded = graph("refine_my_mesh", n2_checkpoint=TINY, n5_path="moved.glb", n12_texture_size=64, n7_strength=0.0)
    loaded["11"]["inputs"] |= {"shells": "surface"}
    ran = host.run(loaded, workflow={"nodes": []})
    scene = ran.values["5"][0][0]
    node = written(host, ran, "13").list("nodes")[0]
    assert np.allclose(node["translation"], scene.frame().centre, rtol=1e-6) and node["translation"][2] > 190
    assert np.allclose(node["scale"], scene.frame().longest / 0.99999, rtol=1e-6)
    _, path = host.call("T2ExportGLB", mesh=ran.values["9"][0][0], place=ran.values["5"][1][0], filename_prefix="own")
    node = Gltf.open(host.base / "output" / path).list("nodes")[0]  # a mesh can say it too
    assert np.allclose(node["translation"], 0, atol=1e-6) and np.allclose(node["scale"], 1, rtol=1e-5)


def test_encode_mesh_marks_what_keeps_its_shape(host):
    loaded = graph("refine_my_mesh", n2_checkpoint=TINY)
    ran = host.run({key: value for key, value in loaded.items() if key in "25"})
    scene, mesh = ran.values["5"][0][0], ran.values["5"][1][0]
    given = {"models": ran.values["2"][0][0], "mesh": mesh}
    half = torch.zeros(1, 64, 64)
    half[:, :, 32:] = 1
    with pytest.raises(Exception, match="What is to be kept is looked up in a scene"):
        host.call("T2EncodeMesh", refine=half, **given)
    shape, *_ = host.call("T2EncodeMesh", refine=half, scene=scene, **given)
    assert shape.kept.any() and not shape.kept.all()
    assert host.call("T2EncodeMesh", scene=scene, **given)[0].kept is None
    with pytest.raises(Exception, match="says what of its mesh is kept, which a state does not hold"):
        host.call("T2SaveState", shape=shape)
