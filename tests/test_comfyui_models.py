"""Checkpoints in a real ComfyUI: model folders, downloads, health, memory."""

import json

import pytest
from comfy_server import ROOT, Server, api, facts, graph, needs_comfyui
from comfyui_fixtures import SMALL
from comfyui_graphs import node, quick
from quantised import int8_folder

import pipeline

pytestmark = needs_comfyui
SMALL_CARD = """
import comfy.model_patcher

load = comfy.model_patcher.ModelPatcher.load


def load_a_third(self, device=None, lowvram_model_memory=0, *more, **named):
    return load(self, device, self.model_size() // 3, *more, **{**named, "full_load": False})


comfy.model_patcher.ModelPatcher.load = load_a_third
NODE_CLASS_MAPPINGS = {}
"""


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


def test_health(server):
    server.run(graph("image_to_glb"))
    health = server.client.health()
    assert health["version"] == pipeline.__version__ and health["device"] == "cpu" and health["memory_free"] > 0
    assert set(health["checkpoints"]) >= {"small (comes with the pack)", "microsoft/TRELLIS.2-4B", "trellis2/own"}
    assert health["loaded"]["small"]["sparse_structure_flow_model"] > 0
    assert health["backends"]["attention"] == "torch"
    assert str(server.base) not in json.dumps(health)
    assert "Left out of the lists of TRELLIS.2 checkpoints" in server.said()


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
