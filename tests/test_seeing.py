"""What a camera sees of a generated surface, which has slits and is rough: colours stay on the part that shows them."""

from dataclasses import replace

import pytest
import torch
from meshes import needs_warp
from painted import block_moved, box, drawn, wall_and_block

from pipeline.mesh.bake.bake import Texels
from pipeline.mesh.bake.raster import rasterise
from pipeline.project import Painted, Picture
from pipeline.project.paint import look
from pipeline.views import PictureCamera

pytestmark = needs_warp

WALL, BLOCK = (40, 60, 180), (230, 60, 200)


def looked(made, picture, camera, size=512):
    """The look at a sheet, points of its texels that it shows, and its colours there in 0-255."""
    texels = Texels.of(made.uvs, made.faces, size, rasterise)
    found = look(Painted([made], torch.device("cpu")), 0, texels, picture, camera, 2e-3, 2000)
    return found, texels.points(made.vertices, made.faces)[found.rows], found.colour * 255


def with_block(made, low, high):
    """Another block in the colours of the first."""
    vertices, faces, _ = box(low, high)
    uvs = torch.cat([made.uvs, made.uvs[24:48]])
    faces = torch.cat([made.faces, faces + len(made.vertices)])
    return replace(made, vertices=torch.cat([made.vertices, vertices]), faces=faces, uvs=uvs)


def test_what_shows_through_a_slit_takes_nothing_of_the_part_that_the_picture_shows():
    """The block before the wall was generated in two pieces, a hundredth of the picture from each other."""
    whole, camera = wall_and_block(WALL, BLOCK), PictureCamera(0, 0, 0, 0.9)
    halves = whole.vertices.clone()
    halves[24:, 0] = -0.2 + (halves[24:, 0] + 0.2) * 0.475
    made = with_block(replace(whole, vertices=halves), (-0.095, -0.2, -0.2), (0.0, 0.0, 0.2))
    found, points, colour = looked(made, Picture.of(drawn(whole, camera)), camera)
    wall = (points[:, 1] > 0.15) & (found.share > 0)
    assert wall.sum() > 1000
    assert not (wall & (points[:, 0] > -0.2) & (points[:, 0] < 0) & (points[:, 2].abs() < 0.15)).any()
    assert (colour[wall] - torch.tensor(WALL)).abs().amax(1).quantile(0.999) < 40


@pytest.mark.parametrize("slack", [0.0, 4 / 256])
def test_a_part_that_stands_out_little_leaves_no_fringe(slack):
    """By 1.6 hundredths of the picture, which roughness might be but for the colours. Nor do colours overshoot."""
    thick, camera = wall_and_block(WALL, BLOCK), PictureCamera(0, 0, 0, 0.9)
    vertices = thick.vertices.clone()
    vertices[24:, 1] = 0.2 + (vertices[24:, 1] - 0.0) * 0.09  # to 0.182
    made = replace(thick, vertices=vertices)
    shown = Picture.of(drawn(block_moved(made, slack / 2 / 0.9), camera))
    found, points, colour = looked(made, replace(shown, slack=slack), camera, 1024)
    inner = ((points[:, 0] + 0.1).abs() < 0.095) & (points[:, 2].abs() < 0.195)  # its last pixel shows both
    for part, own in ((points[:, 1] > 0.19, WALL), ((points[:, 1] < 0.19) & inner, BLOCK)):
        part &= found.share > 0.5
        off = (colour[part] - torch.tensor(own)).abs().amax(1)
        assert len(off) > 1000 and (off > 40).float().mean() < 1e-3


@pytest.mark.parametrize(("colour", "shown"), [(WALL, True), (BLOCK, False)])
def test_what_a_rough_surface_hides_of_itself_is_seen(colour, shown):
    """A flake before the wall hides some of it from aside: taken along if it has the wall's colour, which tells it from
    a part of its own."""
    made, camera = wall_and_block(WALL, colour), PictureCamera(30, 0, 0, 0.9)
    vertices = made.vertices.clone()
    vertices[24:, 1] = 0.192 + vertices[24:, 1] * 0.02  # 0.188 to 0.192
    made = replace(made, vertices=vertices)
    _, points, _ = looked(made, Picture.of(drawn(made, camera)), camera)
    shadow = (points[:, 1] > 0.199) & (points[:, 0] > -0.199) & (points[:, 0] < -0.01) & (points[:, 2].abs() < 0.19)
    assert (shadow.sum() > 100) == shown


def test_a_picture_of_thin_things_keeps_pixels_that_are_object():
    """Reduced to the texels that there are, none was more than 80 % opaque, and none was the nearest that is object."""
    thin = Picture.of(drawn(wall_and_block(WALL, BLOCK), PictureCamera(0, 0, 0, 0.9)))
    rows = torch.arange(len(thin.alpha)) % 64 < 3
    thin = replace(thin, alpha=thin.alpha * rows[:, None].numpy())
    assert 16 < thin.reduced(16).side < thin.side and thin.reduced(16).solid.any()
    found, _, _ = looked(wall_and_block(WALL, BLOCK), thin, PictureCamera(0, 0, 0, 0.9), 16)
    assert torch.isfinite(found.colour).all()
