"""Light of previews against its integrals; background, alpha and wireframe."""

import numpy as np
import pytest
import torch
from devices import on_device
from meshes import needs_warp
from rendered import EVEN, FIXED, directions, flat_maps, painted, shown, sphere, wall

from pipeline.mesh.query.surface import Surface
from pipeline.render import Camera, Studio, Subject, render, turntable

pytestmark = [needs_warp, pytest.mark.usefixtures("device")]
Surface, render, turntable = (on_device(each) for each in (Surface, render, turntable))


# Light


@pytest.mark.parametrize("metallic", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("roughness", [0.1, 0.5, 1.0])
def test_in_even_light_a_white_ball_is_as_bright_as_the_light(metallic, roughness):
    """No energy is made or lost, and a convex body does not occlude itself."""
    vertices, faces = sphere()
    subject = Subject(vertices, faces, colours=painted(vertices, 1, 1, 1, metallic, roughness, 1))
    picture = render(subject, FIXED, 96, "pbr", studio=EVEN)
    light = shown(np.ones((1, 3))).mean()
    inside = picture[picture[..., 3] == 255][:, :3]
    assert inside.max() <= light + 1
    assert np.median(inside) >= light - 2 and inside.min() > light - 20


def test_the_lit_side_is_brighter():
    vertices, faces = sphere()
    subject = Subject(vertices, faces, colours=painted(vertices, 1, 1, 1, 0, 1, 1))
    for mode in ("pbr", "shaded"):
        picture = render(subject, Camera(0, 0), 128, mode).astype(float)[..., 0]
        assert picture[40, 40] > picture[88, 88] + 40  # the first box stands left above


def test_metal_tints_what_it_mirrors_and_plastic_does_not():
    vertices, faces = sphere()
    subjects = [Subject(vertices, faces, colours=painted(vertices, 0.9, 0.2, 0.1, x, 0.15, 1)) for x in (1, 0)]
    metal = render(subjects[0], Camera(0, 0), 96, "pbr", studio=EVEN)[48, 48]
    assert np.abs(metal[:3].astype(int) - shown_encoded(0.9, 0.2, 0.1)).max() <= 12  # its colour, in white light
    peak = render(subjects[1], Camera(0, 0), 96, "pbr")[..., :3].min(-1).max()
    assert peak > 140  # in the dark red plastic the first box is nearly white


def shown_encoded(*colour):
    """The bytes of a surface of this sRGB colour that sends back all of white light of radiance 1."""
    return shown(((np.array([colour]) + 0.055) / 1.055) ** 2.4)[0]


def ggx(studio, normals, viewers, roughness, base, count=4096):
    """Light [N, 3] that a metal sends to the viewers: the Cook-Torrance integral by importance sampling."""
    alpha = roughness**2
    steps = np.arange(count) + 0.5
    u, turn = steps / count, np.pi * (1 + 5**0.5) * steps
    tangent = alpha * np.sqrt(u / (1 - u))
    cosine = 1 / np.sqrt(1 + tangent**2)
    local = np.stack([cosine * tangent * np.cos(turn), cosine * tangent * np.sin(turn), cosine], 1)
    result = []
    for n, v in zip(normals, viewers):
        side = np.cross(n, [0.3, 0.5, 0.8])
        side /= np.linalg.norm(side)
        half = local @ np.stack([side, np.cross(n, side), n])
        light = 2 * (half @ v)[:, None] * half - v
        nl, nv, nh, vh = light @ n, n @ v, half @ n, half @ v
        k = alpha**2

        def smith(c, k=k):
            return 2 * c / (c + np.sqrt(k + (1 - k) * c * c))

        weight = np.where(nl > 0, smith(nl.clip(1e-9)) * smith(nv) * vh / (nh * nv), 0)
        fresnel = base + (1 - base) * (1 - vh.clip(0, 1))[:, None] ** 5
        result.append((fresnel * weight[:, None] * sum(studio.radiance(light))).mean(0))
    return np.array(result)


@pytest.mark.parametrize(("roughness", "limit"), [(0.15, 4), (0.35, 9), (0.6, 11)])
def test_reflections_are_near_the_integral_of_cook_torrance(roughness, limit):
    vertices, faces = sphere()
    studio, camera, base = Studio(), Camera(0, 0, 20, 4.0, (0.0, 0.0, 0.0)), 0.6
    level = 1.055 * base ** (1 / 2.4) - 0.055
    subject = Subject(
        vertices,
        faces,
        torch.nn.functional.normalize(vertices, dim=1),
        colours=painted(vertices, level, level, level, 1, roughness, 1),
    )
    size = 96
    picture = render(subject, camera, size, "pbr", studio=studio).astype(float)
    eye, rays = directions(camera, size)
    along = -(rays @ eye)
    inside = along**2 - (eye @ eye - 0.4**2)
    rows, columns = np.nonzero(inside > 0.06)
    pick = slice(0, None, 23)
    rays, root = rays[rows, columns][pick], np.sqrt(inside[rows, columns][pick])
    points = eye + (along[rows, columns][pick] - root)[:, None] * rays
    expected = shown(ggx(studio, points / 0.4, -rays, roughness, base))
    error = np.abs(picture[rows, columns][pick][:, :3] - expected)
    assert len(error) > 50 and error.mean() < limit, error.mean()


def test_diffuse_light_is_the_cosine_weighted_mean():
    studio = Studio()
    coefficients = studio.harmonics()
    random = np.random.default_rng(0)
    light = random.normal(size=(200000, 3))
    light /= np.linalg.norm(light, axis=1, keepdims=True)
    parts = studio.radiance(light)
    for n in random.normal(size=(12, 3)):
        x, y, z = n = n / np.linalg.norm(n)
        basis = np.array([1, y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y])
        for k, part in enumerate(parts):
            exact = 4 * (np.clip(light @ n, 0, None)[:, None] * part).mean(0)
            assert np.abs(basis @ coefficients[9 * k : 9 * k + 9] - exact).max() < 0.06


def roofed(height):
    """A floor seen from above with a roof over its middle, or without."""
    vertices, faces, _ = wall()
    floor = torch.stack([vertices[:, 0], vertices[:, 2], 0 * vertices[:, 0]], 1) * 2
    if height is None:
        return Subject(floor, faces)
    roof = floor * 0.3 + torch.tensor([0, 0, height])
    return Subject(torch.cat([floor, roof]), torch.cat([faces, faces + 4]))


def test_a_roof_casts_a_shadow_away_from_the_first_box_and_darkens_what_is_close():
    camera = Camera(0, 60, 40, 4.0, (0.0, 0.0, 0.0))
    open_floor, shaded, low = (render(roofed(h), camera, 128).astype(int)[..., 0] for h in (None, 0.4, 0.05))
    assert open_floor[35:95, 35:95].std() < 3  # no stripes of a surface that shadows itself
    darker = open_floor - shaded
    rows, columns = np.nonzero(darker > 25)
    assert len(rows) > 100 and columns.mean() > 64 + 4  # the box stands on the left
    assert darker[100:110, 20:40].max() < 10
    assert (open_floor - low).max() > 15


# Background and alpha


def test_background_and_transparency():
    subject = Subject(*sphere(rows=16))
    clear = render(subject, size=64)
    assert clear[0, 0].tolist() == [0, 0, 0, 0] and clear[32, 32, 3] == 255
    over = render(subject, size=64, background=(0.2, 0.4, 0.6))
    assert over[0, 0].tolist() == [51, 102, 153, 255] and np.array_equal(over[32, 32], clear[32, 32])
    edge = (clear[..., 3] > 0) & (clear[..., 3] < 255)
    assert edge.any() and (over[..., 3] == 255).all()


@pytest.mark.parametrize(
    ("mode", "alpha", "expected"), [("OPAQUE", 0.25, 255), ("MASK", 0.25, 0), ("MASK", 0.75, 255), ("BLEND", 0.25, 64)]
)
def test_alpha_modes(mode, alpha, expected):
    vertices, faces, uvs = wall()
    subject = Subject(vertices, faces, uvs=uvs, maps=flat_maps((1, 0, 0), alpha=alpha), alpha_mode=mode)
    assert render(subject, Camera(0, 0), 64, "base_color")[32, 32, 3] == pytest.approx(expected, abs=1)
    assert render(subject, Camera(0, 0), 64, "shaded")[32, 32, 3] == 255


def test_translucent_layers_blend_from_front_to_back_in_linear_light():
    vertices, faces, _ = wall()
    behind = torch.tensor([0, 0.2, 0])
    colours = torch.cat([painted(vertices, 1, 0, 0, 0, 1, 0.5), painted(vertices, 0, 1, 0, 0, 1, 0.5)])
    subject = Subject(
        torch.cat([vertices + behind, vertices]),
        torch.cat([faces, faces + 4]),
        colours=colours.flip(0),
        alpha_mode="BLEND",
    )  # the front, listed last, is red
    found = render(subject, Camera(0, 0), 64, "base_color", (0, 0, 1))[32, 32]
    expected = [255 * (1.055 * x ** (1 / 2.4) - 0.055) for x in (0.5, 0.25, 0.25)]
    assert np.abs(found[:3] - np.array(expected)).max() <= 1


def test_edges_of_a_wireframe_are_dark_and_faces_are_clay():
    vertices, faces, _ = wall()
    picture = render(Subject(vertices, faces), Camera(0, 0), 256, "wireframe").astype(int)
    clay = render(Subject(vertices, faces), Camera(0, 0), 256, "shaded").astype(int)
    assert (picture[128, 128, :3] < 110).all() and (clay[128, 128, :3] > 120).all()  # on the diagonal
    assert np.array_equal(picture[80, 160], clay[80, 160])
