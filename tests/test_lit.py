"""Whether a picture has light in it, and what a projection then takes from it; steps that hide nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from meshes import needs_warp
from PIL import Image
from test_projecting import Projection, drawn, sphere, stages, textured

from pipeline.project import Painted, Photo, Picture, decided
from pipeline.project.bleed import Unbled
from pipeline.project.lit import LIT, light_in
from pipeline.project.painted import Seen
from pipeline.views import PictureCamera

pytestmark = needs_warp
CAMERA = PictureCamera(20, 10, 20, 0.8)
PAINT = ((200, 60, 40), (60, 90, 200))


@pytest.fixture(scope="module")
def ball():
    """Painted in broad stripes."""
    made = np.full((64, 64, 6), 255, np.uint8)
    made[:, :, :3] = np.array(PAINT)[(np.arange(64) // 8) % 2][None]
    return sphere(made)


@pytest.fixture(scope="module")
def pictures(ball):
    """The ball's colours, and those in light from the upper left."""
    flat = drawn(ball, CAMERA, 200)
    seen = Painted([ball], torch.device("cpu")).seen(CAMERA, 200)
    towards = torch.nn.functional.normalize(torch.tensor([-0.5, -1.0, 0.8]), dim=0)
    shade = (0.25 + 0.9 * (seen.normal @ towards).clamp(min=0)).numpy()
    values = np.asarray(flat, np.float32).copy()
    values[..., :3] = 255 * ((values[..., :3] / 255) ** 2.2 * shade[..., None]).clip(0, 1) ** (1 / 2.2)
    return flat, Image.fromarray(values.round().astype(np.uint8))


def test_light_is_told_from_paint(ball, pictures):
    painted = Painted([ball], torch.device("cpu"))
    flat, lit = (light_in(painted, Picture.of(each), CAMERA) for each in pictures)
    assert flat < LIT / 2 and lit > 10 * LIT
    plain = Painted([replace(ball, maps=np.full_like(ball.maps, 90))], torch.device("cpu"))
    assert light_in(plain, Picture.of(pictures[1]), CAMERA) == lit  # whatever texture is there
    posed = [[(Picture.of(each), CAMERA)] for each in pictures]
    assert [decided(painted, each, Projection()).colours for each in posed] == ["picture", "texture"]
    assert decided(painted, posed[1], Projection(remove_light=True)).colours == "texture"
    assert decided(painted, posed[1], Projection(colours="picture")).colours == "picture"


def test_a_picture_in_light_does_not_make_a_right_texture_worse(ball, pictures):
    """By default; and one without light corrects a wrong texture."""

    def error(texture, picture):
        given = replace(ball, maps=texture)
        found = stages.project_texture(
            _runtime(), textured(given), [Photo(picture, camera=CAMERA)], Projection(largest=256)
        )
        one, wanted = (
            np.asarray(drawn(each, CAMERA, 128), np.float32) for each in (replace(ball, maps=found.maps), ball)
        )
        both = (one[..., 3] > 200) & (wanted[..., 3] > 200)
        return np.abs(one - wanted)[both][:, :3].mean() / 255, found.facts["projected"][0]["colours"]

    flat, lit = pictures
    kept, told = error(ball.maps, lit)
    assert told == "texture" and kept < 0.025
    wrong = ball.maps.copy()
    wrong[..., :3] = 120
    corrected, told = error(wrong, flat)
    assert told == "picture" and corrected < 0.03


def _runtime():
    from pipeline.runtime import Runtime

    return Runtime(torch.device("cpu"), stages.default_backends(), torch.float32)


@pytest.mark.parametrize("scale", [1, 3])
def test_small_steps_hide_nothing_and_what_is_in_front_does_not_bleed(scale):
    """A rough surface has steps of a voxel or two. A part in front, whose colour a picture has 3 pixels beyond it, ends
    where it does."""
    depth = np.full((100, 100), 2.0, np.float32)
    depth[:, 30:] -= 0.02  # a step
    depth[:, 60:] -= 0.2  # a part in front
    grey = np.full((100, 100, 3), 0.5, np.float32)
    seen = Seen(*(torch.from_numpy(each) for each in (depth > 0, depth, grey, grey)))
    colour = np.zeros((100 * scale, 100 * scale, 3), np.float32)
    colour[:, : 30 * scale], colour[:, 57 * scale :] = 0.2, 1.0
    picture = Picture(colour, np.ones(colour.shape[:2], np.float32))
    trust = picture.trust(seen, 0.002)[50]
    assert (trust[1:-1] == 1).all()
    columns = torch.arange(100)
    places = torch.stack([(columns + 0.5) / 100, torch.full((100,), 0.505)], 1)
    unbled = Unbled.of(picture, PictureCamera(0, 0, 0, 1.0), seen, 0.04)
    found = unbled.at(places, seen.depth[50, columns])[0].numpy()
    assert np.abs(found[:29] - 0.2).max() < 0.02 and found[31:60].max() < 0.02
    assert found[61:].min() > 0.95
