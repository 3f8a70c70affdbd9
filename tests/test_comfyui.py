"""The pack inside a real ComfyUI, through its HTTP API and websocket. COMFYUI_PATH names the checkout."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from bundles import PREFIXES, bundle
from comfy_server import GRAPHS, ROOT, Server, api, facts, graph, needs, needs_comfyui
from host_stub import served
from PIL import Image
from safetensors.torch import load_file, save_file

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
    running = Server(base, "--extra-model-paths-config", str(base / "paths.yaml"))
    yield running
    running.stop()


def fill_model_folders(base: Path) -> None:
    """Checkpoints in every layout that the loader looks for."""
    models, elsewhere = base / "models", base / "elsewhere"
    shutil.copytree(SMALL, models / "trellis2" / "own")
    (elsewhere / "trellis2").mkdir(parents=True)
    (elsewhere / "trellis2" / "linked").symlink_to(SMALL, target_is_directory=True)
    damaged = shutil.copytree(SMALL, models / "trellis2" / "damaged")
    broken = damaged / "ckpts" / "sparse_structure_flow_model.safetensors"
    broken.write_bytes(broken.read_bytes()[:2000])
    (base / "paths.yaml").write_text(f"mine:\n  base_path: {elsewhere}\n  trellis2: trellis2\n")

    decoders = [prefix for prefix in PREFIXES if "dec" in prefix]
    for kind in ("diffusion_models", "vae", "clip_vision"):
        (models / kind).mkdir(parents=True)
    flows = [prefix for prefix in PREFIXES if prefix not in decoders]
    bundle(COMPLETE, models / "diffusion_models" / "flows.safetensors", flows)
    bundle(COMPLETE, models / "vae" / "decoders.safetensors", decoders)
    save_file({"unrelated": torch.zeros(3)}, models / "vae" / "unrelated.safetensors")
    (models / "vae" / "text.safetensors").write_text("not a model")
    encoder = json.loads((COMPLETE / "pipeline.json").read_text())["args"]["image_cond_model"]["args"]["model_name"]
    save_file(load_file(COMPLETE / encoder / "model.safetensors"), models / "clip_vision" / "dino.safetensors")


def test_the_nodes_are_served_as_promised(server):
    info = server.get("/object_info")
    assert {name: served(info[name]) for name in info if name.startswith("T2")} == INTERFACE
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
    run = server.run(loaded)
    assert run.glbs
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
    assert said.count("Using the small checkpoint") == 1 and "choose microsoft/TRELLIS.2-4B (16 GB download)" in said
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
    options = server.get("/object_info/T2LoadModels")["T2LoadModels"]["input"]["required"]
    assert checkpoint in str(options["checkpoint"]) and "unrelated" not in str(options["decoders"])
    loaded = graph("geometry_only", n2_checkpoint=checkpoint, **more)
    if checkpoint.startswith("trellis2"):
        assert server.run(loaded).glbs
    else:  # bundles have the released samplers and normalisation, whose 32 channels the small model lacks
        with pytest.raises(api().GraphError, match=r"\(6\): The latent has 8 channels, its normalisation 32"):
            server.run(loaded)


def test_downloads_show_progress(server_with_hub):
    server = server_with_hub
    run = server.run(graph("geometry_only", n2_checkpoint="acme/small", n5_seed=20))  # random weights: few make a face
    values = [data["value"] for kind, data in run.events if kind == "progress" and data["node"] == "2"]
    assert run.glbs and len(values) > 3 and values == sorted(values)
    assert server.client.health()["checkpoints"]["acme/small"] == "in the Hugging Face cache"
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
    assert health["version"] == "0.1.0" and health["device"] == "cpu" and health["memory_free"] > 0
    assert set(health["checkpoints"]) >= {"small (comes with the pack)", "microsoft/TRELLIS.2-4B", "trellis2/own"}
    assert health["loaded"]["small"]["sparse_structure_flow_model"] > 0
    assert health["backends"]["attention"] == "torch"


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
    "damaged file": ({"n2_checkpoint": "trellis2/damaged"}, r"T2SampleStructure.*damaged or truncated"),
    "a route that the checkpoint lacks": (
        {"n6_resolution": "1024_cascade"},
        r"T2SampleShape.*Resolution 1024_cascade needs .*1024, which small lacks.*Choose resolution 512",
    ),
    "unknown route": ({"n6_resolution": "2048_cascade"}, "2048_cascade"),
    "a socket of another type": ({"n4_models": ["3", 0]}, "received_type"),
    "steps out of range": ({"n6_max_tokens": 1}, "max_tokens"),
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
    load["inputs"]["image"] = save(server, "other.png", white.resize((32, 32)))
    with pytest.raises(api().GraphError, match="The mask is 32 x 32 pixels, the picture 64 x 64"):
        server.client.run(marked)


def test_views(server):
    """A batch is several views; masks must be one or as many."""
    views = graph("geometry_only", n3_image=["20", 0])
    views["20"] = {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["1", 0]}}
    server.forget()
    run = server.run(views)
    assert run.glbs and run.outputs["4"]["text"] == ["2 views of one object"]


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
    """A manager that leaves most of the weights elsewhere, as it does on a small card, gets the same bytes."""
    server.forget()
    reference = server.run(graph("image_to_glb")).glbs
    pack = tmp_path / "base" / "custom_nodes" / "small_card.py"
    pack.parent.mkdir(parents=True)
    pack.write_text(SMALL_CARD)
    (pack.parent / "trellis2").symlink_to(ROOT, target_is_directory=True)
    small = Server(tmp_path / "base")
    try:
        assert reference and small.run(graph("image_to_glb")).glbs == reference
        partly = [line for line in small.said().splitlines() if "loaded partially" in line]
        assert len(partly) >= 6, partly  # encoder, two flows, three decoders
    finally:
        small.stop()
