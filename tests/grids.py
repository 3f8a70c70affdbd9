"""Surfaces of regular grids: a plane, a cube, a sphere, each as vertices [V, 3] float32 and faces [F, 3] int32."""

import torch


def grid(rows, columns, wrap=(False, False)):
    """[2 rows columns, 3] faces over a grid of (rows + 1) (columns + 1) points, or rows columns where both wrap."""
    height, width = rows + (not wrap[0]), columns + (not wrap[1])
    i, j = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    down, right = (i + 1) % height, (j + 1) % width
    a, b, c, d = i * width + j, down * width + j, down * width + right, i * width + right
    return torch.stack([torch.stack([a, b, c], -1), torch.stack([a, c, d], -1)], -2).reshape(-1, 3).int()


def plane(side=24):
    axis = torch.linspace(0, 1, side + 1)
    return torch.cat([torch.cartesian_prod(axis, axis), torch.zeros((side + 1) ** 2, 1)], 1), grid(side, side)


def cube(side=12):
    """A closed cube of side 1 about the origin, its vertices shared."""
    flat, faces = plane(side)
    x, y = (flat[:, :2] - 0.5).T
    sides = []
    for sign in (0.5, -0.5):
        turned = torch.stack([torch.full_like(x, sign), x, 2 * sign * y], 1)
        sides += [turned.roll(axis, 1) for axis in range(3)]
    corners = torch.cat(sides)
    numbers = torch.cat([faces + i * len(flat) for i in range(6)])
    keys, numbers_of = torch.unique((corners * 4 * side).round().long(), dim=0, return_inverse=True)
    return keys.float() / (4 * side), numbers_of[numbers.long()].int()


def sphere(side=24):
    vertices, faces = cube(side)
    return torch.nn.functional.normalize(vertices, dim=1), faces
