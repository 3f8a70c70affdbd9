"""Voxels baked into textures and vertex colours: look-up, projection, what cannot be baked."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh
from baking import BALL, FINE, bake_maps, grid, random, tensors, unwrapped
from devices import on_device
from meshes import needs_warp
from meshes import original as original_of

from pipeline.backends import PLAIN
from pipeline.errors import EmptyResultError, MeshError, NotFiniteError, SettingsError
from pipeline.mesh import NEAREST_VOXEL
from pipeline.mesh.bake.bake import Texels, sample_voxels
from pipeline.mesh.bake.raster import rasterise
from pipeline.mesh.bake.raster_warp import nearest_covered_warp, rasterise_warp
from pipeline.sparse import Voxels, bricks
from pipeline.sparse.bricks import trilinear_warp
from pipeline.sparse.reference import trilinear
from pipeline.stages import default_backends

pytestmark = [needs_warp, pytest.mark.usefixtures("device")]
sample_voxels = on_device(sample_voxels)
nearest_covered_warp = on_device(nearest_covered_warp)
rasterise = on_device(rasterise)
rasterise_warp = on_device(rasterise_warp)
trilinear = on_device(trilinear)
trilinear_warp = on_device(trilinear_warp)
texels_of = on_device(Texels.of)


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


@pytest.mark.parametrize("name", ["warp", PLAIN])
def test_texels_far_from_voxels_take_the_nearest(name):
    xyz = torch.unique(torch.randint(32, (300, 3), generator=random()), dim=0)
    points = torch.rand(500, 3, generator=random(1)) * 60 - 14
    gaps = torch.cdist(points.double(), xyz.double() + 0.5)
    nearest = default_backends().pick(NEAREST_VOXEL, name=name)
    found = gaps.gather(1, nearest(points, xyz)[:, None])[:, 0]
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
