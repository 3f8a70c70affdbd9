"""Views with depth, normals and cameras; light from pictures of surroundings, and the files that hold them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from meshes import needs_warp
from PIL import Image

from pipeline.errors import ImageError, SettingsError
from pipeline.render import (
    Camera,
    Softbox,
    Studio,
    Subject,
    environment_studio,
    read_environment,
    render,
    turntable,
    turntable_cameras,
    view_frames,
)
from pipeline.sparse import Voxels
from pipeline.views import View, view_weights

pytestmark = needs_warp


def ball(radius=0.4, rows=48, centre=(0.0, 0.0, 0.0)):
    u, w = np.meshgrid(np.linspace(0, 2 * np.pi, 2 * rows + 1), np.linspace(0, np.pi, rows + 1))
    vertices = radius * np.stack([np.sin(w) * np.cos(u), np.sin(w) * np.sin(u), np.cos(w)], -1).reshape(-1, 3)
    first = (np.arange(rows)[:, None] * (2 * rows + 1) + np.arange(2 * rows)).ravel()
    below = first + 2 * rows + 1
    faces = np.concatenate([np.stack([first, below, first + 1], 1), np.stack([first + 1, below, below + 1], 1)])
    return torch.tensor(vertices + centre, dtype=torch.float32), torch.tensor(faces, dtype=torch.int32)


def coloured(mesh, *values):
    vertices, faces = mesh
    return Subject(
        vertices, faces, colours=torch.tensor(values, dtype=torch.float32).expand(len(vertices), len(values))
    )


def marked():
    """A grey ball with a red one on its own left (+X) and a green one in front (-Y)."""
    parts = [
        (ball(0.3), (0.5, 0.5, 0.5)),
        (ball(0.1, 16, (0.4, 0, 0)), (1, 0, 0)),
        (ball(0.1, 16, (0, -0.4, 0)), (0, 1, 0)),
    ]
    vertices, faces, colours, count = [], [], [], 0
    for (points, corners), colour in parts:
        vertices.append(points)
        faces.append(corners + count)
        colours.append(torch.tensor(colour, dtype=torch.float32).expand(len(points), 3))
        count += len(points)
    return Subject(torch.cat(vertices), torch.cat(faces), colours=torch.cat(colours))


def share(picture, channel):
    """The column, 0-1, in which the pixels of a colour lie on average; None where there are none."""
    others = [c for c in range(3) if c != channel]
    found = (picture[..., channel] > 200) & (picture[..., others].max(-1) < 60) & (picture[..., 3] > 200)
    return found.nonzero()[1].mean() / picture.shape[1] if found.sum() > 4 else None


def test_an_asymmetric_object_shows_each_side_to_its_view():
    """The rig of views, the renderer and visibility mean the same by "left": the object's own, +X, azimuth 90."""
    subject = marked()
    cameras = [Camera(view.azimuth, 0.0, 30, 2.2, (0.0, 0.0, 0.0)) for view in map(View, (0, 90, 180, 270))]
    front, left, back, right = (frame.picture for frame in view_frames(subject, cameras, 96, "base_color"))
    assert share(front, 0) > 0.7 and 0.4 < share(front, 1) < 0.6  # its left is on the front view's right hand side
    assert 0.4 < share(left, 0) < 0.6 and share(left, 1) < 0.3
    assert share(back, 0) < 0.3 and share(back, 1) is None
    assert share(right, 0) is None and share(right, 1) > 0.7
    voxels = torch.unique(((subject.vertices * 0.99 + 0.5) * 32).int(), dim=0)

    weights = view_weights(Voxels.single(voxels), 32, [View(0), View(90), View(180), View(270)])
    assert weights[1, voxels[:, 0] >= 30].mean() > 0.7 and weights[0, voxels[:, 1] <= 1].mean() > 0.7


@pytest.mark.parametrize("camera", [Camera(30, 20), Camera(200, -35, 60, 2.0, (0.1, 0.0, 0.2))])
def test_depth_normals_and_camera_belong_together(camera):
    """Of a ball: every pixel's depth is where its line of sight meets it, its normal points away from the middle."""
    middle = np.array([0.2, -0.1, 0.3])
    subject = Subject(*ball(0.4, 96, tuple(middle)))
    (frame,) = view_frames(subject, [camera], 64, "shaded", passes=True)
    assert np.array_equal(frame.picture, render(subject, camera, 64))
    origins, rays = (each.double().numpy() for each in frame.camera.rays(64))
    along = ((middle - origins) * rays).sum(1)
    off = np.linalg.norm(middle - origins - along[:, None] * rays, axis=1)
    hit = (off < 0.37).reshape(64, 64)
    axis = -frame.camera.axes()[2]
    expected = ((along - np.sqrt(np.maximum(0.16 - off**2, 0))) * (rays @ axis)).reshape(64, 64)
    assert hit.sum() > 200 and np.abs(frame.depth - expected)[hit].max() < 0.03
    assert np.isinf(frame.depth[(off > 0.43).reshape(64, 64)]).all() and frame.near < frame.depth[hit].min()
    points = origins + rays * (expected.reshape(-1) / (rays @ axis))[:, None]
    outward = ((points - middle) / 0.4 @ frame.camera.axes().T).reshape(64, 64, 3)
    assert np.abs(frame.normals[..., :3] / 127.5 - 1 - outward)[hit].max() < 0.12
    nearness = frame.nearness()
    assert (nearness[~np.isfinite(frame.depth)] == 0).all() and 0 < nearness[hit].min() <= nearness[hit].max() < 1


def test_a_camera_projects_where_the_picture_shows():
    subject = marked()
    (frame,) = view_frames(subject, [Camera(50, 15, 40)], 128, "base_color")
    place, _ = frame.camera.project(torch.tensor([[0.4, 0.0, 0.0]]))
    red = (frame.picture[..., 0] > 200) & (frame.picture[..., 1] < 60)
    rows, columns = red.nonzero()
    assert np.allclose([(columns.mean() + 0.5) / 128, (rows.mean() + 0.5) / 128], place[0].numpy(), atol=0.02)


def test_turntables_are_views():
    subject = marked()
    frames = view_frames(subject, turntable_cameras(Camera(10, 20), 3), 32, "base_color")
    expected = turntable(subject, 3, 32, "base_color", camera=Camera(10, 20))
    assert all(np.array_equal(frame.picture, one) for frame, one in zip(frames, expected, strict=True))


# --- light from pictures


def even(colour=(0.5, 0.5, 0.5), rows=64):
    return np.full((rows, 2 * rows, 3), colour, np.float32)


def test_an_even_environment_is_an_even_studio():
    """And its scale does not matter: it becomes as bright as the default studio."""
    one, two = environment_studio(even()), environment_studio(even() * 300)
    level = float(one.environment.sharp.mean())
    studio = Studio((level,) * 3, (level,) * 3, (Softbox(0, 45, 30, 30, (0.0,) * 3),))
    assert np.allclose(one.harmonics(), studio.harmonics(), atol=1e-3)
    for subject in (coloured(ball(), 0.6, 0.3, 0.2, 0.0, 0.4, 1.0), coloured(ball(), 0.9, 0.9, 0.9, 1.0, 0.1, 1.0)):
        expected = render(subject, Camera(20, 10), 48, "pbr", studio=studio).astype(int)
        for light in (one, two):
            assert np.abs(render(subject, Camera(20, 10), 48, "pbr", studio=light).astype(int) - expected).max() <= 2


def test_a_mirror_shows_the_surroundings_as_the_camera_sees_them():
    """Red ahead, green behind the camera, blue to its right, yellow to its left: a mirror ball has green in its middle,
    blue on its right, and red only at its rim. Turned by 90 degrees to the right, red is on the right."""
    picture = even((0.0, 0.0, 0.0), 64)
    quarter = 32
    for start, colour in ((48, (1, 0, 0)), (80, (0, 0, 1)), (16, (1, 1, 0))):
        picture[:, start : start + quarter] = colour
    picture[:, 112:] = picture[:, :16] = (0, 1, 0)
    mirror = coloured(ball(), 1.0, 1.0, 1.0, 1.0, 0.0, 1.0)
    shown = render(mirror, Camera(70, 0), 65, "pbr", studio=environment_studio(picture))
    middle, right, left = (shown[32, column, :3].astype(int) for column in (32, 48, 16))
    assert middle[1] > 2 * middle[[0, 2]].max()
    assert right[2] > 2 * right[:2].max() and left[:2].min() > 2 * left[2]
    turned = render(mirror, Camera(70, 0), 65, "pbr", studio=environment_studio(picture, 90.0))
    assert turned[32, 48, 0] > 2 * turned[32, 48, 1:3].astype(int).max()


def test_a_sun_casts_shadows_from_its_side():
    """High up on the camera's left: lit there, and a plate's shadow falls to the right."""
    picture = even((0.1, 0.1, 0.1), 64)
    picture[14:18, 30:34] = 400.0  # 45 degrees up, 90 to the left
    studio = environment_studio(picture)
    box = studio.boxes[0]
    assert min(box.radiance) > 1 and abs(box.elevation - 45) < 4
    assert studio.environment.sharp.max() < 2  # the sun is no longer in the picture
    shown = render(coloured(ball(), 0.7, 0.7, 0.7, 0.0, 0.9, 1.0), Camera(40, 0), 65, "pbr", studio=studio)
    assert shown[20, 18, 0] > shown[44, 48, 0] + 60
    total = studio.radiance(fibonacci(1 << 14))
    power = sum(float(each.mean()) for each in total)
    default = sum(float(each.mean()) for each in Studio().radiance(fibonacci(1 << 14)))
    assert power == pytest.approx(default, rel=0.1)
    assert environment_studio(even()).boxes[0].radiance == (0, 0, 0)
    brighter = environment_studio(picture, strength=2.0)
    assert np.allclose(brighter.harmonics(), 2 * studio.harmonics(), rtol=1e-4)


def fibonacci(count):
    z, turn = 1 - 2 * (np.arange(count) + 0.5) / count, np.pi * (1 + 5**0.5) * (np.arange(count) + 0.5)
    flat = np.sqrt(1 - z * z)
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), z], 1)


def test_what_is_no_environment_is_refused():
    for picture, why in (
        (np.ones((64, 64, 3)), "twice as wide"),
        (np.zeros((32, 64, 3)), "black"),
        (np.full((32, 64, 3), np.nan), "NaN"),
    ):
        with pytest.raises(ImageError, match=why):
            environment_studio(picture)
    for settings in ({"strength": 0.0}, {"strength": math.inf}, {"rotation": math.nan}):
        with pytest.raises(SettingsError):
            environment_studio(even(), **settings)


# --- files


def rgbe(values):
    """[H, W, 3] -> [H, W, 4] uint8."""
    largest = values.max(-1)
    exponent = np.where(largest > 0, np.frexp(largest)[1], 0)
    mantissa = np.floor(values * np.ldexp(256.0, -exponent)[..., None]).clip(0, 255)
    return np.concatenate([mantissa, np.where(largest > 0, exponent + 128, 0)[..., None]], -1).astype(np.uint8)


def packed(row):
    """A scan line run-length encoded as Radiance does."""
    data = bytes((2, 2, len(row) >> 8, len(row) & 255))
    for channel in row.T:
        at = 0
        while at < len(channel):
            run = 1
            while at + run < len(channel) and run < 127 and channel[at + run] == channel[at]:
                run += 1
            data += (
                bytes((128 + run, channel[at])) if run > 2 else b"".join(bytes((1, v)) for v in channel[at : at + run])
            )
            at += run
    return data


def hdr(values, runs=True, size=None):
    pixels = rgbe(values)
    rows, columns = size or pixels.shape[:2]
    body = b"".join(packed(row) for row in pixels) if runs else pixels.tobytes()
    return b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n" + f"-Y {rows} +X {columns}\n".encode() + body


@pytest.mark.parametrize("runs", [True, False])
def test_radiance_files_are_read(tmp_path, runs):
    values = np.random.default_rng(0).lognormal(0, 3, (16, 32, 3))
    values[3:9, 4:20] = 7.0
    values[0, 0] = 0
    (tmp_path / "sky.hdr").write_bytes(hdr(values, runs))
    found = read_environment(tmp_path / "sky.hdr")
    assert found.shape == values.shape and (found[0, 0] == 0).all()
    assert (np.abs(found - values) <= values.max(-1, keepdims=True) / 100 + 1e-9).all()


def test_old_repeats_are_read(tmp_path):
    """A pixel, then "repeat 5 times", then another one: as files before 1991 have it."""
    body = bytes((100, 50, 25, 128)) + bytes((1, 1, 1, 5)) + bytes((10, 20, 30, 129))
    (tmp_path / "old.hdr").write_bytes(b"#?RADIANCE\n\n-Y 1 +X 7\n" + body)
    found = read_environment(tmp_path / "old.hdr")
    assert (found[0, :6] == found[0, 0]).all() and found[0, 6, 0] == pytest.approx(10.5 / 128)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"P6 1 1 255\n", "no Radiance picture"),
        (hdr(np.ones((16, 32, 3)))[:-5], "damaged"),
        (hdr(np.ones((16, 32, 3)), size=(1 << 20, 1 << 20)), "can be read"),
        (hdr(np.ones((16, 32, 3))).replace(b"-Y 16", b"+Y 16"), "turned or mirrored"),
        (hdr(np.ones((16, 32, 3))).replace(b"rgbe", b"xyze"), "XYZ"),
        (b"#?RADIANCE\n\n-Y 1 +X 8\n" + bytes((2, 2, 0, 8, 255, 1)), "damaged"),
        (b"", "no Radiance picture"),
    ],
)
def test_damaged_radiance_files_are_refused(tmp_path, data, why):
    (tmp_path / "sky.hdr").write_bytes(data)
    with pytest.raises(ImageError, match=why):
        read_environment(tmp_path / "sky.hdr")


def test_other_pictures_are_light_too(tmp_path):
    Image.new("RGB", (64, 32), (188, 188, 188)).save(tmp_path / "sky.png")
    assert read_environment(tmp_path / "sky.png") == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ImageError, match=r"missing\.hdr cannot be read"):
        read_environment(tmp_path / "missing.hdr")


def test_openexr_is_optional(tmp_path, monkeypatch):
    path = tmp_path / "sky.exr"
    try:
        import OpenEXR
    except ImportError:
        with pytest.raises(ImageError, match="pip install OpenEXR"):
            read_environment(path)
        return
    values = np.random.default_rng(0).lognormal(0, 2, (8, 16, 3)).astype(np.float32)
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"RGB": values}).write(str(path))
    assert np.allclose(read_environment(path), values)
    path.write_bytes(b"nothing")
    with pytest.raises(ImageError, match="OpenEXR"):
        read_environment(path)


def test_a_studio_without_surroundings_is_as_it_was():
    assert replace(Studio(), environment=None) == Studio()
