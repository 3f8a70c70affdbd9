"""Raw meshes for tests of what comes after sampling."""

import torch

from pipeline import stages
from pipeline.bench.shapes import surface_net
from pipeline.sparse import SparseTensor, Voxels

SIDE = 48


def ball(radius):
    return lambda points: points.norm(dim=1) - radius


def nested():
    """A ball within a ball, both closed, 16 cells apart; made by flipping the sign of nothing: two meshes in one."""
    (a, f), (b, g) = surface_net(ball(0.4), SIDE), surface_net(ball(0.15), SIDE)
    return stages.Mesh(torch.cat([a, b]), torch.cat([f, g + len(a)]))


def damaged():
    """A ball with the defects of generated meshes, and voxels on it whose colour is their place."""
    vertices, faces = surface_net(ball(0.4), SIDE)
    cells = torch.unique(((vertices + 0.5) * SIDE).long(), dim=0)
    place = (cells + 0.5) / SIDE
    voxels = stages.PBRVoxels(SparseTensor(Voxels.single(cells.int()), torch.cat([place, place], 1)), SIDE)
    flipped = faces.clone()
    flipped[::50] = flipped[::50].flip(1)
    pinholes = torch.ones(len(faces), dtype=torch.bool)
    pinholes[::400] = False
    return stages.Mesh(vertices, torch.cat([flipped[pinholes], faces[:20]])), voxels
