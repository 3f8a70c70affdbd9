"""Whole runs of the command line: golden results, files, views, the same bytes for the same seed."""

import json
import re

import numpy as np
import pytest
import torch
import trimesh
from meshes import needs_warp
from PIL import Image
from safetensors import safe_open

from pipeline.export.files import writing

EXACT = ("structure_coords", "shape_slat.coords", "voxel.coords", "faces")
# fp32 on the same CPU family; the golden voxel attributes are stored in fp16
CLOSE = {"shape_slat.feats": 1e-4, "tex_slat.feats": 1e-4, "vertices": 1e-5, "voxel.attrs": 2e-3}


def state_of(path):
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()


@pytest.mark.parametrize("kind", ["512", "1024", "1024_cascade"])
def test_golden_pipeline(run, golden, picture, checkpoint, tmp_path, kind):
    data, state = golden(f"pipeline_{kind}"), tmp_path / "state.safetensors"
    facts = data.facts
    options = ("--checkpoint", checkpoint, "--type", facts["pipeline_type"], "--seed", facts["seed"])
    options += ("--max-tokens", facts["max_num_tokens"], "--device", "cpu", "--save-state", state)
    code, _, err = run("generate", picture, *options)
    assert code == 0, err
    tensors, settings = state_of(state)
    assert set(tensors) == {*EXACT, *CLOSE}
    for name in EXACT:
        assert tensors[name].dtype == torch.int32 and torch.equal(tensors[name], data[f"out.{name}"]), name
    for name, tolerance in CLOSE.items():
        assert tensors[name].dtype == torch.float32 and tensors[name].shape == data[f"out.{name}"].shape
        assert (tensors[name] - data[f"out.{name}"]).abs().max() <= tolerance, name
    assert json.loads(settings["pipeline_type"]) == kind and json.loads(settings["seed"]) == facts["seed"]
    assert json.loads(settings["resolution"]) == int(facts["resolution"])


@needs_warp
def test_a_glb_from_the_small_checkpoint(rocket):
    """The README's first command, with every output."""
    glb, state, report = (rocket / name for name in ("rocket.glb", "rocket.safetensors", "rocket.json"))
    out = (rocket / "rocket.txt").read_text(encoding="utf-8")
    (said,) = [line for line in out.splitlines() if "small checkpoint" in line]
    assert "trained on simple" in said and "--checkpoint microsoft/TRELLIS.2-4B" in said
    (mesh,) = trimesh.load(glb, process=False).geometry.values()
    facts = json.loads(report.read_text())
    assert facts["checkpoint"] == "small" and facts["pipeline_type"] == "512" and facts["resolution"] == 128
    assert len(mesh.faces) == facts["faces"] > 1000 and mesh.visual.material.baseColorTexture.size == (1024, 1024)
    raw = state_of(state)[0]
    assert facts["raw_faces"] == len(raw["faces"]) and facts["voxels"] == len(raw["voxel.coords"])
    assert facts["shells"]["chosen"] == "solid" and facts["mesh"]["watertight"] and facts["faces"] <= 120_000
    assert np.abs(mesh.bounds).max() <= 0.51
    names = [stage["stage"] for stage in facts["stages"]]
    assert names[0] == "encode" and names[-4:] == ["process mesh", "unwrap", "bake", "export"]
    assert all(stage["seconds"] >= 0 and stage["peak_bytes"] > 0 for stage in facts["stages"])
    assert facts["backends"]["unwrap"] == "warp" and facts["device"] == "cpu"
    for name in names:  # the table a user sees
        assert re.search(rf"^\| {name} \| [\d.]+ \| [\d.]+ \| [\d.]+ GB \|$", out, re.MULTILINE), name
    assert f"{facts['faces']:,} faces" in out and str(glb) in out


def test_geometry_only_and_views(run, picture, checkpoint, tmp_path):
    glb, state = tmp_path / "plain.glb", tmp_path / "plain.safetensors"
    options = ("--checkpoint", checkpoint, "--type", "1024", "--geometry-only", "--output", glb, "--save-state", state)
    code, out, err = run("generate", picture, picture, *options)
    assert code == 0, err
    assert "2 pictures, taken for 2 views of one object" in out
    assert "tex_slat.feats" not in state_of(state)[0]
    (mesh,) = trimesh.load(glb, process=False).geometry.values()
    assert len(mesh.faces) and mesh.visual.material.baseColorTexture is None


def test_the_same_seed_gives_the_same_bytes(run, cli, picture, checkpoint, tmp_path):
    """Twice in one process, and in another one."""
    outputs, kind = [], ("--checkpoint", checkpoint, "--type", "1024")
    kind += ("--structure-steps", 2, "--shape-steps", 2, "--texture-steps", 2)
    for name, call in (("a", run), ("b", run), ("c", cli)):
        (tmp_path / name).mkdir()
        glb, state = tmp_path / name / "x.glb", tmp_path / name / "x.safetensors"
        options = (*kind, "--output", glb, "--save-state", state, "--texture-size", 64)
        done = call("generate", picture, *options)
        assert (done[0] if call is run else done.returncode) == 0
        outputs.append((glb.read_bytes(), state.read_bytes()))
    assert outputs[0] == outputs[1] == outputs[2]


def test_a_mask_is_the_cut_out(run, picture, checkpoint, tmp_path):
    """A picture on a background with a mask gives what the same picture with alpha gives."""
    with Image.open(picture) as image:
        background = Image.new("RGB", image.size, (9, 200, 40))
        alpha = image.getchannel("A").point(lambda a: 255 if a == 255 else 0)
        background.paste(image.convert("RGB"), mask=alpha)
        cut = image.convert("RGB")
        cut.putalpha(alpha)
    for name, one in (("photo.png", background), ("mask.png", alpha), ("cut.png", cut)):
        one.save(tmp_path / name)
    states = []
    steps = ("--checkpoint", checkpoint, "--type", "1024")
    steps += ("--structure-steps", 1, "--shape-steps", 1, "--texture-steps", 1)
    for options in (("photo.png", "--mask", tmp_path / "mask.png"), ("cut.png",)):
        state = tmp_path / "state.safetensors"
        code, _, err = run("generate", tmp_path / options[0], *options[1:], *steps, "--save-state", state)
        assert code == 0, err
        states.append(state_of(state)[0])
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_sampler_settings_change_the_result(run, picture, checkpoint, tmp_path):
    """Steps are counted in the report; a solver of two passes gives another structure latent, the same kind of file."""
    states = []
    for name, options in (("a", ("--structure-steps", 2)), ("b", ("--structure-steps", 2, "--solver", "heun"))):
        state = tmp_path / f"{name}.safetensors"
        kind = ("--checkpoint", checkpoint, "--type", "1024", "--geometry-only")
        code, _, err = run("generate", picture, *kind, *options, "--save-state", state)
        assert code == 0, err
        states.append(state_of(state))
    (one, first), (other, second) = states
    assert json.loads(first["samplers"])["structure"]["steps"] == 2 and set(json.loads(first["samplers"])) == {
        "structure"
    }
    assert json.loads(second["samplers"])["shape"]["solver"] == "heun"
    assert one["shape_slat.feats"].shape != other["shape_slat.feats"].shape or not torch.equal(
        one["shape_slat.feats"], other["shape_slat.feats"]
    )


def test_a_mesh_without_faces_writes_no_glb_but_the_state(run, picture, checkpoint, tmp_path):
    """The golden 512 run has no faces: said plainly, and what was made until then is kept."""
    glb, state = tmp_path / "x.glb", tmp_path / "x.safetensors"
    options = ("--checkpoint", checkpoint, "--type", "512", "--output", glb, "--save-state", state)
    code, _, err = run("generate", picture, *options)
    assert code == 1 and "error: The mesh has no faces" in err and "Try another seed or resolution" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.safetensors"]


def test_an_output_that_cannot_be_written_does_not_cost_the_others(run, picture, checkpoint, tmp_path, monkeypatch):
    """As on a disk that gets full."""

    def refuse(path, tensors, settings):
        with writing(path):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.stages.state.save_state", refuse)
    outputs = [tmp_path / name for name in ("x.glb", "x.json")]
    options = (
        "--checkpoint",
        checkpoint,
        "--type",
        "1024",
        "--geometry-only",
        "--save-state",
        tmp_path / "x.safetensors",
    )
    code, out, err = run("generate", picture, *options, "--output", outputs[0], "--report", outputs[1])
    assert code == 1 and "error: " in err and "x.safetensors could not be written: No space left on device." in err
    assert sorted(tmp_path.iterdir()) == outputs and f"{outputs[0]}, {outputs[1]} in " in out
    assert json.loads(outputs[1].read_text())["outputs"] == [str(path) for path in outputs]
