"""Nodes and memory: layers that are cast, loading, cancelling, rungs of the ladder. With a stub of ComfyUI."""

import dataclasses
import logging
import sys
import threading

import host_modules
import pytest
import torch
from host_fixtures import SMALL, facts
from host_stub import PACK


def test_layers_that_do_not_fit_are_cast_and_give_the_same_bits(host, made):
    """As on a card that has room for a third of each model."""
    (again,) = host.call("T2SampleTexture", models=made["models"], condition=made["condition"], shape=made["shape"])
    host_modules.small_card(1 / 3)
    host_modules.calls.clear()
    try:
        (cast,) = host.call("T2SampleTexture", models=made["models"], condition=made["condition"], shape=made["shape"])
        loaded = made["models"].loaded()
    finally:
        host_modules.small_card(1.0)
    assert torch.equal(cast.sparse.feats, again.sparse.feats)
    layers = [layer for patcher in made["models"]._patchers.values() for layer in patcher.model.modules()]
    bases = {base.__module__ for layer in layers for base in type(layer).__mro__}
    assert not [module for module in bases if ".nodes." in module]  # their classes are the library's own
    assert sum(name == "uncast_bias_weight" for name, _ in host_modules.calls) > 20
    sizes = {role: patcher.model_size() for role, patcher in made["models"]._patchers.items()}
    (role,) = [role for role in loaded if loaded[role] < 0.9 * sizes[role]]
    assert role.startswith("tex_slat") and 0.1 < loaded[role] / sizes[role] <= 1 / 3


def test_out_of_memory_unloads_everything_and_tries_once_more(host, made, monkeypatch, caplog):
    stages = sys.modules[f"{PACK}.pipeline.stages"]
    decode, tries = stages.decode_texture, []

    def fails_once(runtime, *inputs):
        tries.append(1)
        with runtime.stage("decode texture", 1, "Ask for less."):
            if len(tries) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(runtime, *inputs)

    monkeypatch.setattr(stages, "decode_texture", fails_once)
    host_modules.calls.clear()
    inputs = {"models": made["models"], "texture": made["latent"], "subdivision": made["subdivision"]}
    (voxels,) = host.call("T2DecodeTexture", **inputs)
    assert torch.equal(voxels.sparse.feats, made["voxels"].sparse.feats) and len(tries) == 2
    assert ("unload_all_models", ()) in host_modules.calls and ("soft_empty_cache", ()) in host_modules.calls
    assert "Unloading all models and trying once more. Memory plan tiled: " in caplog.text
    said = "Memory ran out in decode texture. Memory plan tiled: one network at a time, decoders in tiles"
    assert voxels.origin.notes.startswith(said) and not made["voxels"].origin.notes
    (colored,) = host.call("T2ColorVertices", mesh=made["mesh"], voxels=voxels)
    assert colored.facts["warnings"][-1].startswith(said)  # which a file says too
    _, relative = host.call("T2ExportGLB", mesh=colored)
    assert facts(host.base / "output" / relative)["record"]["warnings"][-1].startswith(said)


def test_memory_that_does_not_suffice_at_all_says_what_was_tried(host, made, monkeypatch):
    def fails(runtime, *inputs):
        with runtime.stage("decode texture", 1, "Choose a lower type."):
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sys.modules[f"{PACK}.pipeline.stages"], "decode_texture", fails)
    error = sys.modules[f"{PACK}.pipeline.errors"].OutOfMemoryError
    with pytest.raises(error, match="Choose a lower type. All memory plans were tried: one-at-a-time, tiled."):
        host.call("T2DecodeTexture", models=made["models"], texture=made["latent"], subdivision=made["subdivision"])


def test_the_ladder_on_a_gpu(host, monkeypatch):
    """Weights are the host's to stream: for that it is told that the work needs all of the device."""
    run, memory = (sys.modules[f"{PACK}.nodes.host.{name}"] for name in ("run", "memory"))
    (models,) = host.call("T2LoadModels")
    asked = {}
    for rung in run.RUNGS:
        runtime = memory.HostRuntime(models.backends, lambda step: None, rung=rung)
        host_modules.calls.clear()
        with runtime.use(models, "shape_slat_decoder", 1000):
            asked[rung.name] = host_modules.calls[-1][1][1], runtime.free_bytes()
    total, free = host_modules.get_total_memory(), host_modules.get_free_memory() - host_modules.extra_reserved_memory()
    assert asked["streamed"] == (total, free // 2) and asked["tiled"][1] == int(0.75 * free)
    assert asked["one-at-a-time"][1] == free and asked["one-at-a-time"][0] < total
    monkeypatch.setattr(run.management, "get_torch_device", lambda: torch.device("cuda"))
    assert [rung.name for rung in run.rungs_of(True)] == ["one-at-a-time", "tiled", "streamed"]
    assert [rung.name for rung in run.rungs_of(False)] == ["one-at-a-time", "cpu-finish"]


def test_a_shape_says_its_size_and_what_was_lowered(host, ran, made):
    report = sys.modules[f"{PACK}.nodes.host.report"]
    shape = made["shape"].latent
    size = f"{len(shape.sparse.voxels):,} latent voxels, {shape.resolution} voxels a side"
    assert ran.ui["9"]["text"] == [size]
    lower = dataclasses.replace(shape, origin=shape.origin.noted("The shape has 8 voxels a side in place of 9."))
    assert report.latent_line(lower) == f"{size}\n! The shape has 8 voxels a side in place of 9."


def test_the_next_network_is_read_while_one_works(host, monkeypatch):
    ahead, spec = (sys.modules[f"{PACK}.pipeline.{name}"] for name in ("weights.ahead", "spec"))
    read = []
    monkeypatch.setattr(ahead, "_read", lambda path, begin, end: read.append(path))
    (models,) = host.call("T2LoadModels")
    host.call("T2EncodeImage", models=models, image=torch.rand(1, 64, 64, 3))
    assert settled(read) == [models.checkpoint.files(spec.STRUCTURE_FLOW).path]
    memory = sys.modules[f"{PACK}.nodes.host.memory"]
    runtime = memory.HostRuntime(models.backends, lambda step: None)
    models.announce(models.checkpoint.default_pipeline_type, spec.SHAPE_FLOW_512)
    with runtime.use(models, spec.SHAPE_FLOW_512, 1):
        assert settled(read)[1:] == [models.checkpoint.files(spec.SHAPE_DECODER).path]
    models.patcher(spec.TEXTURE_DECODER)
    with runtime.use(models, spec.SHAPE_DECODER, 1):
        assert settled(read)[2:] == [models.checkpoint.files(spec.TEXTURE_FLOW_512).path]
    with runtime.use(models, spec.TEXTURE_FLOW_512, 1):
        assert len(settled(read)) == 3  # the last one is loaded already


def settled(read):
    """What was read ahead, when every thread has read."""
    for thread in threading.enumerate():
        if thread.name == "trellis2 read ahead":
            thread.join(10)
    return read


def test_cancel_stops_a_stage(host, made):
    host_modules.interrupt_current_processing()
    with pytest.raises(host_modules.InterruptProcessingException):
        host.call("T2SampleTexture", models=made["models"], condition=made["condition"], shape=made["shape"])


def test_models_ask_for_the_memory_of_their_work(host, made):
    host_modules.calls.clear()
    host.call("T2DecodeShape", models=made["models"], shape=made["shape"])
    ((patchers, memory),) = [value for name, value in host_modules.calls if name == "load_models_gpu"]
    assert len(patchers) == 1 and memory > 1e6


# --- loading


def test_load_models_says_what_it_opened(host, caplog):
    caplog.set_level(logging.INFO)
    (models,) = host.call("T2LoadModels")
    assert "Using the bundled small checkpoint" in caplog.text and models.checkpoint.name == "small"
    node = host.nodes["T2LoadModels"]
    assert node.fingerprint_inputs() == node.fingerprint_inputs(SMALL) and node.fingerprint_inputs(None) == ""
    assert "no checkpoint 'nowhere'" in node.validate_inputs("nowhere") and node.validate_inputs(None) is True


def test_comfyuis_attention_gives_nearly_the_same(host, made):
    (models,) = host.call("T2LoadModels", attention="comfyui", precision="float32")
    (sampler,) = host.call("T2SamplerSettings", steps=1, guidance=1.0)
    results = []
    for each in (models, made["models"]):
        shared = {"condition": made["condition"], "shape": made["shape"], "sampler": sampler}
        results.append(host.call("T2SampleTexture", models=each, **shared)[0].sparse.feats)
    assert models.backends.used["attention"] == "comfyui" and made["models"].backends.used["attention"] != "comfyui"
    # two orders of the same sums, on an x86-64 CPU
    assert (results[0] - results[1]).abs().max() < 1e-4 * results[1].abs().max()


def test_a_speed_of_the_models_is_the_samplers(host, made, caplog):
    caplog.set_level(logging.INFO)
    (models,) = host.call("T2LoadModels", speed="fast")
    (sampler,) = host.call("T2SamplerSettings", steps=5, guidance=1.0)
    host.call("T2SampleTexture", models=models, condition=made["condition"], shape=made["shape"], sampler=sampler)
    assert "1 predicted passes" in caplog.text  # the third of five
