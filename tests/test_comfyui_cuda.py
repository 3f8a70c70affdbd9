"""A real ComfyUI on a GPU: the same object whatever its memory manager leaves there, interruption, kernels once."""

import json
import struct
import time

import pytest
import torch
from comfy_server import ROOT, Server, graph, needs_comfyui
from comfyui_graphs import node, quick
from test_comfyui_models import SMALL_CARD

pytestmark = [needs_comfyui, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory):
    """ComfyUI as it starts by itself on a GPU, and the folder of Triton's compiled kernels."""
    base = tmp_path_factory.mktemp("comfyui_cuda")
    running = Server(base / "base", environment={"TRITON_CACHE_DIR": str(base / "triton")}, cpu=False)
    yield running, base / "triton"
    running.stop()


def document(glb: bytes) -> tuple[dict, bytes]:
    """A GLB's JSON without what it tells of its making, and its binary part."""
    length = struct.unpack_from("<I", glb, 12)[0]
    found = json.loads(glb[20 : 20 + length])
    found["asset"].pop("extras")
    return found, glb[20 + length :]


@pytest.fixture(scope="module")
def whole(on_gpu):
    return [document(glb) for glb in on_gpu[0].run(graph("image_to_glb")).glbs]


def test_the_run_is_on_the_gpu_and_repeats_to_the_bit(on_gpu, whole):
    server, _ = on_gpu
    assert server.get("/system_stats")["devices"][0]["type"] == "cuda"
    server.forget()
    assert whole and [document(glb) for glb in server.run(graph("image_to_glb")).glbs] == whole


@pytest.mark.parametrize(
    ("flags", "small_card"),
    [(("--disable-dynamic-vram", "--highvram"), False), (("--disable-dynamic-vram",), True), (("--novram",), False)],
    ids=["whole", "partial", "streamed"],
)
def test_weights_on_and_off_the_gpu_give_the_same_bits(whole, tmp_path, flags, small_card):
    base = tmp_path / "base"
    if small_card:
        pack = base / "custom_nodes" / "small_card.py"
        pack.parent.mkdir(parents=True)
        pack.write_text(SMALL_CARD)
        (pack.parent / "trellis2").symlink_to(ROOT, target_is_directory=True)
    server = Server(base, *flags, cpu=False)
    try:
        assert [document(glb) for glb in server.run(graph("image_to_glb")).glbs] == whole
        assert not small_card or server.said().count("loaded partially") >= 6  # encoder, two flows, three decoders
    finally:
        server.stop()


def test_another_number_of_tokens_compiles_nothing(on_gpu, whole):
    server, kernels = on_gpu
    before = {path.name for path in kernels.iterdir()}
    assert before
    server.run(graph("image_to_glb", n2_seed=7))
    assert {path.name for path in kernels.iterdir()} == before


def test_a_run_is_interrupted_within_a_step(on_gpu, whole):
    server, _ = on_gpu
    loaded = graph("draft_then_cascade", n5_seed=99, n5_sampler=["90", 0], n6_sampler=["90", 0])
    loaded["90"] = node("T2SamplerSettings", steps=200, solver="heun")
    assert [loaded[each]["class_type"] for each in "56"] == ["T2SampleStructure", "T2SampleShape"]
    answer = server.client._json("/prompt", json.dumps({"prompt": loaded}).encode())
    while not server.get("/queue")["queue_running"]:
        time.sleep(0.02)
    time.sleep(0.3)
    assert server.get("/queue")["queue_running"], "it ended before it could be interrupted"
    begun = time.monotonic()
    server.client.interrupt()
    while server.get("/queue")["queue_running"]:
        assert time.monotonic() - begun < 5
        time.sleep(0.02)
    assert time.monotonic() - begun < 1
    status = server.get(f"/history/{answer['prompt_id']}")[answer["prompt_id"]]["status"]
    assert any(kind == "execution_interrupted" for kind, _ in status["messages"])
    assert server.run(quick()).glbs
