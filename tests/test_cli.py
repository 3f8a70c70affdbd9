"""The command line as users and other tools call it."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from meshes import needs_warp
from PIL import Image
from safetensors import safe_open

from pipeline.cli import generate as command
from pipeline.cli.main import main as program
from pipeline.cli.main import parser
from pipeline.cli.options import pictures
from pipeline.cli.samplers import samplers
from pipeline.console import Bars
from pipeline.export.files import writing
from pipeline.runtime import Step
from pipeline.weights import open_checkpoint

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


@pytest.mark.parametrize("option", ["--type", "--pipeline-type"])
def test_the_pipeline_type_has_two_spellings(option):
    assert parser().parse_args(["generate", "a.png", option, "1024_cascade"]).type == "1024_cascade"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--hollow", "-2mm", "A thickness of -2mm is not possible"),
        ("--drain", "-.5mm", "A thickness of -.5mm is not possible"),
        ("--size", "-80mm", "A size must lie in 0.1 mm to 1000 m, got -80 mm"),
        ("--max-error", "-1vox", "A length of -1 is not possible"),
    ],
)
def test_values_that_begin_with_a_minus_are_told_what_is_wrong_with_them(option, value, message, capsys):
    """argparse took them for options: "expected one argument"."""
    with pytest.raises(SystemExit):
        program(["finish", "state.safetensors", option, value])
    assert f"argument {option}: {message}" in capsys.readouterr().err


@needs_warp
def test_a_glb_from_the_small_checkpoint(run, root, tmp_path):
    """The README's first command, with every output."""
    glb, state, report = (tmp_path / name for name in ("rocket.glb", "rocket.safetensors", "rocket.json"))
    outputs = ("--output", glb, "--save-state", state, "--report", report, "--texture-size", 1024, "--device", "cpu")
    code, out, err = run("generate", root / "assets" / "rocket.png", *outputs)
    assert code == 0, err
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
    for name, call in (("a", run), ("b", run), ("c", cli)):
        (tmp_path / name).mkdir()
        glb, state = tmp_path / name / "x.glb", tmp_path / name / "x.safetensors"
        options = (*kind, "--output", glb, "--save-state", state, "--texture-size", 64)
        done = call("generate", picture, *options)
        assert (done[0] if call is run else done.returncode) == 0
        outputs.append((glb.read_bytes(), state.read_bytes()))
    assert outputs[0] == outputs[1] == outputs[2]
    other = tmp_path / "d.safetensors"
    assert run("generate", picture, *kind, "--seed", 43, "--save-state", other)[0] == 0
    assert other.read_bytes() != outputs[0][1]


def test_a_mask_is_the_cut_out(run, picture, tmp_path):
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
    for options in (("photo.png", "--mask", tmp_path / "mask.png"), ("cut.png",)):
        state = tmp_path / "state.safetensors"
        code, _, err = run("generate", tmp_path / options[0], *options[1:], "--save-state", state)
        assert code == 0, err
        states.append(state_of(state)[0])
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--type", "2048"), "Unknown type '2048'; choose one of 512, 1024, 1024_cascade, 1536_cascade"),
        (("--type", "1024"), "lacks. It has sparse_structure_flow_model"),
        (("--type", "1536_cascade"), "Choose type 512 or the complete checkpoint"),
        (("--device", "quantum"), "cannot use the device 'quantum' here"),
        (("--faces", "0"), "at least 4 faces"),
        (("--texture-size", "1"), "64-16384"),
        (("--max-tokens", "0"), "at least 1"),
        (("--checkpoint", "no/such/folder"), "neither a folder, nor a safetensors file, nor a Hugging Face"),
        (("--output", "x.fbx"), "must end in one of .glb, .gltf, .obj, .ply, .stl, .3mf, .usdz; got x.fbx"),
        (("--output", "x.obj", "--texture-format", "webp"), "--texture-format webp: OBJ with MTL"),
        (("--output", "x.stl", "--lods", "9", "--lods-in-one-file"), "STL, binary, triangles alone holds one level"),
        (("--output", "x.ply", "--normal-map"), "normal_map would have no effect: vertex colours take the place"),
        (("--output", "a.gltf", "--picture", "a_normal.png"), "--picture and a file beside --output both name"),
        (("--flat-base", "nan"), "A flat base can take 0 to 0.5 of the height, got nan"),
        (("--output", "absent/x.glb"), "The folder absent does not exist; create it"),
        (("--report", "tests"), "tests is a folder; name a file"),
        (("--report", "x.json", "--save-state", "./x.json"), "--save-state and --report both name x.json"),
        (("--picture", "tests/golden/image_rgba.png"), "--picture would overwrite "),
        (("--save-state", "checkpoints/small/pipeline.json"), "checkpoints/small/pipeline.json, the checkpoint"),
        (("--lods", "9", "--output", "a.glb", "--report", "a_LOD1.glb"), "--report and a level of --lods both name"),
        (("--output", "x" * 256 + ".glb"), ".glb cannot be written: File name too long"),
        (("--mask", "a.png", "b.png"), "2 masks for 1 pictures"),
        (("--shape-interval", "0.9", "0.2"), "--shape-...: Guidance cannot count from 0.9 to 0.2"),
        (("--structure-steps", "0"), "--structure-...: A sampler needs at least 1 step"),
        (("--texture-guidance", "nan"), "--texture-...: A sampler's numbers must be finite"),
        (("--backend", "unwrap"), "takes OP=NAME"),
        (("--backend", "unwrap=magic"), "'unwrap' has no backend 'magic'; it has warp, xatlas, triangles"),
    ],
)
def test_wrong_settings_are_named_before_any_work(run, picture, tmp_path, monkeypatch, root, options, message):
    monkeypatch.chdir(root)
    glb = tmp_path / "x.glb"
    code, _, err = run("generate", picture, *(("--output", glb) if "--output" not in options else ()), *options)
    assert code == 1 and err.startswith("error: ") and message in err
    assert "Traceback" not in err and not list(tmp_path.iterdir())


def test_sampler_settings_reach_their_stage(monkeypatch, checkpoint):
    """Only what was given changes; a stage without options keeps the checkpoint's sampler, by None."""
    spec = open_checkpoint(checkpoint).spec
    given = ("--shape-steps", "3", "--shape-interval", "0.2", "0.8", "--texture-rescale-t", "2")
    found = samplers(parser().parse_args(["generate", "x.png", *given]), spec)
    assert found.structure is None
    assert found.shape == replace(spec.shape_sampler, steps=3, interval=(0.2, 0.8))
    assert found.texture == replace(spec.texture_sampler, rescale_t=2.0)
    every = samplers(parser().parse_args(["generate", "x.png", "--solver", "heun"]), spec)
    assert every.structure == replace(spec.structure_sampler, solver="heun") and every.texture.solver == "heun"


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


def test_how_pictures_are_prepared(tmp_path, monkeypatch):
    """--background and --reduce-first reach the pictures."""
    from pipeline.errors import ImageError

    def prepared(*options):
        return pictures(parser().parse_args(["generate", str(tmp_path / "x.png"), *options]))[0]

    photo = Image.new("RGB", (2048, 512), (220, 225, 230))
    photo.paste((200, 30, 30), (100, 100, 300, 300))
    photo.save(tmp_path / "x.png")
    assert abs(prepared().width - 200) <= 4 and abs(prepared("--reduce-first").width - 100) <= 4
    monkeypatch.setitem(sys.modules, "rembg", None)  # as if it were not installed
    with pytest.raises(ImageError, match="rembg is not usable here"):
        prepared("--background", "rembg")
    photo.paste(Image.effect_noise(photo.size, 90), (0, 0))
    photo.save(tmp_path / "x.png")
    with pytest.raises(ImageError, match="is not plain.*rembg is not usable here"):
        prepared()
    with pytest.raises(ImageError, match=r"is not plain: [^.]*\. Let a model"):
        prepared("--background", "plain")


def picture_of(kind, path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    if kind == "empty file":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a picture")
    elif kind == "transparent":
        Image.new("RGBA", (64, 64)).save(path)
    elif kind == "one pixel":
        Image.new("RGBA", (1, 1), (255, 0, 0, 254)).save(path)
    elif kind == "animated":
        frames = [Image.fromarray(noise), Image.fromarray(255 - noise)]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    elif kind == "no alpha":
        Image.fromarray(noise).save(path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("absent", "There is no picture"),
        ("empty file", "cannot be read as a picture"),
        ("text", "cannot be read as a picture"),
        ("transparent", "The picture is empty"),
        ("one pixel", "only 1 x 1 pixels"),
        ("animated", "is animated"),
        ("no alpha", "no transparent background"),
    ],
)
def test_bad_pictures(run, tmp_path, monkeypatch, kind, message):
    monkeypatch.setitem(sys.modules, "rembg", None)  # as if it were not installed
    path = picture_of(kind, tmp_path / ("in.gif" if kind == "animated" else "in.png"))
    code, _, err = run("generate", path, "--output", tmp_path / "x.glb")
    assert code == 1 and err.startswith("error: ") and message in err and not (tmp_path / "x.glb").exists()


def test_a_mesh_without_faces_writes_no_glb_but_the_state(run, picture, checkpoint, tmp_path):
    """The golden 512 run has no faces: said plainly, and what was made until then is kept."""
    glb, state = tmp_path / "x.glb", tmp_path / "x.safetensors"
    options = ("--checkpoint", checkpoint, "--type", "512", "--output", glb, "--save-state", state)
    code, _, err = run("generate", picture, *options)
    assert code == 1 and "error: The mesh has no faces" in err and "Try another seed or resolution" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.safetensors"]


def test_a_folder_that_cannot_be_written(run, picture, tmp_path, monkeypatch):
    import tempfile

    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    code, _, err = run("generate", picture, "--output", tmp_path / "x.glb")
    assert code == 1 and "cannot be written to: Permission denied" in err


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


def begun(command, folder, **environment):
    """A process, when it has printed its first line."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=folder, env=environment, **pipes)
    assert process.stdout.readline()
    return process


def ended(process, number):
    """Send a signal; returns what the process said before it ended."""
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "interrupted" in err and "Traceback" not in err, err
    return err


no_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send to one process")


@no_signals
def test_interruption(root, picture, tmp_path):
    """Ctrl-C in mid-run: exit code 130, one line, nothing half-written."""
    command = ["-m", "pipeline", "generate", picture, "--output", tmp_path / "x.glb"]
    process = begun([*command, "--save-state", tmp_path / "x.safetensors", "--texture-size", "8192"], root)
    deadline = time.monotonic() + 120
    while not (tmp_path / "x.safetensors").exists() and time.monotonic() < deadline:  # sampled: now it exports
        time.sleep(0.02)
    ended(process, signal.SIGINT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.safetensors"]


@no_signals
def test_termination(root, picture, tmp_path):
    """As service managers and containers end a process."""
    process = begun(["-m", "pipeline", "generate", picture, "--output", tmp_path / "x.glb"], root)
    ended(process, signal.SIGTERM)
    assert not list(tmp_path.iterdir())


@no_signals
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_interruption_during_the_imports(root, tmp_path, name):
    """Libraries swallow exceptions while they try what they may lack: here one that does so for a minute."""
    (tmp_path / "numpy.py").write_text(
        "import time\nprint('here')\ntry:\n    time.sleep(60)\nexcept BaseException:\n    pass\n"
    )
    start = time.monotonic()
    err = ended(begun(["-m", "pipeline", "generate", "x.png"], root, PYTHONPATH=str(tmp_path)), getattr(signal, name))
    assert err == "interrupted\n" and time.monotonic() - start < 30


@no_signals
@pytest.mark.parametrize("swallowed", ["", "then steps", "then ends", "then fails"])
def test_an_interruption_is_not_forgotten(run, monkeypatch, swallowed):
    """Nor are the handlers changed for good."""

    def work(options):
        if not swallowed:
            signal.raise_signal(signal.SIGTERM)
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        if swallowed == "then steps":
            options.check()
            raise AssertionError
        if swallowed == "then fails":
            raise ImportError("cannot import name")
        return 0

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(command, "run", work)
    assert run("generate", "x.png") == (143, "", "interrupted\n")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_steps_look_for_interruptions():
    """For a step may come after an exception that a library swallowed."""

    def check():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Bars(check) as bars:
        bars(Step("encode", 0, 1))


class Console(io.TextIOWrapper):
    """Of an encoding, into memory; broken as long as its `error` is none."""

    error = None

    def write(self, text):
        if self.error:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_a_console_that_cannot_show_a_letter(run, monkeypatch, encoding):
    bytes_written = io.BytesIO()
    console = Console(bytes_written, encoding=encoding)
    monkeypatch.setattr(command, "run", lambda options: print("火箭.glb é") or 0)
    with redirect_stdout(console):
        assert run("generate", "x.png")[0] == 0
    shown = {"utf-8": "火箭.glb é", "cp1252": "\\u706b\\u7bad.glb é", "ascii": "\\u706b\\u7bad.glb \\xe9"}[encoding]
    assert bytes_written.getvalue().decode(encoding) == shown + os.linesep


@pytest.mark.skipif(sys.platform == "win32", reason="Windows reports a broken pipe otherwise")
@pytest.mark.parametrize("sink", ["closed pipe", "full disk"])
def test_a_console_that_is_gone(root, sink):
    """`| head`, or `> log` on a full disk: not worth a result, nor a complaint when Python ends."""
    if sink == "full disk" and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    read, write = os.pipe() if sink == "closed pipe" else (None, os.open("/dev/full", os.O_WRONLY))
    if read:
        os.close(read)
    code = (
        "from pipeline.console import patient_console\nwith patient_console():\n    print('x' * 100_000, flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert done.returncode == 0 and not done.stderr


def test_usage(run):
    assert run()[0] == 2
    assert run("generate")[0] == 2
    assert run("generate", "x.png", "--seed", "-1")[0] == run("generate", "x.png", "--seed", 2**64)[0] == 2
    code, out, _ = run("generate", "--help")
    for option in (
        "--checkpoint",
        "--type",
        "--seed",
        "--device",
        "--output",
        "--save-state",
        "--max-tokens",
        "--faces",
    ):
        assert option in out
    assert code == 0 and "--texture-size" in out
