"""Every node's execute on the bundled small checkpoint, in graphs and alone, with a stub of ComfyUI in its place."""

import json
import shutil
import sys
from dataclasses import asdict
from itertools import pairwise

import host_modules
import numpy as np
import pytest
import torch
import trimesh
from comfy_server import graph
from host_fixtures import facts, saved
from host_stub import PACK
from meshes import needs_warp

from pipeline.views import NAMED_MIXING
from pipeline.warp import unavailable_reason

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
    assert asdict(condition.mixing) == asdict(NAMED_MIXING)  # of two copies of the pack
    assert ran.ui["5"]["text"][0].startswith("front, left, back")


# --- one node for everything


@pytest.fixture
def quick(host, root):
    """The bundled small checkpoint with a third of its samplers' steps, as a choice of the nodes."""
    folder = host.base / "models" / "trellis2" / "quick"
    shutil.copytree(root / "checkpoints" / "small", folder)
    description = folder / "pipeline.json"
    settings = description.read_text(encoding="utf-8")
    assert settings.count('"steps": 12') == 3
    description.write_text(settings.replace('"steps": 12', '"steps": 4'), encoding="utf-8")
    found = sys.modules[f"{PACK}.nodes.host.scan"].found
    found(fresh=0)  # a listing may be seconds old
    yield "trellis2/quick"
    shutil.rmtree(folder)
    found(fresh=0)


def test_a_node_that_expands_gives_the_file_and_moves_one_bar(host, quick):
    changes = {"n2_checkpoint": quick, "n2_faces": 3000, "n2_texture_size": 256, "n2_filename_prefix": "whole/it"}
    loaded = graph("image_to_glb", **changes)
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
    for weights, why in (("2; 1", "2 numbers for 1"), ("much", "takes numbers"), ("0", "0.001 to 1000")):
        with pytest.raises(Exception, match=why):
            host.call("T2Views", front=image, front_mask=mask, mask_marks="object", view_weights=weights)


def test_named_views_become_one_condition(host, made):
    images = torch.zeros(1, 96, 96, 3)
    images[:, 20:80, 30:70] = 0.6
    masks = (images[..., 0] > 0).float()
    given = {"front": images, "front_mask": masks, "back": images, "back_mask": masks}
    (views, *_) = host.call("T2Views", **given, mask_marks="object")
    (condition,) = host.call("T2EncodeImage", models=made["models"], image=views)
    assert type(condition) is type(made["condition"])
