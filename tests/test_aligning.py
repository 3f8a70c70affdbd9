"""Pictures of other proportions than the object: their parts arrive on the object's parts, and nowhere else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from meshes import needs_warp
from painted import CAMERA, COLOURS, block_moved, checker, decorated, drawn, sheet, textured, wall_and_block
from PIL import Image

from pipeline import stages
from pipeline.errors import ImageError
from pipeline.mesh.bake.bake import Texels
from pipeline.mesh.bake.raster import rasterise
from pipeline.project import Painted, Photo, Picture, Projection, aligned
from pipeline.project.paint import look
from pipeline.runtime import Runtime
from pipeline.views import PictureCamera, View

pytestmark = needs_warp


@pytest.fixture(scope="module")
def runtime():
    return Runtime(torch.device("cpu"), stages.default_backends())


def test_a_part_of_the_picture_does_not_land_on_another_part(runtime):
    """A box in front of a wall, which the picture shows farther to the right, and a dot that only the picture has."""
    made, camera = wall_and_block((40, 60, 180), (230, 60, 200)), PictureCamera(0, 0, 0, 0.9)
    picture = np.asarray(drawn(block_moved(made, 0.05), camera)).copy()
    picture[100:130, 180:210, :3] = (20, 200, 30)
    photo = Photo(Image.fromarray(picture), camera=camera)
    found = stages.project_texture(runtime, textured(made), [photo], Projection(colours="picture"))
    shown = np.asarray(drawn(replace(made, maps=found.maps), camera))[:, :, :3].astype(int)
    column = int((0.5 + 0.025 * 0.9) * 256)  # on the wall beside the block, where the picture shows the block
    assert np.abs(shown[90:160, column] - (40, 60, 180)).max() < 20
    assert np.abs(shown[108:122, 188:202] - (20, 200, 30)).max() < 20
    assert np.abs(shown[90:160, 90:115] - (230, 60, 200)).max() < 20


def test_a_mark_that_the_picture_has_elsewhere_on_the_same_part_goes(runtime):
    """A dark mark on a wall beside a block of the same colour, which the picture has lower."""
    made, camera = wall_and_block((200, 180, 60), (200, 180, 60)), PictureCamera(0, 0, 0, 0.9)
    marked = made.maps.copy()
    marked[12:20, 24:32, :3] = (20, 20, 20)  # of the wall's front
    made = replace(made, maps=marked)
    before = np.asarray(drawn(made, camera))[:, :, :3].astype(int)
    rows, columns = np.nonzero(before.sum(2) * (np.asarray(drawn(made, camera))[:, :, 3] > 0) == 60)
    assert len(rows) > 100
    lower = np.asarray(drawn(replace(made, maps=np.roll(marked, 10, 0)), camera)).copy()
    lower[:, :, :3][(before.sum(2) == 60)] = (200, 180, 60)
    found = stages.project_texture(
        runtime, textured(made), [Photo(Image.fromarray(lower), camera=camera)], Projection(colours="picture")
    )
    shown = np.asarray(drawn(replace(made, maps=found.maps), camera))[:, :, :3].astype(int)
    inner = slice(rows.min() + 2, rows.max() - 1), slice(columns.min() + 2, columns.max() - 1)
    assert np.abs(shown[inner] - (200, 180, 60)).max() < 20


@pytest.mark.parametrize("by", [0.03, -0.03])
def test_a_part_that_the_picture_has_elsewhere_is_moved_to_the_objects(by):
    """A block before a wall, of which the outline tells nothing."""
    made, camera = wall_and_block((40, 60, 180), (230, 60, 200)), PictureCamera(0, 0, 0, 0.9)
    wanted, shown = (Picture.of(drawn(each, camera)) for each in (made, block_moved(made, by)))
    found = aligned(Painted([made], torch.device("cpu")), shown, camera)

    def wrong(picture):
        return int((np.abs(picture.colour - wanted.colour).max(2) > 0.2)[wanted.solid].sum())

    assert wrong(found.picture) < 0.15 * wrong(shown) and wrong(shown) > 1000
    assert 0.7 * 0.9 < found.moved / abs(by) < 1.5 and found.iou > 0.99


def test_a_pattern_that_was_not_generated_is_not_bent():
    plain, camera = sheet(), CAMERA
    shown = Picture.of(drawn(decorated(plain, checker()), camera))
    found = aligned(Painted([plain], torch.device("cpu")), shown, camera)
    assert found.moved < 3 / 256
    assert found.picture.moved(np.zeros((2, 8, 8))).colour == pytest.approx(
        found.picture.filled().permute(1, 2, 0), abs=1e-4
    )


@pytest.mark.parametrize(("colours", "taken"), [(COLOURS, True), (COLOURS[3:] + COLOURS[:3], False)])
def test_an_object_of_other_proportions_takes_its_picture(runtime, coarsely, colours, taken):
    """The upper box is a quarter wider in the picture: refused by silhouettes alone, taken for its colours."""
    made, other = sheet(), sheet(colours)
    vertices = other.vertices.clone()
    vertices[24:, 0] = -0.35 + (vertices[24:, 0] + 0.35) * 1.25
    picture = drawn(replace(other, vertices=vertices), CAMERA, 128)
    settings = Projection(min_iou=0.97)
    photo = Photo(picture, view=View(CAMERA.azimuth, CAMERA.elevation))
    if taken:
        [told] = stages.project_texture(runtime, textured(made), [photo], settings).facts["projected"]
        assert told["aligned_iou"] > 0.98 and told["iou"] < 0.97
    else:
        with pytest.raises(ImageError, match="once its parts are moved.*colours differ"):
            stages.project_texture(runtime, textured(made), [photo], settings)


@pytest.mark.parametrize("slack", [0.0, 2 / 256])
def test_no_fringe_of_the_part_in_front_is_left_behind_it(slack):
    """A block before a wall, which the picture shows a pixel farther to the right if outlines have slack: no texel of
    the wall that the camera sees takes any of the block's colour, nor the other way round."""
    made, camera = wall_and_block((40, 60, 180), (230, 60, 200)), PictureCamera(0, 0, 0, 0.9)
    shown = Picture.of(drawn(block_moved(made, slack / 2 / 0.9), camera))
    shown = shown.moved(np.zeros((2, 8, 8)), slack)
    texels = Texels.of(made.uvs, made.faces, 256, rasterise)
    found = look(Painted([made], torch.device("cpu")), 0, texels, shown, camera, 2e-3, 400)
    points = texels.points(made.vertices, made.faces)[found.rows]
    believed = found.share > 0.5
    for part, colour in ((points[:, 1] > 0.15, (40, 60, 180)), (points[:, 1] < 0.1, (230, 60, 200))):
        part = part & believed
        off = (found.colour[part] * 255 - torch.tensor(colour)).abs().amax(1)
        assert len(off) > 1000 and (off > 40).sum() <= 1  # sharpened edges overshoot by 25; corners are round
