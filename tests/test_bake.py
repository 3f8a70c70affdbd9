"""Raster, margins, projection and look-up of the bake; normal map, ambient occlusion, tangents, vertex colours."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh
from devices import on_device
from meshes import needs_warp
from meshes import original as original_of

from pipeline.errors import EmptyResultError, MeshError, NotFiniteError, SettingsError
from pipeline.mesh.bake import bake, raster_warp
from pipeline.mesh.bake.bake import (
    Texels,
    bake_normals,
    bake_occlusion,
    bake_voxels,
    sample_voxels,
    vertex_tangents,
)
from pipeline.mesh.bake.raster import nearest_covered, rasterise
from pipeline.mesh.bake.raster_warp import nearest_covered_warp, rasterise_warp
from pipeline.mesh.uv.fallback import triangle_by_triangle
from pipeline.sparse import Voxels, bricks
from pipeline.sparse.bricks import trilinear_warp
from pipeline.sparse.reference import trilinear

pytestmark = [needs_warp, pytest.mark.usefixtures("device")]
bake_normals = on_device(bake_normals)
bake_occlusion = on_device(bake_occlusion)
bake_voxels = on_device(bake_voxels)
sample_voxels = on_device(sample_voxels)
vertex_tangents = on_device(vertex_tangents)
nearest_covered = on_device(nearest_covered)
nearest_covered_warp = on_device(nearest_covered_warp)
rasterise = on_device(rasterise)
rasterise_warp = on_device(rasterise_warp)
triangle_by_triangle = on_device(triangle_by_triangle)
trilinear = on_device(trilinear)
trilinear_warp = on_device(trilinear_warp)
texels_of = on_device(Texels.of)


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def soup(count, seed, spread=1.0, of=1.0):
    """UVs and faces of separate random triangles: corners `spread` apart in a square `of` wide round the texture."""
    generator = random(seed)
    centre = torch.rand(count, 1, 2, generator=generator)
    uvs = centre + (torch.rand(count, 3, 2, generator=generator) - 0.5) * 2 * spread
    return ((uvs - 0.5) * of + 0.5).reshape(-1, 2), torch.arange(3 * count).reshape(-1, 3)


def tensors(mesh):
    return torch.tensor(mesh.vertices, dtype=torch.float32), torch.tensor(mesh.faces)


def unwrapped(mesh, size=256):
    """Vertices, faces, UVs and the original vertex of each, a chart to a face."""
    vertices, faces = tensors(mesh)
    source, faces, uvs, _ = triangle_by_triangle(vertices, faces, size, 4, lambda: None)
    return vertices[source], faces, uvs, source


def grid(resolution, keep):
    """Voxels of a cube whose centres (world frame) `keep` accepts, and the centres."""
    xyz = torch.cartesian_prod(*[torch.arange(resolution)] * 3)
    centres = (xyz + 0.5) / resolution - 0.5
    chosen = keep(centres)
    return Voxels.single(xyz[chosen]), centres[chosen]


def bake_maps(
    vertices, faces, uvs, voxels, attrs, resolution, size, rasterise, trilinear, nearest=nearest_covered, **options
):
    """The maps, which texels a face covers, and how many of these are far from voxels."""
    texels = texels_of(uvs, faces, size, rasterise, nearest)
    maps, far = bake_voxels(texels, vertices, faces, voxels, attrs, resolution, trilinear, **options)
    return SimpleNamespace(attrs=texels.image(maps).numpy(), covered=texels.covered.numpy(), far=far)


# --- raster


def spoilt(uvs, faces):
    """Some faces without area, with repeated corners, with corners that are not finite, far outside or repeated."""
    uvs, faces = uvs.clone(), faces.clone()
    faces[1], faces[2, 2], faces[3] = faces[0], faces[2, 1], faces[3, 0].expand(3)
    uvs[faces[4, 2]] = (uvs[faces[4, 0]] + uvs[faces[4, 1]]) / 2
    uvs[faces[5, 0]], uvs[faces[6, 1], 0], uvs[faces[7, 2], 1] = torch.nan, torch.inf, -torch.inf
    uvs[faces[8, 0]], uvs[faces[9, 1]] = 1e30, torch.tensor([-50.0, 40.0])
    return uvs, faces


SOUPS = {
    "large": (soup(300, 0), 97),
    "small": (soup(3000, 1, spread=0.01), 256),
    "beyond the border": (soup(300, 2, of=3.0), 128),
    "on texel centres": ([(soup(900, 3)[0] * 64).round() / 64 + 0.5 / 64, soup(900, 3)[1]], 64),
    "one texel": (soup(40, 4), 1),
}


@pytest.mark.parametrize("name", SOUPS)
def test_the_warp_raster_is_the_twin_to_the_bit(name):
    (uvs, faces), size = SOUPS[name]
    uvs, faces = spoilt(uvs, faces)
    face, weights = rasterise(uvs, faces, size)
    assert (face >= 0).any()
    for dtype in (torch.int32, torch.int64):
        found = rasterise_warp(uvs, faces.to(dtype), size)
        assert torch.equal(found[0], face) and torch.equal(found[1], weights)
        assert found[0].dtype == torch.int64 and found[1].dtype == torch.float32
    covered = face >= 0
    assert torch.allclose(weights[covered].sum(1), torch.ones(int(covered.sum())), atol=1e-6)
    assert weights.min() >= 0 and (weights[~covered] == 0).all()
    assert not set(face.tolist()) & {2, 3, 4, 5, 6, 7}  # no area, not finite


@pytest.mark.parametrize("name", SOUPS)
@pytest.mark.parametrize("launch", [1 << 30, 777])
def test_pieces_of_large_faces_are_the_whole(name, launch, monkeypatch):
    """How CUDA shares out the work, here in turn."""
    from pipeline.warp import launch as kernels

    monkeypatch.setattr(kernels, "MOST", launch)
    monkeypatch.setattr(raster_warp, "_cover_in_bands", raster_warp._cover_in_pieces)
    (uvs, faces), size = SOUPS[name]
    if launch == 777:
        uvs, faces = uvs[:90], faces[:30]
    uvs, faces = spoilt(uvs, faces)
    for found, expected in zip(rasterise_warp(uvs, faces, size), rasterise(uvs, faces, size)):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("function", [rasterise, rasterise_warp])
def test_a_triangulation_has_neither_gaps_nor_doubles(function):
    """Random points in the square, triangulated; corners of the square stick out to be cut off."""
    from scipy.spatial import Delaunay

    points = np.concatenate(
        [np.random.default_rng(0).random((40, 2)), [[-0.1, -0.1], [1.1, -0.1], [-0.1, 1.2], [1, 1.1]]]
    )
    faces = torch.tensor(Delaunay(points).simplices)
    faces[::2] = faces[::2].flip(1)  # either winding
    uvs = torch.tensor(points, dtype=torch.float32)
    together, weights = function(uvs, faces, 61)
    alone = sum((function(uvs, faces[i : i + 1], 61)[0] >= 0).long() for i in range(len(faces)))
    assert (alone.reshape(61, 61)[:, :-1] == 1).all()
    covered = together >= 0
    at = (uvs[faces[together[covered]]] * weights[covered][:, :, None]).sum(1)
    texel = torch.arange(61 * 61)[covered]
    centre = (torch.stack([texel % 61, texel // 61], 1) + 0.5) / 61
    assert (at - centre).abs().max() < 1e-6


@pytest.mark.parametrize("function", [rasterise, rasterise_warp])
def test_what_no_raster_can_take(function):
    uvs, faces = soup(4, 0)
    for wrong in (-1, 12):
        bad = faces.clone()
        bad[2, 1] = wrong
        with pytest.raises(MeshError, match=f"name vertices .*{wrong}.*but the mesh has 12"):
            function(uvs, bad, 8)
    for size in (0, 16385):
        with pytest.raises(SettingsError, match=f"{size} x {size} texels cannot be made"):
            function(uvs, faces, size)
    face, weights = function(uvs, faces[:0], 8)
    assert (face == -1).all() and (weights == 0).all() and len(face) == 64


# --- margins


@pytest.mark.parametrize("function", [nearest_covered, nearest_covered_warp])
@pytest.mark.parametrize("share", [0.0, 0.003, 0.1, 0.7, 1.0])
@pytest.mark.parametrize("size", [1, 41])
def test_margins_take_the_nearest_covered_texel(function, share, size):
    covered = torch.rand(size, size, generator=random(size)) < share
    covered[size // 2, size // 3] = True
    rows, columns = covered.nonzero().T
    texel = torch.arange(size * size)
    gaps = (texel[:, None] // size - rows).square() + (texel[:, None] % size - columns).square()
    found = function(covered).long()
    assert covered.reshape(-1)[found].all()
    gap = (texel // size - found // size).square() + (texel % size - found % size).square()
    assert torch.equal(gap, gaps.amin(1))
    assert torch.equal(found[covered.reshape(-1)], texel[covered.reshape(-1)])


def test_no_mip_level_bleeds():
    """A red chart in a blank texture: every level is red throughout, and maps keep their texels in place."""
    vertices = torch.tensor([[0.0, 0, 0], [0.2, 0, 0], [0, 0.2, 0]])
    uvs, faces = torch.tensor([[0.3, 0.3], [0.6, 0.3], [0.3, 0.5]]), torch.tensor([[0, 1, 2]])
    voxels, _ = grid(8, lambda p: p[:, 0] > -1)
    red = torch.tensor([[0.9, 0.0, 0.1, 0.0, 0.5, 1.0]])
    maps = bake_maps(
        vertices, faces, uvs, voxels, red.expand(len(voxels), 6), 8, 32, rasterise_warp, trilinear_warp,
        nearest=nearest_covered_warp,
    )  # fmt: skip
    level = torch.tensor(maps.attrs).permute(2, 0, 1)[None]
    while level.shape[2] >= 1:
        assert torch.allclose(level, red[:, :, None, None].expand_as(level), atol=1e-6)
        if level.shape[2] == 1:
            break
        level = F.avg_pool2d(level, 2)


@pytest.mark.parametrize("size", [48, 50])  # with and without tiles
def test_texels_know_their_places(size):
    vertices, faces, uvs, _ = unwrapped(trimesh.creation.icosphere(1, 0.4), size)
    face, weights = rasterise(uvs, faces, size)
    texels = texels_of(uvs, faces, size, rasterise_warp, nearest_covered_warp)
    covered = face >= 0
    assert torch.equal(texels.covered.reshape(-1), covered) and len(texels) == covered.sum()
    position = texels.image(texels.points(vertices, faces)).reshape(-1, 3)
    expected = (vertices[faces.long()[face.clamp_min(0)]] * weights[:, :, None]).sum(1)
    assert torch.equal(position[covered], expected[covered])
    assert torch.isin(position[~covered], expected[covered]).all()


# --- voxels


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_the_look_up_in_bricks_is_the_twins(channels):
    generator = random(channels)
    xyz = (torch.rand(40, 30, 50, generator=generator) < 0.2).nonzero() + torch.tensor([0, 7, 9000])
    xyz = xyz[torch.randperm(len(xyz), generator=generator)]
    feats = torch.randn(len(xyz), channels, generator=generator)
    points = torch.rand(5000, 3, generator=generator) * 60 - 5 + torch.tensor([0, 7, 9000])
    points[0], points[1], points[2] = 1e30, -torch.inf, torch.tensor([0.5, 7.5, 9000.5])
    voxels = Voxels.single(xyz)
    torch.testing.assert_close(
        trilinear_warp(feats, voxels, points), trilinear(feats, voxels, points), atol=1e-5, rtol=0
    )


def test_the_look_up_reads_the_first_sample_and_takes_none():
    coords = torch.tensor([[0, 1, 1, 1], [1, 2, 2, 2]])
    feats = torch.tensor([[1.0], [2.0]])
    points = torch.tensor([[1.5, 1.5, 1.5], [2.5, 2.5, 2.5]])
    found = trilinear_warp(feats, Voxels(coords), points)
    assert torch.equal(found, trilinear(feats, Voxels(coords), points)) and found[1, 1] == 0
    assert trilinear_warp(feats[:0], Voxels.single(coords[:0, 1:]), points).eq(0).all()
    assert trilinear_warp(feats, Voxels(coords), points[:0]).shape == (0, 2)


@pytest.mark.parametrize("span", [1 << 17, 200])  # a box of bricks too large, bricks too many
def test_scattered_voxels_go_to_the_twin(span, monkeypatch):
    monkeypatch.setattr(bricks, "_BYTES", 1 << 20)
    xyz = torch.unique(torch.randint(span, (2000, 3), generator=random()), dim=0)
    voxels, feats = Voxels.single(xyz), torch.rand(len(xyz), 6)
    points = xyz[:100] + torch.rand(100, 3, generator=random())
    assert bricks._bricks(voxels.coords) is None
    assert torch.equal(trilinear_warp(feats, voxels, points), trilinear(feats, voxels, points))


BALL = trimesh.creation.icosphere(2, 0.4)
FINE = trimesh.creation.icosphere(5, 0.4)
WAYS = {
    "plain": {"rasterise": rasterise, "trilinear": trilinear},
    "warp": {"rasterise": rasterise_warp, "trilinear": trilinear_warp, "nearest": nearest_covered_warp},
}


def baked(field, way, ball=BALL, resolution=48, size=128, **options):
    """Bake a field of position on a ball from a shell of voxels round radius 0.4; the maps and texels' positions."""
    vertices, faces, uvs, _ = unwrapped(ball, size)
    voxels, centres = grid(resolution, lambda p: (p.norm(dim=1) - 0.395).abs() < 3 / resolution)
    maps = bake_maps(vertices, faces, uvs, voxels, field(centres), resolution, size, **WAYS[way], **options)
    texels = texels_of(uvs, faces, size, rasterise)
    return maps, texels.image(texels.points(vertices, faces))[texels.covered]


def linear(points):
    return torch.cat([points + 0.5, 0.5 - points], 1)


@pytest.mark.parametrize("way", WAYS)
def test_a_constant_field_stays_constant(way):
    values = torch.tensor([0.25, 0.5, 0.75, 0.1, 0.9, 1.0])
    for options in ({}, {"source": original_of(*tensors(BALL))}):
        maps, _ = baked(lambda p: values.expand(len(p), 6), way, **options)
        assert maps.covered.any() and not maps.covered.all() and maps.far == 0
        assert np.abs(maps.attrs - values.numpy()).max() <= (0 if way == "warp" else 5e-7)


@pytest.mark.parametrize("way", WAYS)
def test_a_linear_field_stays_linear(way):
    for options in ({}, {"source": original_of(*tensors(BALL))}):
        maps, points = baked(linear, way, **options)
        assert np.abs(maps.attrs[maps.covered] - linear(points).numpy()).max() < 1e-5


def test_projection_looks_up_on_the_original():
    """A coarse, shrunken ball whose texels lie outside the band of voxels."""
    coarse = trimesh.creation.icosphere(2, 0.27)
    fine = original_of(*tensors(FINE))
    maps, _ = baked(linear, "warp", coarse)
    assert maps.far > 0.9 * maps.covered.sum()
    maps, points = baked(linear, "warp", coarse, source=fine, limit=0.15)
    assert maps.far == 0
    expected = linear(F.normalize(points, dim=1) * 0.4).numpy()
    assert np.abs(maps.attrs[maps.covered] - expected).max() < 1.5 / 255  # fine is a polyhedron too
    near = baked(linear, "warp", coarse, source=fine, limit=0.01)[0]
    assert near.far > 0.9 * near.covered.sum()  # nothing within the limit: looked up where it is


@pytest.mark.parametrize("hidden", [False, True])
def test_texels_far_from_voxels_take_the_nearest(hidden, request):
    if hidden:
        request.getfixturevalue("no_warp")
    xyz = torch.unique(torch.randint(32, (300, 3), generator=random()), dim=0)
    points = torch.rand(500, 3, generator=random(1)) * 60 - 14
    gaps = torch.cdist(points.double(), xyz.double() + 0.5)
    found = gaps.gather(1, bake._nearest_voxel(points, xyz)[:, None])[:, 0]
    assert torch.allclose(found, gaps.amin(1), atol=1e-5)


def test_voxels_that_do_not_touch_the_mesh_are_counted():
    vertices, faces, uvs, _ = unwrapped(BALL, 128)
    voxels = Voxels.single(torch.tensor([[0, 0, 0], [63, 63, 63]]))
    attrs = torch.tensor([[0.2] * 6, [0.7] * 6])
    maps = bake_maps(vertices, faces, uvs, voxels, attrs, 64, 128, rasterise_warp, trilinear_warp)
    assert maps.far == maps.covered.sum() and set(np.unique(maps.attrs)) == {np.float32(0.2), np.float32(0.7)}


def test_vertex_colours():
    vertices, _ = tensors(BALL)
    voxels, centres = grid(64, lambda p: (p.norm(dim=1) - 0.4).abs() < 3 / 64)
    attrs = linear(centres)
    assert (sample_voxels(vertices, voxels, attrs, 64, trilinear_warp)[0] - linear(vertices)).abs().max() < 1e-5
    original = original_of(*tensors(FINE))
    found, far = sample_voxels(vertices * 0.9, voxels, attrs, 64, trilinear_warp, original)
    assert far == 0
    assert (found - linear(vertices)).abs().max() < 1.5 / 255


def test_what_cannot_be_baked():
    vertices, faces, uvs, _ = unwrapped(BALL, 128)
    voxels, attrs = Voxels.single(torch.tensor([[8, 8, 8]])), torch.ones(1, 6)

    def attempt(vertices=vertices, faces=faces, voxels=voxels, attrs=attrs, uvs=uvs):
        return bake_maps(vertices, faces, uvs, voxels, attrs, 16, 128, rasterise_warp, trilinear_warp)

    assert attempt().far > 0
    broken = vertices.clone()
    broken[5, 1] = torch.nan
    with pytest.raises(MeshError, match="NaN or infini"):
        attempt(vertices=broken)
    with pytest.raises(MeshError, match="NaN or infini"):
        sample_voxels(broken, voxels, attrs, 16, trilinear_warp)
    with pytest.raises(MeshError, match="NaN or infini"):
        original_of(broken, faces)
    with pytest.raises(MeshError, match="Faces name vertices"):
        original_of(vertices, faces + 1)
    with pytest.raises(EmptyResultError, match="no faces"):
        original_of(vertices, faces[:0])
    with pytest.raises(EmptyResultError, match="No face covers a texel of a 128 x 128"):
        attempt(faces=faces[:0])
    with pytest.raises(EmptyResultError, match="No face covers"):
        attempt(uvs=uvs + 2)
    with pytest.raises(EmptyResultError, match="no PBR voxels"):
        attempt(voxels=Voxels.single(torch.zeros(0, 3)), attrs=attrs[:0])
    with pytest.raises(SettingsError, match="1 voxels, but values for 2"):
        attempt(attrs=torch.ones(2, 6))
    with pytest.raises(NotFiniteError, match="PBR voxels hold NaN"):
        attempt(attrs=attrs * torch.nan)


# --- normals, tangents, occlusion


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
