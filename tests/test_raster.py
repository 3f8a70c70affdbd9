"""Which face covers a texel, and what the texels of the margins take: both rows of the raster."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh
from baking import bake_maps, grid, random, soup, unwrapped
from devices import on_device
from meshes import needs_warp

from pipeline.errors import MeshError, SettingsError
from pipeline.mesh.bake import raster_warp
from pipeline.mesh.bake.bake import (
    Texels,
)
from pipeline.mesh.bake.raster import nearest_covered, rasterise
from pipeline.mesh.bake.raster_warp import nearest_covered_warp, rasterise_warp
from pipeline.sparse.bricks import trilinear_warp

pytestmark = [needs_warp, pytest.mark.usefixtures("device")]
nearest_covered = on_device(nearest_covered)
nearest_covered_warp = on_device(nearest_covered_warp)
rasterise = on_device(rasterise)
rasterise_warp = on_device(rasterise_warp)
trilinear_warp = on_device(trilinear_warp)
texels_of = on_device(Texels.of)


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
