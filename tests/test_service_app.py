"""The service's routes, queue and database, with workers that are played: what they do is told by the test."""

import base64
import json
import threading
import time

import pytest
from service import needs_serving
from service_bench import RESULT, STEP, Bench, png

pytestmark = needs_serving


@pytest.fixture
def bench(tmp_path):
    with Bench(tmp_path) as made:
        yield made


def problem(answer, status, kind):
    """The detail of a problem of that status and kind."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["type"] == f"urn:trellis2:problem:{kind}" and told["status"] == status and told["title"]
    return told["detail"]


def test_a_job_from_the_request_to_its_files(bench):
    answer = bench.generate(seed=7, lods="500 100")
    queued = answer.json()
    assert answer.status_code == 202 and answer.headers["location"] == f"/jobs/{queued['id']}"
    job = bench.ended(queued["id"])
    assert job["status"] == "done" and job["parameters"] == {"seed": "7", "lods": ["500", "100"]}
    assert job["facts"]["faces"] == 12 and job["tries"] == 1 and job["expires"] > job["finished"] >= job["started"]
    glb = bench.http.get(job["files"]["model.glb"]["url"])
    assert glb.content == b"glTF" + job["id"].encode() and glb.headers["content-type"] == "model/gltf-binary"
    assert bench.http.head(f"/jobs/{job['id']}/model.glb").headers["content-length"] == "36"
    assert bench.http.get(f"/jobs/{job['id']}/state").content == glb.content
    stored = {path.name for path in (bench.settings.data / "results" / job["id"]).iterdir()}
    assert stored == {"model.glb", "preview.png", "state.safetensors"}  # the picture is needed no more


def test_json_says_the_same_as_a_form(bench):
    picture = base64.b64encode(png()).decode()
    for value in (picture, [picture], f"data:image/png;base64,{picture}"):
        sent = {"picture": value, "seed": 7, "texture_interval": [0.1, 1], "carve": False, "flat_base": True}
        answer = bench.http.post("/generate", json=sent)
        assert answer.status_code == 202, answer.text
        assert bench.ended(answer.json()["id"])["status"] == "done"


FORM = {"Content-Type": "multipart/form-data; boundary=x"}
BAD = [
    # form fields, files (None: one good picture), status, kind, words
    ({"faces": "2"}, None, 422, "settings", "at least 4 faces, got 2"),
    ({"faces": "many"}, None, 422, "settings", "faces: takes a whole number, got 'many'"),
    ({"faces": ["5", "6"]}, None, 422, "settings", "faces: stands twice"),
    ({"texture_size": "1"}, None, 422, "settings", "64"),
    ({"seed": "-1"}, None, 422, "settings", "seed: must lie in 0"),
    ({"type": "2048"}, None, 422, "settings", "1536_cascade"),
    ({"type": "1024"}, None, 422, "checkpoint", "Choose type 512"),
    ({"shells": "hollow"}, None, 422, "settings", "one of surface, outer, solid, auto"),
    ({"wall": "0.1", "shells": "outer"}, None, 422, "settings", "wall"),
    ({"lods": "100 200"}, None, 422, "settings", "Levels of detail must have fewer faces"),
    ({"size": "80 parsecs"}, None, 422, "settings", "size: "),
    ({"flat_base": "nan"}, None, 422, "settings", "flat_base: must be a finite number"),
    ({"structure_rescale": "2"}, None, 422, "settings", "structure_rescale: Guidance rescale must lie in 0-1"),
    ({"max_error": "nan"}, None, 422, "settings", "max_error: "),
    ({"structure_steps": "0"}, None, 422, "settings", "structure"),
    ({"shape_steps": "1" + "0" * 12}, None, 422, "settings", "at most 1,000 steps"),
    ({"faces": "9000", "lods": " ".join(map(str, range(8000, 5, -1)))}, None, 422, "settings", "16 levels of detail"),
    ({"texture_interval": "0.5"}, None, 422, "settings", "takes 2 values, got 1"),
    ({"geometry_only": "perhaps"}, None, 422, "settings", "takes true or false"),
    ({"views": "front left"}, None, 422, "settings", "1 picture and 2 views (front left); name one"),
    ({"views": "up"}, None, 422, "settings", "A view is front"),
    ({"views": "400"}, None, 422, "settings", "azimuth must lie in -360 to 360 degrees, got 400"),
    ({"views": "45,91"}, None, 422, "settings", "elevation must lie in -90 to 90 degrees, got 91"),
    ({"views": "nan"}, None, 422, "settings", "azimuth must lie in -360 to 360 degrees, got nan"),
    ({"views": "front 0"}, [("picture", ("a.png", png()))] * 2, 422, "settings", "same view: front, front"),
    ({"project": "on", "project_min_iou": "2"}, None, 422, "settings", "must lie in 0 to 1, got 2"),
    ({"view_weights": "1"}, None, 422, "settings", "no effect on one picture"),
    ({"texture_views": "average"}, None, 422, "settings", "no effect on one picture"),
    ({"view_weights": "0"}, None, 422, "settings", "must lie in 0.001 to 1000, got 0"),
    ({"view_weights": "1"}, [("picture", ("a.png", png()))] * 2, 422, "settings", "1 weight for 2 pictures"),
    ({"carve": "true"}, None, 422, "settings", "name them with views"),
    ({"picture": "chair.png"}, None, 400, "malformed", "picture came as text"),
    ({"max_tokens": "-4"}, None, 422, "settings", "token"),
    ({"output": "/etc/passwd"}, None, 422, "settings", "There is no parameter output"),
    ({"checkpoint": "/etc"}, None, 422, "settings", "There is no parameter checkpoint"),
    ({"backend": "unwrap=xatlas"}, None, 422, "settings", "There is no parameter backend"),
    ({}, [("seed", ("a", b"1"))], 400, "malformed", "a file 'seed'"),
    ({"seed": "1"}, [], 400, "malformed", "Expected multipart/form-data"),
    ({}, [("picture", ("a.png", b""))], 422, "picture", "cannot be read as a picture"),
    ({}, [("picture", ("a.png", png()[:90]))], 422, "picture", "Save it again"),
    ({}, [("picture", ("a.png", b"%PDF-1.7"))], 422, "picture", "a PDF file"),
    ({}, [("picture", ("../../a.png", b"<html>"))], 422, "picture", "a web page"),
    ({}, [("picture", ("a.png", png())), ("mask", ("m", png())), ("mask", ("n", png()))], 422, "settings", "2 masks"),
    ({}, [("picture", ("a.png", png())), ("mask", ("m", b"no"))], 422, "picture", "mask-1"),
    ({}, [("picture", (f"{n}.png", png())) for n in range(5)], 400, "malformed", "At most 4"),
    ({}, [("picture", ("a.png", b"x" * 200_001))], 413, "too-large", "larger than 0.2 MB"),
    ({}, [("picture", ("a.png", png())), ("state", ("s", b"x"))], 400, "malformed", "/extract_glb"),
]


@pytest.mark.parametrize(
    ("fields", "files", "status", "kind", "words"), BAD, ids=[str(row[:1] or row)[:40] for row in BAD]
)
def test_what_cannot_be_used_is_refused_with_the_cure_and_nothing_stays(limited, fields, files, status, kind, words):
    detail = problem(limited.generate(files, **fields), status, kind)
    assert words in detail and "/tmp" not in detail and "Traceback" not in detail
    assert not list((limited.settings.data / "results").iterdir())
    assert not limited.engine.tries and limited.http.get("/health").json()["ready"]


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    with Bench(tmp_path_factory.mktemp("limited"), pictures=4, picture_bytes=200_000) as made:
        yield made


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "no JSON"),
        (b"[1]", "Expected a JSON object, got list"),
        (b'{"picture": "@@"}', "no base64"),
        (b'{"picture": 3}', "takes base64 text"),
        (b'{"picture": []}', "A picture is missing"),
        (b"[" * 100_000, "no JSON"),
        (b'{"structure_guidance": NaN}', "finite numbers"),
        (b'{"structure_guidance": [1e999]}', "finite numbers"),
        (b'{"\\ud800": 1}', "whole characters"),
        (b'{"picture": "\\ud800"}', "no base64"),
        (b'{"job": "\\udfff"}', "whole characters"),
    ],
)
def test_bad_json(limited, body, words):
    answer = limited.http.post("/generate", content=body, headers={"Content-Type": "application/json"})
    assert words in problem(answer, 400, "malformed")


@pytest.mark.parametrize(
    ("content", "headers", "words"),
    [
        (b"abc", {}, "Missing boundary"),
        (b"abc", FORM, "The form cannot be read: Invalid"),
        (
            b'--x\r\nContent-Disposition: form-data; name="seed"\r\n\r\n' + b"1" * 2_000_000,
            FORM,
            "The form cannot be read",
        ),
        (b"{}", {"Content-Type": "application/json", "Content-Encoding": "gzip"}, "send it as it is"),
    ],
)
def test_bodies_that_no_parser_can_read(limited, content, headers, words):
    answer = limited.http.post("/generate", content=content, headers={"Content-Type": "multipart/form-data", **headers})
    assert words in problem(answer, 400, "malformed")


@pytest.mark.parametrize(
    ("sent", "status", "kind", "words"),
    [
        ({}, 400, "malformed", "A state is missing"),
        ({"job": "0" * 32, "state": "AAAA"}, 400, "malformed", "send one of them"),
        ({"job": "0" * 32, "picture": base64.b64encode(png()).decode()}, 400, "malformed", "pictures go to /generate"),
        ({"job": "0" * 32}, 404, "unknown-job", "There is no job"),
        ({"job": "../../etc"}, 404, "unknown-job", "There is no job"),
        ({"job": 5}, 400, "malformed", "the id of a job"),
        ({"job": "0" * 32, "seed": 5}, 422, "settings", "There is no parameter seed"),
        ({"state": base64.b64encode(b"no state").decode()}, 422, "state", "state.safetensors"),
    ],
)
def test_bad_states(limited, sent, status, kind, words):
    detail = problem(limited.http.post("/extract_glb", json=sent), status, kind)
    assert words in detail and "/tmp" not in detail


def test_a_body_that_is_too_long_is_refused_before_and_while_it_comes(limited):
    def endless():
        for _ in range(100):
            yield b"x" * 1_000_000

    begun = time.monotonic()
    headers = {"Content-Type": "application/json"}
    assert "larger" in problem(limited.http.post("/generate", content=endless(), headers=headers), 413, "too-large")
    named = {**headers, "Content-Length": "99999999999"}
    assert "larger" in problem(limited.http.post("/generate", content=b"{}", headers=named), 413, "too-large")
    assert time.monotonic() - begun < 10


def test_paths_and_names_that_lead_elsewhere(bench):
    job = bench.ended(bench.generate().json()["id"])
    for path in ("..%2f..%2fjobs.sqlite", "../../jobs.sqlite", "%2e%2e/x", "input-1", "model.glb%00", "nothing.obj"):
        assert bench.http.get(f"/jobs/{job['id']}/{path}").status_code == 404, path
    assert "it has model.glb" in problem(bench.http.get(f"/jobs/{job['id']}/x.obj"), 404, "no-file")
    assert "See /docs" in problem(bench.http.get("/elsewhere"), 404, "http")
    assert bench.http.get("/page.js/../../app.py").status_code == 404
    assert problem(bench.http.put("/generate"), 405, "http")


def test_the_same_request_with_the_same_key_makes_one_job(bench):
    key = {"Idempotency-Key": "k1"}
    first, again = bench.generate(headers=key, seed=1), bench.generate(headers=key, seed=1)
    assert (first.status_code, again.status_code) == (202, 200) and first.json()["id"] == again.json()["id"]
    assert "Take a new key" in problem(bench.generate(headers=key, seed=2), 422, "idempotency-key")
    other = [("picture", ("a.png", png(64)))]
    assert problem(bench.generate(other, key, seed=1), 422, "idempotency-key")
    assert bench.generate(seed=1).json()["id"] != first.json()["id"]
    problem(bench.generate(headers={"Idempotency-Key": "x" * 300}), 400, "malformed")
    assert len(list((bench.settings.data / "results").iterdir())) == 2


def test_the_queue_has_an_end_and_loses_nothing(tmp_path):
    with Bench(tmp_path, queue_limit=3) as bench:
        hold = threading.Event()
        bench.engine.play = lambda job, number: [STEP, hold, {"done": RESULT}]
        running = bench.generate().json()["id"]
        bench.ended(running, "running")
        waiting = [bench.generate().json() for _ in range(3)]
        assert [job["ahead"] for job in waiting] == [0, 1, 2]
        refused = bench.generate()
        assert "which is the limit" in problem(refused, 429, "queue-full") and refused.headers["retry-after"]
        assert len(list((tmp_path / "results").iterdir())) == 4  # of the refused one nothing
        known = {"Idempotency-Key": "a"}
        assert problem(bench.generate(headers=known), 429, "queue-full")
        assert problem(bench.generate([("picture", ("a", b"not looked at"))]), 429, "queue-full")
        assert "running" in problem(bench.http.get(f"/jobs/{running}/model.glb"), 409, "not-finished")
        hold.set()
        assert {bench.ended(job["id"])["status"] for job in waiting} == {"done"}
        text = bench.http.get("/metrics").text
        assert 'trellis2_jobs_total{command="generate",status="done"} 4.0' in text
        assert 'trellis2_refused_total{reason="queue-full"} 3.0' in text
        assert 'trellis2_stage_seconds_sum{stage="structure"} 8.0' in text
        assert 'trellis2_stage_peak_bytes{stage="structure"} 5.0' in text
        assert 'trellis2_plans_total{plan="whole"} 4.0' in text
        assert 'trellis2_adapted_total{stage="structure"} 4.0' in text


def test_time_left_comes_from_what_was_measured(bench):
    bench.ended(bench.generate().json()["id"])
    hold = threading.Event()
    bench.engine.play = lambda job, number: [STEP, hold, {"done": RESULT}]
    job = bench.generate().json()["id"]
    while "seconds_left" not in (told := bench.http.get(f"/jobs/{job}").json()) or not told["step"]:
        time.sleep(0.01)
    assert (told["stage"], told["step"], told["steps"]) == ("structure", 1, 4) and 0 <= told["seconds_left"] < 2
    hold.set()
    assert bench.ended(job)["status"] == "done"


def test_cancelling_what_waits_and_what_runs(bench):
    hold = threading.Event()
    bench.engine.play = lambda job, number: [STEP, hold, {"done": RESULT}]
    running, waiting = (bench.generate().json()["id"] for _ in range(2))
    bench.ended(running, "running")
    assert bench.http.delete(f"/jobs/{waiting}").json()["status"] == "cancelled"
    assert bench.http.post(f"/jobs/{running}/cancel").json()["status"] == "cancelled"
    hold.set()
    assert "cancelled" in problem(bench.http.post(f"/jobs/{running}/cancel"), 409, "ended")
    problem(bench.http.get(f"/jobs/{running}/model.glb"), 410, "cancelled")
    assert bench.ended(bench.generate().json()["id"])["status"] == "done"
    assert waiting not in bench.engine.tries and not bench.engine.open
    assert not (bench.settings.data / "results" / running).exists()
    assert not (bench.settings.data / "results" / waiting).exists()


def test_a_lost_worker_costs_a_try_and_two_cost_the_job(bench):
    from serving.engine import WorkerLostError

    bench.engine.play = lambda job, number: [STEP, WorkerLostError("killed") if number == 1 else {"done": RESULT}]
    job = bench.ended(bench.generate().json()["id"])
    assert (job["status"], job["tries"]) == ("done", 2)
    bench.engine.play = lambda job, number: [STEP, WorkerLostError("killed")]
    job = bench.ended(bench.generate().json()["id"])
    assert job["status"] == "failed" and "smaller texture_size" in job["problem"]["detail"]
    assert problem(bench.http.get(f"/jobs/{job['id']}/model.glb"), 500, "worker-lost")
    assert not (bench.settings.data / "results" / job["id"]).exists()
    assert "trellis2_retries_total 2.0" in bench.http.get("/metrics").text


def test_a_restart_goes_on_with_the_queue_and_says_what_was_interrupted(tmp_path):
    from serving.jobs import RUNNING, Job, Jobs
    from serving.store import Store

    with Bench(tmp_path) as before:
        done = before.ended(before.generate().json()["id"])
    jobs, store = Jobs(before.settings.database), Store(before.settings.worker.store)
    left = {name: Job("generate", {}, {"pictures": []}) for name in ("running", "waiting")}
    for job in left.values():
        jobs.add(job, 9)
        store.put(job.id, tmp_path / "made", "picture-1")
    jobs.change(left["running"].id, ("queued",), status=RUNNING, stage="shape")
    store.put("f" * 32, tmp_path / "made", "picture-1")  # received when the service died
    with Bench(tmp_path) as after:
        assert after.ended(left["waiting"].id)["status"] == "done"
        told = after.ended(left["running"].id)
        assert told["status"] == "interrupted" and "'shape'" in told["problem"]["detail"]
        assert "send the request again" in problem(after.http.get(f"/jobs/{told['id']}/model.glb"), 503, "interrupted")
        assert after.http.get(f"/jobs/{done['id']}/model.glb").content == b"glTF" + done["id"].encode()
        assert {path.name for path in (tmp_path / "results").iterdir()} == {done["id"], left["waiting"].id}


def test_a_service_that_stops_interrupts_what_runs(tmp_path):
    with Bench(tmp_path) as bench:
        bench.engine.play = lambda job, number: [STEP, threading.Event()]
        running = bench.generate().json()["id"]
        bench.ended(running, "running")
        while bench.http.get(f"/jobs/{running}").json().get("stage") != "structure":
            time.sleep(0.01)
    from serving.jobs import Jobs

    job = Jobs(bench.settings.database).get(running)
    assert job.status == "interrupted" and "'structure'" in job.problem["detail"] and not bench.engine.open


def test_results_are_kept_for_a_time(tmp_path):
    from serving.dispatch import Dispatcher
    from serving.jobs import Jobs
    from serving.metrics import Metrics

    with Bench(tmp_path, keep_seconds=3600.0) as bench:
        job = bench.ended(bench.generate().json()["id"])
        jobs = Jobs(bench.settings.database)
        sweeper = Dispatcher(bench.settings, jobs, bench.engine.store, bench.engine, Metrics())
        sweeper.sweep(time.time() + 3000)
        assert bench.http.get(f"/jobs/{job['id']}/model.glb").status_code == 200
        sweeper.sweep(time.time() + 3700)
        assert "kept for the time" in problem(bench.http.get(f"/jobs/{job['id']}/model.glb"), 410, "expired")
        problem(bench.http.post("/extract_glb", json={"job": job["id"]}), 410, "expired")
        assert bench.http.get(f"/jobs/{job['id']}").json()["status"] == "expired"
        assert not list((tmp_path / "results").iterdir())
        sweeper.sweep(time.time() + 3600 * 8)
        problem(bench.http.get(f"/jobs/{job['id']}"), 404, "unknown-job")


def test_a_disk_that_is_nearly_full_takes_nothing(tmp_path):
    with Bench(tmp_path, disk_bytes=1 << 60) as bench:
        answer = bench.generate()
        assert "must remain free" in problem(answer, 507, "disk-full") and answer.headers["retry-after"]
        assert not list((tmp_path / "results").iterdir())


def test_health_tells_loading_ready_and_error_at_once(tmp_path):
    from serving.engine import EngineState

    with Bench(tmp_path) as bench:
        for state, word, code in (
            (EngineState(), "loading", 503),
            (EngineState(2), "ready", 200),
            (EngineState(0, "CheckpointError: there is no checkpoint"), "error", 503),
        ):
            bench.engine.now = state
            while (told := bench.http.get("/health").json())["status"] != word:
                time.sleep(0.05)
            assert told["live"] and told["error"] == state.error and told["workers"] == state.ready
            assert bench.http.get("/ready").status_code == code
        assert bench.generate().status_code == 202  # it waits for a worker


def test_a_database_that_is_away_is_said_and_a_result_waits_for_it(bench, monkeypatch):
    import sqlalchemy as sa

    from serving.jobs import Jobs

    def away(*_, **__):
        raise sa.exc.OperationalError("select", {}, Exception("gone"))

    hold = threading.Event()
    bench.engine.play = lambda job, number: [STEP, hold, {"done": RESULT}]
    job = bench.generate().json()["id"]
    bench.ended(job, "running")
    with monkeypatch.context() as patch:
        for name in ("get", "change", "claim", "counts", "of_key"):
            patch.setattr(Jobs, name, away)
        hold.set()
        assert "Try again" in problem(bench.http.get(f"/jobs/{job}"), 503, "database")
        time.sleep(0.3)
        assert bench.http.get("/health").status_code == 200
    assert bench.ended(job)["status"] == "done"


def test_the_openapi_page_describes_both_forms_with_tiers(bench):
    described = bench.http.get("/openapi.json").json()
    content = described["paths"]["/generate"]["post"]["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "application/json"}
    properties = content["application/json"]["schema"]["properties"]
    assert properties["seed"]["x-tier"] == "basic" and properties["solver"]["x-tier"] == "expert"
    assert properties["type"]["enum"][0] == "512" and properties["picture"]["items"]["contentEncoding"] == "base64"
    assert set(described["paths"]) >= {"/generate", "/extract_glb", "/jobs/{job_id}", "/jobs/{job_id}/cancel"}
    assert "openapi.json" in bench.http.get("/docs").text
    page = bench.http.get("/")
    assert "NONCE" not in page.text and "nonce-" in page.headers["content-security-policy"]
    assert "://" not in page.text and "parameters" in bench.http.get("/page.js").text
    assert (
        json.loads(bench.http.get("/parameters").text)["extract_glb"]["properties"]["texture_format"]["default"]
        == "png"
    )
