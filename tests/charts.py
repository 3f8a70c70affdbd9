"""Meshes to be unwrapped, and which faces and charts cover the texels of an atlas."""

import numpy as np
import scipy.sparse.csgraph
import torch
import trimesh
from meshes import tensors

from pipeline.bench.shapes import bench_field, spoil, surface_net
from pipeline.mesh.bake.raster import rasterise


def nothing():
    pass


def soup(count, seed=0):
    """Triangles that share nothing."""
    random = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 1, 3, generator=random) + 0.1 * torch.rand(count, 3, 3, generator=random)
    return corners.reshape(-1, 3), torch.arange(3 * count, dtype=torch.int32).reshape(-1, 3)


SHAPES = {
    "sphere": lambda: tensors(trimesh.creation.icosphere(4)),
    "box": lambda: tensors(trimesh.creation.box().subdivide().subdivide()),
    "torus": lambda: tensors(trimesh.creation.torus(0.4, 0.15)),
    "cylinder": lambda: tensors(trimesh.creation.cylinder(0.2, 1.0)),
    "dual grid": lambda: surface_net(bench_field, 32),
    "dirty": lambda: spoil(*surface_net(bench_field, 32)),
    "soup": lambda: soup(200),
}


def signed(uvs, faces):
    a, b, c = uvs.double()[faces.long()].unbind(1)
    one, two = b - a, c - a
    return (one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]) / 2


def times_covered(uvs, faces, size):
    """[size, size] how many faces hold each texel's centre strictly inside: brute force, every texel of every face's
    bounding box."""
    corners = uvs.double().numpy()[faces.numpy()] * size - 0.5  # [F, 3, 2]
    low, high = np.floor(corners.min(1)).astype(int), np.ceil(corners.max(1)).astype(int) + 1
    width, counts = high[:, 0] - low[:, 0], (high - low).prod(1)
    face = np.arange(len(corners)).repeat(counts)
    within = np.arange(len(face)) - (counts.cumsum() - counts)[face]
    x, y = low[face, 0] + within % width[face], low[face, 1] + within // width[face]
    side = np.stack(
        [
            (b[:, 0] - a[:, 0])[face] * (y - a[face, 1]) - (b[:, 1] - a[:, 1])[face] * (x - a[face, 0])
            for a, b in ((corners[:, i], corners[:, (i + 1) % 3]) for i in range(3))
        ]
    )
    inside = np.all(side > 1e-9, 0) | np.all(side < -1e-9, 0)
    return np.bincount(y[inside] * size + x[inside], minlength=size * size).reshape(size, size)


def chart_of_texels(uvs, faces, size):
    """[size, size] which connected piece of the atlas covers each texel, -1 for none."""
    corners = faces.long().numpy()
    links = scipy.sparse.coo_matrix(
        (np.ones(corners.size), (corners.ravel(), np.roll(corners, 1, 1).ravel())), shape=(len(uvs),) * 2
    )
    piece = scipy.sparse.csgraph.connected_components(links, directed=False)[1][corners[:, 0]]
    face = rasterise(uvs, faces, size)[0].numpy().reshape(size, size)
    return np.where(face >= 0, piece[face], -1)
