"""Maps of a detailed original: normals in tangent space, ambient occlusion."""

import pytest
import torch
import torch.nn.functional as F
import trimesh
from baking import BALL, FINE, tensors, unwrapped
from devices import on_device
from meshes import needs_warp
from meshes import original as original_of

from pipeline.errors import SettingsError
from pipeline.mesh.bake.bake import (
    Texels,
    bake_normals,
    bake_occlusion,
    vertex_tangents,
)
from pipeline.mesh.bake.raster_warp import nearest_covered_warp, rasterise_warp

pytestmark = [needs_warp, pytest.mark.usefixtures("device")]
bake_normals = on_device(bake_normals)
bake_occlusion = on_device(bake_occlusion)
vertex_tangents = on_device(vertex_tangents)
nearest_covered_warp = on_device(nearest_covered_warp)
rasterise_warp = on_device(rasterise_warp)
texels_of = on_device(Texels.of)


def plane(z=0.0, side=1.0, uv=lambda p: p, slope=0.0):
    """A square round the z axis facing up, rising along y; its UVs from positions in 0-1 with v downwards."""
    corner = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    vertices = torch.cat([corner * side, z + slope * corner[:, 1:] * side], 1)
    uvs = uv(torch.stack([corner[:, 0] + 0.5, 0.5 - corner[:, 1]], 1))
    return vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]), uvs


UP = torch.tensor([[0.0, 0, 1]]).expand(4, 3)
LAYOUTS = {  # UVs of the plane -> tangent, handedness
    "as seen": (lambda p: p, [1.0, 0, 0, 1]),
    "mirrored": (lambda p: torch.stack([1 - p[:, 0], p[:, 1]], 1), [-1.0, 0, 0, -1]),
    "upside down": (lambda p: 1 - p, [-1.0, 0, 0, 1]),
    "turned": (lambda p: torch.stack([p[:, 1], 1 - p[:, 0]], 1), [0.0, -1, 0, 1]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_tangents_follow_the_texture_and_green_points_up(name):
    """A slope that rises towards +y: its normal leans towards -y, whatever way the texture lies."""
    layout, expected = LAYOUTS[name]
    vertices, faces, uvs = plane(uv=layout)
    tangents = vertex_tangents(vertices, faces, uvs, UP)
    torch.testing.assert_close(tangents, torch.tensor([expected]).expand(4, 4))
    bitangent = torch.linalg.cross(UP, tangents[:, :3]) * tangents[:, 3:]
    # up in the texture is where v falls: B must be minus the gradient of v
    fall = torch.linalg.lstsq(vertices[1:, :2] - vertices[:1, :2], uvs[1:, 1:] - uvs[:1, 1:]).solution[:, 0]
    torch.testing.assert_close(bitangent[:, :2], -F.normalize(fall, dim=0).expand(4, 2))
    texels = texels_of(uvs, faces, 16, rasterise_warp)
    original = original_of(*plane(slope=0.1)[:2])
    image = bake_normals(texels, vertices, faces, UP, tangents, original, limit=1.0)
    leaning = F.normalize(torch.tensor([0, -0.1, 1.0]), dim=0)
    frame = torch.stack([tangents[0, :3], bitangent[0], UP[0]])
    torch.testing.assert_close(image, (frame @ leaning / 2 + 0.5).expand(16, 16, 3))
    if name == "as seen":
        assert image[0, 0, 1] < 0.5 and image[0, 0, 0] == 0.5


def test_tangents_are_square_to_normals_and_of_length_one():
    vertices, faces, uvs, _ = unwrapped(BALL, 128)
    normals = F.normalize(vertices, dim=1)
    uvs[faces[0].long()] = 0.5  # no area
    tangents = vertex_tangents(vertices, faces, uvs, normals)
    assert torch.allclose(tangents[:, :3].norm(dim=1), torch.ones(len(vertices)), atol=1e-6)
    assert (tangents[:, :3] * normals).sum(1).abs().max() < 1e-6 and set(tangents[:, 3].tolist()) <= {-1.0, 1.0}
    assert vertex_tangents(vertices, faces[:0], uvs, normals).isfinite().all()


@pytest.mark.parametrize("smooth", [False, True])
def test_a_coarse_ball_shows_the_normals_of_a_fine_one(smooth):
    """Decoded as a viewer does, with flat faces and with interpolated normals of the coarse ball."""
    vertices, faces, uvs, _ = unwrapped(BALL, 256)
    fine_vertices, fine_faces = tensors(FINE)
    fine_faces[::2] = fine_faces[::2].flip(1)  # faces of raw meshes are not consistently oriented
    original, normals = original_of(fine_vertices, fine_faces), F.normalize(vertices, dim=1)
    if not smooth:
        a, b, c = vertices[faces.long()].unbind(1)
        normals = torch.empty_like(vertices)
        normals[faces.long()] = F.normalize(torch.linalg.cross(b - a, c - a), dim=1)[:, None].expand(-1, 3, 3)
    tangents = vertex_tangents(vertices, faces, uvs, normals)
    texels = texels_of(uvs, faces, 256, rasterise_warp, nearest_covered_warp)
    image = bake_normals(texels, vertices, faces, normals, tangents, original)
    map8 = (image * 255).round() / 255 * 2 - 1
    n, t, w = (
        texels.image(each)
        for each in (
            F.normalize(texels.at(normals, faces, slice(None)), dim=1),
            F.normalize(texels.at(tangents[:, :3], faces, slice(None)), dim=1),
            texels.at(tangents[:, 3:], faces, slice(None)).sign(),
        )
    )
    seen = F.normalize(map8[..., :1] * t + map8[..., 1:2] * torch.linalg.cross(n, t) * w + map8[..., 2:] * n, dim=2)
    radial = texels.image(F.normalize(texels.points(vertices, faces), dim=1))
    angle = torch.rad2deg((seen * radial).sum(2).clamp(-1, 1).acos())[texels.covered]
    before = torch.rad2deg((n * radial).sum(2).clamp(-1, 1).acos())[texels.covered]
    assert angle.max() < 2.0
    assert smooth or (before.max() > 8 and before.mean() > 5 * angle.mean())


def test_texels_far_from_the_original_are_flat():
    vertices, faces, uvs = plane()
    tangents = vertex_tangents(vertices, faces, uvs, UP)
    texels = texels_of(uvs, faces, 16, rasterise_warp)
    image = bake_normals(texels, vertices, faces, UP, tangents, original_of(*plane(z=0.3, slope=0.2)[:2]), limit=0.1)
    torch.testing.assert_close(image, torch.tensor([0.5, 0.5, 1.0]).expand(16, 16, 3))


def occlusion(vertices, faces, uvs, normals, original, size=32, **options):
    texels = texels_of(uvs, faces, size, rasterise_warp, nearest_covered_warp)
    return bake_occlusion(texels, vertices, faces, normals, original, **options)


def test_nothing_occludes_an_open_plane():
    vertices, faces, uvs = plane()
    assert (occlusion(vertices, faces, uvs, UP, original_of(vertices, faces)) == 1).all()


def test_a_closed_box_is_dark_inside_and_open_outside():
    vertices, faces, uvs, _ = unwrapped(trimesh.creation.box((0.6, 0.6, 0.6)), 64)
    a, b, c = vertices[faces.long()].unbind(1)
    outward = torch.empty_like(vertices)
    outward[faces.long()] = F.normalize(torch.linalg.cross(b - a, c - a), dim=1)[:, None].expand(-1, 3, 3)
    box = original_of(*tensors(trimesh.creation.box((0.6, 0.6, 0.6))))
    assert occlusion(vertices, faces, uvs, outward, box, max_distance=2.0).min() == 1
    assert occlusion(vertices, faces, uvs, -outward, box, max_distance=2.0).max() == 0
    middle = occlusion(*plane(side=0.1), UP, box, max_distance=0.1, limit=0.01)
    assert (middle == 1).all()  # nothing within reach


def test_occlusion_beside_a_wall():
    """At distance d from an endless wall of height h, (1 - d / sqrt(d^2 + h^2)) / 2 of the sky is gone."""
    floor = plane(side=0.2)
    height, near = 0.5, -0.1
    wall = torch.tensor([[near, -50.0, 0], [near, 50, 0], [near, 50, height], [near, -50, height]])
    vertices = torch.cat([torch.tensor([[-90.0, -90, 0], [90, -90, 0], [0, 90, 0]]), wall])
    original = original_of(vertices, torch.tensor([[0, 1, 2], [3, 4, 5], [3, 5, 6]]))
    found = occlusion(*floor, UP, original, size=64, rays=256, max_distance=1e3, ray_bias=1e-4)
    distance = (torch.arange(64) + 0.5) / 64 * 0.2
    expected = 1 - (1 - distance / (distance**2 + height**2).sqrt()) / 2
    assert (found.mean(0) - expected).abs().max() < 5e-3
    assert (found - expected).abs().max() < 0.06 and (found - expected).std() < 0.015
    again = occlusion(*floor, UP, original, size=64, rays=256, max_distance=1e3, ray_bias=1e-4)
    other = occlusion(*floor, UP, original, size=64, rays=256, max_distance=1e3, ray_bias=1e-4, seed=1)
    assert torch.equal(found, again) and not torch.equal(found, other)
    with pytest.raises(SettingsError, match="at least 1 ray"):
        occlusion(*floor, UP, original, rays=0)
