"""Many pictures: names, the manifest, and that no picture is lost, whatever happens."""

import errno
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from meshes import needs_warp
from PIL import Image

from pipeline.batch import (
    Job,
    Manifest,
    Outcome,
    Recipe,
    Record,
    find_pictures,
    guarded,
    plan_jobs,
)
from pipeline.batch.jobs import file_hash
from pipeline.batch.recipe import same
from pipeline.batch.sheet import write_sheet
from pipeline.errors import OutputError, SettingsError
from pipeline.spec import Samplers, SamplerSettings
from pipeline.stages import ExportSettings


def pictures(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def planned(given, output, recipe=None, earlier=None, variations=1):
    found = find_pictures(given, output)
    jobs = plan_jobs(found, output, recipe or Recipe(), 42, variations, earlier)
    return {os.path.relpath(job.picture, given[0]) if given[0].is_dir() else job.picture: job.name for job in jobs}


def test_names_are_kept_and_none_is_given_twice(tmp_path):
    folder = pictures(tmp_path / "in", "a.jpg", "a.png", "A.webp", "sub/a.png", "b.v2.png", ".hidden.png", "notes.txt")
    assert planned([folder], tmp_path / "out") == {
        "A.webp": "A",
        "a.jpg": "a_jpg",
        "a.png": "a_png",
        "b.v2.png": "b.v2",
        "sub/a.png": "sub/a",
    }
    one, other = folder / "a.png", folder / "sub" / "a.png"
    assert planned([one, other, one], tmp_path / "out") == {str(one): "a", str(other): "a_png"}


def test_a_name_stays_when_pictures_come_in_between(tmp_path):
    folder = pictures(tmp_path / "in", "a.png")
    earlier = {str(folder / "a.png"): ("a", file_hash(folder / "a.png"))}
    pictures(folder, "a.jpg")
    assert planned([folder], tmp_path / "out") == {"a.jpg": "a", "a.png": "a_png"}
    assert planned([folder], tmp_path / "out", earlier=earlier) == {"a.jpg": "a_jpg", "a.png": "a"}
    (folder / "a.png").write_bytes(b"edited")
    assert planned([folder], tmp_path / "out", earlier=earlier) == {"a.jpg": "a_jpg", "a.png": "a"}


def test_pictures_of_another_folder_do_not_take_a_name_unless_they_are_the_same(tmp_path):
    folder = pictures(tmp_path / "in", "a.png")
    earlier = {str(folder / "a.png"): ("a", file_hash(folder / "a.png"))}
    moved = folder.rename(tmp_path / "moved")
    assert planned([moved], tmp_path / "out", earlier=earlier) == {"a.png": "a"}
    other = pictures(tmp_path / "other", "a.png")
    (other / "a.png").write_bytes(b"something else")
    assert planned([other], tmp_path / "out", earlier=earlier) == {"a.png": "a_png"}


@pytest.mark.parametrize(
    ("recipe", "names", "expected"),
    [
        (Recipe(export=ExportSettings(lods=(9,))), ["a.png", "a_LOD1.png"], ["a", "a_LOD1_png"]),
        (Recipe(suffix=".gltf"), ["a.png", "a_normal.png"], ["a", "a_normal"]),
        (Recipe(pictures=True), ["x.png", "x_sheet.png"], ["x_seed42", "x_seed43", "x_sheet_seed42", "x_sheet_seed43"]),
    ],
)
def test_no_object_writes_a_file_of_another(tmp_path, recipe, names, expected):
    found = find_pictures([pictures(tmp_path / "in", *names)], tmp_path / "out")
    jobs = plan_jobs(found, tmp_path / "out", recipe, 42, 2 if recipe.pictures else 1)
    assert [job.name for job in jobs] == expected


def test_the_output_is_no_input(tmp_path):
    """Pictures of objects lie in it, and a picture in it that is named must not be overwritten."""
    folder, output = pictures(tmp_path, "a.png", "out/b.png"), tmp_path / "out"
    assert planned([folder], output) == {"a.png": "a"}
    assert planned([output / "b.png"], output, Recipe(pictures=True)) == {str(output / "b.png"): "b_png"}
    with pytest.raises(OutputError, match="is the folder of the pictures"):
        find_pictures([folder], folder)
    with pytest.raises(SettingsError, match=r"There is no picture in .*expected files that end in \.avif"):
        find_pictures([pictures(tmp_path / "none", "x.txt")], output)


def job_of(name="a", picture="/in/a.png", digest="1" * 64, seed=42):
    return Job(name, picture, digest, seed, name)


def test_what_is_done_is_not_done_again(tmp_path):
    """Only if picture, seed, settings and files are those of the manifest."""
    settings, job = Recipe().settings(checkpoint="small"), job_of()
    (tmp_path / "a.glb").write_bytes(b"glTF")
    with Manifest(tmp_path) as manifest:
        manifest.wait([job])
        assert not manifest.is_done(job, settings)
        manifest.done(job, ["a.glb"], settings=settings, report={"faces": 1})
    with Manifest(tmp_path) as manifest:
        assert manifest.is_done(job, settings) and manifest.pictures() == {"/in/a.png": ("a", "1" * 64)}
        for other in (replace(job, seed=43), replace(job, sha256="2" * 64), replace(job, name="b")):
            assert not manifest.is_done(other, settings)
        assert not manifest.is_done(job, Recipe(max_tokens=7).settings(checkpoint="small"))
        (tmp_path / "a.glb").write_bytes(b"glT")
        assert not manifest.is_done(job, settings)
        (tmp_path / "a.glb").unlink()
        assert not manifest.is_done(job, settings)


def test_what_was_refused_for_what_it_is_is_not_tried_again(tmp_path):
    """Unless the picture, a setting or the version is another one, or a package was missing that may be there now."""
    job, versions, settings = job_of(), {"pack": "1"}, Recipe().settings()
    facts = {"settings": settings, "versions": versions}
    with Manifest(tmp_path) as manifest:
        manifest.failed(job, "damaged", kind="ImageError", **facts)
        assert manifest.is_refused(job, settings, versions)
        assert not manifest.is_refused(replace(job, sha256="2" * 64), settings, versions)
        assert not manifest.is_refused(replace(job, sha256=""), settings, versions)
        assert not manifest.is_refused(job, Recipe(background="plain").settings(), versions)
        assert not manifest.is_refused(job, settings, {"pack": "2"})
        assert not Record(manifest, [job], settings, ".glb").refused  # by other versions
        for kind in ("MissingPackageError", "OutOfMemoryError", "ProcessDied", "EmptyResultError"):
            manifest.failed(job, "no", kind=kind, **facts)
            assert not manifest.is_refused(job, settings, versions)


def test_settings_of_an_older_release_mean_the_same():
    now = Recipe(max_tokens=7).settings(networks={"x": "1"})
    old = json.loads(json.dumps(now))
    del old["export"]["wall"], old["reduce_first"]
    assert same(old, now) and not same(old, Recipe().settings(networks={"x": "1"}))
    assert not same({**now, "networks": {"x": "2"}}, now)
    shape = SamplerSettings(guidance_scale=3.0, time_shift=2.0)
    now = Recipe(samplers=Samplers(shape=shape)).settings()
    old = json.loads(json.dumps(now))
    names = {"guidance_scale": "guidance", "guidance_interval": "interval", "time_shift": "rescale_t"}
    old["samplers"]["shape"] = {names.get(name, name): value for name, value in old["samplers"]["shape"].items()}
    assert old != now and same(old, now)


@pytest.mark.parametrize("left", [b'{"object": "b", "stat', b"{", b"\x00\x00"])
def test_an_incomplete_line_costs_itself_alone(tmp_path, left, caplog):
    (tmp_path / "a.glb").write_bytes(b"glTF")
    with Manifest(tmp_path) as manifest:
        manifest.done(job_of(), ["a.glb"], settings={})
    with open(tmp_path / "manifest.jsonl", "ab") as file:
        file.write(left)
    with Manifest(tmp_path) as manifest:
        assert manifest.is_done(job_of(), {}) and "is incomplete" in caplog.text
        manifest.failed(job_of("b"), "bad")
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [line["object"] for line in lines] == ["a", "b"]


def test_lines_of_others_are_no_reason_to_fail(tmp_path, caplog):
    strange = [b"not json", b"[1]", b'{"object": 5}', b"[" * 100_000, b'{"object": "a", "status": "done", "files": 3}']
    (tmp_path / "manifest.jsonl").write_bytes(b"\n".join(strange) + b"\n")
    with Manifest(tmp_path) as manifest:
        assert "4 lines of" in caplog.text and not manifest.is_done(job_of(), {}) and not manifest.pictures()


def test_two_processes_do_not_write_one_manifest(tmp_path):
    if sys.platform == "win32":
        pytest.skip("files are not locked on Windows")
    with Manifest(tmp_path), pytest.raises(OutputError, match="Another process writes"), Manifest(tmp_path):
        pass
    with Manifest(tmp_path):
        pass


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    """A write that gets half of its bytes down before the disk is full."""
    real, room = os.write, [50]

    def write(descriptor, data):
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = real(descriptor, bytes(data[: room[0]]))
        room[0] -= count
        return count

    with Manifest(tmp_path) as manifest:
        manifest.wait([job_of()])
        before = manifest.path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(OutputError, match=r"could not be written: No space left on device\."):
                manifest.failed(job_of(), "bad")
        assert manifest.path.read_bytes() == before and manifest.lines["a"]["status"] == "waiting"
        manifest.failed(job_of(), "bad")
    assert len(manifest.path.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("error", "stop"),
    [
        (SettingsError("no"), False),
        (OSError(errno.ENOENT, "gone"), False),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (KeyError("what nobody thought of"), False),
    ],
)
def test_an_error_costs_one_object_unless_it_would_cost_all(error, stop):
    def step(value):
        raise error

    outcome = guarded(step, 1)
    assert isinstance(outcome, Outcome) and outcome.stop == stop and outcome.kind == type(error).__name__
    assert str(error) in outcome.error


def test_an_interruption_is_no_outcome():
    def step():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded(step)


def test_a_full_disk_stops_a_run_and_the_object_waits(tmp_path):
    jobs = [job_of(name, f"/in/{name}.png") for name in "ab"]
    full = Outcome(error="x could not be written: No space left on device.", kind="OutputError", stop=True)
    with Manifest(tmp_path) as manifest:
        record = Record(manifest, jobs, {}, ".glb")
        record.begin()
        with pytest.raises(OutputError, match="The batch stops here; run the same command again"):
            record.take(jobs[0], full)
        assert record.counts() == {"done": 0, "failed": 0, "waiting": 2}


def test_a_contact_sheet(tmp_path):
    """The picture, and beside it a row of views for each variation; what is not there is left out."""
    Image.new("RGB", (64, 32), (200, 0, 0)).save(tmp_path / "a.png")
    Image.new("RGBA", (4 * 32, 32), (0, 0, 200, 255)).save(tmp_path / "views.png")
    write_sheet(tmp_path / "sheet.png", tmp_path / "a.png", [("one", tmp_path / "views.png"), ("two \u6a21", None)])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (5 * 256, 2 * 276)
        assert sheet.getpixel((100, 84)) == (200, 0, 0) and sheet.getpixel((256 + 500, 150)) == (0, 0, 200)
        assert sheet.getpixel((256 + 500, 276 + 150)) == (236, 236, 236)


@pytest.fixture
def quick(checkpoint):
    """Options of a run that takes a second an object; seed 43 gives none."""
    steps = ("--structure-steps", 1, "--geometry-only", "--device", "cpu")
    return ("--checkpoint", checkpoint, "--type", "1024", *steps)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def statuses(folder):
    return {line["object"]: line["status"] for line in lines_of(folder) if "object" in line}


@pytest.fixture
def folder(tmp_path, picture):
    """Three pictures, of which two ask for one name and one is damaged."""
    (tmp_path / "in").mkdir()
    for name in ("a.png", "a.jpg"):
        (tmp_path / "in" / name).write_bytes(picture.read_bytes())
    (tmp_path / "in" / "bad.png").write_bytes(picture.read_bytes()[:500])
    return tmp_path / "in"


def test_a_batch_and_its_continuation(run, quick, folder, tmp_path, picture):
    """The bytes of `generate`; a bad picture is told and skipped; what is there is not made again."""
    output = tmp_path / "out"
    code, out, err = run("batch", folder, "--output", output, *quick, "--log-json", tmp_path / "log.jsonl")
    told = [line for line in err.splitlines() if not line.startswith("Compiling Warp's kernels")]  # a fresh machine
    assert code == 1 and "bad.png cannot be read as a picture" in out and not told
    assert "2 done, 1 failed, 0 left" in out
    assert statuses(output) == {"a": "done", "a_png": "done", "bad": "failed"}
    done = next(line for line in lines_of(output) if line.get("object") == "a" and line["status"] == "done")
    assert done["seed"] == 42 and done["settings"]["export"]["faces"] == 500_000 and done["versions"]["torch"]
    assert done["files"] == [{"name": "a.glb", "bytes": (output / "a.glb").stat().st_size}]
    assert done["report"]["faces"] > 0 and len(done["settings"]["networks"]) > 3
    assert [each["stage"] for each in done["report"]["stages"]][-2:] == ["process mesh", "export"]
    (tmp_path / "one").mkdir()
    assert run("generate", picture, "--output", tmp_path / "one" / "a.glb", *quick)[0] == 0
    assert (tmp_path / "one" / "a.glb").read_bytes() == (output / "a.glb").read_bytes()

    assert lines_of(output)[0]["event"] == "begin" and lines_of(output)[0]["finish_on"] == "cpu"
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {line["job"] for line in log if line["kind"] == "job"} == {
        str(output / f"{n}.glb") for n in ("a", "a_png", "bad")
    }
    (bad,) = [line for line in log if line["error"]]
    assert bad["error"]["type"] == "ImageError" and "bad.png cannot be read" in bad["error"]["message"]
    of_a = [line for line in log if line["job"] == str(output / "a.glb")]
    assert [line["stage"] for line in of_a] == [*(each["stage"] for each in done["report"]["stages"]), ""]
    assert of_a[-1]["counts"]["faces"] == done["report"]["faces"] and {line["device"] for line in of_a} == {"cpu"}
    assert of_a[-1]["plan"]["name"] == of_a[0]["plan"]["name"]
    assert of_a[-1]["seconds"] == pytest.approx(done["report"]["seconds"])

    code, out, _ = run("batch", folder, "--output", output, *quick)
    assert code == 1 and "1 left out, as their pictures were refused before; --retry" in out
    assert "2 done, 1 failed, 0 left" in out and "bad.png cannot be read" not in out
    code, out, _ = run("batch", folder, "--output", output, *quick, "--retry")
    assert code == 1 and "bad.png cannot be read as a picture" in out

    before = {path: path.stat().st_mtime_ns for path in output.glob("*.glb")}
    (output / "a_png.glb").unlink()
    (folder / "bad.png").write_bytes(picture.read_bytes())
    code, out, _ = run("batch", folder, "--output", output, *quick)
    assert code == 0 and "3 objects to make, 1 of them is there already." in out
    assert set(statuses(output).values()) == {"done"} and (output / "a_png.glb").exists()
    kept = {path for path, changed in before.items() if path.stat().st_mtime_ns == changed}
    assert kept == {output / "a.glb"}


@needs_warp
@pytest.mark.parametrize("count", [0, -1, 101, 10**8, 2**64])
def test_so_many_variations_are_not_planned(tmp_path, count):
    """A hundred million of them were planned until the memory was full."""
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(SettingsError, match="cannot be made; give 1 to 100, of seeds below"):
        planned([tmp_path / "a.png"], tmp_path / "out", variations=count)


def test_an_output_that_is_a_file_is_told(tmp_path):
    (tmp_path / "out").write_bytes(b"x")
    with pytest.raises(OutputError, match="out is a file; name a folder"), Manifest(tmp_path / "out"):
        pass


def test_variations_have_a_sheet(run, quick, tmp_path, picture, small_views):
    """Also where one of them cannot be made, and again where it is gone."""
    output, name = tmp_path / "out", picture.stem
    code, out, _ = run("batch", picture, "--output", output, *quick, "--variations", 2)
    assert code == 1 and "The mesh has no faces" in out and "1 done, 1 failed, 0 left" in out
    first = {f"{name}_seed42.glb", f"{name}_seed42.png", f"{name}_sheet.png", "manifest.jsonl"}
    assert {path.name for path in output.iterdir()} == first
    assert statuses(output) == {f"{name}_seed42": "done", f"{name}_seed43": "failed"}
    (output / f"{name}_sheet.png").unlink()
    code, out, _ = run("batch", picture, "--output", output, *quick, "--variations", 2)
    assert "2 objects to make, 1 of them is there already." in out and (output / f"{name}_sheet.png").exists()


def test_a_disk_that_gets_full_in_mid_run(run, quick, folder, tmp_path, monkeypatch):
    """Said, nothing half-written, and the next run goes on."""
    from pipeline.export import writers

    real, left = Path.write_bytes, [1]

    def write(path, data):
        left[0] -= path.suffix == ".tmp"
        if left[0] < 0:
            real(path, data[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, data)

    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(writers.Path, "write_bytes", write)
        code, out, err = run("batch", folder, "--output", output, *quick)
    assert code == 1 and "No space left on device. The batch stops here" in err
    assert sorted(path.name for path in output.iterdir()) == ["a.glb", "manifest.jsonl"]
    assert statuses(output) == {"a": "done", "a_png": "waiting", "bad": "waiting"}
    assert lines_of(output)[-1]["event"] == "stopped" and "1 done, 0 failed, 2 left" in out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send to one process")
def test_ctrl_c_leaves_what_the_next_run_goes_on_with(run, quick, folder, tmp_path, monkeypatch):
    from pipeline.cli import batch as command

    def interrupt(*arguments):
        signal.raise_signal(signal.SIGINT)

    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(command, "tell", interrupt)
        code, out, err = run("batch", folder, "--output", output, *quick)
    assert code == 130 and err == "interrupted\n" and "1 done, 0 failed, 2 left" in out
    assert statuses(output) == {"a": "done", "a_png": "waiting", "bad": "waiting"}
    assert lines_of(output)[-1]["event"] == "interrupted"
    code, out, _ = run("batch", folder, "--output", output, *quick)
    assert code == 1 and "3 objects to make, 1 of them is there already." in out
    assert statuses(output) == {"a": "done", "a_png": "done", "bad": "failed"}
