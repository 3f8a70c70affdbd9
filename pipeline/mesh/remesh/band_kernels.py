"""Warp kernels on single lattice points and edges: neighbours found, crossings gathered."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from ...warp.launch import configure
from .lattice_functions import SET, Grid, node_at, place_of

configure(__name__, max_unroll=1)


@wp.kernel
def mark_around(
    start: wp.int32,
    grid: Grid,
    nodes: wp.array[wp.int64],
    steps: wp.int32,
    marks: wp.array[wp.uint8],
    missing: wp.array[wp.uint8],
):
    """Mark the lattice points up to `steps` away along each axis from the given ones, or the empty bricks where they
    would be; none in the outermost bricks."""
    i = start + wp.tid()
    p = place_of(grid, wp.int32(nodes[i]))
    for x in range(wp.max(p[0] - steps, 8), wp.min(p[0] + steps + 1, 8 * grid.size[0] - 8)):
        for y in range(wp.max(p[1] - steps, 8), wp.min(p[1] + steps + 1, 8 * grid.size[1] - 8)):
            for z in range(wp.max(p[2] - steps, 8), wp.min(p[2] + steps + 1, 8 * grid.size[2] - 8)):
                node = node_at(grid, x, y, z)
                if node >= 0:
                    marks[node] = SET
                else:
                    missing[-1 - node] = SET


@wp.kernel
def neighbours(
    start: wp.int32,
    grid: Grid,
    nodes: wp.array[wp.int64],
    beside: wp.array2d[wp.int64],
):
    """The nodes of the points one step up and one down each axis, in the order +x -x +y -y +z -z."""
    i = start + wp.tid()
    p = place_of(grid, wp.int32(nodes[i]))
    for way in range(6):
        q = p
        q[way >> 1] += 1 - 2 * (way & 1)
        beside[i, way] = wp.int64(node_at(grid, q[0], q[1], q[2]))


@wp.kernel
def coordinates(
    start: wp.int32,
    grid: Grid,
    nodes: wp.array[wp.int64],
    xyz: wp.array2d[wp.int32],
):
    i = start + wp.tid()
    p = place_of(grid, wp.int32(nodes[i]))
    for axis in range(3):
        xyz[i, axis] = p[axis]


@wp.kernel
def look_up(start: wp.int32, grid: Grid, xyz: wp.array2d[wp.int32], nodes: wp.array[wp.int64]):
    i = start + wp.tid()
    nodes[i] = wp.int64(node_at(grid, xyz[i, 0], xyz[i, 1], xyz[i, 2]))
