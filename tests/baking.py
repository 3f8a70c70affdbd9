"""Meshes with a chart to a face and voxels of a cube, and maps baked from them, on every device."""

from types import SimpleNamespace

import torch
import trimesh
from devices import on_device

from pipeline.mesh.bake.bake import Texels, bake_voxels
from pipeline.mesh.bake.raster import nearest_covered, rasterise
from pipeline.mesh.uv.fallback import triangle_by_triangle
from pipeline.sparse import Voxels
from pipeline.sparse.reference import trilinear

bake_voxels = on_device(bake_voxels)
nearest_covered = on_device(nearest_covered)
rasterise = on_device(rasterise)
triangle_by_triangle = on_device(triangle_by_triangle)
trilinear = on_device(trilinear)
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


BALL = trimesh.creation.icosphere(2, 0.4)
FINE = trimesh.creation.icosphere(5, 0.4)
