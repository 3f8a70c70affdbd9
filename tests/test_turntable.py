"""The pictures and the turntable video of a command's result: what is refused early, what is in the files."""

import argparse

import numpy as np
import pytest
import torch
from meshes import needs_warp
from PIL import Image
from scenes import Builder, cube

from pipeline import stages
from pipeline.cli.drawing import add_drawing, drawn_outputs, write_drawings
from pipeline.console import Written
from pipeline.errors import BackendError, ImageError, OutputError, SettingsError
from pipeline.export import AlphaMode
from pipeline.export.scene_textures import BakedGroup
from pipeline.mesh.io import read_scene
from pipeline.mesh.io.atlas import Group, Piece
from pipeline.render import Camera, render, videos
from pipeline.runtime import Runtime

needs_av = pytest.mark.skipif(bool(videos.video_unavailable()), reason=videos.video_unavailable())


def parsed(*words):
    parser = argparse.ArgumentParser()
    add_drawing(parser)
    return parser.parse_args(list(map(str, words)))


@pytest.fixture
def box():
    """A coloured box: red on its own left (+X), green elsewhere."""
    corners = torch.tensor([[x, y, z] for x in (-0.2, 0.2) for y in (-0.3, 0.3) for z in (-0.4, 0.4)])
    sides = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
    vertices = torch.cat([corners[list(side)] for side in sides])
    faces = torch.cat([torch.tensor([[0, 1, 2], [0, 2, 3]]) + 4 * k for k in range(6)]).int()
    colours = torch.tensor([[0.1, 0.7, 0.1, 0.0, 0.8, 1.0]]).repeat(24, 1)
    colours[4:8, :3] = torch.tensor([0.8, 0.1, 0.1])
    return stages.Mesh(vertices, faces, attrs=colours)


def files(tmp_path, *words, output="x.glb"):
    options = parsed(*words)
    drawn_outputs(options, tmp_path / output if output else None)
    return options


def test_what_cannot_be_drawn_is_refused_first(tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "video_unavailable", lambda: "")
    film = ("--turntable", tmp_path / "x.mp4")
    for words, why in (
        (("--turntable", tmp_path / "x.gif"), "must end in .mp4"),
        ((*film, "--turntable-size", 333), "even number"),
        ((*film, "--turntable-size", 8000), "side must lie"),
        ((*film, "--turntable-fps", 0), "frames a second"),
        ((*film, "--turntable-seconds", 0.01), "2 to 1000"),
        ((*film, "--turntable-seconds", 1e5), "2 to 1000"),
        (("--picture", tmp_path / "x.jpg"), "must end in .png"),
        (("--environment", tmp_path / "sky.hdr"), "lights --picture and --turntable"),
        (("--environment-rotation", 0), "no effect without --environment"),
        (("--turntable-fps", 30), "no effect without --turntable"),
        (("--picture", tmp_path / "x.png", "--turntable-seconds", 6), "no effect without --turntable"),
        (("--picture", tmp_path / "x.png", "--turntable-size", 7), "no effect without --turntable"),
    ):
        with pytest.raises(SettingsError, match=why):
            files(tmp_path, *words)
    with pytest.raises(SettingsError, match="--turntable shows what --output holds"):
        files(tmp_path, *film, output="")
    with pytest.raises(ImageError, match="cannot be read"):
        files(tmp_path, *film, "--environment", tmp_path / "sky.hdr")


def test_without_pyav_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match="pip install av"):
        files(tmp_path, "--turntable", tmp_path / "x.mp4")


@needs_warp
def test_an_environment_lights_the_picture(tmp_path, box, small_views):
    """All of its light comes from the left, so that of the turned box's two visible sides the left one is bright."""
    sky = np.zeros((32, 64, 3), np.uint8)
    sky[:, 8:24] = 255
    Image.fromarray(sky).save(tmp_path / "sky.png")
    for turn, brighter in ((0, 0), (180, 1)):
        words = ("--picture", tmp_path / "x.png", "--environment", tmp_path / "sky.png")
        options = files(tmp_path, *words, "--environment-rotation", turn)
        with Written() as written:
            write_drawings(
                options, Runtime(torch.device("cpu"), stages.default_backends()), box, AlphaMode.OPAQUE, written
            )
        assert written.paths == [tmp_path / "x.png"]
        views = np.asarray(Image.open(tmp_path / "x.png")).astype(float)
        shown = np.split(views, 4, 1)[1]  # seen from its own left
        halves = [half[half[..., 3] > 250, :3].sum(1).mean() for half in np.split(shown, 2, 1)]
        assert halves[brighter] > halves[1 - brighter]


@needs_warp
@needs_av
def test_the_video_shows_one_turn(tmp_path, box):
    import av

    words = ("--turntable-seconds", 0.5, "--turntable-fps", 8, "--turntable-size", 64)
    options = files(tmp_path, "--turntable", tmp_path / "x.mp4", *words)
    with Written() as written:
        write_drawings(options, Runtime(torch.device("cpu"), stages.default_backends()), box, AlphaMode.OPAQUE, written)
    assert written.paths == [tmp_path / "x.mp4"]
    with av.open(str(tmp_path / "x.mp4")) as film:
        (stream,) = film.streams
        assert stream.codec_context.name == "h264" and stream.average_rate == 8
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in film.decode(video=0)]
    assert [frame.shape for frame in frames] == [(64, 64, 3)] * 4
    assert np.abs(frames[0][:4, :4] - np.array(videos.BACKDROP) * 255).max() < 8
    reds = [int(((frame[..., 0] > 100) & (frame[..., 1] < 90)).sum()) for frame in frames]
    assert reds[1] > 300 and reds[0] == reds[2] == reds[3] == 0  # a quarter of a turn in: the object's own left


@needs_av
def test_a_video_that_cannot_be_written_is_told(tmp_path):
    with (
        pytest.raises(OutputError, match="cannot be written"),
        videos.video(tmp_path / "none" / "x.mp4", 64, 8) as film,
    ):
        film.add(np.zeros((64, 64, 4), np.uint8))


@needs_warp
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_scene_with_several_textures_is_drawn_with_all_of_them(tmp_path, count):
    """Cubes beside each other, each with a texture of its own and its own size, in one atlas."""
    scene = Builder()
    for number in range(count):
        scene.node(
            f"cube {number}", mesh=scene.mesh(f"cube {number}", (*cube(), None)), translation=[2.0 * number, 0, 0]
        )
    read = read_scene(scene.save(tmp_path / "x.glb"))
    groups = []
    for number, part in enumerate(read.parts):
        maps = np.zeros((16 << number, 16 << number, 6), np.uint8)
        maps[..., number] = maps[..., 5] = 255
        _, uvs, _ = cube()
        groups.append(BakedGroup(Group(None, pieces=[Piece(number, part.faces, uvs)]), maps))
    subject = stages.scene_subject(read, groups)
    shown = render(subject, Camera(0, 0), 96, "base_color")[..., :3][48]
    columns = [(shown[:, channel] > 200).nonzero()[0] for channel in range(count)]
    assert all(len(each) > 10 for each in columns) and (np.diff([each.mean() for each in columns]) > 10).all()
    assert (shown.max(1) == shown.sum(1)).all()  # no colour of a neighbour's tile
