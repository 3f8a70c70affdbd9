"""Pictures projected on a texture: cameras, what is seen, tones, light, and pictures that are refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from painted import (
    CAMERA,
    COLOURS,
    SIDE,
    atlas,
    box,
    checker,
    decorated,
    drawn,
    sheet,
    sphere,
    textured,
    wall_and_block,
)
from PIL import Image
from scenes import furniture

from pipeline import stages
from pipeline.errors import ImageError, SettingsError
from pipeline.export.scene_textures import BakedGroup
from pipeline.mesh import CLOSEST
from pipeline.mesh.bake.bake import Texels
from pipeline.mesh.bake.raster import rasterise
from pipeline.mesh.io import read_scene
from pipeline.mesh.io.atlas import groups_of
from pipeline.project import (
    Fit,
    Painted,
    Photo,
    Picture,
    Projection,
    Sheet,
    angle,
    fit_camera,
    fitting_size,
    measured,
)
from pipeline.project.cells import Cells
from pipeline.project.fit import _rank
from pipeline.project.lit import light_in
from pipeline.project.paint import look
from pipeline.project.picture import keeping_means, sampled
from pipeline.project.shading import estimated, harmonics
from pipeline.runtime import Runtime
from pipeline.srgb import tensor_to_linear, tensor_to_srgb
from pipeline.views import PictureCamera, View


@pytest.fixture(scope="module")
def runtime():
    return Runtime(torch.device("cpu"), stages.default_backends())


def psnr(one, other, camera):
    a, b = (Picture.of(drawn(each, camera, 320)) for each in (one, other))
    both = a.solid & b.solid
    return -10 * math.log10(np.square(a.colour[both] - b.colour[both]).mean())


@pytest.mark.parametrize("camera", [CAMERA, PictureCamera(200, -10, 20, 0.9)])
def test_a_camera_is_found_again(camera, request):
    """In front with all lines of sight, as users have it; from behind and below with few."""
    if camera is not CAMERA:
        request.getfixturevalue("coarsely")
    one = sheet()
    picture = Picture.of(drawn(one, camera, 128))
    fit = fit_camera(Painted([one], torch.device("cpu")), picture)
    assert angle(fit.camera, camera) < 3 and fit.iou > 0.97 and fit.mirrored < 0 and fit.rival is None


def test_a_picture_that_fits_from_two_sides_is_told(runtime, coarsely):
    """A box of one colour looks the same from behind; with the direction named nothing is open."""
    vertices, faces, uvs = box((-0.4, -0.25, -0.3), (0.4, 0.25, 0.3))
    one = Sheet(vertices, faces, uvs, atlas([(90, 90, 90)] * 6))
    found = stages.project_texture(runtime, textured(one), [Photo(drawn(one, CAMERA, 128))])
    assert any("looks nearly the same" in each for each in found.facts["warnings"])
    found = stages.project_texture(runtime, textured(one), [Photo(drawn(one, CAMERA, 128), view=View(25, 20))])
    assert not any("looks nearly the same" in each for each in found.facts.get("warnings", ()))


def test_what_is_finer_than_a_pixel_is_compared_by_its_mean():
    """A pixel of the picture is the mean of what it covers; stripes must not be met by chance."""
    stripes = (np.indices((SIDE, SIDE))[1] // 2 % 2 == 0) & (np.indices((SIDE, SIDE))[0] < SIDE // 2)
    one = decorated(sheet(), stripes)
    fit = measured(Painted([one], torch.device("cpu")), Picture.of(drawn(one, CAMERA, 512)), CAMERA)
    assert fit.correlation > 0.95


def test_round_things_leave_their_azimuth_open(coarsely):
    maps = np.full((64, 64, 6), 255, np.uint8)
    maps[:24, :, :3], maps[24:, :, :3] = (200, 60, 50), (60, 90, 200)
    ball = sphere(maps)
    fit = fit_camera(Painted([ball], torch.device("cpu")), Picture.of(drawn(ball, CAMERA, 128)))
    assert abs(fit.camera.elevation - CAMERA.elevation) < 3 and fit.rival is not None


def test_of_sides_that_look_alike_the_front_is_taken():
    """What an object was made from was taken for its front; a clearly better side still wins."""
    front, side = (
        Fit(PictureCamera(azimuth), 0.9, 0.1, correlation) for azimuth, correlation in ((10, 0.63), (268, 0.77))
    )
    assert front.likeness < side.likeness and front.score > side.score
    assert replace(side, iou=0.93).score > front.score
    assert _rank(None)(front) > _rank(None)(side) and _rank(View(60))(front) < _rank(View(60))(side)


def test_a_picture_that_cuts_the_object_off_is_placed_by_what_is_whole(coarsely):
    one, camera = sheet(), PictureCamera(25, 20, 35, 1.1, shift=(0.3, 0.05))
    painted, picture = Painted([one], torch.device("cpu")), Picture.of(drawn(one, camera, 128))
    assert picture.cut_off[2] and not picture.cut_off[0]
    fit = fit_camera(painted, picture, View(25, 20))
    assert angle(fit.camera, camera) < 5 and fit.iou > 0.95


def test_the_pictures_pixels_arrive_and_the_rest_keeps_its_texture(runtime):
    plain, wanted = sheet(), decorated(sheet(), checker())
    photo = Photo(drawn(wanted, CAMERA, 192), camera=CAMERA)
    found = stages.project_texture(runtime, textured(plain), [photo], Projection(colours="texture"))
    assert psnr(plain, wanted, CAMERA) < 15
    assert runtime.backends.used[CLOSEST] == "warp"  # what the pictures' rays were cast by is recorded
    side = len(found.maps) // 3
    unseen = found.maps[:side, 2 * side :, :3].astype(int) - COLOURS[2]  # the back
    assert np.abs(unseen).max() <= 1
    [told] = found.facts["projected"]
    assert told["iou"] > 0.97 and 0.1 < told["share"] < 0.6 and not told["fitted"]
    # six faces of one hue, each of its own brightness, might as well be light
    photo = Photo(drawn(wanted, CAMERA, 320), camera=CAMERA)
    found = stages.project_texture(runtime, textured(plain), [photo], Projection(colours="picture"))
    result = replace(plain, maps=found.maps)
    assert psnr(result, wanted, CAMERA) > 28
    assert (found.maps[:, :, 3:] == 128)[:, :, :2].all()  # metallic and roughness


def test_samples_average_to_the_pictures_pixels():
    """Over each pixel's area; of the picture itself, without correction, the mean falls short at every edge."""
    rows, columns = np.indices((32, 32)) // 8
    picture = torch.from_numpy((rows + columns) % 2 == 0).float().mul(0.8).add(0.1).expand(3, 32, 32).contiguous()
    noise = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    fine = (torch.arange(32 * 8) + 0.5) / (32 * 8)
    place = torch.cartesian_prod(fine, fine).flip(1)
    for values, most in ((picture, 0.02), (noise, 0.1)):
        errors = []
        for colours in (values, keeping_means(values)):
            means = sampled(colours, place, "bicubic").T.reshape(3, 32, 8, 32, 8).mean((2, 4))
            errors.append(float((means - values)[:, 2:-2, 2:-2].abs().max()))
        assert errors[1] < most < errors[0] / 2


def test_what_stands_in_front_is_not_painted_through():
    """From the low right of the front (-x) the small box hides what is behind it on the lid."""
    camera = PictureCamera(270, 15, 0, 0.8)
    one = sheet()
    painted = Painted([one], torch.device("cpu"))
    texels = Texels.of(one.uvs, one.faces, 3 * SIDE, rasterise)
    found = look(painted, 0, texels, Picture.of(drawn(one, camera)), camera, 1e-3, 400)
    points = texels.points(one.vertices, one.faces)
    lid = ((points[:, 2] - 0.1).abs() < 1e-4) & (points[:, 0] > 0)  # beyond the small box
    shadow = (points[:, 1] > -0.18) & (points[:, 1] < 0.08)
    seen = torch.zeros(len(points), dtype=torch.bool)
    seen[found.rows] = True
    assert (lid & shadow).sum() > 500 and not seen[lid & shadow].any()
    open_ = lid & (points[:, 1] > 0.12) & (points[:, 1] < 0.23)
    assert open_.sum() > 300 and seen[open_].float().mean() > 0.9
    below = points[:, 2] < -0.29
    assert not seen[below & (painted.normals[texels.face.long()][:, 2] < -0.5)].any()


@pytest.mark.parametrize("colours", ["picture", "texture"])
def test_no_seam_shows_where_a_brighter_picture_ends(runtime, colours):
    """The picture shows half of a ball."""

    def maps(level):
        made = np.full((64, 64, 6), 255, np.uint8)
        made[:, :, :3] = level
        return made

    ball = sphere(maps(120))
    camera = PictureCamera(0, 0, 20, 0.8)
    photo = Photo(drawn(replace(ball, maps=maps(160)), camera, 128), camera=camera)
    found = stages.project_texture(runtime, textured(ball), [photo], Projection(colours=colours))
    side = replace(ball, maps=found.maps)
    seen = np.asarray(drawn(side, PictureCamera(90, 0, 0, 0.9), 128)).astype(int)  # the border is in its middle
    row = seen[64][seen[64, :, 3] > 0][:, 0]
    assert np.abs(np.diff(row)).max() <= 6
    middle = np.asarray(drawn(side, camera, 128))[64, 64, 0]
    assert abs(int(middle) - (160 if colours == "picture" else 120)) <= 3


def test_a_texture_that_keeps_its_tone_takes_what_no_light_makes(runtime):
    """A blue window on a white ball that the picture shows darker: the window comes, larger than what counts as detail,
    the darkness does not."""
    white = np.full((128, 256, 6), 255, np.uint8)
    white[:, :, :3] = 230
    window = white.copy()
    window[56:72, 184:200, :3] = (60, 130, 220)  # in front
    darker = window.copy()
    darker[:, :, :3] = darker[:, :, :3] * 0.75
    white, darker = (np.repeat(each, 2, 0) for each in (white, darker))
    ball, camera = sphere(white), PictureCamera(0, 0, 20, 0.8)
    photo = Photo(drawn(replace(ball, maps=darker), camera, 128), camera=camera)
    found = stages.project_texture(runtime, textured(ball), [photo], Projection(colours="texture"))
    seen = np.asarray(drawn(replace(ball, maps=found.maps), camera, 128)).astype(int)
    red, green, blue = seen[64, 64, :3]
    assert blue - red > 90 and green - red > 35
    assert np.abs(seen[84, 60:68, :3] - 230).max() < 15


def test_a_mark_that_was_generated_elsewhere_is_no_light(runtime):
    """A grey mark on a white ball that the picture shows darker and without it: light that brightens the mark alone."""
    white = np.full((512, 512, 6), 255, np.uint8)
    white[:, :, :3] = 230
    darker, marked = white.copy(), white.copy()
    darker[:, :, :3] = 230 * 0.75
    marked[248:264, 376:392, :3] = 120  # in front, a twentieth of the ball high
    ball, camera = sphere(marked), PictureCamera(0, 0, 20, 0.8)
    photo = Photo(drawn(replace(ball, maps=darker), camera, 128), camera=camera)
    found = stages.project_texture(runtime, textured(ball), [photo], Projection(colours="texture"))
    seen = np.asarray(drawn(replace(ball, maps=found.maps), camera, 128)).astype(int)
    assert np.abs(seen[62:67, 62:67, 0] - 230).max() < 25
    assert np.abs(seen[84, 60:68, 0] - 230).max() < 8


def test_pictures_that_do_not_show_the_object_are_refused(runtime, coarsely):
    one = textured(sheet())
    rows, columns = np.abs(np.indices((128, 128)) - 63.5)
    cross = Image.new("RGBA", (128, 128))
    cross.putalpha(
        Image.fromarray(((np.minimum(rows, columns) < 14) & (np.maximum(rows, columns) < 55)).astype("u1") * 255)
    )
    with pytest.raises(
        ImageError, match=r"overlap by 0\.\d\d\d .* needed are 0\.850, or 0\.925 of moved parts .*--project-min-iou"
    ):
        stages.project_texture(runtime, one, [Photo(cross, view=View(25, 20))])
    view = drawn(sheet(), CAMERA, 128)
    with pytest.raises(ImageError, match="mirrored"):
        stages.project_texture(runtime, one, [Photo(view.transpose(Image.Transpose.FLIP_LEFT_RIGHT))])
    with pytest.raises(ImageError, match="empty"):
        stages.project_texture(runtime, one, [Photo(Image.new("RGBA", (64, 64)))])
    with pytest.raises(SettingsError, match="no picture"):
        stages.project_texture(runtime, one, [])
    for bad in ({"colours": "both"}, {"feather": 0}, {"min_iou": 2}, {"largest": 0}):
        with pytest.raises(SettingsError):
            Projection(**bad)


def test_colours_of_another_object_are_told(runtime, caplog):
    other = sheet([(30, 200, 200), (200, 30, 200), (20, 20, 20), (20, 20, 20), (30, 30, 230), (0, 0, 0)])
    view = drawn(other, CAMERA, 128)
    found = stages.project_texture(runtime, textured(sheet()), [Photo(view, camera=CAMERA)])
    assert any("differ from the object's" in each for each in found.facts["warnings"])
    assert not caplog.records  # the command line prints warnings at its end


def test_the_texture_grows_to_what_the_picture_holds_and_levels_share_it(runtime):
    one = textured(sheet())
    two = replace(one, levels=(one.levels[0], one.levels[0]), occlusion=np.full(one.maps.shape[:2], 200, np.uint8))
    photo = Photo(drawn(sheet(), CAMERA, 128), camera=CAMERA)
    found = stages.project_texture(runtime, two, [photo])
    assert len(found.maps) == 2 * len(one.maps) == len(found.occlusion)
    kept = stages.project_texture(runtime, two, [photo], Projection(largest=2 * len(one.maps) - 1))
    assert len(kept.maps) == len(one.maps)
    grew = (
        f"The texture grew from {len(one.maps)} to {2 * len(one.maps)} pixels a side, to hold what the pictures show."
    )
    assert grew in found.facts["warnings"] and not any("grew" in each for each in kept.facts.get("warnings", ()))
    picture = Picture.of(photo.picture)
    assert fitting_size(1e6, [(picture, CAMERA)], 64, 8192) == 64
    assert np.array_equal(two.maps, sheet().maps)  # inputs stay as they are


def test_what_lies_beyond_a_whole_pictures_border_counts():
    """A camera that sees half of the object must not fit because the other half is out of sight."""
    one = sheet()
    half = replace(CAMERA, shift=(0.62, CAMERA.shift[1]))
    cut = drawn(one, half, 128)
    whole = Image.new("RGBA", cut.size)
    whole.paste(cut.crop((0, 0, 126, 128)))  # the same, but for an empty border where it was cut off
    painted = Painted([one], torch.device("cpu"))
    assert measured(painted, Picture.of(cut), half).iou > 0.97
    assert measured(painted, Picture.of(whole), half).iou < 0.7


def test_a_camera_can_be_known():
    one = sheet()
    painted, picture = Painted([one], torch.device("cpu")), Picture.of(drawn(one, CAMERA))
    assert measured(painted, picture, CAMERA).iou > 0.98
    assert measured(painted, picture, replace(CAMERA, azimuth=CAMERA.azimuth + 60)).iou < 0.9


def test_light_is_told_from_colour():
    """A ball of two colours in light from one side."""
    random = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(4000, 3, generator=random), dim=1)
    own = torch.where(normals[:, 2:] > 0.2, torch.tensor([0.7, 0.3, 0.2]), torch.tensor([0.2, 0.5, 0.6]))
    light = torch.tensor([0.6, 0.1, 0.2, 0.35, 0, 0, 0.05, 0, 0])
    shown = tensor_to_srgb((tensor_to_linear(own) * (harmonics(normals) @ light)[:, None]).clamp(0, 1))
    shading = estimated(shown, own, normals)
    assert (shading.on(own, normals) - shown).abs().mean() < 0.01
    removed = shading.removed(shown, normals)
    ratio = tensor_to_linear(removed) / tensor_to_linear(own)
    assert ratio.std() / ratio.mean() < 0.1 < (tensor_to_linear(shown) / tensor_to_linear(own)).std() / 2


def test_a_flat_side_alone_says_nothing_of_light():
    """Its normals are all one."""
    made, camera = wall_and_block((40, 60, 180), (230, 60, 200)), PictureCamera(0, 0, 0, 0.9)
    assert math.isinf(light_in(Painted([made], torch.device("cpu")), Picture.of(drawn(made, camera)), camera))


def test_sides_of_a_thin_wall_have_values_of_their_own():
    x, z = torch.meshgrid(torch.linspace(-0.5, 0.5, 60), torch.linspace(-0.5, 0.5, 60), indexing="ij")
    flat = torch.stack([x.reshape(-1), torch.zeros(3600), z.reshape(-1)], 1)
    points = torch.cat([flat, flat + torch.tensor([0, 2e-3, 0])])
    normals = torch.zeros(7200, 3)
    normals[:3600, 1], normals[3600:, 1] = -1, 1
    cells = Cells(points, normals)
    values = torch.full((3600, 1), 0.5)
    sums = cells.gathered(points[:3600], normals[:3600], values, torch.ones(3600))
    found = cells.at(points, normals, cells.smoothed(*sums, 0.05, 0.3))
    assert (found[:3600] - 0.5).abs().max() < 0.03 and found[3600:].abs().max() < 1e-3


def test_a_scene_gets_the_picture_on_each_of_its_textures(runtime, tmp_path):
    """Furniture of grey textures, whose ball keeps its own: no picture reaches it."""
    scene = read_scene(furniture().save(tmp_path / "a.glb"))
    frame = scene.frame()
    numbers = [number for number, part in enumerate(scene.parts) if part.name != "bare"]
    groups = groups_of(scene, numbers, rasterise)
    grey = np.full((128, 128, 6), 128, np.uint8)
    made = stages.SceneTextures(tuple(BakedGroup(group, grey) for group in groups), None, {"warnings": ["first"]})
    blue = grey.copy()
    blue[:, :, :3] = (40, 70, 220)
    sheets = [Sheet(*group.geometry(scene, frame), blue) for group in groups]
    camera = PictureCamera(30, 35, 30, 0.8)
    seen = Painted(sheets, torch.device("cpu")).seen(camera, 128)
    image = Image.fromarray((torch.cat([seen.colour, seen.mask[:, :, None].float()], 2) * 255).round().byte().numpy())
    found = stages.project_scene(runtime, scene, frame, made, [Photo(image, camera)])
    assert len(found.groups) == len(groups) and found.facts["warnings"][0] == "first"
    assert found.facts["projected"][0]["share"] > 0.1
    sizes = [len(each.maps) for each in found.groups]
    count, most = sum(size > 128 for size in sizes), max(sizes)
    assert any(f"grew from 128 to {most} pixels" in each for each in found.facts["warnings"]) == (count > 0)
    blues = [float(((each.maps[:, :, 2] > 200) & (each.maps[:, :, 0] < 60)).mean()) for each in found.groups]
    assert max(blues) > 0.05 and all((each.maps[:, :, 3:] == 128).all() for each in found.groups)
    assert all((each.maps == 128).all() for each in made.groups)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--project", "--geometry-only"], "needs a texture"),
        (["--project", "--vertex-colors"], "needs a texture"),
        (["--project-colors", "texture"], "no effect without --project"),
        (["--project", "--project-min-iou", "2"], "in 0 to 1"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(run, picture, tmp_path, options, message):
    code, _, error = run("generate", picture, "--output", tmp_path / "a.glb", *options)
    assert code == 1 and message in error


def test_what_there_is_to_say_of_a_picture_is_said_once(run, picture, tmp_path, monkeypatch):
    """It is cut out for the networks, and again, with all of its pixels, to be projected."""
    grey = Image.new("RGBA", (256, 256), (200, 200, 200))
    grey.alpha_composite(Image.open(picture).convert("RGBA").resize((256, 256)))
    grey.convert("RGB").save(tmp_path / "grey.png")

    def stop(*arguments):
        raise SettingsError("far enough")

    monkeypatch.setattr("pipeline.cli.generate.tell_checkpoint", stop)
    code, _, error = run("generate", tmp_path / "grey.png", "--project", "--output", tmp_path / "a.glb")
    assert code == 1 and "far enough" in error and error.count("background") == 1
