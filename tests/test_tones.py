"""What a picture says of colours that it does not show, and when light is divided out of it."""

from dataclasses import replace

import numpy as np
import torch
from meshes import needs_warp
from painted import drawn, sphere, textured

from pipeline import stages
from pipeline.project import Photo, Projection
from pipeline.project.blend import blended
from pipeline.project.paint import Look
from pipeline.project.project import _light
from pipeline.project.shading import estimated, explained, harmonics
from pipeline.runtime import Runtime
from pipeline.srgb import tensor_to_linear, tensor_to_srgb
from pipeline.views import PictureCamera

YELLOW, PURPLE = torch.tensor([0.76, 0.68, 0.35]), torch.tensor([0.45, 0.15, 0.7])


def shown(rows, colour, normal):
    return Look(rows, colour, torch.ones(len(rows)), torch.ones(len(rows)), normal)


def plane(depth, towards):
    """Points and normals [3600, 3] of a square that looks along y."""
    x, z = torch.meshgrid(torch.linspace(-0.5, 0.5, 60), torch.linspace(-0.5, 0.5, 60), indexing="ij")
    points = torch.stack([x.reshape(-1), torch.full((3600,), depth), z.reshape(-1)], 1)
    return points, torch.tensor([[0.0, towards, 0]]).repeat(3600, 1)


def test_a_tone_stays_on_the_colours_that_it_was_found_on():
    """A picture shows half of a yellow wall, darker; the purple fin above it is not in the picture."""
    points, normals = plane(0.0, -1.0)
    fin, seen = points[:, 2] > 0.2, points[:, 0] < 0
    baked = torch.where(fin[:, None], PURPLE, YELLOW)
    rows = (seen & ~fin).nonzero()[:, 0]
    change = blended(points, normals, baked, [shown(rows, baked[rows] - 0.15, normals[rows])], "picture") - baked
    assert (change[~fin & ~seen & (points[:, 0] < 0.1) & (points[:, 2] < 0)] < -0.1).all()
    assert change[fin & (points[:, 2] > 0.22)].abs().max() < 0.02


def test_the_inside_that_a_hole_shows_says_nothing_of_the_outside():
    """A few places of the back wall are seen from within, through a hole, in the colour that the picture has there."""
    points, normals = (torch.cat(each) for each in zip(plane(-0.4, -1.0), plane(0.4, 1.0)))
    baked = YELLOW.repeat(len(points), 1)
    inside = 3600 + ((points[3600:, [0, 2]].abs() < 0.04).all(1)).nonzero()[:, 0]
    rows = torch.cat([torch.arange(3600), inside])
    colour, normal = baked[rows].clone(), torch.tensor([[0.0, -1, 0]]).repeat(len(rows), 1)
    colour[3600:] = PURPLE
    found = blended(points, normals, baked, [shown(rows, colour, normal)], "picture")
    rest = torch.ones(len(points), dtype=torch.bool)
    rest[inside] = False
    assert (found - baked)[rest].abs().max() < 0.02


def test_light_is_divided_out_where_it_explains_a_picture():
    random = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(4000, 3, generator=random), dim=1)
    own = 0.2 + 0.5 * torch.rand(4000, 3, generator=random)
    light = harmonics(normals) @ torch.tensor([0.6, 0.1, 0.2, 0.35, 0, 0, 0.05, 0, 0])
    lit = tensor_to_srgb((tensor_to_linear(own) * light[:, None]).clamp(0, 1))
    spots = torch.where(torch.rand(4000, 1, generator=random) < 0.3, 0.9, own * 0.4)  # highlights, whatever the normal
    for picture, enough in ((lit, True), (spots, False)):
        share = explained(estimated(picture, own, normals), picture, own, normals)
        assert share > 0.9 if enough else share < 0.05
        one = shown(torch.arange(4000), picture, normals)
        assert (_light(one, own, "texture") is not None) == enough
        assert _light(one, own, "picture") is not None


@needs_warp
def test_a_picture_without_light_is_not_divided():
    """Its colours, which were generated wrong in a way that light could explain, arrive as they are."""
    maps = np.full((64, 64, 6), 255, np.uint8)
    maps[:, :, :3] = np.array([[200, 60, 40], [60, 90, 200]])[(np.arange(64) // 8) % 2][None]
    ball, camera = sphere(maps), PictureCamera(20, 10, 20, 0.8)
    wrong = maps.copy()
    wrong[:32, :, :3] = wrong[:32, :, :3] // 2  # above
    runtime = Runtime(torch.device("cpu"), stages.default_backends(), torch.float32)
    photo = Photo(drawn(ball, camera, 128), camera=camera)
    plain, removed = (
        stages.project_texture(runtime, textured(replace(ball, maps=wrong)), [photo], Projection(remove_light=each))
        for each in (False, True)
    )
    assert (plain.maps == removed.maps).all()
