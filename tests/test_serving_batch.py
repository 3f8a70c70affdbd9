"""A batch on Ray: a process that is killed costs one try of one object; tries are bounded; the manifest is the same."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from functools import partial
from importlib import import_module, util
from pathlib import Path

import psutil
import pytest
from generate_texts import commands
from servers import free_port

from pipeline.batch import Job, Outcome
from pipeline.errors import SettingsError, StateError

needs_ray = pytest.mark.skipif(util.find_spec("ray") is None, reason="ray is not installed (requirements-serving.txt)")


@pytest.fixture
def serving(monkeypatch, root):
    """serving(name) imports a module of the folder; the root is on sys.path for as long as a test runs."""
    monkeypatch.syspath_prepend(str(root))
    return lambda name: import_module(f"serving.ray_batch.{name}")


def job_of(name):
    return Job(name, f"/in/{name}.png", "1" * 64, 42, name)


def options(**given):
    usual = {"gpus": None, "gpu_share": 1.0, "samplers": None, "finishers": None, "finish_on": "auto"}
    return Namespace(**{**usual, **given})


@pytest.mark.parametrize(
    ("nodes", "given", "expected"),
    [
        ([{"CPU": 2}], {}, (1, 0, 1, 1, 1)),
        ([{"CPU": 1}], {}, (1, 0, 0.5, 1, 0.5)),
        ([{"CPU": 8}], {"samplers": 2, "finishers": 2}, (2, 0, 3, 2, 1)),
        ([{"CPU": 32, "GPU": 2}], {"finish_on": "cpu"}, (2, 1, 1, 15, 2)),
        ([{"CPU": 32, "GPU": 2}], {"finish_on": "cpu", "gpus": 1, "gpu_share": 0.5}, (2, 0.5, 1, 15, 2)),
        ([{"CPU": 32, "GPU": 2}], {"gpus": 0}, (1, 0, 31, 1, 1)),
        ([{"CPU": 2, "GPU": 4}], {"finish_on": "cpu"}, (4, 1, 0.25, 1, 1)),
        # two machines: nothing is wider than one of them
        ([{"CPU": 0}, {"CPU": 4}, {"CPU": 4}], {}, (1, 0, 3, 1, 1)),
        ([{"CPU": 4}, {"CPU": 4}], {"samplers": 2}, (2, 0, 2, 2, 1)),
        ([{"CPU": 4, "GPU": 1}, {"CPU": 4, "GPU": 1}], {"finish_on": "cpu"}, (2, 1, 1, 2, 2)),
        # where samplers process too, finishers only write
        ([{"CPU": 32, "GPU": 2}], {}, (2, 1, 1, 2, 2)),
        ([{"CPU": 32, "GPU": 2}], {"gpus": 1, "gpu_share": 0.5}, (2, 0.5, 1, 2, 2)),
        ([{"CPU": 32, "GPU": 2}], {"finishers": 6}, (2, 1, 1, 6, 2)),
        ([{"CPU": 4, "GPU": 2}], {}, (2, 1, 1, 1, 2)),
        ([{"CPU": 16, "GPU": 1}, {"CPU": 8, "GPU": 1}], {}, (2, 1, 1, 2, 2)),
    ],
)
def test_how_a_cluster_is_divided(serving, nodes, given, expected):
    """Whatever it has, all actors fit it at once: a pool that waits for CPUs of another would wait for ever."""
    found = serving("division").shares(nodes, options(**given))
    sampler, finisher = (found.samplers, found.gpu_share, found.sampler_cpus), (found.finishers, found.finisher_cpus)
    assert (*sampler, *finisher) == pytest.approx(expected)
    assert found.processing == ("gpu" if found.gpu_share and given.get("finish_on") != "cpu" else "cpu")
    needed = found.samplers * found.sampler_cpus + found.finishers * found.finisher_cpus
    assert needed <= sum(node["CPU"] for node in nodes) + 1e-9
    assert max(found.sampler_cpus, found.finisher_cpus) <= max(node["CPU"] for node in nodes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gpus": 3}, "--gpus 3: the cluster has 2 GPUs"),
        ({"gpu_share": 0.0}, "--gpu-share must be above 0"),
        ({"samplers": 3}, "3 samplers of 1 GPU need more than 2: give fewer --samplers"),
        ({"finishers": 0}, "--finishers must be at least 1"),
        ({"gpus": 0, "gpu_share": 0.5}, "--gpu-share would have no effect: there is no GPU"),
        ({"gpus": 0, "finish_on": "gpu"}, "--finish-on gpu: there is no GPU"),
    ],
)
def test_what_a_cluster_cannot_give(serving, given, message):
    division = serving("division")
    with pytest.raises(SettingsError, match=message):
        division.shares([{"CPU": 8, "GPU": 2}], options(**given))
    with pytest.raises(SettingsError, match="No machine of the cluster has CPUs"):
        division.shares([{"CPU": 0}], options())


def test_one_of_each_is_told_as_one(serving):
    shares = serving("division").Shares
    assert str(shares(1, 1.0, 1, 1, 2, "gpu")).startswith("1 sampler, 1 GPU each; at most 1 finisher on the CPU")
    assert str(shares(2, 0.5, 1, 3, 2)).startswith("2 samplers, 0.5 GPUs each; at most 3 finishers on the CPU")


@needs_ray
def test_every_gpu_has_its_sampler(root, tmp_path):
    """On two pretended GPUs. Finishers take no GPU; and one does not wait while what was made on it is handed on."""
    command = [sys.executable, root / "tests" / "ray_places.py", tmp_path]
    elsewhere = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}  # a cluster that has died: nobody asked to join it
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, env=elsewhere)
    found = json.loads(run.stdout.splitlines()[-1]) if not run.returncode else pytest.fail(run.stderr)
    assert found["sample"] == {"0": 1, "1": 1} and list(found["finish"]) == ["None"]
    assert found["objects"] == 8 and found["waits"] < 0.2  # 0.6 and more where one thread does both
    assert found["terminated"] == 1  # Ray's core would have aborted the process


def test_why_a_cluster_refused(serving):
    """Ray says no more than that it could not connect; the cause is two errors below."""
    joining = import_module("serving.joining")
    try:
        try:
            raise RuntimeError("RPC error: InvalidAuthToken: Authentication token is missing or incorrect.")
        except RuntimeError as inner:
            raise ConnectionError("Failed to connect to Ray cluster at host:6379") from inner
    except ConnectionError as error:
        assert "cluster at host:6379: the cluster asks for its token" in joining.why_not(error)
        assert "RAY_AUTH_MODE=token" in joining.why_not(error)
    assert joining.why_not(ConnectionError("nobody there")) == "nobody there"


def test_why_a_batch_failed(serving):
    """Ray's advice on its settings stands behind the cause."""
    cluster = serving("cluster")
    cause = "ray.exceptions.ActorDiedError: The actor died."
    assert cluster.reason(RuntimeError(f"ray::Map(Finisher)()\n  File x\n{cause}\nTo change it, do so.")) == cause
    assert cluster.reason(RuntimeError("gone")) == "gone" and cluster.reason(RuntimeError()) == "RuntimeError"


@needs_ray
def test_a_batch_joins_a_cluster(root, tmp_path, picture, checkpoint):
    """Of this machine, by its address, which wants its token: without it that is said, with it the object is made."""
    ray = Path(sys.executable).with_name("ray")
    port = free_port()
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 2}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    clean |= {"HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    # sockets lie in the folder, and their paths may have 107 characters
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ray") as folder:
        start = ["start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"]
        start += ["--num-cpus=2", "--include-dashboard=false", "--object-store-memory=200000000"]
        head = subprocess.Popen([ray, *start], env={**clean, **token}, stdout=subprocess.PIPE, text=True)
        try:
            assert head.stdout is not None and any("Ray runtime started" in line for line in head.stdout)
            kind = ("--checkpoint", checkpoint, "--type", "1024", "--geometry-only", "--structure-steps", 1)
            arguments = map(str, ("batch", picture, "--output", tmp_path / "out", *kind))
            command = [sys.executable, "-m", "serving", *arguments, "--address", f"127.0.0.1:{port}"]
            joining = partial(subprocess.run, command, cwd=root, capture_output=True, text=True, timeout=120)
            refused = joining(env=clean)
            assert refused.returncode == 1 and "the cluster asks for its token" in refused.stderr, refused.stderr
            joined = joining(env={**clean, **token})
            assert joined.returncode == 0 and "1 done, 0 failed" in joined.stdout, joined.stderr
        finally:
            for each in (*psutil.Process(head.pid).children(recursive=True), head):
                each.kill()
            head.wait(30)


def test_an_object_that_kills_its_process_is_given_up(serving, tmp_path):
    """The third process is not asked to try what two have died of."""
    actors = serving("actors")
    ledger, done = actors.Ledger(), []

    class Step(actors.Finisher):
        def _count(self, name):
            return ledger.begin(self.kind, name)

        def work(self, row):
            done.append(row.job.name)
            return replace(row, outcome=Outcome(files=("a.glb",)))

    for _ in range(2):
        ledger.begin("finish", "bad")  # and then the process died
    step = Step(None, 2, str(tmp_path), "cpu", None)
    row = step({"row": actors.Row(job_of("bad"))})["row"]
    assert "died in each of 2 tries" in row.outcome.error and row.tries == 2 and not done
    row = step({"row": actors.Row(job_of("good"), tries=2)})["row"]
    assert done == ["good"] and not row.outcome.error and row.tries == 2
    assert [span["kind"] for span in row.spans] == ["finish"]
    assert step({"row": row})["row"] is row and done == ["good"]


def test_a_folder_that_another_machine_does_not_see(serving, tmp_path):
    from pipeline.errors import OutputError

    with pytest.raises(OutputError, match="that all of them see under the same paths"):
        serving("actors").Finisher(None, 2, str(tmp_path / "absent"), "cpu", None)


def test_the_timeline_tells_who_stood_still(serving, tmp_path):
    timeline = serving("timeline")
    times = {"a": ("sample", 1, 0, 4), "b": ("sample", 1, 6, 10), "c": ("sample", 2, 0, 10), "d": ("finish", 3, 4, 5)}
    spans = [
        {
            "kind": kind,
            "name": name,
            "worker": f"my host {pid}",
            "device": "cuda",
            "start": 1e9 + start,
            "end": 1e9 + end,
        }
        for name, (kind, pid, start, end) in times.items()
    ]
    timeline.write(tmp_path / "timeline.json", spans)
    again = timeline.read(tmp_path / "timeline.json")
    assert again == spans == timeline.read(tmp_path)  # the folder is what a user has at hand
    samples = again[:3]
    assert timeline.idle(samples) == pytest.approx(0.1) and timeline.idle([]) == 0
    later = {"worker": "my host 9", "kind": "sample", "name": "e"}  # in the place of one that has died
    assert timeline.idle([*samples[:1], {**later, "start": 1e9 + 5, "end": 1e9 + 10}]) == pytest.approx(0.1)
    lines = timeline.drawn(again).splitlines()
    assert len(lines) == 6 and lines[0].endswith("| 2 objects") and lines[2].count("=") in range(7, 10)
    assert lines[4:] == [
        "sample on cuda: 3 objects, 10% of the time idle",
        "finish on cuda: 1 object, 0% of the time idle",
    ]
    for text in (
        "",
        "{}",
        "[]",
        '{"traceEvents": [{}]}',
        '{"traceEvents": [{"args": 1, "cat": "", "name": "", "pid": 1, "tid": 1}]}',
    ):
        (tmp_path / "timeline.json").write_text(text)
        with pytest.raises(StateError, match="is no timeline of a batch"):
            timeline.read(tmp_path / "timeline.json")


def processes(driver, kind):
    """The actors of a kind that a driver has started."""
    found = []
    for each in psutil.Process(driver).children(recursive=True):
        try:
            if f"Map({kind})" in " ".join(each.cmdline()):
                found.append(each)
        except psutil.Error:
            continue
    return found


@needs_ray
def test_killed_processes_lose_no_picture(root, tmp_path, picture, checkpoint, run):
    """A sampler and a finisher killed by kill -9, a corrupt picture; then a run without Ray finds all of it done."""
    (tmp_path / "in").mkdir()
    for number in range(4):
        (tmp_path / "in" / f"{number}.png").write_bytes(picture.read_bytes())
    (tmp_path / "in" / "bad.png").write_bytes(picture.read_bytes()[:500])
    kind = ("--checkpoint", checkpoint, "--type", "1024", "--geometry-only", "--structure-steps", 1)
    arguments = list(map(str, ("batch", tmp_path / "in", "--output", tmp_path / "out", *kind)))
    process = subprocess.Popen(
        [sys.executable, "-m", "serving", *arguments, "--gpus", "0"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    said, kinds = [], ["Sampler", "Finisher"]
    for line in process.stdout:
        said.append(line)
        if "->" in line and kinds:
            for each in processes(process.pid, kinds.pop(0)):
                each.send_signal(signal.SIGKILL)
    assert process.wait(60) == 1, "".join(said)
    told = "".join(said)
    assert not kinds and "4 done, 1 failed, 0 left" in told and "of the time idle" in told, told
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    ends = [line for line in lines if line.get("status") in ("done", "failed")]
    assert sorted(line["object"] for line in ends) == ["0", "1", "2", "3", "bad"]
    assert {line["tries"] for line in ends} <= {1, 2} and 2 in {line["tries"] for line in ends}
    started = time.monotonic()
    code, out, _ = run(*arguments, "--device", "cpu")
    assert code == 1 and "5 objects to make, 4 of them are there already." in out, out
    assert time.monotonic() - started < 60


def test_every_option_of_ray_is_described(serving, root):
    parser = ArgumentParser()
    serving("batch").add(parser)
    own = {each for action in parser._actions for each in action.option_strings if each.startswith("--")}
    shared = {each for action in commands()["batch"]._actions for each in action.option_strings}
    text = (root / "docs" / "batch.md").read_text(encoding="utf-8")
    assert len(own - shared) >= 5 and not [option for option in own - shared if f"`{option}" not in text]
