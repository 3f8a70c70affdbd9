"""Balls, boxes and what is put together of them, and their volume and Euler number."""

import numpy as np
import torch
import trimesh
from meshes import tensors
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


def sphere(radius=0.4, subdivisions=4, centre=(0, 0, 0)):
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    mesh.apply_translation(centre)
    return tensors(mesh)


def box(extents, centre=(0, 0, 0)):
    mesh = trimesh.creation.box(extents=extents)
    mesh.apply_translation(centre)
    return tensors(mesh)


def together(*meshes):
    starts = np.cumsum([0] + [len(vertices) for vertices, _ in meshes]).tolist()
    faces = [faces + start for (_, faces), start in zip(meshes, starts)]
    return torch.cat([vertices for vertices, _ in meshes]), torch.cat(faces)


def volume(vertices, faces):
    a, b, c = vertices.double()[faces.long()].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def euler_of_manifold(vertices, faces):
    """Euler number; fails unless every edge has two consistently oriented faces, and every vertex one fan of faces."""
    faces = faces.numpy().astype(np.int64)
    assert len(np.unique(faces)) == len(vertices)
    start, end = faces.reshape(-1), np.roll(faces, -1, 1).reshape(-1)
    half, back = start * len(vertices) + end, end * len(vertices) + start
    order = np.argsort(half)
    assert (np.diff(half[order]) > 0).all(), "two faces run along an edge the same way"
    twin = order[np.searchsorted(half, back, sorter=order).clip(0, len(half) - 1)]
    assert (half[twin] == back).all(), "boundary edges"
    corner = np.arange(len(start))
    after_twin = twin - twin % 3 + (twin + 1) % 3  # begins at the same vertex
    fans = connected_components(coo_matrix((np.ones(len(corner)), (corner, after_twin))), directed=False)[0]
    assert fans == len(vertices), "vertices where several fans meet"
    return len(vertices) - len(start) // 2 + len(faces)


def random_soup(count, size, seed):
    random = torch.Generator().manual_seed(seed)
    centres = torch.rand(count, 1, 3, generator=random) - 0.5
    vertices = (centres + (torch.rand(count, 3, 3, generator=random) - 0.5) * size).reshape(-1, 3)
    return vertices, torch.arange(3 * count, dtype=torch.int32).reshape(-1, 3)


def random_blocks(count, grid, seed):
    """Cubes of a grid, chosen at random: they meet at faces, edges and corners."""
    places = np.random.default_rng(seed).permutation(grid**3)[:count]
    centres = (np.stack(np.unravel_index(places, (grid,) * 3), 1) + 0.5) / grid - 0.5
    return together(*(box((1 / grid,) * 3, centre) for centre in centres))


def welded(vertices, faces):
    """Vertices at the same place become one."""
    places, number = torch.unique(vertices, dim=0, return_inverse=True)
    return places, number[faces.long()].int()


BALL = volume(*sphere(0.4))
CELL = 1 / 64
