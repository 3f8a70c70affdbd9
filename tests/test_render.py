"""Previews: outlines, normals, textures and depth against formulas and other ways to compute them."""

import math

import numpy as np
import pytest
import torch
from devices import on_device
from meshes import needs_warp
from rendered import FIXED, directions, flat_maps, painted, sphere, wall

from pipeline.errors import EmptyResultError, MeshError, NotFiniteError, SettingsError
from pipeline.mesh.query.surface import Surface
from pipeline.render import MODES, Camera, Studio, Subject, render, turntable

pytestmark = [needs_warp, pytest.mark.usefixtures("device")]
Surface, render, turntable = (on_device(each) for each in (Surface, render, turntable))


def test_the_outline_of_a_ball_has_the_radius_of_its_cone():
    alpha = render(Subject(*sphere(rows=128)), FIXED, 256)[..., 3] / 255.0
    expected = 128 / math.tan(math.radians(15)) * 0.4 / math.sqrt(2.0**2 - 0.4**2)
    assert math.sqrt(alpha.sum() / math.pi) == pytest.approx(expected, abs=0.2)
    for axis in (0, 1):
        line = alpha.sum(axis)
        centre = (line * (np.arange(256) + 0.5)).sum() / line.sum()
        assert centre == pytest.approx(128, abs=0.1)
        assert line.max() == pytest.approx(2 * expected, abs=1)


@pytest.mark.parametrize("given", [False, True])
def test_normals_of_a_ball_are_those_of_the_formula(given):
    vertices, faces = sphere()
    normals = torch.nn.functional.normalize(vertices, dim=1) if given else None
    picture = render(Subject(vertices, faces, normals), FIXED, 128, "normals")
    eye, rays = directions(FIXED, 128)
    along = -(rays @ eye)
    inside = along**2 - (eye @ eye - 0.4**2)
    seen = inside > 0.012  # away from the outline
    points = eye + (along - np.sqrt(inside.clip(0)))[..., None] * rays
    expected = points / 0.4 @ FIXED.axes().T
    assert seen.sum() > 2500
    assert np.abs(picture[..., :3] / 127.5 - 1 - expected)[seen].max() < 0.04


def test_a_texture_is_upright_and_not_mirrored():
    vertices, faces, uvs = wall()
    maps = flat_maps((0, 0, 0), 64)
    corners = {(0, 0): (1, 0, 0), (0, 1): (0, 1, 0), (1, 0): (0, 0, 1), (1, 1): (1, 1, 0.2)}
    for (row, column), colour in corners.items():
        maps[32 * row : 32 * row + 32, 32 * column : 32 * column + 32, :3] = colour
    subject = Subject(vertices, faces, uvs=uvs, maps=maps)
    for azimuth, flip in ((0, 0), (180, 1)):
        picture = render(subject, Camera(azimuth, 0), 128, "base_color", (0, 0, 0))
        for (row, column), colour in corners.items():
            found = picture[40 + 48 * row, 40 + 48 * (column ^ flip), :3]
            assert np.abs(found - 255 * np.array(colour)).max() <= 1, (azimuth, row, column)


def test_vertex_colours_are_interpolated_in_space_and_not_on_the_picture():
    vertices, faces, _ = wall()
    colours = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 1, 1], [0, 0, 0]])
    camera = Camera(60, 0, 60, 1.2, (0.0, 0.0, 0.0))
    picture = render(Subject(vertices, faces, colours=colours), camera, 256, "base_color")
    assert picture[128, 128, 0] == pytest.approx(127.5, abs=2)  # the wall's centre, though its near half looks larger


def test_a_fine_texture_far_away_becomes_its_mean():
    vertices, faces, uvs = wall()
    maps = flat_maps((0, 0, 0), 1024)
    maps[::2, ::2, :3] = maps[1::2, 1::2, :3] = 1
    picture = render(Subject(vertices, faces, uvs=uvs, maps=maps), Camera(0, 0), 64, "base_color", (0, 0, 0))
    inner = picture[16:48, 16:48, :3].astype(int)
    assert np.ptp(inner) <= 1 and abs(inner.mean() - 180) <= 1  # mean of squares: half the light would be 188


def test_what_is_seen_is_what_rays_meet_first():
    random = torch.Generator().manual_seed(3)
    corners = torch.rand(300, 1, 3, generator=random) - 0.5 + 0.4 * (torch.rand(300, 3, 3, generator=random) - 0.5)
    colours = torch.rand(300, 1, 3, generator=random).expand(300, 3, 3).reshape(-1, 3)
    vertices, faces = corners.reshape(-1, 3), torch.arange(900).reshape(300, 3)
    camera = Camera(20, 30, 40, 2.5, (0.0, 0.0, 0.0))
    picture = render(Subject(vertices, faces, colours=colours), camera, 160, "base_color")
    eye, rays = directions(camera, 160)
    rays = torch.tensor(rays.reshape(-1, 3), dtype=torch.float32)
    face = Surface(vertices, faces).rays(torch.tensor(eye, dtype=torch.float32).expand(len(rays), 3), rays).face
    face = face.reshape(160, 160)
    same = torch.ones(158, 158, dtype=torch.bool)  # pixels whose neighbourhood shows one face
    for dy in range(3):
        for dx in range(3):
            same &= face[dy : dy + 158, dx : dx + 158] == face[1:-1, 1:-1]
    inner, found = face[1:-1, 1:-1], torch.from_numpy(picture[1:-1, 1:-1])
    assert (same & (inner >= 0)).sum() > 2500
    hit, missed = same & (inner >= 0), same & (inner < 0)
    expected = (colours[3 * inner[hit]] * 255).round()
    wrong = (found[hit][:, :3] - expected).abs().amax(1) > 1
    assert wrong.float().mean() < 0.005  # faces thinner than a pixel may pass in between
    assert (found[missed][:, 3] > 0).float().mean() < 0.005


def test_large_faces_are_drawn_as_small_ones():
    vertices, faces, _ = wall()
    n = 96
    z, x = np.meshgrid(np.linspace(0.5, -0.5, n + 1), np.linspace(-0.5, 0.5, n + 1), indexing="ij")
    fine = torch.tensor(np.stack([x, 0 * x, z], -1).reshape(-1, 3), dtype=torch.float32)
    first = (np.arange(n)[:, None] * (n + 1) + np.arange(n)).ravel()
    quads = np.concatenate(
        [np.stack([first, first + n + 2, first + 1], 1), np.stack([first, first + n + 1, first + n + 2], 1)]
    )
    camera = Camera(25, 15)
    one = render(Subject(vertices, faces), camera, 256)
    other = render(Subject(fine, torch.tensor(quads)), camera, 256)
    inside = one[..., 3] == 255
    inside[1:-1, 1:-1] &= inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    difference = np.abs(one.astype(int) - other)
    assert inside.sum() > 20000
    assert difference[inside].max() <= 2 and difference.max() <= 64  # at most one of four samples on an edge


@pytest.mark.parametrize("mode", MODES)
def test_a_turntable_shows_what_a_still_shows(mode):
    vertices, faces = sphere(rows=12)
    subject = Subject(vertices * torch.tensor([1.0, 0.5, 1.2]), faces, colours=(vertices + 0.5).clamp(0, 1))
    frames = turntable(subject, 3, 48, mode, camera=Camera(10, 25))
    assert frames.shape == (3, 48, 48, 4) and frames.dtype == np.uint8
    for k, frame in enumerate(frames):
        assert np.array_equal(frame, render(subject, Camera(10 + 120 * k, 25), 48, mode))
    assert not np.array_equal(frames[0], frames[1])


@pytest.mark.parametrize("distance", [1.0, 60.0])
def test_thin_gaps_are_kept_apart_near_and_far(distance):
    vertices, faces, _ = wall()
    colours = torch.cat([painted(vertices, 0, 1, 0), painted(vertices, 1, 0, 0)])
    gap = torch.tensor([0, 1e-3, 0])  # the red wall stands in front
    subject = Subject(torch.cat([vertices + gap, vertices]), torch.cat([faces, faces + 4]), colours=colours)
    camera = Camera(20, 10, 50 if distance == 1 else 1.2, distance, (0.0, 0.0, 0.0))
    picture = render(subject, camera, 96, "base_color", (1, 0, 0))
    inside = picture[24:72, 24:72]
    assert (inside == [255, 0, 0, 255]).all()


def test_the_number_of_workers_does_not_show(monkeypatch):
    from pipeline.warp import launch as kernels

    vertices, faces = sphere(rows=200)  # more than one chunk
    one = render(Subject(vertices, faces), size=64)
    monkeypatch.setattr(kernels, "cores", lambda: 1)
    assert np.array_equal(one, render(Subject(vertices, faces), size=64))


def test_size_and_place_do_not_show():
    vertices, faces = sphere(rows=16)
    one = render(Subject(vertices, faces), size=64).astype(int)
    other = render(Subject(vertices * 2048 + torch.tensor([4096.0, 0, -8192]), faces), size=64)
    assert np.abs(one - other).max() <= 3


def test_winding_does_not_show():
    vertices, faces = sphere(rows=24)
    some = torch.rand(len(faces), generator=torch.Generator().manual_seed(0)) < 0.5
    mixed = faces.clone()
    mixed[some] = mixed[some].flip(1)
    one, other = (render(Subject(vertices, x), size=96).astype(int) for x in (faces, mixed))
    assert np.abs(one - other).max() <= 2


def test_the_whole_object_is_in_the_picture_from_every_side():
    random = torch.Generator().manual_seed(1)
    vertices = torch.rand(60, 3, generator=random) * torch.tensor([2.0, 0.3, 0.9]) + 7
    subject = Subject(vertices, torch.arange(60).reshape(20, 3))
    for elevation in (-90, -30, 0, 50, 90):
        alpha = turntable(subject, 5, 64, camera=Camera(0, elevation))[..., 3]
        assert not alpha[:, [0, -1]].any() and not alpha[:, :, [0, -1]].any()
        assert max(np.ptp(np.nonzero(each)[k]) for each in alpha for k in (0, 1)) > 40


# Bad input


def plain(**changes):
    vertices, faces, uvs = wall()
    return Subject(**{"vertices": vertices, "faces": faces, "uvs": uvs, **changes})


NAN = torch.full((4, 3), float("nan"))


@pytest.mark.parametrize(
    ("changes", "mode", "error", "words"),
    [
        ({"faces": torch.zeros(0, 3, dtype=torch.int32)}, "shaded", EmptyResultError, "no faces"),
        ({"vertices": torch.zeros(0, 3)}, "shaded", MeshError, "has 0"),
        ({"vertices": NAN}, "shaded", MeshError, "NaN or infinite"),
        ({"normals": NAN}, "shaded", NotFiniteError, "normals hold NaN"),
        ({"colours": NAN}, "pbr", NotFiniteError, "colours hold NaN"),
        ({"colours": torch.ones(3, 3)}, "pbr", SettingsError, r"\[4, 3 or 6\]"),
        ({"faces": torch.tensor([[0, 1, 4]])}, "shaded", MeshError, "vertices 0 to 4"),
        ({"faces": torch.tensor([[0, 1, -1]])}, "shaded", MeshError, "vertices -1 to 1"),
        ({"faces": torch.tensor([[0.0, 1, 2]])}, "shaded", MeshError, "int32 or int64"),
        ({"vertices": torch.zeros(4, 2)}, "shaded", MeshError, r"expected \[V, 3\]"),
        ({"vertices": torch.ones(4, 3)}, "shaded", SettingsError, "in one point"),
        ({"vertices": torch.tensor([[-3e38], [3e38], [0], [0]]).expand(4, 3)}, "shaded", SettingsError, "too large"),
        ({}, "pbr", SettingsError, "needs maps or vertex colours"),
        ({}, "base_color", SettingsError, "needs maps or vertex colours"),
        ({}, "matcap", SettingsError, "Unknown mode 'matcap'"),
        ({"maps": flat_maps((1, 1, 1)), "uvs": None}, "pbr", SettingsError, "Maps need uvs"),
        ({"maps": flat_maps((1, 1, 1)), "colours": torch.ones(4, 3)}, "pbr", SettingsError, "not both"),
        ({"maps": np.ones((4, 4, 3), np.float32)}, "pbr", SettingsError, r"\[S, S, 6\]"),
        ({"maps": flat_maps((1, 1, math.nan))}, "pbr", NotFiniteError, "maps hold NaN"),
        (
            {"maps": flat_maps((1, 1, 1)), "alpha_mode": "ADD"},
            "pbr",
            SettingsError,
            "Unknown alpha mode 'ADD'; choose one of",
        ),
    ],
)
def test_bad_input_is_named(changes, mode, error, words):
    with pytest.raises(error, match=words):
        render(plain(**changes), size=32, mode=mode)


@pytest.mark.parametrize(
    "call",
    [
        lambda s: render(s, size=8),
        lambda s: render(s, size=5000),
        lambda s: render(s, background=(1, 2, 3)),
        lambda s: render(s, background=(1, 1)),
        lambda s: turntable(s, 0),
        lambda s: Camera(elevation=91),
        lambda s: Camera(fov=0),
        lambda s: Camera(distance=-1),
        lambda s: Camera(distance=0),
        lambda s: Camera(azimuth=math.nan),
        lambda s: Camera(target=(0, 0, math.inf)),
        lambda s: Studio(boxes=()),
    ],
)
def test_bad_settings_are_named(call):
    with pytest.raises(SettingsError):
        call(plain())


def test_faces_without_area_do_not_show_and_one_triangle_does():
    vertices, _, _ = wall()
    nothing = render(Subject(vertices, torch.tensor([[0, 0, 1], [1, 1, 1], [2, 3, 2]])), size=32)
    assert not nothing.any()
    one = render(Subject(vertices, torch.tensor([[0, 1, 2]])), Camera(0, 0), 64)
    assert 500 < (one[..., 3] > 127).sum() < 64 * 64 / 2


def test_a_camera_inside_the_object_leaves_out_what_reaches_behind_it():
    vertices, faces = sphere(rows=32)
    for mode in MODES:
        subject = Subject(vertices, faces, colours=painted(vertices, 1, 1, 1))
        picture = render(subject, Camera(0, 0, 60, 0.05, (0.0, 0.0, 0.0)), 32, mode)
        assert picture[16, 16, 3] == 255  # the far wall
    alone = torch.tensor([[0.0, -9, 0], [1, 9, 0], [-1, 9, 0.5]])
    assert not render(Subject(alone, torch.tensor([[0, 1, 2]])), Camera(0, 0, 60, 1.0, (0.0, 0.0, 0.0)), 32).any()
