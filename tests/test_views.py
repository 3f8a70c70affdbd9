"""Several views: the rig, what each sees, how velocities are mixed, silhouettes and scales."""

import logging
import math

import pytest
import torch
from PIL import Image, ImageDraw

from pipeline.errors import SettingsError
from pipeline.image.shared_scale import to_one_scale
from pipeline.render import Camera
from pipeline.sampling import euler, packed_spread
from pipeline.sparse import Voxels
from pipeline.spec import SamplerSettings
from pipeline.views import (
    STRATEGIES,
    Mixing,
    PictureCamera,
    PosedPictures,
    View,
    mixed,
    named_views,
    parse_view,
    posed,
    view_weights,
)
from pipeline.views.hull import carve
from pipeline.views.mixing import Views

SIDE = 32


def ball(radius=12.0, centre=(16, 16, 16)):
    """The surface voxels of a ball."""
    grid = torch.stack(torch.meshgrid(*(torch.arange(SIDE),) * 3, indexing="ij"), -1).reshape(-1, 3)
    distance = (grid + 0.5 - torch.tensor(centre, dtype=torch.float32)).norm(dim=1)
    return grid[(distance < radius) & (distance > radius - 1.5)]


def test_names_and_angles():
    assert parse_view("Left") == View(90) and parse_view("-90").name == "right" and parse_view("45,20") == View(45, 20)
    assert View(405).azimuth == 45 and View(30, 10).name == "30,10"
    for bad in ("behind", "1,2,3", "", "nan", "0,91"):
        with pytest.raises(SettingsError):
            parse_view(bad)
    with pytest.raises(SettingsError, match="Got 2 pictures and"):
        named_views(["front"], 2)
    with pytest.raises(SettingsError, match="the same view"):
        named_views(["left", "90"], 2)


@pytest.mark.parametrize("view", [View(0), View(90), View(33, 20), View(270, -40)])
def test_the_rig_is_the_renderers(view):
    torch.testing.assert_close(view.axes(), torch.from_numpy(Camera(view.azimuth, view.elevation).axes()))


def test_left_is_the_objects_own_left():
    """+X, which the front view has on its right."""
    assert View(90).axes()[2].tolist() == pytest.approx([1, 0, 0])
    assert View(0).axes()[0].tolist() == pytest.approx([1, 0, 0])


def test_each_side_of_a_ball_belongs_to_the_view_that_sees_it():
    voxels = Voxels.single(ball())
    weights = view_weights(voxels, SIDE, [View(0), View(90), View(180), View(270)])
    assert weights.shape == (4, len(voxels), 1)
    torch.testing.assert_close(weights.sum(0), torch.ones(len(voxels), 1))
    for view, axis, sign in ((0, 1, -1), (1, 0, 1), (2, 1, 1), (3, 0, -1)):
        cap = sign * (voxels.xyz[:, axis] + 0.5 - 16) > 10
        assert cap.sum() > 20 and weights[view, cap].min() > 0.7 and weights[view, cap].mean() > 0.9


def test_what_stands_in_front_hides_what_is_behind():
    """A wall before a ball: the front view sees the wall, not the ball; so the ball's front is the left view's."""
    wall = torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(1), torch.arange(SIDE), indexing="ij"), -1)
    both = torch.cat([wall.reshape(-1, 3), ball(8.0, (16, 18, 16))])
    voxels = Voxels.single(both)
    weights = view_weights(voxels, SIDE, [View(0), View(90)])
    front = torch.zeros(len(both), dtype=torch.bool)
    front[SIDE * SIDE :] = (both[SIDE * SIDE :, 1] < 16) & (both[SIDE * SIDE :, 0] > 18)
    assert front.sum() > 20 and weights[1, front].mean() > 0.9
    assert weights[0, : SIDE * SIDE].mean() > 0.9


def velocities(count, generator):
    targets = torch.randn(count, 50, 8, generator=generator, dtype=torch.float64)
    return targets, tuple((lambda x, t, target=target: (x - target) / t) for target in targets)


def run(strategy, each, nothing=lambda x, t: x / t, weights=None, importance=(), steps=6, **settings):
    settings = SamplerSettings(
        steps=steps, sigma_min=0.0, **{"guidance_scale": 3.0, "guidance_rescale": 0.5} | settings
    )
    noise = torch.randn(50, 8, dtype=torch.float64)
    views = Views(each, nothing, settings, packed_spread((50,)), weights, importance)
    *_, last = euler(mixed(strategy, views), noise, settings)
    return last.x


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_views_that_agree_give_what_one_gives(strategy):
    torch.manual_seed(3)
    _, each = velocities(1, torch.Generator().manual_seed(1))
    settings = {"guidance_scale": 1.0, "guidance_rescale": 0.0} if strategy == "fixed_guidance_rescale" else {}
    torch.manual_seed(4)
    one = run(strategy, each, **settings)
    torch.manual_seed(4)
    torch.testing.assert_close(run(strategy, each * 3, **settings), one)


@pytest.mark.parametrize("strategy", ["average", "average_right", "fixed_guidance_rescale"])
def test_equal_shares_without_guidance_reach_the_mean(strategy):
    targets, each = velocities(3, torch.Generator().manual_seed(2))
    torch.testing.assert_close(run(strategy, each, guidance_scale=1.0, guidance_rescale=0.0), targets.mean(0))


def test_the_primary_view_is_the_first():
    targets, each = velocities(3, torch.Generator().manual_seed(2))
    torch.testing.assert_close(run("primary", each, guidance_scale=1.0), targets[0])


def test_views_take_turns():
    asked = []
    each = tuple((lambda x, t, view=view: asked.append(view) or x / t) for view in range(3))
    run("sequential", each)
    assert asked == [0, 1, 2, 0, 1, 2]


def test_an_outlier_counts_less():
    target = torch.randn(50, 8, dtype=torch.float64)
    each = tuple((lambda x, t, off=off: (x - target - off) / t) for off in (0.0, 0.0, 20.0))
    error = {
        name: (run(name, each, guidance_scale=1.0) - target).abs().mean() for name in ("average", "weighted_average")
    }
    assert error["weighted_average"] < 0.2 * error["average"]


def test_a_view_that_says_nothing_counts_less():
    target = torch.randn(50, 8, dtype=torch.float64) + 4
    each = (lambda x, t: (x - target) / t, lambda x, t: x / t)  # the second is the unconditional one
    error = {
        n: (run(n, each, guidance_scale=1.0) - target).abs().mean() for n in ("average", "adaptive_guidance_weight")
    }
    assert error["adaptive_guidance_weight"] < 0.5 * error["average"]


def test_every_voxel_follows_the_view_that_sees_it():
    targets, each = velocities(2, torch.Generator().manual_seed(2))
    weights = torch.zeros(2, 50, 1)
    weights[0, :25], weights[1, 25:] = 1, 1
    found = run("visibility", each, weights=weights, guidance_scale=1.0)
    torch.testing.assert_close(found, torch.cat([targets[0, :25], targets[1, 25:]]))


def test_the_unconditional_velocity_is_computed_once_a_step():
    asked = []
    run("average", velocities(3, torch.Generator())[1], nothing=lambda x, t: asked.append(t) or x / t)
    assert len(asked) == 6


def silhouette(width, height, size=128):
    picture = Image.new("L", (size, size))
    x, y = (size - width) // 2, (size - height) // 2
    ImageDraw.Draw(picture).rectangle([x, y, x + width - 1, y + height - 1], fill=255)
    return torch.tensor(list(picture.tobytes()), dtype=torch.float32).reshape(size, size) / 255


def test_silhouettes_carve_what_sticks_out():
    """A box 24 x 24 x 16 whose pictures say 16 wide from the front and from behind: 4 voxels go on either side."""
    grid = torch.stack(torch.meshgrid(torch.arange(24), torch.arange(24), torch.arange(16), indexing="ij"), -1)
    voxels = Voxels.single(grid.reshape(-1, 3))
    found = carve(voxels, [View(0), View(180)], [silhouette(64, 64), silhouette(64, 64)])
    assert found.xyz[:, 0].min() in (2, 3, 4) and found.xyz[:, 0].max() in (19, 20, 21)
    assert (found.xyz[:, 1].min(), found.xyz[:, 1].max()) == (0, 23)


def test_silhouettes_of_something_else_carve_nothing(caplog):
    caplog.set_level(logging.WARNING)
    voxels = Voxels.single(ball())
    kept = carve(voxels, [View(0), View(180)], [silhouette(8, 100), silhouette(8, 100)])
    assert len(kept) == len(voxels) and "Nothing was carved" in caplog.text


def cut(width, height, size=200):
    picture = Image.new("RGBA", (size, size))
    x, y = (size - width) // 2, (size - height) // 2
    ImageDraw.Draw(picture).rectangle([x, y, x + width - 1, y + height - 1], fill=(200, 30, 30, 255))
    return picture


def test_views_come_to_one_scale():
    """The left picture is taken from nearer: after scaling it is as tall as the front."""
    found = to_one_scale([cut(80, 60), cut(60, 120)], [0, 90], ["front", "left"])
    boxes = [picture.getchannel("A").getbbox() for picture in found.pictures]
    heights = [box[3] - box[1] for box in boxes]
    assert abs(heights[0] - heights[1]) <= 1 and not found.residuals
    assert found.pictures[0].size == found.pictures[1].size
    assert (boxes[0][2] - boxes[0][0]) / heights[0] == pytest.approx(80 / 60, rel=0.03)


def test_what_does_not_agree_is_said():
    found = to_one_scale([cut(80, 60), cut(80, 66)], [0, 180], ["front", "back"])
    assert any("back is" in remark and "taller than front" in remark for remark in found.residuals)
    assert any("front is" in remark and "wider than back" in remark for remark in found.residuals)


def test_what_does_not_go_together_is_refused():

    with pytest.raises(SettingsError, match="Got 1 picture and"):
        named_views(["front", "left"], 1)
    with pytest.raises(SettingsError, match="No strategy"):
        Mixing(shape="best")
    with pytest.raises(SettingsError, match="Carving needs"):
        PosedPictures((cut(8, 8),), mixing=Mixing(carve=True))


def test_pictures_of_views_are_compared(caplog):
    caplog.set_level(logging.WARNING)
    half = cut(80, 60)
    ImageDraw.Draw(half).rectangle([60, 70, 99, 129], fill=(0, 0, 255, 255))
    found = posed([half, half, half.transpose(Image.Transpose.FLIP_LEFT_RIGHT)], [View(0), View(90), View(180)])
    assert "front and left are the same picture" in found.remarks
    assert any("back is front mirrored" in remark for remark in found.remarks) and "same picture" in caplog.text


@pytest.mark.parametrize("strategy", ["average", "average_right", "fixed_guidance_rescale"])
def test_weights_of_views_weigh(strategy):
    targets, each = velocities(3, torch.Generator().manual_seed(2))
    found = run(strategy, each, guidance_scale=1.0, guidance_rescale=0.0, importance=(2.0, 1.0, 1.0))
    torch.testing.assert_close(found, (2 * targets[0] + targets[1] + targets[2]) / 4)


@pytest.mark.parametrize("strategy", ["weighted_average", "adaptive_guidance_weight", "visibility"])
def test_weights_of_views_multiply_other_shares(strategy):
    """Both views stand equally far from nothing, and without weights from the mean: only weights tell them apart."""
    target = torch.randn(50, 8, dtype=torch.float64)
    each = (lambda x, t: (x - target) / t, lambda x, t: (x + target) / t)
    seen = torch.full((2, 50, 1), 0.5)
    found = run(strategy, each, guidance_scale=1.0, importance=(3.0, 1.0), weights=seen, steps=1)
    won = (found * target).sum() / (target * target).sum()  # 1: the first view alone, 0: as much of either
    assert won > 0.6 if strategy == "weighted_average" else won == pytest.approx(0.5, abs=0.01)


def test_a_weightier_view_has_more_turns():
    asked = []
    each = tuple((lambda x, t, view=view: asked.append(view) or x / t) for view in range(3))
    run("sequential", each, importance=(4.0, 1.0, 1.0))
    assert asked[0] == 0 and (asked.count(0), asked.count(1), asked.count(2)) == (4, 1, 1)


def test_weights_that_cannot_be_are_refused():
    for bad in ((0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (float("inf"), 1.0), (1e300, 1.0)):
        with pytest.raises(SettingsError, match="0.001 to 1000"):
            Mixing(weights=bad)
    with pytest.raises(SettingsError, match="1 picture has 2 weights"):
        PosedPictures((cut(8, 8),), mixing=Mixing(weights=(1, 2)))


def test_a_pictures_camera_is_the_renderers_and_its_rays_meet_what_it_projects():
    camera = PictureCamera(33, 20, fov=40, scale=0.8, target=(0.1, -0.05, 0.2))
    points = torch.tensor([[0.3, -0.2, 0.1], [-0.4, 0.4, -0.3], [0.0, 0.0, 0.5]], dtype=torch.float64)
    place, size = camera.project(points)
    drawn = Camera(33, 20, 40, distance=camera.distance, target=camera.target)
    eye = torch.tensor(drawn.target, dtype=torch.float64) + drawn.distance * torch.from_numpy(drawn.axes()[2])
    seen = (points - eye) @ torch.from_numpy(drawn.axes()).T
    focal = 0.5 / math.tan(math.radians(20))
    expected = 0.5 + focal * seen[:, :2] / -seen[:, 2:] * torch.tensor([1.0, -1.0])
    torch.testing.assert_close(place, expected)
    torch.testing.assert_close(size, focal / -seen[:, 2])


@pytest.mark.parametrize("fov", [0, 35])
def test_a_pictures_rays_go_through_its_pixels(fov):
    camera = PictureCamera(120, -30, fov, 1.3, shift=(0.1, -0.2), target=(0.05, 0.1, -0.1))
    origins, directions = camera.rays(8)
    place, size = camera.project(origins + 1.7 * directions)
    line = (torch.arange(8) + 0.5) / 8
    expected = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(-1, 2)
    torch.testing.assert_close(place, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(camera.towards(origins + 1.7 * directions), -directions, atol=1e-5, rtol=0)
    assert (size > 0).all()
    if fov:
        behind = camera.project(origins - directions)[1]
        assert (behind == 0).all()


def test_a_pictures_camera_refuses_numbers_that_no_camera_has():
    for bad in ({"fov": 151}, {"scale": 0}, {"elevation": 91}):
        with pytest.raises(SettingsError):
            PictureCamera(**bad)
    bads = {
        "shift right": {"shift": (math.nan, 0)},
        "target: z": {"target": (0, 0, math.inf)},
        "field of view": {"fov": math.nan},
        "scale": {"scale": math.inf},
    }
    for named, bad in bads.items():
        with pytest.raises(SettingsError, match=rf"^A camera's {named} must be a finite number, got (nan|inf)\.$"):
            PictureCamera(**bad)
