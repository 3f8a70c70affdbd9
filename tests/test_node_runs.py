"""Every node's execute on the bundled small checkpoint, in graphs and alone, with a stub of ComfyUI in its place."""

import asyncio
import dataclasses
import io
import json
import logging
import sys
import threading
from itertools import pairwise

import host_modules
import host_run
import numpy as np
import pytest
import torch
import trimesh
from comfy_server import graph
from host_run import Host
from host_stub import PACK, installed
from meshes import needs_warp
from PIL import Image

import pipeline
from pipeline.export import WRITERS
from pipeline.stages import inspect_file
from pipeline.warp import unavailable_reason

SMALL = "small (comes with the pack)"


@pytest.fixture(scope="session")
def host(tmp_path_factory):
    return Host(tmp_path_factory.mktemp("comfyui"))


@pytest.fixture(scope="session")
def ran(host):
    """The shipped graph of all stages, with few steps and small results; the structure as it is."""
    warp = not unavailable_reason()
    small = {"n13_faces": 4000, "n13_lods": "2000", "n14_texture_size": 256, "n14_normal_map": warp, "n20_size": 64}
    loaded = graph("all_stages", n9_sampler=["8", 0], n10_sampler=["8", 0], n14_occlusion=warp, n20_frames=2, **small)
    loaded["8"] = {"class_type": "T2SamplerSettings", "inputs": {"steps": 2, "guidance": 1.0}}
    if not warp:
        del loaded["20"], loaded["21"]
    return host.run(loaded, workflow={"nodes": []})


@pytest.fixture(scope="session")
def made(ran):
    """What the graph made, by name."""
    places = {"models": ("2", 0), "condition": ("4", 0), "structure": ("5", 0), "shape": ("9", 0)}
    places |= {"latent": ("10", 0), "raw": ("11", 0), "subdivision": ("11", 1), "voxels": ("12", 0)}
    places |= {"mesh": ("13", 0), "textured": ("14", 0)}
    return {name: ran.values[node][slot][0] for name, (node, slot) in places.items()}


def saved(host, ran, node):
    (file,) = [each for each in ran.ui[node]["3d"] if "LOD" not in each["filename"]]
    return host.base / "output" / file["subfolder"] / file["filename"]


# --- the graph of all stages


def test_the_graph_writes_a_textured_glb(host, ran):
    path = saved(host, ran, "15")
    (file,), (relative,) = ran.values["15"]
    assert relative == "3d/trellis2_00001_.glb" and file.get_source() == str(path) and file.format == "glb"
    (mesh,) = trimesh.load(path, process=False).geometry.values()
    assert 1000 < len(mesh.faces) <= 4000
    assert mesh.visual.material.baseColorTexture.size == (256, 256)
    level = path.with_name("trellis2_00001_LOD1.glb")
    assert level.exists() and [each["filename"] for each in ran.ui["15"]["3d"]] == [level.name, path.name]


def facts(path):
    data = path.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    return json.loads(data[20 : 20 + length])["asset"]["extras"]


def test_the_graph_travels_in_the_file(host, ran, made, monkeypatch):
    written = facts(saved(host, ran, "15"))
    assert json.loads(written["prompt"]) == ran.dynprompt.original_prompt
    assert json.loads(written["workflow"]) == {"nodes": []}
    monkeypatch.setattr(host_modules.args, "disable_metadata", True)
    _, relative = host.call("T2ExportGLB", mesh=made["mesh"], filename_prefix="%T2ExportGLB.seed%/plain")
    assert relative == "%T2ExportGLB.seed%/plain_00001_.glb" and "prompt" not in facts(host.base / "output" / relative)


def test_nodes_tell_what_they_made(ran):
    (report,), (text,) = ran.values["13"][1], ran.ui["13"]["text"]
    assert json.loads(report)["mesh"]["faces"] == len(ran.values["13"][0][0].faces)
    assert text.startswith(f"{json.loads(report)['mesh']['faces']:,} faces, ")
    assert "Levels of detail: " in text and "Repairs: " in text
    assert ran.ui["15"]["text"][0].startswith("3d/trellis2_00001_.glb, ")


def test_images_are_as_comfyui_has_them(ran):
    base_color, packed, alpha, normal = (ran.values["14"][slot][0] for slot in range(1, 5))
    for image, shape in ((base_color, (1, 256, 256, 3)), (packed, (1, 256, 256, 3)), (alpha, (1, 256, 256))):
        assert image.shape == shape and image.dtype == torch.float32 and 0 <= image.min() <= image.max() <= 1
    assert base_color.std() > 0.05 and normal.shape == (1, 256, 256, 3)
    cut, mask = (ran.values["3"][slot][0] for slot in range(2))
    assert cut.shape[1] == cut.shape[2] and mask.shape == cut.shape[:3] and 0.1 < mask.mean() < 0.9
    assert (cut[mask == 0] == 0).all()


@needs_warp
def test_a_turntable_shows_the_object_from_all_round(ran):
    image, mask = (ran.values["20"][slot][0] for slot in range(2))
    assert image.shape == (2, 64, 64, 3) and mask.shape == (2, 64, 64) and 0.05 < mask.mean() < 0.9
    assert (image[mask == 0] == 0).all() and not torch.equal(image[0], image[1])


def test_bars_only_grow_and_end_full(ran):
    bars = {}
    for node, value, total, _ in ran.messages:
        bars.setdefault(node, []).append(value / total)
    assert {"2", "3", "4", "5", "9", "10", "11", "12", "13", "14", "15"} <= set(bars)
    for node, values in bars.items():
        assert values == sorted(values) and values[-1] == 1, node


def test_previews_show_the_shape_while_it_forms(ran):
    pictures = {}
    for node, _, _, preview in ran.messages:
        if preview:
            assert preview[0] == "JPEG" and preview[1].width <= 512 and preview[2] == 512
            pictures.setdefault(node, []).append(np.asarray(preview[1]))
    assert {"5", "12"} <= set(pictures) and len(pictures["5"]) > 5
    assert any(not np.array_equal(a, b) for a, b in pairwise(pictures["5"]))
    assert unavailable_reason() or "11" in pictures


@needs_warp
def test_the_turntable_graph_gives_a_video_its_frames(host, made):
    loaded = graph("turntable_video", n14_frames=3, n14_size=64)
    kept = {name: loaded[name] for name in ("11", "14", "15", "16")}
    ran = host.run(kept, known={"11": [[made["textured"]]]})
    ((film,),) = ran.values["15"]
    assert film.images.shape == (3, 64, 64, 3) and film.frame_rate == 12
    assert len({each.numpy().tobytes() for each in film.images}) == 3


def test_the_graph_of_views_encodes_them_with_their_directions(host, made):
    loaded = graph("views_to_glb")
    ran = host.run({name: loaded[name] for name in ("1", "2", "3", "4", "5", "6")}, known={"4": [[made["models"]]]})
    views, condition = ran.values["5"][0][0], ran.values["6"][0][0]
    assert [view.name for view in views.views] == ["front", "left", "back"] and views.remarks == ()
    assert condition.views == views.views and condition.tokens[1].shape[0] == 3
    assert condition.mixing.shape == "visibility" and ran.ui["5"]["text"][0].startswith("front, left, back")


# --- one node for everything


def test_a_node_that_expands_gives_the_file_and_moves_one_bar(host):
    loaded = graph("image_to_glb", n2_faces=3000, n2_texture_size=256, n2_filename_prefix="whole/it")
    ran = host.run(loaded)
    (file,), (relative,) = ran.values["2"]
    assert relative == "whole/it_00001_.glb" and file.get_source() == str(host.base / "output" / relative)
    parts = {part: ran.dynprompt.get_node(part)["class_type"] for part in ran.dynprompt.ephemeral_parents}
    shares = sys.modules[f"{PACK}.nodes.image_to_glb"]._SHARES
    assert set(parts.values()) == {*shares, "T2GatherFiles"} and sum(shares.values()) == 100
    whole = [value for node, value, _, _ in ran.messages if node == "2"]
    assert whole == sorted(whole) and whole[0] == 0 and whole[-1] == 1000 and len(set(whole)) > 20
    written = facts(host.base / "output" / relative)
    assert written["faces"] <= 3000 and json.loads(written["prompt"]) == loaded


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n2_checkpoint": "trellis2/gone"}, "CheckpointError", "There is no checkpoint 'trellis2/gone'"),
        ({"n2_filename_prefix": "../x"}, "SettingsError", "leads out of the output folder"),
        ({"n2_texture_size": 3}, "SettingsError", "texture size must lie in"),
    ],
)
def test_what_cannot_work_is_said_before_anything_runs(host, changes, error, message):
    """Inside a subgraph ComfyUI does not ask validate_inputs."""
    loaded = graph("image_to_glb", **changes)
    errors = sys.modules[f"{PACK}.pipeline.errors"]
    with pytest.raises(getattr(errors, error), match=message):
        host.call("T2ImageToGLB", **loaded["2"]["inputs"])
    with pytest.raises((AssertionError, errors.SettingsError), match=message):  # a prefix is looked at by execute alone
        host.run(loaded)


# --- memory, cancelling


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


# --- pictures


def test_several_pictures_become_views_of_one_size(host):
    images = torch.zeros(2, 96, 128, 3)
    images[0, 30:60, 40:80], images[1, 10:90, 20:100] = 0.5, 0.8
    masks = (images[..., 0] > 0).float()
    image, mask = host.call("T2PrepareImage", image=images, mask=masks, mask_marks="object")
    assert image.shape[0] == 2 and image.shape[1] == image.shape[2] and mask.shape == image.shape[:3]
    plain, _ = host.call("T2PrepareImage", image=images[:1])  # the plain background is removed by its colour
    assert plain.max() == pytest.approx(0.5, abs=0.01)


def test_encode_sees_every_view(host, made):
    (condition,) = host.call("T2EncodeImage", models=made["models"], image=torch.rand(2, 64, 64, 3))
    one = made["condition"]
    assert type(condition) is type(one) and condition is not one


def test_views_with_directions_reach_the_samplers(host, made):
    image = torch.zeros(1, 64, 64, 3)
    image[:, 16:48, 20:44, 0] = 0.8
    mask = (image[..., 0] > 0).float()
    views, shown = host.call(
        "T2Views",
        front=image,
        front_mask=mask,
        left=image,
        left_mask=mask,
        mask_marks="object",
        texture_views="average",
        view_weights="2; 1",
    )
    assert views.mixing.weights == (2, 1)
    assert [view.name for view in views.views] == ["front", "left"] and shown.shape[0] == 2
    assert "front and left are the same picture" in views.remarks
    (condition,) = host.call("T2EncodeImage", models=made["models"], image=views)
    assert condition.views == views.views and condition.mixing.texture == "average" and len(condition.masks) == 2
    with pytest.raises(Exception, match="No view is connected"):
        host.call("T2Views")
    with pytest.raises(Exception, match="holds 0 pictures"):
        host.call("T2Views", front=image, other_views="45")
    for weights, why in (("2; 1", "2 numbers for 1"), ("much", "takes numbers"), ("0", "above 0")):
        with pytest.raises(Exception, match=why):
            host.call("T2Views", front=image, front_mask=mask, mask_marks="object", view_weights=weights)


# --- meshes


@needs_warp
@pytest.mark.parametrize("mode", ["material", "shaded", "normals", "wireframe"])
def test_a_mesh_is_drawn_in_every_mode(host, made, mode):
    image, mask, *passes, cameras = host.call("T2RenderMesh", mesh=made["textured"], mode=mode, size=64)
    assert image.shape == (1, 64, 64, 3) and 0.02 < mask.mean() < 0.9 and image.std() > 0.02
    assert all("depth_and_normals" in each.message for each in passes) and len(cameras) == 1


@needs_warp
def test_a_mesh_is_drawn_from_named_views_with_depth_and_normals(host, made):
    given = {"mesh": made["textured"], "views": "front; left; 45,20", "depth_and_normals": True, "size": 64}
    image, mask, depth, normals, cameras = host.call("T2RenderMesh", **given)
    assert image.shape == depth.shape == normals.shape == (3, 64, 64, 3) and mask.shape == (3, 64, 64)
    assert [(camera.azimuth, camera.elevation) for camera in cameras] == [(0, 0), (90, 0), (45, 20)]
    assert (depth[mask == 0] == 0).all() and 0.05 < depth[mask == 1].min() < depth[mask == 1].max() < 0.95
    assert torch.equal(depth[..., 0], depth[..., 2])
    facing = torch.tensor([0.5, 0.5, 1.0])
    assert (normals[mask == 0] == facing).all() and normals[mask == 1][:, 2].min() > 0.45
    (lone, *_) = host.call("T2RenderMesh", mesh=made["textured"], azimuth=90.0, elevation=0.0, size=64)
    assert torch.equal(lone[0], image[1])
    with pytest.raises(Exception, match="A view is front"):
        host.call("T2RenderMesh", **(given | {"views": "front; behind"}))


@needs_warp
def test_a_picture_lights_the_mesh(host, made):
    sky = torch.zeros(1, 32, 64, 3)
    sky[:, :, 8:24] = 1.0  # on the camera's left
    given = {"mesh": made["mesh"], "mode": "shaded", "size": 64, "environment": sky}
    (left, mask, *_), (right, *_) = (host.call("T2RenderMesh", **given, environment_rotation=x) for x in (0.0, 180.0))
    half = (mask[0] == 1) & (torch.arange(64) < 32)
    assert left[0][half].mean() > right[0][half].mean() + 0.05
    (bright, *_) = host.call("T2RenderMesh", **given, environment_strength=2.0)
    assert bright.mean() > 1.1 * left.mean()
    with pytest.raises(Exception, match="twice as wide"):
        host.call("T2RenderMesh", **(given | {"environment": sky[:, :, :32]}))
    with pytest.raises(Exception, match="this batch holds 2"):
        host.call("T2RenderMesh", **(given | {"environment": sky.repeat(2, 1, 1, 1)}))


def test_vertex_colours_take_the_place_of_a_texture(host, made):
    (mesh,) = host.call("T2ColorVertices", mesh=made["mesh"], voxels=made["voxels"], original=made["raw"])
    assert mesh.attrs.shape == (len(mesh.vertices), 6) and mesh.attrs.std() > 0.01 and made["mesh"].attrs is None
    (core,) = host.call("T2MeshToCore", mesh=mesh)
    assert core.vertex_colors.shape == (1, len(mesh.vertices), 3) and core.texture is None


@pytest.mark.parametrize("suffix", [suffix for suffix in WRITERS if not WRITERS[suffix].unavailable_reason()])
def test_a_mesh_is_exported_in_every_format(host, made, suffix):
    """The node's file, its size in millimetres, and what other nodes are told."""
    name = suffix.removeprefix(".")
    for kind in ("mesh", "textured"):
        file, relative = host.call(
            "T2ExportMesh", mesh=made[kind], filename_prefix=f"formats/{name}_{kind}", format=name, size="height=80mm"
        )
        path = host.base / "output" / relative
        assert path.suffix == suffix and file.get_source() == str(path) and file.format == name
        assert inspect_file(path).as_dict()["size_mm"][2] == pytest.approx(80, abs=0.01)


def test_the_mesh_report_is_that_of_the_mesh(host, made):
    for kind in ("mesh", "textured"):
        (report,) = host.call("T2MeshReport", mesh=made[kind], size="80mm", density=2.0)
        assert "80 " in report and " mm (Z up)" in report and "overhangs" in report
        assert f"{len(made['mesh'].faces):,} faces" in report


def test_a_state_is_saved_and_opened(host, made):
    """All that was made, and a part of it; another graph goes on with it as with the values themselves."""
    given = {"condition": made["condition"], "structure": made["structure"], "shape": made["shape"]}
    given |= {"texture": made["latent"], "subdivision": made["subdivision"], "mesh": made["raw"]}
    (path,) = host.call("T2SaveState", filename_prefix="states/all", voxels=made["voxels"], **given)
    assert path == "states/all_00001_.safetensors" and (host.base / "output" / path).exists()
    opened = host.call("T2OpenState", path=path)
    assert opened[2].pipeline_type == made["shape"].pipeline_type
    (again,) = host.call("T2DecodeTexture", models=made["models"], texture=opened[3], subdivision=opened[4])
    assert torch.equal(again.sparse.feats, made["voxels"].sparse.feats)
    assert torch.equal(opened[6].sparse.feats, made["voxels"].sparse.feats)
    assert torch.equal(opened[5].vertices, made["raw"].vertices) and opened[5].origin == made["raw"].origin
    (path,) = host.call("T2SaveState", filename_prefix="states/mesh", mesh=made["raw"])
    opened = host.call("T2OpenState", path=path)
    assert "holds no voxels; it has mesh" in opened[6].message and torch.equal(opened[5].faces, made["raw"].faces)
    errors = sys.modules[f"{PACK}.pipeline.errors"]
    for bad, said in (
        ("../x.safetensors", "There is no"),
        ("x.ckpt", "ends in .safetensors"),
        ("none.safetensors", "There is no"),
    ):
        with pytest.raises(errors.StateError, match=said):
            host.call("T2OpenState", path=bad)


def test_a_start_takes_the_place_of_noise(host, made):
    """At strength 0 the shape and the texture are the start's; above it they leave it."""
    common = {"models": made["models"], "condition": made["condition"]}
    (kept,) = host.call("T2SampleShape", **common, start=made["shape"], strength=0.0)
    assert torch.equal(kept.latent.sparse.feats, made["shape"].latent.sparse.feats)
    sampler = host.call("T2SamplerSettings", steps=2, guidance=1.0)[0]
    (moved,) = host.call("T2SampleShape", **common, sampler=sampler, start=made["shape"], strength=0.5)
    assert torch.equal(moved.latent.sparse.voxels.coords, made["shape"].latent.sparse.voxels.coords)
    assert not torch.equal(moved.latent.sparse.feats, made["shape"].latent.sparse.feats)
    (texture,) = host.call("T2SampleTexture", **common, shape=made["shape"], start=made["latent"], strength=0.0)
    torch.testing.assert_close(texture.sparse.feats, made["latent"].sparse.feats, atol=1e-5, rtol=1e-5)
    errors = sys.modules[f"{PACK}.pipeline.errors"]
    with pytest.raises(errors.SettingsError, match="needs a structure, or a start"):
        host.call("T2SampleShape", **common)


def test_a_mesh_goes_to_comfyui_and_back(host, made):
    (core,) = host.call("T2MeshToCore", mesh=made["mesh"])
    assert core.vertices.shape[0] == 1 and core.faces.dtype == torch.int64
    assert torch.equal(core.vertices[0, :, 1], made["mesh"].vertices[:, 2])  # Y up
    (back,) = host.call("T2MeshFromCore", core_mesh=core)
    assert torch.equal(back.vertices, made["mesh"].vertices) and torch.equal(back.faces, made["mesh"].faces.int())


def test_uvs_and_textures_go_along(host, made):
    (core,) = host.call("T2MeshToCore", mesh=made["textured"])
    level = made["textured"].levels[0]
    assert torch.equal(core.uvs[0], level.uvs) and core.texture.shape == (1, 256, 256, 3)
    assert core.metallic_roughness.shape == (1, 256, 256, 3) and core.normals.shape == core.vertices.shape
    assert unavailable_reason() or (core.tangents.shape == (1, len(level.uvs), 4) and core.occlusion_in_mr)
    (mesh,) = host.call("T2MeshFromCore", core_mesh=core)
    textured = host.call("T2BakeTexture", mesh=mesh, voxels=made["voxels"], texture_size=256, keep_uvs=True)[0]
    assert torch.equal(textured.levels[0].uvs, level.uvs)


def test_an_older_comfyui_gets_what_it_knows(host, made, monkeypatch):
    types = sys.modules[f"{PACK}.nodes.convert"]._core_type
    monkeypatch.setitem(types.__globals__, "_core_type", lambda name: Old)
    (mesh,) = host.call("T2MeshToCore", mesh=made["textured"])
    assert mesh.given[0].shape[0] == 1 and len(mesh.given) == 2
    (voxels,) = host.call("T2VoxelsToCore", voxels=made["voxels"])
    assert voxels.given[0].ndim == 4 and voxels.given[0].sum() > 100


class Old:
    """MESH of two tensors and VOXEL of one, as before 2026."""

    def __init__(self, *given):
        if len(given) == 3:
            raise TypeError
        self.given = given


def test_voxels_go_to_comfyui_both_as_rows_and_as_a_grid(host, made):
    (voxel,) = host.call("T2VoxelsToCore", voxels=made["voxels"])
    count = len(made["voxels"].sparse.feats)
    assert voxel.data.shape == (count, 4) and voxel.voxel_colors.shape == (count, 6)
    (grid,) = list(voxel.data)
    assert grid.ndim == 3 and 0 < grid.sum() <= count and set(grid.unique().tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        (torch.zeros(2, 4, 3), torch.zeros(2, 1, 3, dtype=torch.int64), "holds 2 meshes"),
        (torch.zeros(1, 4, 3), torch.zeros(1, 0, 3, dtype=torch.int64), "has no faces"),
        (torch.zeros(1, 4, 3), torch.full((1, 1, 3), 4), "name vertices 4 to 4; it has 4"),
    ],
)
def test_a_mesh_that_is_none_is_refused(host, vertices, faces, message):
    import host_api

    errors = sys.modules[f"{PACK}.pipeline.errors"]
    with pytest.raises(errors.PipelineError, match=message):
        host.call("T2MeshFromCore", core_mesh=host_api.MESH(vertices, faces))


def test_padded_meshes_are_cut(host):
    import host_api

    counts = {"vertex_counts": torch.tensor([3]), "face_counts": torch.tensor([1])}
    core = host_api.MESH(torch.rand(1, 5, 3), torch.tensor([[[0, 1, 2], [0, 0, 0]]]), **counts)
    (mesh,) = host.call("T2MeshFromCore", core_mesh=core)
    assert len(mesh.vertices) == 3 and len(mesh.faces) == 1


def test_a_mesh_is_written_in_other_formats(host, made):
    for format in ("obj", "ply", "stl"):
        _, relative = host.call("T2ExportMesh", mesh=made["mesh"], format=format, filename_prefix="formats/mesh")
        read = trimesh.load_mesh(host.base / "output" / relative, process=False)
        assert len(read.faces) == len(made["mesh"].faces)


def test_a_report_says_what_the_mesh_is_like(host, made):
    ran = host.call("T2MeshReport", mesh=made["mesh"])
    texts = [each for each in ran if isinstance(each, str)]
    assert any(f"{len(made['mesh'].faces):,} faces" in text for text in texts)


def test_named_views_become_one_condition(host, made):
    images = torch.zeros(1, 96, 96, 3)
    images[:, 20:80, 30:70] = 0.6
    masks = (images[..., 0] > 0).float()
    given = {"front": images, "front_mask": masks, "back": images, "back_mask": masks}
    (views, *_) = host.call("T2Views", **given, mask_marks="object")
    (condition,) = host.call("T2EncodeImage", models=made["models"], image=views)
    assert type(condition) is type(made["condition"])


# --- the pack in the server


class Server:
    """As much of PromptServer as routes and texts need."""

    client_id = "editor"

    def __init__(self, web):
        self.routes, self.app, self.texts = web.RouteTableDef(), web.Application(), []

    def send_progress_text(self, text, node_id, sid=None):
        self.texts.append((text, node_id))


def test_the_extension_offers_all_nodes_pictures_and_health(host, made, monkeypatch):
    import asyncio
    from importlib import import_module

    from aiohttp import web

    server = Server(web)
    monkeypatch.setattr(host_modules.PromptServer, "instance", server)
    with installed():
        classes = asyncio.run(import_module(f"{PACK}.nodes").load().get_node_list())
        health = import_module(f"{PACK}.nodes.host.health")
        report = asyncio.run(health.report())
        import_module(f"{PACK}.nodes.host.routes").add_once("/trellis2/health", None)  # there already
    assert {each.GET_SCHEMA().node_id for each in classes} == set(host.nodes)
    paths = {resource.canonical for resource in server.app.router.resources()}
    assert paths == {"/trellis2/health", "/api/trellis2/health"}
    assert report["version"] == pipeline.__version__ and report["device"] == "cpu" and SMALL in report["checkpoints"]
    assert "small" in report["loaded"] and json.dumps(report)
    offered = {path.name for path in (host.base / "input").iterdir()}
    assert offered == set(host.part("pictures").EXAMPLES)


def test_a_second_copy_stays_out_of_the_way(host, monkeypatch, caplog):
    other = type("Other", (), {"__module__": "elsewhere.nodes.loading"})
    monkeypatch.setitem(vars(host_modules.by_name()["nodes"])["NODE_CLASS_MAPPINGS"], "T2LoadModels", other)
    with installed():
        from importlib import import_module

        copies = import_module(f"{PACK}.nodes.host.copies")
        assert copies.in_use(PACK, host.base) and "is installed twice" in caplog.text
        classes = list(host.nodes.values())
        assert len(copies.free_ids(classes, PACK)) == len(classes) - 1
        assert "Another pack has nodes of these ids, which it keeps: T2LoadModels." in caplog.text


def test_previews_are_left_out_where_nobody_wants_them(host, monkeypatch):
    progress = host.part("progress")
    with installed():
        monkeypatch.setattr(progress, "_none_on_the_command_line", lambda: True)
        assert not progress.Progress().pictures
        monkeypatch.setattr(host_modules.args, "preview_method", host_modules.LatentPreviewMethod.Auto)
        assert progress.Progress().pictures


def test_a_saved_picture_comes_back_as_it_was(host):
    values = torch.randint(0, 256, (1, 8, 8, 3)).float() / 255
    pictures = host.part("pictures")
    buffer = io.BytesIO()
    pictures.to_pil(values)[0].save(buffer, "PNG")
    assert torch.equal(pictures.to_image([Image.open(buffer)]), values)


# --- a folder of pictures


@pytest.fixture
def folder(host, picture):
    """Pictures in the input folder: two of one name, one in a subfolder, one damaged, one without an object."""
    place = host.base / "input" / "many"
    (place / "sub").mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "a.jpg", "sub/b.png"):
        (place / name).write_bytes(picture.read_bytes())
    (place / "bad.png").write_bytes(picture.read_bytes()[:400])
    Image.new("RGBA", (64, 64)).save(place / "empty.png")
    return place


def test_a_folder_is_a_list_and_bad_pictures_are_told(host, folder, picture):
    images, names, report = host.call("T2LoadPictures", folder="many", prefix="x/")
    assert names == ["x/a", "x/a_png", "x/sub/b"]
    first, *lines = report.splitlines()
    assert first == "3 of 5 pictures" and len(lines) == 2
    assert "bad.png cannot be read" in lines[0] and "The picture is empty" in lines[1]
    # what follows sees the same as if it had the picture itself
    with Image.open(picture) as opened:
        values = torch.from_numpy(np.asarray(opened.convert("RGBA")).astype(np.float32) / 255)[None]
    expected, _ = host.call("T2PrepareImage", image=values)
    for image in images:
        assert torch.equal(host.call("T2PrepareImage", image=image)[0], expected)


def test_a_folder_that_changes_is_loaded_again(host, folder, picture):
    node = host.nodes["T2LoadPictures"]
    with installed():
        before = node.fingerprint_inputs(folder="many")
        assert node.fingerprint_inputs(folder="many") == before
        (folder / "later.png").write_bytes(picture.read_bytes())
        assert node.fingerprint_inputs(folder="many") != before
        (folder / "later.png").unlink()


@pytest.mark.parametrize(
    ("folder_given", "prefix", "message"),
    [
        ("../output", "3d/", "leads out of ComfyUI's input folder"),
        ("/etc", "3d/", "leads out of ComfyUI's input folder"),
        ("absent", "3d/", "There is no folder 'absent'"),
        ("hollow", "3d/", "There is no picture in"),
        ("many", "../../", "leads out of the output folder"),
    ],
)
def test_a_folder_that_cannot_be_loaded(host, folder, folder_given, prefix, message):
    (host.base / "input" / "hollow").mkdir(exist_ok=True)
    with installed():
        answer = host.nodes["T2LoadPictures"].validate_inputs(folder=folder_given, prefix=prefix)
    assert message in answer
    with pytest.raises(Exception, match=message) as raised:
        host.call("T2LoadPictures", folder=folder_given, prefix=prefix)
    assert type(raised.value).__name__ == "SettingsError"


def test_a_list_that_memory_cannot_hold(host, folder, monkeypatch):
    monkeypatch.setattr(sys.modules[f"{PACK}.nodes.load_pictures"], "free_memory", lambda: 100_000_000)
    with pytest.raises(Exception, match=r"5 pictures can take 0.1 GB as a list; 0.1 GB of memory are free") as raised:
        host.call("T2LoadPictures", folder="many")
    assert type(raised.value).__name__ == "SettingsError"


def test_a_list_of_names_reaches_the_node_that_writes(host):
    """As a link, like the list of pictures: resolved, it would make every object once for each name."""
    given = {"image": ["1", 0], "filename_prefix": ["1", 1]}
    prompt = {"2": {"class_type": "T2ImageToGLB", "inputs": {**given, "checkpoint": SMALL}}}
    schema = host.nodes["T2ImageToGLB"].GET_SCHEMA()
    assert {each.id for each in schema.inputs if each.extra_dict.get("rawLink")} >= set(given)
    run = host_run._Run(host, prompt, {})
    with installed():
        made = asyncio.run(run.called("2", host.nodes["T2ImageToGLB"], prompt["2"]["inputs"]))
    (export,) = [node for node in made.expand.values() if node["class_type"] == "T2ExportGLB"]
    assert export["inputs"]["filename_prefix"] == ["1", 1]


@needs_warp
def test_a_picture_is_projected(host, made):
    """The shipped graph's node, with a mesh of few steps, which looks like nothing: any silhouette will do."""
    inputs = graph("project_texture", n23_min_iou=0.0)["23"]["inputs"]
    picture = torch.rand(1, 300, 200, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 300, 200)
    mask[:, 40:260, 30:170] = 0  # as Load Image marks the background
    inputs |= {"textured_mesh": made["textured"], "image": picture, "mask": mask, "views": "front", "largest": 512}
    found, colour = host.call("T2ProjectTexture", **inputs)
    before = made["textured"].maps
    assert colour.shape == (1, *found.maps.shape[:2], 3) and len(found.maps) in (256, 512)
    assert found.facts["projected"][0]["share"] > 0.02 and "projected" not in made["textured"].facts
    assert len(before) == 256 and not np.array_equal(
        before[:, :, :3], found.maps[:: len(found.maps) // 256, :: len(found.maps) // 256, :3]
    )
    with pytest.raises(host.part("run").PipelineError, match="as many cameras"):
        host.call("T2ProjectTexture", **inputs, cameras=())
    with pytest.raises(host.part("run").PipelineError, match=r"Picture 1 does not fit the object.* 0\.99"):
        host.call("T2ProjectTexture", **{**inputs, "min_iou": 0.99})


@needs_warp
def test_rendered_views_are_projected_back_from_their_cameras(host, made):
    """Silhouettes overlap almost entirely, so that pictures and cameras are of one convention."""
    image, mask, *_, cameras = host.call("T2RenderMesh", mesh=made["textured"], mode="base_color", frames=2, size=128)
    inputs = {"image": image, "mask": mask, "mask_marks": "object", "cameras": cameras}
    found, _ = host.call("T2ProjectTexture", textured_mesh=made["textured"], **inputs, min_iou=0.5, largest=256)
    assert [each["iou"] > 0.85 and not each["fitted"] for each in found.facts["projected"]] == [True, True]
