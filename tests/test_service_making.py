"""What a worker makes of a job, without Ray: to the byte what the command line makes, job after job."""

import argparse
import json
import re
from typing import ClassVar

import pytest
from conftest import GOLDEN, GOLDEN_CHECKPOINT
from meshes import needs_warp
from PIL import Image

from pipeline.errors import BackendError, ImageError, OutputError, SettingsError
from pipeline.render import videos
from pipeline.render.videos import video_unavailable
from serving.making import Maker
from serving.measure.process import CHEAP
from serving.parameters import from_form, options_of, parameters, schema
from serving.settings import WorkerSettings

pytestmark = [pytest.mark.usefixtures("one_thread", "small_views"), needs_warp]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def maker(results):
    """Of the checkpoint whose objects are small: what they look like is not the subject."""
    log = str(results.parent / "log.jsonl")
    return Maker(WorkerSettings(results.as_uri(), checkpoint=str(GOLDEN_CHECKPOINT), device="cpu", log=log))


@pytest.fixture(scope="module")
def picture_1(maker):
    maker.store.put("in", GOLDEN / "image_rgba.png", "picture-1")
    return {"pictures": [["in", "picture-1"]]}


QUICK = {**CHEAP, "type": "1024"}  # seeds 42 and 44 give objects; most others have no faces


def job(name, inputs, command="generate", **given):
    return {"id": name, "command": command, "parameters": {**QUICK, **given}, "inputs": inputs}


def words(given):
    return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]


VIDEO = {"turntable": True, "turntable_seconds": 0.5, "turntable_fps": 4, "turntable_size": 64}
FINISHED = {"faces": 300, "texture_size": 128, "shells": "surface"}


class Watched(argparse.Namespace):
    """Options that remember what was asked of them."""

    seen: ClassVar[set[str]] = set()

    def __getattribute__(self, name):
        Watched.seen.add(name)
        return super().__getattribute__(name)


@pytest.fixture(scope="module")
def watched(maker):
    """watched(job): what the maker says of it, and the names of the options that it looked at."""
    import serving.making

    def make(given):
        Watched.seen.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(serving.making, "options_of", lambda *named: Watched(**vars(options_of(*named))))
            return maker.make(given, lambda step: None), set(Watched.seen)

    return make


@pytest.fixture(scope="module")
def video():
    return {} if video_unavailable() else VIDEO


@pytest.fixture(scope="module")
def first(watched, picture_1, video):
    return watched(job("first", picture_1, seed=42, **video))


@pytest.fixture(scope="module")
def made(first, maker, picture_1):
    """A job, after another one, which must leave no trace in it."""
    steps = []
    told = maker.make(job("second", picture_1, seed=44, structure_guidance=2.0), steps.append)
    return told, steps


@pytest.fixture(scope="module")
def finished(made, watched, video):
    """Another GLB of that job's state."""
    inputs = {"state": ["second", "state.safetensors"]}
    return watched({"id": "third", "command": "finish", "parameters": {**FINISHED, **video}, "inputs": inputs})


def test_the_files_are_those_of_the_command_line(made, results, run, picture, checkpoint, tmp_path):
    outputs = {"output": "model.glb", "picture": "preview.png", "save-state": "state.safetensors"}
    paths = {option: tmp_path / name for option, name in outputs.items()}
    options = words(
        {**paths, **QUICK, "checkpoint": checkpoint, "seed": 44, "structure-guidance": 2.0, "device": "cpu"}
    )
    code, _, err = run("generate", picture, *options)
    assert code == 0, err
    told, steps = made
    for path in paths.values():
        assert (results / "second" / path.name).read_bytes() == path.read_bytes(), path.name
        assert told["files"][path.name] == path.stat().st_size
    assert len(told["files"]) == 3 and json.loads(json.dumps(told)) == told
    assert told["facts"]["seed"] == 44 and told["facts"]["faces"] <= 1000 and told["memory"]["rss"] > 0
    logged = [json.loads(line) for line in (results.parent / "log.jsonl").read_text().splitlines()]
    logged = [line for line in logged if line["job"] == "second"]
    assert [line["stage"] for line in logged] == [*(record["stage"] for record in told["stages"]), ""]
    assert logged[-1]["kind"] == "job" and logged[-1]["plan"]["name"] == told["facts"]["plan"]["name"]
    assert [record["stage"] for record in told["stages"]] == list(dict.fromkeys(step.stage for step in steps))


def test_another_glb_of_a_state_is_what_finish_makes(finished, results, run, tmp_path):
    state, glb = results / "second" / "state.safetensors", tmp_path / "model.glb"
    code, _, err = run(
        "finish", state, *words({**FINISHED, "output": glb, "picture": tmp_path / "preview.png", "device": "cpu"})
    )
    assert code == 0, err
    for path in (glb, tmp_path / "preview.png"):
        assert (results / "third" / path.name).read_bytes() == path.read_bytes()
    assert set(finished[0]["files"]) - {"preview.mp4"} == {"model.glb", "preview.png"}


def test_every_parameter_has_an_effect(first, finished, video):
    """An option of the command line that the worker does not look at would be a parameter in vain."""
    for command, (told, seen) in (("generate", first), ("finish", finished)):
        assert not set(parameters(command)) - seen - ({} if video else VIDEO).keys()
        assert ("preview.mp4" in told["files"]) == bool(video)


def test_a_video_that_cannot_be_written_is_refused_before_the_run(maker, picture_1, monkeypatch):
    monkeypatch.setattr(videos, "video_unavailable", lambda: "the package av is not installed")
    job = {"id": "video", "command": "generate", "parameters": {**QUICK, "turntable": True}, "inputs": picture_1}
    steps = []
    with pytest.raises(BackendError, match="av is not installed"):
        maker.make(job, steps.append)
    assert not steps


def test_nothing_is_stored_of_a_job_that_fails_or_is_stopped(maker, picture_1, results, tmp_path, monkeypatch):
    Image.new("RGBA", (64, 64), (200, 30, 30, 0)).save(tmp_path / "empty.png")
    maker.store.put("in", tmp_path / "empty.png", "picture-2")
    with pytest.raises(ImageError) as refused:
        maker.make(job("bad", {"pictures": [["in", "picture-2"]]}), lambda step: None)
    assert "/" not in str(refused.value)  # a client knows no folders of the server
    logged = json.loads((results.parent / "log.jsonl").read_text().splitlines()[-1])
    assert (logged["kind"], logged["job"], logged["error"]["type"]) == ("job", "bad", "ImageError")

    def stop(step):
        if step.stage == "process mesh":  # the state is written by now
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        maker.make(job("bad", picture_1), stop)
    put = maker.store.put

    def full(name, path, file):
        if file == "state.safetensors":
            raise OutputError("No space left. Try again later.")
        put(name, path, file)

    monkeypatch.setattr(maker.store, "put", full)
    for name in ("model.glb", "state.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(OutputError, match="No space left"):
        maker._stored("bad", tmp_path)
    assert not maker.store.has("bad", "model.glb") and not list(results.glob("bad/*"))


def test_what_a_client_may_say_is_known():
    """A new option is a parameter at once: whoever adds one looks here whether a client may have it."""
    public = set(parameters("generate"))
    assert not public & {"output", "save_state", "picture", "report", "mask", "checkpoint", "device", "backend"}
    assert not public & {"memory_limit", "memory_plan", "log_json", "image_encoder", "background_model", "environment"}
    assert set(parameters("finish")) < public
    for name, parameter in parameters("generate").items():
        kind = parameter.action.type
        checked = parameter.is_flag or parameter.action.choices or kind not in (None, str)
        assert checked or name in ("type", "views"), f"{name} is free text: what could it name?"
    basic = [name for name, spec in schema("generate")["properties"].items() if spec["x-tier"] == "basic"]
    assert basic[:2] == ["type", "seed"] and len(basic) < 12


def test_values_are_read_as_the_command_line_reads_them():
    from pipeline.cli.main import parser

    said = ["--lods", "300", "100", "--size", "80mm", "--flat-base", "--texture-interval", "0.1", "1", "--carve"]
    read = vars(parser().parse_args(["generate", "picture.png", *said, "--seed", "7", "--views", "front"]))
    given = {"lods": [300, 100], "size": "80mm", "flat_base": True, "texture_interval": [0.1, 1], "carve": True}
    assert vars(options_of("generate", {**given, "seed": 7.0, "views": ["front"]})) | {"run": 0} == read | {"run": 0}
    form = [("lods", "300 100"), ("size", "80mm"), ("flat_base", "true"), ("texture_interval", "0.1 1")]
    form += [("carve", "on"), ("seed", "7"), ("views", "front"), ("faces", "")]
    from_text = options_of("generate", from_form("generate", form))
    assert vars(from_text) | {"run": 0} == read | {"run": 0}
    assert options_of("generate", {"carve": False, "project_remove_light": False, "faces": None}) == options_of(
        "generate", {}
    )
    for bad in (
        {"seed": True},
        {"seed": [1]},
        {"lods": [{}]},
        {"seed": "0x1"},
        {"views": "-x"} | {"seed": float("inf")},
    ):
        with pytest.raises(SettingsError):
            options_of("generate", bad)


def test_descriptions_name_parameters_not_options_of_the_command_line():
    """The page shows them beside its fields."""
    texts = [
        each["description"] for command in ("generate", "finish") for each in schema(command)["properties"].values()
    ]
    assert any("defaults of faces, texture_size, lods, normal_map" in text for text in texts)
    known = [f"--{name.replace('_', '-')}" for name in parameters("generate")]
    assert len(known) > 40 and not [text for text in texts for name in known if re.search(rf"{name}(?![\w-])", text)]
