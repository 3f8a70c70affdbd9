"""Where a service keeps jobs and results, against real servers: SQLite and PostgreSQL; folder, memory, FTP and S3."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers import ftp, postgresql, s3
from service import needs_serving

pytestmark = needs_serving


@pytest.fixture(scope="module")
def server():
    with postgresql() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def jobs(request, tmp_path):
    from serving.jobs import Jobs

    found = Jobs(
        f"sqlite:///{tmp_path}/jobs.sqlite" if request.param == "sqlite" else request.getfixturevalue("server")
    )
    yield found
    with found._engine.begin() as connection:
        connection.exec_driver_sql("delete from trellis2_jobs")
    found.close()


def job(**more):
    from serving.jobs import Job

    return Job("generate", {"seed": 1, "lods": [3, 2]}, {"pictures": [["a", "b"]]}, **more)


def test_a_job_comes_back_as_it_went(jobs):
    first = jobs.add(job(), 9)
    assert jobs.get(first.id) == first and jobs.get("nothing") is None
    result = {"facts": {"x": [1.5, None, "ü"]}, "stages": []}
    assert jobs.change(first.id, ("queued",), status="done", finished=5.0, files={"model.glb": 3}, result=result)
    assert not jobs.change(first.id, ("queued",), status="failed")
    found = jobs.get(first.id)
    assert (found.status, found.files, found.result, found.finished) == ("done", {"model.glb": 3}, result, 5.0)
    assert jobs.recent(5) == [found] and jobs.counts() == {"done": 1}
    assert jobs.kept_and_finished_before(4.0) == [] and jobs.kept_and_finished_before(6.0) == [found]
    jobs.forget_finished_before(6.0)
    assert jobs.get(first.id) == found  # something of it is kept
    jobs.change(first.id, ("done",), kept=False)
    jobs.forget_finished_before(6.0)
    assert jobs.get(first.id) is None


def test_the_queue_is_in_order_and_has_an_end(jobs):
    from serving.jobs import QueueFullError

    made = [jobs.add(job(created=float(number)), 4) for number in (3, 1, 2, 4)]
    with pytest.raises(QueueFullError):
        jobs.add(job(), 4)
    assert [jobs.ahead_of(each) for each in made] == [2, 0, 1, 3]
    claimed = [jobs.claim() for _ in range(5)]
    assert [each and each.created for each in claimed] == [1.0, 2.0, 3.0, 4.0, None]
    assert all(each.status == "running" and each.tries == 1 and each.started for each in claimed[:4])


def test_many_at_once_find_no_more_places_than_there_are(jobs):
    from serving.jobs import QueueFullError

    begin = threading.Barrier(6)

    def add(_):
        begin.wait()
        try:
            return bool(jobs.add(job(), 3))
        except QueueFullError:
            return False

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(add, range(6))) == 3
    assert jobs.counts() == {"queued": 3}


def test_many_at_once_claim_each_job_once(jobs):
    made = {jobs.add(job(), 99).id for _ in range(20)}
    claimed, begin = [], threading.Barrier(6)

    def claim(_):
        begin.wait()
        for _ in range(40):
            if found := jobs.claim():
                claimed.append(found.id)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(claim, range(6)))
    assert len(claimed) == len(set(claimed)) and set(claimed) == made


def test_one_key_at_the_same_time_makes_one_job(jobs):
    begin = threading.Barrier(6)

    def add(_):
        begin.wait()
        return jobs.add(job(key="k", digest="d"), 99).id

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(add, range(6)))) == 1
    assert jobs.counts() == {"queued": 1}


def test_a_database_that_is_not_there_is_said_without_its_password():
    from pipeline.errors import SettingsError
    from serving.jobs import Jobs

    for url in ("postgresql+psycopg://me:secret@127.0.0.1:1/x", "nonsense://x", "sqlite:////nowhere/at/all.sqlite"):
        with pytest.raises(SettingsError, match=r"cannot be used: .*Check the URL") as refused:
            Jobs(url)
        assert "secret" not in str(refused.value)


@pytest.fixture(params=["folder", "memory", "ftp", "s3"])
def store(request, tmp_path):
    from serving.store import Store

    if request.param == "folder":
        yield Store((tmp_path / "results").as_uri())
    elif request.param == "memory":
        yield Store("memory://results")
    else:
        (tmp_path / "ftp").mkdir()
        with ftp(tmp_path / "ftp") if request.param == "ftp" else s3() as (url, options):
            yield Store(url, options)


def test_files_come_back_as_they_went_and_go_with_their_job(store, tmp_path):
    from pipeline.errors import StateError

    a, b = "a" * 32, "b" * 32
    source, back = tmp_path / "source", tmp_path / "back"
    data = bytes(range(256)) * 1000
    for owner, name, content in ((a, "model.glb", data), (a, "empty", b""), (b, "model.glb", b"other")):
        source.write_bytes(content)
        store.put(owner, source, name)
        assert store.has(owner, name)
        store.fetch(owner, name, back)
        assert back.read_bytes() == content
    source.write_bytes(b"again")
    store.put(b, source, "model.glb")
    store.fetch(b, "model.glb", back)
    assert back.read_bytes() == b"again" and sorted(store.jobs()) == [a, b]
    store.remove_file(a, "empty")
    store.remove_file(a, "nothing")
    assert not store.has(a, "empty") and store.has(a, "model.glb")
    store.remove(a)
    store.remove(a)
    assert store.jobs() == [b]
    with pytest.raises(StateError, match="no longer stored"):
        store.fetch(a, "model.glb", back)
    for name in ("../x", "a/b", "", ".hidden"):
        with pytest.raises(ValueError, match="no name"):
            store.put(b, source, name or "..")


def test_several_threads_use_one_store(store, tmp_path):
    def there_and_back(number):
        source, back = tmp_path / f"s{number}", tmp_path / f"b{number}"
        source.write_bytes(bytes([number]) * 50_000)
        store.put(f"{number:032x}", source, "x")
        store.fetch(f"{number:032x}", "x", back)
        return back.read_bytes() == source.read_bytes()

    with ThreadPoolExecutor(5) as pool:
        assert all(pool.map(there_and_back, range(10)))


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    from fsspec.implementations.local import LocalFileSystem

    from pipeline.errors import OutputError
    from serving.store import Store

    store, source = Store((tmp_path / "results").as_uri()), tmp_path / "source"
    source.write_bytes(b"x" * 1000)

    def half(self, path, target, **_):
        with open(target, "wb") as file:
            file.write(b"x" * 500)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalFileSystem, "put_file", half)
    with pytest.raises(OutputError, match="No space left on device.*try again later"):
        store.put("a" * 32, source, "model.glb")
    assert not store.has("a" * 32, "model.glb")
    monkeypatch.setattr(LocalFileSystem, "put_file", lambda self, path, target, **_: open(target, "wb").close())
    with pytest.raises(OutputError, match="0 of 1,000 bytes arrived"):
        store.put("a" * 32, source, "model.glb")
    assert not store.has("a" * 32, "model.glb")


def test_a_store_that_is_not_there_is_said_without_its_password():
    from pipeline.errors import SettingsError
    from serving.store import Store

    for url in ("ftp://me:secret@127.0.0.1:1/x", "nonsense://x", "file:///proc/nowhere"):
        with pytest.raises(SettingsError, match="cannot be used") as refused:
            Store(url)
        assert "secret" not in str(refused.value)


def test_results_in_a_remote_store_are_served(tmp_path):
    """A whole service whose results are on an FTP server."""
    from dataclasses import replace

    from fastapi.testclient import TestClient
    from service_bench import Bench, Played, png

    from serving.app import create
    from serving.store import Store

    (tmp_path / "ftp").mkdir()
    with ftp(tmp_path / "ftp") as (url, options):
        bench = Bench(tmp_path)
        settings = replace(bench.settings, worker=replace(bench.settings.worker, store=url, store_options=options))
        far = Store(url, options)

        class Remote(Played):
            def _finished(self, job):
                path = tmp_path / "made"
                path.write_bytes(b"glTF" * 100)
                far.put(job["id"], path, "model.glb")
                return {"done": {"facts": {"faces": 1}, "stages": [], "memory": {}, "files": {"model.glb": 400}}}

        with TestClient(create(settings, Remote(bench.engine.store))) as http:
            job = http.post("/generate", files={"picture": png()}).json()["id"]
            while "finished" not in (told := http.get(f"/jobs/{job}").json()):
                time.sleep(0.05)
            assert told["status"] == "done", told
            answer = http.get(f"/jobs/{job}/model.glb")
            assert answer.content == b"glTF" * 100 and answer.headers["content-type"] == "model/gltf-binary"
            assert [path.name for path in (tmp_path / "ftp" / "results" / job).iterdir()] == ["model.glb"]


def test_the_folder_of_results_is_where_it_was_asked_for(tmp_path):
    """fsspec takes a file's URL as it stands: %20 would be another folder."""
    import argparse

    from serving.settings import add, from_options
    from serving.store import Store

    parser = argparse.ArgumentParser()
    add(parser)
    folder = tmp_path / "ü and space"
    Store(from_options(parser.parse_args(["--data", str(folder)])).worker.store)
    assert (folder / "results").is_dir()
