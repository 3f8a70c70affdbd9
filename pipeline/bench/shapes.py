"""Meshes to measure post-processing on: what decoders give, from implicit functions, clean or with known defects."""

from __future__ import annotations

import torch

_SLAB = 32  # grid planes evaluated at once
_BLOCK = 16  # points along a block's side


STEEPEST = 2.5  # slope of bench_field at most


def bench_field(points: torch.Tensor) -> torch.Tensor:
    """[N] implicit value, negative inside, of a noisy object that fills most of the cube -0.5 .. 0.5: an ellipsoid with
    three octaves of bumps, its lower half cut by a gyroid, a ring, eight rods and a thin plate. points: [N, 3]."""
    x, y, z = points.unbind(1)
    bumps = torch.zeros_like(x)
    for a, f in _BUMPS:
        bumps += a * torch.sin(f * x + 1) * torch.sin(f * y + 2) * torch.sin(f * z)
    body = (torch.stack([x / 0.36, y / 0.32, (z - 0.05) / 0.38]).norm(dim=0) - 1) * 0.32 + bumps
    turns = 40 * points
    gyroid = torch.zeros_like(x)
    for i in range(3):
        gyroid += turns[:, i].sin() * turns[:, (i + 1) % 3].cos()
    body = torch.maximum(body, torch.minimum(gyroid / 40, -0.05 - z))
    ring = torch.stack([torch.stack([x, y]).norm(dim=0) - 0.42, z]).norm(dim=0) - 0.025
    angle = torch.atan2(y, x)
    nearest = torch.round(angle / _EIGHTH) * _EIGHTH
    rods = torch.stack([x - 0.42 * nearest.cos(), y - 0.42 * nearest.sin()]).norm(dim=0) - 0.008
    rods = torch.maximum(rods, (z + 0.2).abs() - 0.2)
    plate = torch.maximum((z + 0.42).abs() - 0.004, torch.stack([x, y]).norm(dim=0) - 0.45)
    return torch.stack([body, ring, rods, plate]).amin(0)


_EIGHTH = torch.pi / 4  # of a turn: eight rods
_BUMPS = ((0.02, 23.0), (0.01, 47.0), (0.004, 111.0))  # height, and radians a unit, of each octave


def surface_net(
    field, resolution: int, device: torch.device | str = "cpu", steepest: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The zero set of a field over the cube -0.5 .. 0.5 as quads split into triangles, wound outward.

    One vertex to a cell that the surface crosses, at the mean of its crossed edges (surface nets, Gibson 1998): the
    topology of a dual grid, with its non-manifold edges where two sheets share a cell.

    Args:
        field: [N, 3] points -> [N] values, negative inside; positive at the cube's border.
        resolution: cells along a side.
        steepest: the field's slope at most, which spares looking far from the surface.

    Returns:
        vertices [V, 3] float32, faces [F, 3] int32.
    """
    values = _values(field, resolution + 1, device, steepest)
    quads, points = [], []
    stride = torch.tensor([resolution * resolution, resolution, 1], device=device)
    for a in range(3):
        b, c = (a + 1) % 3, (a + 2) % 3
        low, high = values.narrow(a, 0, resolution), values.narrow(a, 1, resolution)
        crossed = ((low < 0) != (high < 0)).nonzero()  # [E, 3] grid points where an edge along a begins
        inner = (crossed[:, [b, c]] > 0).all(1) & (crossed[:, [b, c]] < resolution).all(1)
        crossed = crossed[inner]
        here, there = low[tuple(crossed.T)], high[tuple(crossed.T)]
        point = crossed.float()
        point[:, a] += here / (here - there)
        corner = (crossed * stride).sum(1)
        around = torch.stack([corner - stride[b] - stride[c], corner - stride[c], corner, corner - stride[b]], 1)
        quads.append(torch.where((here < 0)[:, None], around, around.flip(1)))
        points.append(point)
    del values
    cells, quads = torch.cat(quads).unique(return_inverse=True)
    points, total = torch.cat(points), torch.zeros(len(cells), 3, device=device)
    for cell in quads.unbind(1):
        total.index_add_(0, cell, points)
    crossings = torch.bincount(quads.reshape(-1), minlength=len(cells))
    vertices = total / crossings[:, None] / resolution - 0.5
    return vertices, torch.cat([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).int()


def _values(field, side: int, device: torch.device | str, steepest: float | None) -> torch.Tensor:
    """[side, side, side] the field at the grid's points; far from the surface that at the middle of a block of them."""
    axis = torch.linspace(-0.5, 0.5, side, device=device)
    values = torch.empty(side, side, side, device=device)
    if steepest is None:
        for start in range(0, side, _SLAB):
            block = torch.cartesian_prod(axis[start : start + _SLAB], axis, axis)
            values[start : start + _SLAB] = field(block).reshape(-1, side, side)
        return values
    starts = range(0, side, _BLOCK)
    middle = torch.stack([axis[start : start + _BLOCK].mean() for start in starts])
    far = field(torch.cartesian_prod(middle, middle, middle)).reshape((len(starts),) * 3)
    spread = far.repeat_interleave(_BLOCK, 2)[:, :, :side].repeat_interleave(_BLOCK, 1)[:, :side]
    for row, start in enumerate(starts):
        values[start : start + _BLOCK] = spread[row]
    radius = 3**0.5 / 2 * (_BLOCK - 1) / (side - 1)
    for place in (far.abs() <= steepest * radius).nonzero().tolist():
        box = tuple(slice(each * _BLOCK, (each + 1) * _BLOCK) for each in place)
        parts = [axis[each] for each in box]
        values[box] = field(torch.cartesian_prod(*parts)).reshape([len(part) for part in parts])
    return values


def spoil(vertices: torch.Tensor, faces: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The defects of generated meshes on a clean one: 550 pinholes, a cut-out window, 500 repeated, 300 flipped and 200
    degenerate faces, 60 floating specks, faces in random order."""
    random = torch.Generator(vertices.device).manual_seed(seed)

    def some(count: int) -> torch.Tensor:
        return torch.randint(len(faces), (count,), generator=random, device=faces.device)

    flipped = some(300)
    faces = faces.clone()
    faces[flipped] = faces[flipped].flip(1)
    centre = vertices[faces.long()].mean(1)
    keep = (centre[:, 0].abs() > 0.02) | (centre[:, 1].abs() > 0.02) | (centre[:, 2] < 0)
    keep[some(550)] = False
    repeated, degenerate = faces[some(500)], faces[some(200)].clone()
    degenerate[:, 2] = degenerate[:, 1]
    speck = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], device=faces.device) * 2e-3
    places = torch.rand(60, 1, 3, generator=random, device=faces.device) * 0.06 + 0.43
    specks = (places + speck).reshape(-1, 3).to(vertices.dtype)
    shell = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], dtype=faces.dtype, device=faces.device)
    shells = (shell + 4 * torch.arange(60, dtype=faces.dtype, device=faces.device)[:, None, None]).reshape(-1, 3)
    faces = torch.cat([faces[keep], repeated, degenerate, shells + len(vertices)])
    faces = faces[torch.randperm(len(faces), generator=random, device=faces.device)]
    return torch.cat([vertices, specks]), faces
