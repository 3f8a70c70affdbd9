"""The service as a client meets it: a real one, on Ray Serve, with the small checkpoint."""

import io
import json
import os
import signal
import time
import urllib.request

import gateway
import pytest
import trimesh
from PIL import Image
from service import glb_facts, needs_serving, started, until

from serving.client import Client, ServiceError
from serving.measure.process import CHEAP

pytestmark = needs_serving
LONG = {**CHEAP, "structure_steps": 1000}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    found = started(tmp_path_factory.mktemp("service") / "data")
    yield found
    found.stop()


@pytest.fixture(scope="module")
def rocket(pytestconfig):
    return pytestconfig.rootpath / "assets" / "rocket.png"


@pytest.fixture(scope="module")
def made(service, rocket):
    """A finished job, and what was told on the way."""
    told = []
    begun = time.monotonic()
    queued = service.client.generate([rocket], seed=3, **CHEAP)
    assert time.monotonic() - begun < 5 and queued["status"] in ("queued", "running")
    return service.client.wait(queued["id"], told.append, 0.1), told


def test_a_job_is_followed_from_stage_to_stage_and_its_files_fit(service, made):
    job, told = made
    stages = [each.get("stage") for each in told]
    assert "structure" in stages or "process mesh" in stages
    assert {"queued", "running", "done"} >= {each["status"] for each in told}
    assert [each["stage"] for each in job["stages"]][-2:] == ["export", "draw"] and job["tries"] == 1
    assert all(each["seconds"] >= 0 and each["peak_bytes"] > 0 for each in job["stages"])
    assert job["facts"]["faces"] <= 1000 and job["facts"]["checkpoint"] == "small" and job["memory"]["rss"] > 1e8
    assert set(job["files"]) == {"model.glb", "preview.png", "state.safetensors"}
    for name, kept in job["files"].items():
        assert len(service.client.file(job["id"], name)) == kept["bytes"]


def test_another_glb_of_a_job_and_of_a_state_file_are_the_same(service, made, tmp_path):
    job, _ = made
    state = tmp_path / "state.safetensors"
    state.write_bytes(service.client.file(job["id"], "state"))
    other, glbs = {"faces": 300, "texture_size": 128, "shells": "surface"}, []
    for source in (job["id"], state):
        done = service.client.wait(service.client.extract(source, **other)["id"])
        glbs.append(service.client.file(done["id"], "model.glb"))
        assert "state.safetensors" not in done["files"]
    (mesh,) = trimesh.load(io.BytesIO(glbs[0]), file_type="glb", process=False).geometry.values()
    assert glbs[0] == glbs[1] and len(mesh.faces) == done["facts"]["faces"] <= 300
    assert mesh.visual.material.baseColorTexture.size == (128, 128) and glb_facts(glbs[0])["seed"] == 3


def test_a_running_job_can_be_cancelled_and_the_worker_lives_on(service, rocket):
    job = service.client.generate([rocket], **LONG)
    running = until(service, job["id"], "structure")
    assert running["status"] == "running" and running["steps"] == 1000 and running["stages_done"] == ["encode"]
    assert service.client.cancel(job["id"])["status"] == "cancelled"
    assert not (service.data / "results" / job["id"]).exists()
    begun = time.monotonic()
    next_one = service.client.wait(service.client.generate([rocket], geometry_only=True, **CHEAP)["id"], every=0.1)
    assert time.monotonic() - begun < 60 and next_one["facts"]["faces"] <= 1000


def test_what_only_the_run_finds_is_a_problem_of_the_job_and_the_worker_lives_on(service, tmp_path):
    from serving.client import ServiceError

    Image.new("RGBA", (64, 64), (200, 30, 30, 0)).save(tmp_path / "nothing.png")
    queued = service.client.generate([tmp_path / "nothing.png"], **CHEAP)
    with pytest.raises(ServiceError) as failed:
        service.client.wait(queued["id"], every=0.1)
    assert failed.value.problem["type"] == "urn:trellis2:problem:picture" and "/" not in str(failed.value)
    with pytest.raises(ServiceError) as refused:
        service.client.file(queued["id"], "model.glb")
    assert refused.value.status == 422 and refused.value.problem == failed.value.problem
    assert not (service.data / "results" / queued["id"]).exists()
    assert service.client.health()["ready"]


@pytest.mark.skipif(bool(gateway.ABSENT), reason=f"{gateway.ABSENT} is not installed")
def test_a_job_through_the_gateway(service, rocket, made, tmp_path):
    """With a key the picture goes in and the files come out, as without a gateway; without one nothing does."""
    with gateway.running(tmp_path / "gateway", upstream=service.url.removeprefix("http://")) as running:
        url, key = f"http://127.0.0.1:{running.port}", gateway.keys.add(running.keys_file, "shop")
        client = Client(url, {"X-API-Key": key}, patience=5)
        job = client.wait(client.generate([rocket], seed=3, **CHEAP)["id"], every=0.5)
        files = {name: client.file(job["id"], name) for name in made[0]["files"]}
        assert {name: len(data) for name, data in files.items()} == {
            name: kept["bytes"] for name, kept in job["files"].items()
        }
        assert files["model.glb"] == service.client.file(made[0]["id"], "model.glb")
        with pytest.raises(ServiceError, match="Send it as .X-API-Key: KEY"):
            Client(url, patience=5).job(job["id"])
        assert service.client.job(job["id"])["status"] == "done"


def test_a_worker_that_is_killed_costs_one_try(service, rocket):
    job = service.client.generate([rocket], **{**CHEAP, "structure_steps": 20})
    until(service, job["id"], "structure")
    os.kill(_worker(service), signal.SIGKILL)
    done = service.client.wait(job["id"])
    assert done["tries"] == 2 and done["facts"]["faces"] <= 1000
    assert "trellis2_retries_total 1.0" in urllib.request.urlopen(service.url + "/metrics").read().decode()


def _worker(service):
    """The process of the worker."""
    import psutil

    children = psutil.Process(service.process.pid).children(recursive=True)
    (found,) = [each.pid for each in children if "ServeReplica:trellis2:worker" in " ".join(each.cmdline())]
    return found


def test_a_restart_keeps_what_is_done_and_says_what_became_of_the_rest(service, made, rocket, tmp_path):
    """The service is killed, not asked to stop: nobody can write a last word."""
    from serving.client import ServiceError

    finished, data = made[0], service.data
    glb = service.client.file(finished["id"], "model.glb")
    running = service.client.generate([rocket], **LONG)
    until(service, running["id"], "structure")
    waiting = service.client.generate([rocket], **CHEAP)
    service.kill()
    again = started(data)
    try:
        assert again.client.file(finished["id"], "model.glb") == glb
        told = again.client.job(running["id"])
        assert told["status"] == "interrupted" and "'structure'" in told["problem"]["detail"]
        with pytest.raises(ServiceError, match="send the request again"):
            again.client.file(running["id"], "model.glb")
        assert again.client.wait(waiting["id"])["facts"]["faces"] <= 1000
        assert json.load(urllib.request.urlopen(again.url + "/health"))["status"] == "ready"
        again.process.terminate()  # as containers are stopped
        assert again.process.wait(60) == 128 + signal.SIGTERM
    finally:
        again.stop()
