"""What kernels on a lattice of bricks round a surface share: how nodes are numbered, and the states of lattice points.

The lattice is counted in cells; cell and lattice point (x, y, z) have the same node. Cells lie in bricks of 8 x 8 x 8;
only bricks near the surface are stored: Grid.bricks maps a brick of the dense coarse grid to its slot, -1 where it is
not stored, and node = slot * 512 + place in the brick. A negative node -1 - b stands for all of the empty brick b.
"""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

# States of lattice points.
OUTSIDE = 1
INSIDE = 2
THICK = 3  # inside only because a sheet was given a thickness
CUT = 4  # for the time being: left to the minimum cut

IS_OUTSIDE = wp.constant(wp.uint8(OUTSIDE))
IS_INSIDE = wp.constant(wp.uint8(INSIDE))
# Flags.
UNSET = wp.constant(wp.uint8(0))
SET = wp.constant(wp.uint8(1))


def vector(size):
    """Three integers as kernels take them."""
    return wp.vec3i(*size)


@wp.struct
class Grid:
    """The bricks of a lattice."""

    bricks: wp.array[wp.int32]  # slot of a brick of the coarse grid, -1 for an empty one
    places: wp.array[wp.int32]  # brick of a slot
    size: wp.vec3i  # bricks along x, y, z


@wp.func
def brick_place(brick: wp.int32, size: wp.vec3i):
    """x, y, z of a brick in the coarse grid."""
    return wp.vec3i(brick // (size[1] * size[2]), (brick // size[2]) % size[1], brick % size[2])


@wp.func
def node_at(grid: Grid, x: wp.int32, y: wp.int32, z: wp.int32):
    brick = ((x >> 3) * grid.size[1] + (y >> 3)) * grid.size[2] + (z >> 3)
    slot = grid.bricks[brick]
    if slot < 0:
        return -1 - brick
    return (slot << 9) | ((x & 7) << 6) | ((y & 7) << 3) | (z & 7)


@wp.func
def place_of(grid: Grid, node: wp.int32):
    """x, y, z of a stored node."""
    return 8 * brick_place(grid.places[node >> 9], grid.size) + wp.vec3i((node >> 6) & 7, (node >> 3) & 7, node & 7)


@wp.func
def state_at(values: wp.array[wp.uint8], empty: wp.array[wp.uint8], node: wp.int32):
    if node < 0:
        return empty[-1 - node]
    return values[node]


@wp.func
def cross_2d(au: wp.float32, av: wp.float32, bu: wp.float32, bv: wp.float32):
    return au * bv - av * bu
