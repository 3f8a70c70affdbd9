"""The command line as users and other tools call it: options and their errors."""

import argparse
import logging
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from PIL import Image

from pipeline.batch import guarded
from pipeline.cli.main import main as program
from pipeline.cli.main import parser
from pipeline.cli.options import pictures
from pipeline.cli.samplers import samplers
from pipeline.weights import open_checkpoint
from serving.__main__ import parser as serving_parser


@pytest.mark.parametrize("option", ["--type", "--pipeline-type"])
def test_the_pipeline_type_has_two_spellings(option):
    assert parser().parse_args(["generate", "a.png", option, "1024_cascade"]).type == "1024_cascade"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--type", "2048"), "Unknown type '2048'; choose one of 512, 1024, 1024_cascade, 1536_cascade"),
        (("--type", "1024"), "which small lacks. It has "),
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
        (("--flat-base", "0.7"), "A flat base can take 0 to 0.5 of the height, got 0.7"),
        (("--output", "absent/x.glb"), "The folder absent does not exist; create it"),
        (("--report", "tests"), "tests is a folder; name a file"),
        (("--report", "x.json", "--save-state", "./x.json"), "--save-state and --report both name x.json"),
        (("--picture", "tests/golden/image_rgba.png"), "--picture would overwrite "),
        (("--save-state", "checkpoints/small/pipeline.json"), "checkpoints/small/pipeline.json, the checkpoint"),
        (("--lods", "9", "--output", "a.glb", "--report", "a_LOD1.glb"), "--report and a level of --lods both name"),
        (("--output", "x" * 256 + ".glb"), ".glb cannot be written: File name too long"),
        (("--mask", "a.png", "b.png"), "2 masks for 1 picture;"),
        (("--views", "frnt"), "got 'frnt'; did you mean front?"),
        (("--views", "front", "left"), "1 picture and 2 views (front left); name one"),
        (("--backend", "simplify=cumesh"), "cumesh is not installed. Choose one of "),
        (("--shape-interval", "0.9", "0.2"), "--shape-interval: Guidance cannot count from 0.9 to 0.2"),
        (("--structure-steps", "0"), "--structure-steps: A sampler needs at least 1 step"),
        (("--shape-steps", "5000"), "--shape-steps: A sampler takes at most 1,000 steps, got 5,000"),
        (
            ("--shape-steps", "3", "--texture-rescale", "2"),
            "--texture-rescale: Guidance rescale must lie in 0-1, got 2",
        ),
        (("--shape-rescale-t", "0"), "--shape-rescale-t: The time shift (rescale_t) must be above 0"),
        (("--backend", "unwrap"), "takes OP=NAME"),
        (("--backend", "unwrap=magic"), "'unwrap' has no backend 'magic'; it has warp, xatlas, triangles."),
        (("--backend", "unwrap=xatals"), "it has warp, xatlas, triangles; did you mean xatlas?"),
        (("--backend", "simplfy=warp"), "Unknown operation 'simplfy'; choose one of "),
        (("--backend", "simplfy=warp"), "; did you mean simplify?"),
        (("--type", "1024_cascad"), "; did you mean 1024_cascade?"),
    ],
)
def test_wrong_settings_are_named_before_any_work(run, picture, tmp_path, monkeypatch, root, options, message):
    monkeypatch.chdir(root)
    glb = tmp_path / "x.glb"
    code, out, err = run("generate", picture, *(("--output", glb) if "--output" not in options else ()), *options)
    assert code == 1 and err.startswith("error: ") and message in err
    assert out == ""  # which checkpoint is used is said when one is
    assert "Traceback" not in err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["generate", "texture", "refine"])
def test_a_picture_that_cannot_be_read_is_said_before_the_checkpoint(run, tmp_path, command):
    mesh = [tmp_path / "box.glb"] if command != "generate" else []
    for path in mesh:
        trimesh.creation.box((0.5, 0.5, 0.5)).export(path)
    (tmp_path / "absnet.png").write_bytes(b"")
    code, out, err = run(command, *mesh, tmp_path / "absent.png", "--output", tmp_path / "x.glb")
    assert code == 1 and "error: There is no picture" in err and "Using the bundled" not in out
    assert "; did you mean absnet.png?" in err


def test_sampler_settings_reach_their_stage(monkeypatch, checkpoint):
    """Only what was given changes; a stage without options keeps the checkpoint's sampler, by None."""
    spec = open_checkpoint(checkpoint).spec
    given = ("--shape-steps", "3", "--shape-interval", "0.2", "0.8", "--texture-rescale-t", "2")
    found = samplers(parser().parse_args(["generate", "x.png", *given]), spec)
    assert found.structure is None
    assert found.shape == replace(spec.shape_sampler, steps=3, guidance_interval=(0.2, 0.8))
    assert found.texture == replace(spec.texture_sampler, time_shift=2.0)
    every = samplers(parser().parse_args(["generate", "x.png", "--solver", "heun"]), spec)
    assert every.structure == replace(spec.structure_sampler, solver="heun") and every.texture.solver == "heun"


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


def test_a_folder_that_cannot_be_written(run, picture, tmp_path, monkeypatch):
    import tempfile

    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    code, _, err = run("generate", picture, "--output", tmp_path / "x.glb")
    assert code == 1 and "cannot be written to: Permission denied" in err


def test_usage(run):
    assert run()[0] == 2
    assert run("generate")[0] == 2
    assert run("generate", "x.png", "--seed", "-1")[0] == run("generate", "x.png", "--seed", 2**64)[0] == 2
    assert run("generate", "x.png", "--sede", 1)[1:] == (
        "",
        "error: unrecognized arguments: --sede 1; did you mean --seed?\n"
        "python -m pipeline generate --help lists what there is.\n",
    )
    assert "; did you mean generate?\n" in run("genrate", "x.png")[2]
    assert "; did you mean solid?\n" in run("generate", "x.png", "--shells", "sold")[2]
    assert "did you mean" not in run("tidy")[2]
    assert "did you mean" not in run("finish", "x.safetensors", "--texture-steps", 3)[2]  # --texture-size is another
    assert "; did you mean --texture-size?" in run("finish", "x.safetensors", "--texturesize", 3)[2]
    assert "--seed: expected a whole number, got '1.5'\n" in run("generate", "x.png", "--seed", 1.5)[2]
    assert "--faces: expected a whole number, got '10k'\n" in run("generate", "x.png", "--faces", "10k")[2]
    assert "--memory-limit: expected a number, got '8GB'\n" in run("generate", "x.png", "--memory-limit", "8GB")[2]
    assert run("tidy")[2].endswith("\npython -m pipeline --help lists what there is.\n")
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


@pytest.mark.parametrize("command", ["generate", "finish", "texture", "refine"])
def test_the_help_of_output_names_the_formats_that_are_written(command, run, tmp_path, picture):
    """refine said that the suffix chooses the format, and refused all but one."""
    paths = {"generate": [picture], "finish": ["absent.safetensors"]}.get(command, ["assets/rocket.glb", picture])
    said = " ".join(run(command, "--help")[1].split())
    refused = "must end in .glb" in run(command, *paths, "--output", tmp_path / "x.obj", "--type", "0")[2]
    assert refused == ("its suffix chooses the format" not in said)


@pytest.mark.parametrize("make_parser", [parser, serving_parser])
def test_what_is_no_number_is_told_in_words_of_the_user(make_parser, capsys):
    """argparse names the function that reads a value: invalid _gigabytes value."""
    (commands,) = (each for each in make_parser()._actions if each.choices)
    for command in commands.choices.values():
        for action in command._actions:
            if action.type is None or action.choices or not action.option_strings:
                continue
            with suppress(SystemExit):
                command.parse_args([action.option_strings[-1], "1x"])
            said = capsys.readouterr().err
            assert "invalid" not in said, said


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


def test_what_needs_no_command_waits_for_no_import(root):
    """torch takes more than a second."""
    code = (
        "import contextlib, sys\nsys.modules['torch'] = None\nfrom pipeline.cli.main import main\n"
        "for arguments in (['--help'], ['--version'], ['genrate', 'x.png'], []):\n"
        "    with contextlib.suppress(SystemExit):\n        main(arguments)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "make a GLB, or another 3D file, from a picture" in done.stdout and "did you mean generate?" in done.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--disk-watermark", "nan"),
        ("--disk-watermark", "-1"),
        ("--gpus-each", "-1"),
        ("--gpus-each", "inf"),
        ("--threads", "-1"),
        ("--port", "99999"),
        ("--port", "-1"),
        ("--keep", "0"),
        ("--time-limit", "nan"),
        ("--memory-limit", "0"),
        ("--queue-limit", "0"),
    ],
)
def test_limits_of_a_service_that_cannot_be_are_refused(option, value, capsys):
    """A watermark of NaN never refused anything."""
    with pytest.raises(SystemExit):
        serving_parser(["run"]).parse_args(["run", f"{option}={value}"])
    assert f"argument {option}: must be" in capsys.readouterr().err


def test_each_text_is_said_once_but_no_traceback_is_lost(monkeypatch, capsys):
    """Errors that were not foreseen have one text, whatever they are."""
    log = logging.getLogger("pipeline.batch.outcome")

    def run(options):
        log.warning("twice")
        log.warning("twice")
        guarded(lambda: [][0])
        guarded(lambda: {}["absent"])
        return 0

    monkeypatch.setattr("pipeline.cli.finish.run", run)
    assert program(["finish", "state.safetensors"]) == 0
    said = capsys.readouterr().err
    assert said.count("twice") == 1 and "IndexError" in said and "KeyError: 'absent'" in said


@pytest.mark.parametrize(
    ("command", "given"),
    [("generate", ["a.png"]), ("texture", ["a.glb", "a.png"]), ("refine", ["a.glb", "a.png"]), ("finish", ["a"])],
)
def test_an_option_of_nan_infinity_or_nothing_is_named(command, given, capsys):
    """Of each option of a command that takes a text or a number."""
    commands = next(each for each in parser([command])._actions if each.dest == argparse.SUPPRESS)
    takers = [
        each
        for each in commands.choices[command]._actions
        if each.option_strings and each.nargs != 0 and each.choices is None
    ]
    numbers = [each for each in takers if each.type is float]
    assert len(takers) > 15 and len(numbers) >= 4
    for action, values in [
        *((each, ("",)) for each in takers),
        *((each, ("nan", "-inf", "1e999")) for each in numbers),
    ]:
        for value in values:
            count = action.nargs if isinstance(action.nargs, int) else 1
            with pytest.raises(SystemExit) as exit:
                program([command, *given, action.option_strings[-1], *[value] * count])
            said = capsys.readouterr().err
            assert exit.value.code == 2 and f"error: argument {'/'.join(action.option_strings)}: " in said
            assert ("is empty: give a value" if value == "" else f"must be a finite number, got {value!r}") in said


def test_values_below_zero_are_values_wherever_they_stand():
    """An azimuth of -45 may be the first of two views, or the second."""
    for views in (["-45", "45"], ["45", "-45,20"], ["-.5,-20", "front", "-90"]):
        assert parser(["generate"]).parse_args(["generate", "a.png", "--views", *views]).views == views
    found = parser(["generate"]).parse_args(["generate", "-1.png", "--shape-interval", "-0.5", "-1e3"])
    assert found.shape_interval == [-0.5, -1000] and found.images == ["-1.png"]
