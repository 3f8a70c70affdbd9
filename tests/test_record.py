"""Records: one JSON object for a stage and for a job, in the log, in the report and in files."""

import dataclasses
import io
import json
import platform

import pytest
import torch

import pipeline
from pipeline import record
from pipeline.errors import EmptyResultError, OutOfMemoryError
from pipeline.runtime import Runtime
from pipeline.stages import default_backends
from pipeline.stages.state import State, write_state
from pipeline.stages.types import Mesh

FIELDS = {field.name for field in dataclasses.fields(record.Record)}
VERSIONS = {"pipeline": pipeline.__version__, "python": platform.python_version(), "torch": torch.__version__}


def lines(text):
    """Every line of a log, which says all of its fields."""
    found = [json.loads(line) for line in text.splitlines()]
    assert all(set(line) == FIELDS and line["schema"] == 1 and line["versions"] == VERSIONS for line in found)
    return found


def journal(stream, job="x.glb"):
    return record.Journal(stream.write, job, "cpu")


def test_a_stage_is_a_line_when_it_ends():
    stream = io.StringIO()
    log = journal(stream)
    log.plan = {"name": "tiled", "lower": "", "free_bytes": 5}
    runtime = Runtime("cpu", default_backends(), on_record=log.stage)
    with runtime.stage("shape", 1, "Lower it."):
        runtime.count(tokens=12)
        runtime.warn("Fewer than you think.")
    (line,) = lines(stream.getvalue())
    assert (line["kind"], line["job"], line["stage"], line["device"]) == ("stage", "x.glb", "shape", "cpu")
    assert line["counts"] == {"tokens": 12} and line["warnings"] == ["Fewer than you think."]
    assert line["plan"] == {"name": "tiled", "lower": ""} and line["error"] == {}
    assert line["seconds"] >= 0 and line["peak_bytes"] > 1e7 and line["time"].endswith("+00:00")
    assert runtime.records[0].counts == {"tokens": 12}


@pytest.mark.parametrize(
    ("problem", "kind", "message"),
    [
        (MemoryError(), "OutOfMemoryError", "Out of memory on cpu in stage 'shape'. Lower it."),
        (EmptyResultError("Nothing is left."), "EmptyResultError", "Nothing is left."),
        (RuntimeError("misaligned address"), "RuntimeError", "misaligned address"),
    ],
)
def test_a_stage_that_fails_is_a_line_but_no_record_of_the_run(problem, kind, message):
    stream = io.StringIO()
    runtime = Runtime("cpu", default_backends(), on_record=journal(stream).stage)
    with pytest.raises((OutOfMemoryError, EmptyResultError, RuntimeError)), runtime.stage("shape", 1, "Lower it."):
        runtime.count(tokens=3)
        raise problem
    (line,) = lines(stream.getvalue())
    assert line["error"] == {"type": kind, "message": message} and line["counts"] == {"tokens": 3}
    assert runtime.records == []


def test_the_other_device_of_a_run_has_the_same_records():
    runtime = Runtime("meta", default_backends(), memory_limit=5)
    other = runtime.on("cpu")
    with other.stage("bake", 1, ""):
        pass
    assert [each.stage for each in runtime.records] == ["bake"] and runtime.on("meta") is runtime
    assert other.memory_limit is None and runtime.memory_limit == 5


def test_every_field_is_documented(root):
    text = (root / "docs" / "log.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in row.replace("`", "").replace(",", " ").split()} == FIELDS


def test_what_lasts_is_the_same_for_equal_runs():
    plan = {"name": "whole", "tiles": False, "lower": ""}
    facts = {"tokens": 3, "faces": 9, "seed": 1, "warnings": ["a"], "plan": plan}
    one = record.job_record(facts, seconds=1.0, job="a")
    other = record.job_record(facts | {"plan": plan | {"name": "one-at-a-time", "free_bytes": 7}}, seconds=2.0, job="b")
    assert one.lasting() == other.lasting()
    assert one.lasting() == {
        "schema": 1,
        "kind": "job",
        "counts": {"tokens": 3, "faces": 9},
        "plan": {"tiles": False, "lower": ""},
        "warnings": ["a"],
        "versions": VERSIONS,
    }


@pytest.fixture
def state(tmp_path):
    """The raw mesh of a state: a wall of 200 faces."""
    grid = torch.stack(torch.meshgrid(torch.arange(11), torch.arange(11), indexing="ij"), -1).reshape(-1, 2) / 10 - 0.5
    vertices = torch.cat([grid, 0.02 * (grid[:, :1] * 9).sin()], 1)
    corner = (torch.arange(10)[:, None] * 11 + torch.arange(10)).reshape(-1)
    halves = (corner, corner + 11, corner + 1), (corner + 1, corner + 11, corner + 12)
    faces = torch.cat([torch.stack(half, 1) for half in halves])
    path = tmp_path / "x.safetensors"
    settings = {"seed": 4, "tokens": 77, "checkpoint": "small"}
    write_state(path, State(mesh=Mesh(vertices, faces.int()), settings=settings))
    return path


def finished(run, state, out, *more):
    options = ("--faces", 100, "--shells", "surface", "--device", "cpu")
    code, _, err = run("finish", state, "--output", out, *options, *more)
    return code, err


def test_log_report_and_file_hold_the_same_record(run, state, tmp_path):
    out, log, report = (tmp_path / name for name in ("x.glb", "x.jsonl", "x.json"))
    log.write_text("")  # lines are added to what is there
    code, err = finished(run, state, out, "--log-json", log, "--report", report)
    assert code == 0, err
    *stages, job = lines(log.read_text())
    assert [line["stage"] for line in stages] == ["process mesh", "export"]
    assert stages[0]["counts"]["raw_faces"] == 200 and stages[0]["counts"]["faces"] == job["counts"]["faces"] <= 100
    assert (job["kind"], job["job"], job["error"]) == ("job", str(out), {})
    assert job["counts"].items() >= {"tokens": 77, "raw_faces": 200}.items()
    assert job["settings"] == {"seed": 4, "checkpoint": "small"}
    assert job["plan"]["name"] == "one-at-a-time" and job["plan"]["tried"] == [] and job["plan"]["free_bytes"] > 1e8
    assert job["warnings"] and job["seconds"] > sum(line["seconds"] for line in stages)
    assert json.loads(report.read_text())["record"] == job
    data = out.read_bytes()
    extras = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])["asset"]["extras"]
    same = {key: extras["record"][key] for key in ("schema", "kind", "warnings", "versions")}
    assert same == {key: job[key] for key in same}
    assert extras["record"]["plan"] == {"tiles": False, "finish_on_cpu": False, "stream": False, "lower": ""}
    assert extras["record"]["counts"].items() <= job["counts"].items()
    (tmp_path / "again").mkdir()
    assert finished(run, state, tmp_path / "again" / "x.glb")[0] == 0
    assert (tmp_path / "again" / "x.glb").read_bytes() == data  # neither time nor what it cost


def test_a_log_on_standard_error(run, state, tmp_path):
    code, err = finished(run, state, tmp_path / "x.glb", "--log-json", "-")
    assert code == 0 and [line["kind"] for line in lines(err)] == ["stage", "stage", "job"]


def test_a_job_that_fails_has_its_line(run, tmp_path):
    path, log = tmp_path / "x.safetensors", tmp_path / "log.jsonl"
    write_state(path, State(mesh=Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]).int())))
    code, err = finished(run, path, tmp_path / "x.glb", "--log-json", log)
    stage, job = lines(log.read_text())
    assert code == 1 and f"error: {job['error']['message']}" in err
    assert job["error"]["type"] == stage["error"]["type"] == "EmptyResultError" and "zero area" in err


@pytest.mark.parametrize(("log", "message"), [("nowhere/x.jsonl", "does not exist"), ("x.glb", "both name x.glb")])
def test_a_log_that_cannot_be_written(run, state, tmp_path, monkeypatch, log, message):
    monkeypatch.chdir(tmp_path)
    code, err = finished(run, state, "x.glb", "--log-json", log)
    assert code == 1 and message in err and not (tmp_path / "x.glb").exists()
