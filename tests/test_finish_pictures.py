"""Pictures of what was made: kinds of results, turntables, interruption, more pixels than memory."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("warp")

from pipeline import stages
from pipeline.errors import SettingsError
from pipeline.render import Camera
from pipeline.runtime import Runtime
from pipeline.stages import checks
from pipeline.stages.finishing import source_mesh


def runtime(**options):
    return Runtime("cpu", stages.table(), **options)


def test_pictures_of_every_kind_of_result(damaged):
    raw, voxels = damaged
    used = runtime()
    mesh = stages.process_mesh(used, raw, 1000, max_hole_perimeter=0.2, resolution=64)
    coloured = stages.color_vertices(used, mesh, voxels)
    textured = stages.bake_texture(used, mesh, voxels, 256)
    clay, one, two = (stages.draw(used, each, 1, 64, camera=Camera(0, 0))[0] for each in (mesh, coloured, textured))
    assert np.array_equal(clay[:, :, 3] > 128, two[:, :, 3] > 128) and (clay[:, :, 3] > 128).mean() > 0.5
    assert np.ptp(clay[32, 32, :3].astype(int)) < 12  # grey
    for picture in (one, two):  # in front, colour is (0.5, 0.1, 0.5)
        red, green, blue = picture[32, 32, :3].astype(int)
        assert green < 0.6 * min(red, blue) and abs(red - blue) < 20
    assert np.abs(one.astype(int) - two)[20:44, 20:44].max() < 25


class Interrupted(BaseException):
    """As ComfyUI's."""


def interrupting(stage, calls):
    """A callback that raises at a stage's call of that number."""
    seen = []

    def on_step(step):
        seen.append(step.stage)
        if seen.count(stage) == calls:
            raise Interrupted

    return on_step


def test_a_turntable_is_drawn_frame_by_frame(nested):
    """Each is handed over before the next is drawn, counted, and a callback can stop in the middle of one."""
    seen, told = [], []
    used = runtime(on_step=lambda step: told.append((step.step, step.total)))

    def receive(number, picture):
        seen.append((number, picture.copy(), max(told)))

    stages.draw_each(used, nested, receive, 3, 64, camera=Camera(10, 20))
    assert [(number, before) for number, _, before in seen] == [(0, (0, 3)), (1, (1, 3)), (2, (2, 3))]
    assert told[-1] == (3, 3) and told == sorted(told) and told.count((1, 3)) > 3
    together = stages.draw(runtime(), nested, 3, 64, camera=Camera(10, 20))
    assert np.array_equal(together, np.stack([picture for _, picture, _ in seen]))
    first, seen[:] = told.index((1, 3)), []
    with pytest.raises(Interrupted):  # while the second is drawn
        stages.draw_each(runtime(on_step=interrupting("draw", first + 3)), nested, receive, 360, 64)
    assert [number for number, _, _ in seen] == [0]


def test_stages_of_one_long_call_can_be_interrupted(damaged, monkeypatch):
    """Between blocks of points, frames, meshes; and what they make does not depend on where blocks end."""
    raw, voxels = damaged
    mesh = stages.process_mesh(runtime(), raw, 1000, max_hole_perimeter=0.2, resolution=64, lods=[400])
    whole = stages.bake_texture(runtime(), mesh, voxels, 128, original=raw, normal_map=True)
    colours = stages.color_vertices(runtime(), mesh, voxels, raw)
    monkeypatch.setattr(source_mesh, "_POINTS", 300)
    told = []
    used = runtime(on_step=told.append)
    parted = stages.bake_texture(used, mesh, voxels, 128, original=raw, normal_map=True)
    assert np.array_equal(whole.maps, parted.maps) and np.array_equal(whole.normal_map, parted.normal_map)
    assert torch.equal(colours.attrs, stages.color_vertices(used, mesh, voxels, raw).attrs)
    for stage in ("bake", "color vertices"):
        steps = [step.step for step in told if step.stage == stage]
        assert len(steps) > (20 if stage == "bake" else 5) and steps == sorted(steps), stage
    shaded = stages.bake_texture(runtime(), mesh, voxels, 128, original=raw, occlusion=True)
    assert 0.9 < shaded.occlusion.mean() / 255 <= 1
    for calls in (5, 60):
        with pytest.raises(Interrupted):
            stages.bake_texture(
                runtime(on_step=interrupting("bake", calls)), mesh, voxels, 128, original=raw, occlusion=True
            )
    with pytest.raises(Interrupted):
        stages.color_vertices(runtime(on_step=interrupting("color vertices", 3)), mesh, voxels, raw)


@pytest.mark.parametrize(
    ("frames", "size", "free", "message"),
    [
        (
            360,
            4096,
            64e9,
            r"4096 pixels take 96.6 GB \(16 bytes a pixel\); at most 8 GB .* 29 frames",
        ),
        (119, 2048, 2e9, r"take 8.0 GB .*, and drawing one takes 0.9 GB; 2.0 GB of memory are free"),
        (1001, 64, 64e9, "1 to 1000 frames"),
        (1, 8, 64e9, "16-4096 pixels"),
    ],
)
def test_too_many_pixels_are_refused_before_any_is_drawn(nested, monkeypatch, frames, size, free, message):
    monkeypatch.setattr(checks, "free_memory", lambda: free)
    with pytest.raises(SettingsError, match=message):
        stages.check_pictures(frames, size, 16)
    with pytest.raises(SettingsError):
        stages.draw(runtime(on_step=lambda step: pytest.fail("drew")), nested, 4 * frames, size)


def test_what_fits_is_not_refused(monkeypatch):
    monkeypatch.setattr(checks, "free_memory", lambda: 16e9)
    stages.check_pictures(360, 1024, 16)


def test_a_picture_of_the_result(run, root, rocket_state, tmp_path):
    glb, picture = tmp_path / "rocket.glb", tmp_path / "views.png"
    options = ("--texture-size", 256, "--faces", 4000, "--shells", "surface", "--output", glb, "--picture", picture)
    code, _, err = run("finish", rocket_state, *options)
    assert code == 0, err
    with Image.open(picture) as views:
        assert views.size == (2048, 512) and views.mode == "RGBA"
        assert (np.asarray(views)[:, :, 3] > 0).mean() > 0.02 and not np.asarray(views)[0, 0, 3]
    code, _, err = run(
        "generate", root / "assets" / "rocket.png", "--save-state", tmp_path / "x.safetensors", *options[-2:]
    )
    assert code == 1 and "--picture shows what --output holds; give both" in err
