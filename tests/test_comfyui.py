"""The pack inside a real ComfyUI, through its HTTP API and websocket. COMFYUI_PATH names the checkout."""

import io
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from bundles import PREFIXES, bundle
from comfy_server import GRAPHS, ROOT, Server, api, facts, graph, needs, needs_comfyui, needs_encoders
from host_stub import served
from PIL import Image, ImageOps
from quantised import int8_folder
from safetensors.torch import load_file, save_file
from tiny import tiny_checkpoint

import pipeline

SMALL = ROOT / "checkpoints" / "small"
COMPLETE = ROOT / "checkpoints" / "random"  # has every network, as bundles need them
pytestmark = needs_comfyui
INTERFACE = json.loads((ROOT / "tests" / "interface.json").read_text(encoding="utf-8"))
SMALL_CARD = """
import comfy.model_patcher

load = comfy.model_patcher.ModelPatcher.load


def load_a_third(self, device=None, lowvram_model_memory=0, *more, **named):
    return load(self, device, self.model_size() // 3, *more, **{**named, "full_load": False})


comfy.model_patcher.ModelPatcher.load = load_a_third
NODE_CLASS_MAPPINGS = {}
"""


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    fill_model_folders(base)
    running = Server(base, "--extra-model-paths-config", str(base / "paths.yaml"), "--preview-size", "300")
    yield running
    running.stop()


def fill_model_folders(base: Path) -> None:
    """Checkpoints in every layout that the loader looks for."""
    models, elsewhere = base / "models", base / "elsewhere"
    shutil.copytree(SMALL, models / "trellis2" / "own")
    (elsewhere / "trellis2").mkdir(parents=True)
    (elsewhere / "trellis2" / "linked").symlink_to(SMALL, target_is_directory=True)
    int8_folder(SMALL, models / "trellis2" / "int8")
    damaged = shutil.copytree(SMALL, models / "trellis2" / "damaged")
    broken = damaged / "ckpts" / "sparse_structure_flow_model.safetensors"
    broken.write_bytes(broken.read_bytes()[:2000])
    (base / "paths.yaml").write_text(f"mine:\n  base_path: {elsewhere}\n  trellis2: trellis2\n")

    tiny_checkpoint(models / "trellis2" / "encoders")
    decoders = [prefix for prefix in PREFIXES if "dec" in prefix]
    for kind in ("diffusion_models", "vae", "clip_vision"):
        (models / kind).mkdir(parents=True)
    flows = [prefix for prefix in PREFIXES if prefix not in decoders]
    bundle(COMPLETE, models / "diffusion_models" / "flows.safetensors", flows)
    bundle(COMPLETE, models / "vae" / "decoders.safetensors", decoders)
    save_file({"unrelated": torch.zeros(3)}, models / "vae" / "unrelated.safetensors")
    (models / "vae" / "text.safetensors").write_text("not a model")
    for kind in ("trellis2", "vae"):
        (models / kind / "gone.safetensors").symlink_to("nothing")
    for name in ("gone", "loop", "loops"):
        (models / "trellis2" / name).symlink_to("nothing" if name == "gone" else ".", target_is_directory=True)
    encoder = json.loads((COMPLETE / "pipeline.json").read_text())["args"]["image_cond_model"]["args"]["model_name"]
    save_file(load_file(COMPLETE / encoder / "model.safetensors"), models / "clip_vision" / "dino.safetensors")


def test_the_nodes_are_served_as_promised(server):
    info = server.get("/object_info")
    ours = {name: info[name] for name in info if name.startswith("T2")}
    assert {name: served(ours[name]) for name in ours} == INTERFACE
    for name, node in ours.items():  # editor graphs hold values in this order
        inputs = INTERFACE[name]["inputs"]
        order = [each for kind in ("required", "optional") for each in node["input_order"].get(kind, ())]
        assert order == sorted(inputs, key=lambda each: inputs[each]["optional"])
    assert "OtherNode" in info and "IMPORT FAILED" not in server.said()


def test_the_search_finds_nodes_by_other_words(server):
    info = server.get("/object_info")
    if "search_aliases" not in info["LoadImage"]:
        pytest.skip("this ComfyUI has no aliases")
    assert all(info[name]["search_aliases"] for name in info if name.startswith("T2"))
    assert "image to 3d" in info["T2ImageToGLB"]["search_aliases"]


def test_nodes_tell_what_they_made(server):
    """As text that the editor shows on them, also when all comes from the cache."""
    server.forget()
    for _ in range(2):
        made = server.run(graph("geometry_only"))
        faces = f"{facts(made.glbs[0])['faces']:,} faces"
        (file,) = made.outputs["9"]["3d"]
        assert made.outputs["9"]["text"][0].startswith(f"{file['subfolder']}/{file['filename']}, ")
        assert faces in made.outputs["9"]["text"][0]
    server.forget()
    assert server.run(graph("geometry_only")).outputs["8"]["text"][0].startswith(faces)


def test_a_list_makes_an_object_of_each_picture(server):
    many = graph("many_pictures")
    needs(server, many)
    counts = {facts(glb)["faces"] for glb in server.run(many).glbs}
    single = [
        server.run(graph("image_to_glb", n1_image=each["inputs"]["image"], n2_preset="draft"))
        for each in (many["1"], many["2"])
    ]
    assert len(counts) == 2 and counts == {facts(run.glbs[0])["faces"] for run in single}


def test_a_folder_makes_an_object_of_each_picture_under_its_name(server):
    """The names arrive with their pictures; a picture that is none is left out."""
    (server.base / "input" / "folder").mkdir()
    for name in ("rocket.png", "pictures/chair.png"):
        shutil.copy(ROOT / "assets" / name, server.base / "input" / "folder")
    (server.base / "input" / "folder" / "bad.png").write_text("no picture")
    loaded = graph("image_to_glb", n2_texture=False, n2_preset="draft", n2_image=["1", 0])
    loaded["1"] = node("T2LoadPictures", folder="folder", prefix="named/")
    loaded["2"]["inputs"] = {**loaded["2"]["inputs"], "filename_prefix": ["1", 1]}
    loaded["2"]["inputs"].pop("mask", None)
    made = server.run(loaded)
    assert sorted(each["filename"] for each in made.outputs["2"]["3d"]) == ["chair_00001_.glb", "rocket_00001_.glb"]
    assert made.outputs["1"]["text"][0].startswith("2 of 3 pictures\n")


def test_a_photograph_is_cut_out_by_comfyuis_own_node(server):
    """Remove Background marks the object, Load Image's mask the background; the object must arrive, not the rest."""
    photo = graph("photo_to_glb", n5_texture=False)
    needs(server, photo)
    picture = Image.open(ROOT / "assets" / "rocket.png")
    background = Image.new("RGBA", picture.size, (90, 140, 60, 255))
    photo["1"]["inputs"]["image"] = save(server, "photo.png", Image.alpha_composite(background, picture).convert("RGB"))
    cut = facts(server.run(photo).glbs[0])["mesh"]
    own = facts(server.run(graph("image_to_glb", n2_texture=False)).glbs[0])["mesh"]
    assert np.allclose(cut["bounds"], own["bounds"], atol=0.05), (cut["bounds"], own["bounds"])


@pytest.mark.parametrize("name", sorted(path.stem for path in GRAPHS.glob("*.json")))
def test_every_graph_makes_a_valid_glb(server, validate, tmp_path, name):
    loaded = graph(name)
    needs(server, loaded)
    if needs_encoders(name):
        with pytest.raises(api().GraphError, match=r"mesh needs shape_slat_encoder.*, which small lacks.*Get "):
            server.run(loaded)
        loaded["2"]["inputs"]["checkpoint"] = "trellis2/encoders"
    run = server.run(loaded)
    assert run.glbs
    if name == "turntable_video":
        assert [each["filename"] for each in run.outputs["16"]["images"]] == ["turntable_00001_.mp4"]
    for glb in run.glbs:
        (tmp_path / "x.glb").write_bytes(glb)
        issues = validate(tmp_path / "x.glb")["issues"]
        assert issues["numErrors"] == issues["numWarnings"] == 0, issues
        assert len(trimesh.load_mesh(io.BytesIO(glb), "glb", process=False).faces) == facts(glb)["faces"] > 0


def test_the_graph_gives_what_the_command_line_gives(server, cli, tmp_path):
    """Same checkpoint, picture, seed and settings: the same mesh and texture to the bit."""
    output = tmp_path / "cli.glb"
    done = cli("generate", ROOT / "assets" / "rocket.png", "--device", "cpu", "--output", output)
    assert done.returncode == 0, done.stderr
    server.forget()
    ours, theirs = (
        trimesh.load_mesh(io.BytesIO(data), "glb", process=False)
        for data in (output.read_bytes(), server.run(graph("image_to_glb")).glbs[0])
    )
    assert np.array_equal(ours.vertices, theirs.vertices) and np.array_equal(ours.faces, theirs.faces)
    assert np.array_equal(ours.visual.uv, theirs.visual.uv)
    for name in ("baseColorTexture", "metallicRoughnessTexture"):
        assert np.array_equal(*(np.asarray(getattr(mesh.visual.material, name)) for mesh in (ours, theirs)))


def test_the_same_graph_gives_the_same_bytes(server):
    server.forget()
    first = server.run(graph("image_to_glb"))
    server.forget()
    second = server.run(graph("image_to_glb"))
    assert first.glbs and not second.cached() and second.glbs == first.glbs


def test_a_texture_setting_reruns_nothing_before_the_texture(server):
    server.run(graph("all_stages"))
    again = server.run(graph("all_stages", n14_texture_size=1024))
    assert {"1", "2", "3", "4", "5", "9", "10", "11", "12", "13"} <= again.cached()
    after = {"14", "15", "16", "17", "18", "20", "21"}
    assert again.executed() >= {"14", "15", "20"} and again.executed() <= after
    loaded = graph("all_stages", n14_texture_size=1024, n10_sampler=["8", 0])
    loaded["8"] = node("T2SamplerSettings", guidance=1.0, interval_end=0.9)
    sampler = server.run(loaded)
    assert {"5", "9", "11", "13"} <= sampler.cached() and {"8", "10", "12", "14"} <= sampler.executed()


def test_the_simple_node_reuses_its_stages(server):
    server.run(graph("image_to_glb"))
    again = server.run(graph("image_to_glb", n2_texture_size=1024))
    stages = {data["node"] for kind, data in again.events if kind == "progress" and data["node"].startswith("2.")}
    assert len(stages) == 2, stages  # bake and export


def test_the_game_preset_writes_levels_and_a_normal_map(server):
    done = server.run(graph("image_to_glb", n2_preset="game", n2_texture_size=512))
    found = facts(done.glbs[0])
    assert found["mesh"]["faces"] <= 10_000 and found["stretch"] <= 1.15
    assert [level["mesh"]["faces"] <= limit for level, limit in zip(found["lods"], (4_000, 1_500))] == [True, True]
    assert b'"normalTexture"' in done.glbs[0]


def test_a_preset_that_the_checkpoint_lacks_falls_back_to_its_own(server):
    high = server.run(graph("image_to_glb", n2_preset="high", n2_texture_size=1024))
    standard = server.run(graph("image_to_glb", n2_faces=1_000_000, n2_texture_size=1024))
    assert high.glbs and "small has no models for 1536_cascade; it makes the object with its own, 512" in server.said()
    assert facts(high.glbs[0])["mesh"] == facts(standard.glbs[0])["mesh"]


def test_what_is_used_is_said_in_a_line(server):
    server.forget()
    before = len(server.said())
    server.run(graph("draft_then_cascade"))
    said = server.said()[before:]
    assert said.count("Using the bundled small checkpoint") == 1
    assert "choose microsoft/TRELLIS.2-4B (16 GB download)" in said
    assert said.count("resolution: 512, as small says") == 1


def test_a_seed_changes_the_result(server):
    runs = [server.run(graph("geometry_only", n5_seed=seed)) for seed in (20, 15)]
    assert runs[0].glbs != runs[1].glbs


def test_progress_grows_and_ends(server):
    server.forget()
    run = server.run(graph("all_stages"))
    for node in ("5", "9", "10", "11", "12", "13", "14", "15"):
        values = [
            data["value"] / data["max"] for kind, data in run.events if kind == "progress" and data["node"] == node
        ]
        assert values and values == sorted(values) and values[-1] == 1, (node, values)


def test_pictures_are_shown_on_the_way(server):
    import websocket

    server.forget()
    channel = websocket.create_connection(f"ws://{server.client.server}/ws?clientId={server.client.id}")
    body = json.dumps({"prompt": graph("all_stages"), "client_id": server.client.id}).encode()
    server.client._json("/prompt", body)
    pictures, node = {}, None
    while True:
        message = channel.recv()
        if isinstance(message, bytes):
            start = message.find(b"\xff\xd8")  # JPEG
            if start >= 0:
                pictures.setdefault(node, []).append(Image.open(io.BytesIO(message[start:])).convert("RGB"))
            continue
        message = json.loads(message)
        if message["type"] == "executing" and message["data"].get("node"):
            node = message["data"]["node"]
        if message["type"] in ("execution_success", "execution_error"):
            break
    channel.close()
    assert len(pictures["5"]) >= 3 and pictures["11"] and pictures["12"]
    for node in ("5", "11", "12"):
        assert np.asarray(pictures[node][-1]).max() > 60, node


def test_cancel_stops_within_a_step(server):
    client = server.client
    server.forget()
    steps = []

    def stop_early(kind, data):
        if kind == "progress" and data["node"] == "9":
            steps.append(data["value"])
            if len(steps) == 2:
                client.interrupt()

    long = graph("all_stages", n9_sampler=["7", 0])
    long["7"] = node("T2SamplerSettings", steps=200)
    with pytest.raises(api().GraphError, match="interrupted"):
        client.run(long, stop_early)
    assert len(steps) < 30
    assert server.run(graph("all_stages")).glbs  # the server lives on


def test_cancel_stops_within_a_frame(server):
    """Of a turntable that would take minutes, and whose progress counts its frames."""
    loaded = {key: value for key, value in graph("geometry_only").items() if value["class_type"] != "T2ExportGLB"}
    raw = next(key for key, value in loaded.items() if value["class_type"] == "T2DecodeShape")
    kept = {key: value for key, value in loaded.items() if value["class_type"] not in ("Preview3D", "T2ProcessMesh")}
    kept["40"] = node("T2RenderMesh", mesh=[raw, 0], frames=200, size=1024)
    kept["41"] = {"class_type": "PreviewImage", "inputs": {"images": ["40", 0]}}
    shares = []

    def stop_early(kind, data):
        if kind == "progress" and data["node"] == "40":
            shares.append(data["value"] / data["max"])
            if shares[-1] > 0:
                server.client.interrupt()

    with pytest.raises(api().GraphError, match="interrupted"):
        server.client.run(kept, stop_early)
    assert shares == sorted(shares) and shares[-1] <= 2 / 200


def test_values_of_two_shapes_are_not_mixed(server):
    loaded = graph("all_stages", n12_subdivision=["32", 1])
    loaded["30"] = node("T2SampleStructure", models=["2", 0], condition=["4", 0], seed=7)
    loaded["31"] = node("T2SampleShape", models=["2", 0], condition=["4", 0], structure=["30", 0])
    loaded["32"] = node("T2DecodeShape", models=["2", 0], shape=["31", 0])
    with pytest.raises(api().GraphError, match=r"T2DecodeTexture \(12\).*different shapes .*seed 42, 512.*seed 7, 512"):
        server.run(loaded)


def test_a_preset_that_connected_models_lack_falls_back_too(server):
    loaded = graph("image_to_glb", n2_preset="high", n2_texture_size=1024, n2_models=["30", 0])
    loaded["30"] = {"class_type": "T2LoadModels", "inputs": {}}  # which says nothing: the small checkpoint
    assert facts(server.run(loaded).glbs[0])["faces"] > 0


@pytest.mark.parametrize(
    ("checkpoint", "more"),
    [
        ("trellis2/own", {}),
        ("trellis2/linked", {}),
        ("diffusion_models/flows.safetensors", {"n2_decoders": "decoders.safetensors"}),
        ("diffusion_models/flows.safetensors", {"n2_image_encoder": "dino.safetensors"}),
    ],
)
def test_model_folders(server, checkpoint, more):
    kinds = server.get("/object_info/T2LoadModels")["T2LoadModels"]["input"]
    options = kinds.get("required", {}) | kinds.get("optional", {})
    assert checkpoint in str(options["checkpoint"]) and "unrelated" not in str(options["decoders"])
    loaded = graph("geometry_only", n2_checkpoint=checkpoint, **more)
    if checkpoint.startswith("trellis2"):
        assert server.run(loaded).glbs
    else:  # bundles have the released samplers and normalisation, whose 32 channels the small model lacks
        with pytest.raises(
            api().GraphError, match=r"T2LoadModels \(2\): The models of .* 8 in .* and 32 in shape_slat"
        ):
            server.run(loaded)


def test_downloads_show_progress(server_with_hub):
    server = server_with_hub
    run = server.run(graph("geometry_only", n2_checkpoint="acme/small", n5_seed=20))  # random weights: few make a face
    values = [data["value"] for kind, data in run.events if kind == "progress" and data["node"] == "2"]
    assert run.glbs and len(values) > 3 and values == sorted(values)
    assert server.client.health()["checkpoints"]["acme/small"].startswith("in the Hugging Face cache")
    with pytest.raises(api().GraphError, match="acme/gated is gated"):
        server.run(graph("geometry_only", n2_checkpoint="acme/gated"))


@pytest.fixture
def server_with_hub(hub, tmp_path):
    running = Server(tmp_path / "base", environment=hub[0])
    yield running
    running.stop()


def test_health(server):
    server.run(graph("image_to_glb"))
    health = server.client.health()
    assert health["version"] == pipeline.__version__ and health["device"] == "cpu" and health["memory_free"] > 0
    assert set(health["checkpoints"]) >= {"small (comes with the pack)", "microsoft/TRELLIS.2-4B", "trellis2/own"}
    assert health["loaded"]["small"]["sparse_structure_flow_model"] > 0
    assert health["backends"]["attention"] == "torch"
    assert str(server.base) not in json.dumps(health)
    assert "Left out of the lists of TRELLIS.2 checkpoints" in server.said()


def save(server: Server, name: str, picture: Image.Image) -> str:
    picture.save(server.base / "input" / name)
    return name


def opaque(size=64):
    return Image.new("RGB", (size, size), (200, 30, 30))


WRONG = {
    "missing checkpoint": (
        {"n2_checkpoint": "trellis2/nowhere"},
        r"There is no checkpoint 'trellis2/nowhere'. Looked in .*models.trellis2",
    ),
    "damaged file": ({"n2_checkpoint": "trellis2/damaged"}, r"T2LoadModels.*damaged or truncated"),
    "a resolution that the checkpoint lacks": (
        {"n6_resolution": "1024_cascade"},
        r"T2SampleShape.*Resolution 1024_cascade needs .*1024, which small lacks.*Choose resolution 512",
    ),
    "unknown resolution": ({"n6_resolution": "2048_cascade"}, "2048_cascade"),
    "a socket of another type": ({"n4_models": ["3", 0]}, "received_type"),
    "steps out of range": ({"n6_max_tokens": 1}, "max_tokens"),
    "faces that no mesh has": ({"n8_faces": 3}, "at least 4 faces, got 3"),
    "levels that grow": ({"n8_lods": "1000, 2000"}, "Levels of detail must have fewer faces"),
    "a path outside": ({"n9_filename_prefix": "../../x"}, "T2ExportGLB"),
    "no file behind the decoders": ({"n2_decoders": "absent.safetensors"}, "absent.safetensors"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_explained(server, case):
    changes, message = WRONG[case]
    with pytest.raises(api().GraphError, match=message):
        server.run(graph("geometry_only", **changes))
    assert server.run(graph("geometry_only")).glbs


PICTURES = {
    "transparent": (lambda: Image.new("RGBA", (64, 64)), "The picture is empty"),
    "opaque": (opaque, "has no transparent background"),
    "one pixel": (lambda: Image.new("RGBA", (1, 1), (9, 9, 9, 128)), "The picture is empty"),
}


@pytest.mark.parametrize("case", PICTURES)
def test_pictures_that_cannot_work(server, case):
    make, message = PICTURES[case]
    name = save(server, f"{case}.png", make())
    with pytest.raises(api().GraphError, match=rf"T2PrepareImage \(3\).*{message}"):
        server.run(graph("geometry_only", n1_image=name))


def node(kind, **inputs):
    """A node with the defaults of the widgets that are not named."""
    defaults = {name: spec["default"] for name, spec in INTERFACE[kind]["inputs"].items() if "default" in spec}
    return {"class_type": kind, "inputs": defaults | inputs}


def test_vertex_colours_and_a_turntable(server, validate, tmp_path):
    loaded = graph("all_stages", n14_texture_size=1024)
    del loaded["15"]
    for each in [key for key, value in loaded.items() if ["15", 1] in value["inputs"].values()]:
        del loaded[each]
    loaded["30"] = node("T2ColorVertices", mesh=["13", 0], voxels=["12", 0], original=["11", 0])
    loaded["31"] = node("T2ExportGLB", mesh=["30", 0], filename_prefix="3d/coloured")
    loaded["32"] = node("T2RenderMesh", mesh=["14", 0], frames=3, size=2048)
    loaded["33"] = {"class_type": "PreviewImage", "inputs": {"images": ["32", 0]}}
    run = server.run(loaded)
    (tmp_path / "x.glb").write_bytes(run.glbs[0])
    issues = validate(tmp_path / "x.glb")["issues"]
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues
    assert b"COLOR_0" in run.glbs[0] and b"baseColorTexture" not in run.glbs[0]
    outputs = server.client.run(loaded)
    frames = [server.client.fetch(each) for each in outputs["33"]["images"]]
    frames = [np.asarray(Image.open(io.BytesIO(frame)).convert("RGB")) for frame in frames]
    assert len(frames) == 3 and {frame.shape for frame in frames} == {(2048, 2048, 3)}
    assert min(frame.max() for frame in frames) > 40


def test_uvs_come_back_from_comfyuis_mesh(server):
    loaded = graph("all_stages", n14_texture_size=1024)
    loaded["34"] = node("T2MeshToCore", mesh=["14", 0])
    loaded["35"] = node("T2MeshFromCore", core_mesh=["34", 0])
    loaded["36"] = node(
        "T2BakeTexture", mesh=["35", 0], voxels=["12", 0], original=["11", 0], texture_size=1024, keep_uvs=True
    )
    loaded["37"] = node("T2ExportGLB", mesh=["36", 0], filename_prefix="3d/kept")
    version = server.get("/system_stats")["system"]["comfyui_version"]
    if version.startswith("0.3."):  # its meshes have no UVs
        with pytest.raises(api().GraphError, match="T2BakeTexture.*has no UVs to keep"):
            server.run(loaded)
        return
    meshes = [trimesh.load_mesh(io.BytesIO(glb), "glb", process=False) for glb in server.run(loaded).glbs]
    assert len(meshes) == 2 and np.array_equal(meshes[0].visual.uv, meshes[1].visual.uv)
    maps = [np.asarray(mesh.visual.material.baseColorTexture) for mesh in meshes]
    assert np.array_equal(*maps)


def test_masks(server):
    white = Image.new("L", (64, 64))
    white.paste(255, (16, 16, 48, 48))
    load = {"class_type": "LoadImageMask", "inputs": {"image": save(server, "mask.png", white), "channel": "red"}}
    prepare = {"mask": ["2", 0], "image": ["1", 0], "mask_marks": "object", "background_model": "none"}
    marked = {
        "1": {"class_type": "LoadImage", "inputs": {"image": save(server, "opaque.png", opaque())}},
        "2": load,
        "3": {"class_type": "T2PrepareImage", "inputs": prepare},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
        "5": {"class_type": "MaskPreview", "inputs": {"mask": ["3", 1]}},
    }
    outputs = server.client.run(marked)
    picture, mask = (
        np.asarray(Image.open(io.BytesIO(server.client.fetch(outputs[node]["images"][0]))).convert("RGB"))
        for node in ("4", "5")
    )
    assert picture.shape == mask.shape == (30, 30, 3)  # half the box's 31 pixels, twice
    assert mask.min() >= 254 and np.abs(picture - np.array([200.0, 30, 30])).max() <= 1  # Preview Image truncates
    prepare["mask_marks"] = "background"
    assert server.client.run(marked)
    prepare["mask_marks"] = "automatic"
    for number, other in enumerate((white, ImageOps.invert(white), white.resize((32, 32)))):
        load["inputs"]["image"] = save(server, f"other{number}.png", other)
        seen = server.client.run(marked)["5"]["images"][0]
        found = np.asarray(Image.open(io.BytesIO(server.client.fetch(seen))))
        assert abs(found.shape[0] - 30) <= 2 and np.median(found) >= 254, number
    empty = save(server, "empty.png", Image.new("L", (64, 64)))
    first = graph("image_to_glb", n2_mask=["9", 0], n2_mask_marks="object")
    first["9"] = {"class_type": "LoadImageMask", "inputs": {"image": empty, "channel": "red"}}
    with pytest.raises(api().GraphError, match="The mask is empty: it marks no object"):
        server.client.run(first)


def test_a_photograph_before_a_plain_wall(server):
    """Neither mask nor rembg: the background goes by its colour."""
    photo = Image.new("RGB", (160, 120), (226, 221, 214))
    photo.paste((40, 90, 170), (50, 30, 110, 90))
    prepare = {"image": ["1", 0], "mask": ["1", 1], "mask_marks": "automatic"}
    outputs = server.client.run(
        {
            "1": {"class_type": "LoadImage", "inputs": {"image": save(server, "wall.png", photo)}},
            "2": {"class_type": "T2PrepareImage", "inputs": {**prepare, "background_model": "none"}},
            "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
        }
    )
    found = np.asarray(Image.open(io.BytesIO(server.client.fetch(outputs["3"]["images"][0]))).convert("RGB"))
    assert abs(found.shape[0] - 60) <= 2 and np.abs(np.median(found, (0, 1)) - (40, 90, 170)).max() <= 1


def test_views(server):
    """A batch is several views; masks must be one or as many."""
    views = graph("geometry_only", n3_image=["20", 0])
    views["20"] = {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["1", 0]}}
    server.forget()
    run = server.run(views)
    assert run.glbs and run.outputs["4"]["text"] == [
        "2 views of one object\npicture 1 and picture 2 are the same picture"
    ]


FLAGS = [
    ("--cache-none", "--disable-smart-memory"),
    ("--cache-lru", "2", "--reserve-vram", "1", "--use-split-cross-attention"),
]


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)  # ComfyUI refuses --lowvram and --novram beside --cpu
def test_memory_flags(server, tmp_path, flags):
    version = server.get("/system_stats")["system"]["comfyui_version"]
    # 0.3.64 itself ends in a KeyError where a node that expands meets --cache-none
    name = "geometry_only" if "--cache-none" in flags and version == "0.3.64" else "image_to_glb"
    server.forget()
    reference = server.run(graph(name)).glbs
    other = Server(tmp_path / "base", *flags)
    try:
        assert reference and other.run(graph(name)).glbs == reference
    finally:
        other.stop()


def test_models_that_are_loaded_in_part(server, tmp_path):
    """A manager that leaves most of the weights elsewhere, as it does on a small card, gets the same bytes; so too with
    weights that are quantised until their layer runs."""
    server.forget()
    reference = server.run(graph("image_to_glb")).glbs
    int8 = graph("image_to_glb", n2_checkpoint="trellis2/int8")
    quantised = server.run(int8).glbs
    assert quantised and quantised != reference
    pack = tmp_path / "base" / "custom_nodes" / "small_card.py"
    pack.parent.mkdir(parents=True)
    pack.write_text(SMALL_CARD)
    (pack.parent / "trellis2").symlink_to(ROOT, target_is_directory=True)
    int8_folder(SMALL, tmp_path / "base" / "models" / "trellis2" / "int8")
    small = Server(tmp_path / "base")
    try:
        assert reference and small.run(graph("image_to_glb")).glbs == reference
        assert small.run(int8).glbs == quantised
        partly = [line for line in small.said().splitlines() if "loaded partially" in line]
        assert len(partly) >= 6, partly  # encoder, two flows, three decoders
    finally:
        small.stop()


def quick(**changes):
    """Image to GLB as fast as it goes: the shape alone, of few faces."""
    return graph("image_to_glb", **{"n2_texture": False, "n2_faces": 2000, **changes})


def test_a_repeated_request_reports_its_file_again(server):
    """Without a node that shows the file, too: what an API client asks the history for."""
    loaded = quick()
    del loaded["3"]
    first, second = server.run(loaded), server.run(loaded)
    assert not [data["node"] for kind, data in second.events if kind == "progress"]  # nothing is made again
    runs = list(server.get("/history").values())[-2:]
    files = [[file for shown in run["outputs"].values() for file in shown.get("3d", [])] for run in runs]
    assert files[0] == files[1] and len(files[0]) == 1 and second.glbs == first.glbs


def test_every_object_of_a_list_keeps_its_own_path(server):
    loaded = quick(n2_image=["21", 0], n2_filename_prefix="list/a")
    loaded["20"] = {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["1", 0]}}
    loaded["21"] = {"class_type": "RebatchImages", "inputs": {"images": ["20", 0], "batch_size": 1}}
    outputs = server.client.run(loaded)
    written = [f"list/{file['filename']}" for file in outputs["2"]["3d"]]
    assert written == ["list/a_00001_.glb", "list/a_00002_.glb"]
    assert outputs["3"]["result"][::3] == written


def test_one_bar_for_all_stages(server):
    server.forget()
    run = server.run(quick(n2_texture=True, n2_texture_size=256))
    values = [data["value"] / data["max"] for kind, data in run.events if kind == "progress"]
    assert len(values) > 50 and values == sorted(values) and values[-1] == 1
    own = [data["value"] / data["max"] for kind, data in run.events if kind == "progress" and data["node"] == "2"]
    assert own == sorted(own) and own[0] < 0.05 and own[-1] == 1
    # what the editor draws: the least of all that run and belong to the node; only the last part begins at 0 in it
    states = [data["nodes"] for kind, data in run.events if kind == "progress_state"]
    shown = [
        min(n["value"] / n["max"] for n in nodes.values() if n["display_node_id"] == "2" and n["state"] == "running")
        for nodes in states
        if any(n["display_node_id"] == "2" and n["state"] == "running" for n in nodes.values())
    ]
    drops = [after for before, after in itertools.pairwise(shown) if after < before]
    assert len(shown) > 50 and len(drops) <= 1
    stages = [data["text"] for kind, data in run.events if kind == "text"]
    assert stages[0] in ("Load Models", "Prepare Image") and stages[-1] == "Export GLB" and "Sample Shape" in stages


def test_names_are_filled_in(server):
    loaded = quick(n2_filename_prefix="named/%date:yyyy-MM%_%T2ImageToGLB.seed%_%Load Image.image%_%no.such%")
    name = server.client.run(loaded)["2"]["3d"][0]["filename"]
    assert re.fullmatch(r"20\d\d-[01]\d_42_trellis2_rocket.png_%no.such%_00001_.glb", name)


def test_an_empty_name_is_no_hidden_file(server):
    for prefix, expected in (
        ("", "3d/trellis2_"),
        ("  ", "3d/trellis2_"),
        ("models/", "models/trellis2_"),
        ("a/.", "a/t"),
    ):
        (file,) = server.client.run(quick(n2_filename_prefix=prefix))["2"]["3d"]
        assert f"{file['subfolder']}/{file['filename']}".startswith(expected), prefix


NAMES = {
    "too long": ("a" * 250, "is too long: aaaaaaaaaaaaaaaaaaaa... has 250 bytes"),
    "NUL": ("a\0b", "control character"),
    "outside": ("../../x", "leads out of the output folder"),
    "absolute": ("/tmp/x", "leads out of the output folder"),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_that_cannot_work(server, case):
    prefix, message = NAMES[case]
    with pytest.raises(api().GraphError, match=message):
        server.client.run(quick(n2_filename_prefix=prefix))
    with pytest.raises(api().GraphError, match=f"validation.*filename_prefix.*{message}"):  # before anything runs
        server.client.run(graph("geometry_only", n9_filename_prefix=prefix))


def test_small_settings_are_refused_before_anything_runs(server):
    for setting, value, said in (("faces", 3, "at least 4 faces, got 3"), ("texture_size", 10, "must lie in 64-16384")):
        with pytest.raises(api().GraphError, match=said):
            server.client.run(quick(**{f"n2_{setting}": value}))


def test_a_checkpoint_counts_only_where_it_is_used(server):
    """A stale name beside connected models is no error; a linked name is looked at once it is known."""
    loaded = quick(n2_checkpoint="trellis2/gone", n2_models=["30", 0])
    loaded["30"] = node("T2LoadModels")
    assert server.run(loaded).glbs
    loaded["2"]["inputs"].pop("models")
    with pytest.raises(api().GraphError, match="There is no checkpoint 'trellis2/gone'"):
        server.run(loaded)
    for name, at in (("image_to_glb", "n2_checkpoint"), ("geometry_only", "n2_checkpoint")):
        linked = {
            **graph(name, **{at: ["40", 0]}),
            "40": {"class_type": "OtherText", "inputs": {"text": "trellis2/gone"}},
        }
        with pytest.raises(
            api().GraphError, match=r"\(2\): There is no checkpoint 'trellis2/gone'"
        ):  # said by the node
            server.run(linked)
    linked["40"]["inputs"]["text"] = "small (comes with the pack)"
    assert server.run(linked).glbs


def test_voxels_become_a_mesh_in_comfyui(server):
    loaded = graph("all_stages")
    for key in ("13", "14", "15", *(k for k, each in loaded.items() if each["class_type"] == "Preview3D")):
        loaded.pop(key, None)
    loaded = {key: each for key, each in loaded.items() if not each["class_type"].startswith(("Preview", "T2Export"))}
    loaded["50"] = node("T2VoxelsToCore", voxels=["12", 0])
    loaded["51"] = {"class_type": "VoxelToMesh", "inputs": {"voxel": ["50", 0], "algorithm": "basic", "threshold": 0.6}}
    loaded["52"] = {"class_type": "SaveGLB", "inputs": {"mesh": ["51", 0], "filename_prefix": "3d/voxels"}}
    needs(server, loaded)
    mesh = trimesh.load_mesh(io.BytesIO(server.run(loaded).glbs[0]), "glb", process=False)
    low, high = mesh.bounds
    size = high - low
    assert len(mesh.faces) > 1000 and size[1] > 1.3 * max(size[0], size[2])  # the rocket stands


def old_graphs():
    return json.loads((ROOT / "tests" / "old_graphs.json").read_text(encoding="utf-8"))["api"]


@pytest.mark.parametrize("old", old_graphs(), ids=lambda old: f"{old['name']} {old['commit']}")
def test_graphs_of_earlier_versions_are_accepted(server, old):
    """The host finds nothing wrong with any node; one is run to its end, all would take minutes."""
    loaded = old["graph"]
    needs(server, loaded)
    server.accepts(loaded)
    if (old["name"], old["commit"]) == ("geometry_only", "042788b"):
        loaded["6"]["inputs"]["resolution"] = "512"  # what the checkpoint of that name has today
        assert server.run(loaded).glbs


@pytest.fixture(scope="module")
def crowded(server, tmp_path_factory):
    """A server with two copies of the pack, an older one's route and no previews, whose user has seen the example."""
    base = tmp_path_factory.mktemp("crowded")
    packs = base / "custom_nodes"
    packs.mkdir()
    for name in ("ComfyUI-TRELLIS2-Stages", "trellis2 (copy)"):
        (packs / name).symlink_to(ROOT, target_is_directory=True)
    (packs / "zzz_older.py").write_text(OLDER_COPY)
    shutil.copytree(server.base / "user", base / "user")
    running = Server(base, "--preview-method", "none")
    yield running
    running.stop()


OLDER_COPY = """
from aiohttp import web
from server import PromptServer


@PromptServer.instance.routes.get("/trellis2/health")
async def answer(request):
    return web.json_response({"version": "older"})


NODE_CLASS_MAPPINGS = {}
"""


def test_two_copies_of_the_pack(crowded):
    """ComfyUI starts, the nodes of the first copy serve, and a line names both."""
    info, said = crowded.get("/object_info"), crowded.said()
    nodes = {name: info[name] for name in info if name.startswith("T2")}
    assert {name: served(nodes[name]) for name in nodes} == INTERFACE
    (module,) = {each["python_module"] for each in nodes.values()}
    (line,) = [line for line in said.splitlines() if "installed twice" in line]
    used, unused = line.split(" are used, ")
    assert module.removeprefix("custom_nodes.") in used
    assert all(name in line for name in ("ComfyUI-TRELLIS2-Stages", "trellis2 (copy)")) and used != unused
    assert "IMPORT FAILED" not in said and "Traceback" not in said
    assert crowded.client.health()["device"] == "cpu"  # the pack's own, not the older one's
    assert crowded.get("/api/trellis2/health")["device"] == "cpu"


def test_the_example_does_not_come_back(server, crowded):
    assert (server.base / "input" / "trellis2_rocket.png").is_file()
    assert not (crowded.base / "input" / "trellis2_rocket.png").exists()


def previews(server, loaded, method="default"):
    """The pictures that a client is sent during a run; method is what the editor's setting says."""
    import websocket

    channel = websocket.create_connection(f"ws://{server.client.server}/ws?clientId={server.client.id}")
    body = {"prompt": loaded, "client_id": server.client.id, "extra_data": {"preview_method": method}}
    server.client._json("/prompt", json.dumps(body).encode())
    pictures = []
    while True:
        message = channel.recv()
        if isinstance(message, bytes):
            start = message.find(b"\xff\xd8")  # JPEG
            pictures += [Image.open(io.BytesIO(message[start:]))] if start >= 0 else []
        elif json.loads(message)["type"] in ("execution_success", "execution_error"):
            channel.close()
            return pictures


def test_no_previews_where_none_are_wanted(server, crowded):
    shutil.copy(ROOT / "assets" / "rocket.png", crowded.base / "input" / "trellis2_rocket.png")
    assert previews(crowded, quick()) == []
    server.forget()
    shown = previews(server, quick())
    assert shown and {picture.size for picture in shown} == {(300, 300)}  # --preview-size
    server.forget()
    assert previews(server, quick(), "none") == []


WRONG_CALLS = {
    "no server": (
        ["{graph}", "{picture}", "{output}", "--server", "127.0.0.1:9"],
        1,
        "No ComfyUI answers at 127.0.0.1:9",
    ),
    "no graph": (["{folder}/no.json", "{picture}", "{output}"], 2, "The graph .*no.json cannot be read"),
    "no JSON": (["{picture}", "{picture}", "{output}"], 2, "is no graph"),
    "an editor graph": (["{editor}", "{picture}", "{output}"], 2, "editor's format.* Use .*api.image_to_glb.json"),
    "no picture": (["{graph}", "{folder}/no.png", "{output}"], 2, "There is no picture .*no.png"),
    "no folder": (["{graph}", "{picture}", "{folder}/no/x.glb"], 2, "The folder .*no does not exist"),
    "a folder as output": (["{graph}", "{picture}", "{folder}"], 2, "is a folder; name a file"),
    "no such node": (["{graph}", "{picture}", "{output}", "--set", "9.seed=7"], 2, "no node 9. It has 1 .LoadImage"),
    "no equals sign": (["{graph}", "{picture}", "{output}", "--set", "2.seed"], 2, "write NODE.INPUT=VALUE"),
    "no such input": (["{graph}", "{picture}", "{output}", "--set", "2.sed=7"], 2, "no such input. It has image, "),
    "no JSON value": (
        ["{graph}", "{picture}", "{output}", "--set", "2.texture=False"],
        2,
        "is BOOLEAN; write a JSON value",
    ),
    "no such choice": (["{graph}", "{picture}", "{output}", "--set", "2.preset=low"], 1, "preset: 'low' not in"),
}


@pytest.mark.parametrize("case", WRONG_CALLS)
def test_the_client_explains_wrong_calls(server, tmp_path, case):
    arguments, code, message = WRONG_CALLS[case]
    places = {
        "graph": GRAPHS / "image_to_glb.json",
        "editor": ROOT / "workflows" / "image_to_glb.json",
        "picture": ROOT / "assets" / "rocket.png",
        "output": tmp_path / "x.glb",
        "folder": tmp_path,
    }
    command = [sys.executable, GRAPHS / "run.py", *(each.format(**places) for each in arguments)]
    command += [] if "--server" in command else ["--server", f"http://{server.client.server}/"]
    queued = len(server.get("/history"))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code and re.search(message, done.stderr) and "Traceback" not in done.stderr, done.stderr
    assert len(server.get("/history")) == queued and not (tmp_path / "x.glb").exists()


def test_the_client_gets_the_model_every_time(server, tmp_path):
    for name in ("a.glb", "b.glb"):
        command = [sys.executable, GRAPHS / "run.py", GRAPHS / "image_to_glb.json", ROOT / "assets" / "rocket.png"]
        command += [
            tmp_path / name,
            "--server",
            server.client.server,
            "--set",
            "2.preset=draft",
            "--set",
            "2.faces=2000",
        ]
        done = subprocess.run([*command, "--set", "2.texture=false"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.glb").read_bytes() == (tmp_path / "b.glb").read_bytes() != b""


def test_the_client_makes_an_object_of_each_picture_of_a_folder(server, tmp_path):
    """One that is none is told and skipped, and what is there is not made again."""
    (tmp_path / "in").mkdir()
    for name in ("a.png", "a.PNG", "b.png"):
        shutil.copy(ROOT / "assets" / "rocket.png", tmp_path / "in" / name)
    (tmp_path / "in" / "b.png").write_text("no picture")
    command = [sys.executable, GRAPHS / "run.py", GRAPHS / "image_to_glb.json", tmp_path / "in", tmp_path / "out"]
    command += ["--server", server.client.server, "--set", "2.preset=draft", "--set", "2.texture=false"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "b.png: LoadImage (1): " in done.stderr, done.stderr
    assert "1 of 3 pictures failed" in done.stderr and "Traceback" not in done.stderr
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert sorted(path.name for path in made) == ["a_PNG.glb", "a_png.glb"]
    shutil.copy(tmp_path / "in" / "a.png", tmp_path / "in" / "b.png")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "a.png" not in done.stderr and (tmp_path / "out" / "b.glb").exists(), done.stderr
    assert all(path.stat().st_mtime_ns == changed for path, changed in made.items())
