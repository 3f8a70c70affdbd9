"""Warp kernels that tell the outside of a lattice: free cells united, lattice points classified by them."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from ...warp.launch import configure
from ...warp.union_find_kernels import peek_root, unite
from .lattice_functions import IS_INSIDE, IS_OUTSIDE, SET, UNSET, Grid, brick_place, node_at, place_of, state_at

configure(__name__, max_unroll=1)


@wp.kernel
def unite_cells(start: wp.int32, touched: wp.array[wp.uint8], parent: wp.array[wp.int32]):
    """Join untouched cells of the same brick across their faces. On a CPU a brick's must be in the same launch."""
    node = start + wp.tid()
    if touched[node] == UNSET:
        if (node & 7) != 7 and touched[node + 1] == UNSET:
            unite(parent, node, node + 1, 0)
        if (node & 56) != 56 and touched[node + 8] == UNSET:
            unite(parent, node, node + 8, 0)
        if (node & 448) != 448 and touched[node + 64] == UNSET:
            unite(parent, node, node + 64, 0)


@wp.kernel
def unite_bricks(
    start: wp.int32,
    grid: Grid,
    touched: wp.array[wp.uint8],
    closed: wp.array[wp.uint8],
    stored: wp.int32,
    parent: wp.array[wp.int32],
):
    """Join untouched cells across the six sides of a brick, with empty bricks that are not closed too; one thread a
    brick and side."""
    row = start + wp.tid()
    slot = row // 6
    side = row % 6
    axis = side >> 1
    step = wp.vec3i(0, 0, 0)
    step[axis] = 2 * (side & 1) - 1
    place = place_of(grid, slot << 9) + 8 * step
    brick = ((place[0] >> 3) * grid.size[1] + (place[1] >> 3)) * grid.size[2] + (place[2] >> 3)
    other = grid.bricks[brick]
    if (side & 1) == 1 or other < 0:  # a stored neighbour looks across the other sides; empty bricks do not look
        along = 6 - 3 * axis  # bits of the place in a brick along the axis
        here = (7 * (side & 1)) << along
        beyond = (7 - 7 * (side & 1)) << along
        near = wp.where(axis == 2, 3, 0)
        far = wp.where(axis == 0, 3, 6)
        for i in range(64):
            inner = ((i & 7) << near) | ((i >> 3) << far)
            node = (slot << 9) | here | inner
            if touched[node] == UNSET:
                if other < 0:
                    if closed[brick] == UNSET:
                        unite(parent, node, stored + brick, 0)
                elif touched[(other << 9) | beyond | inner] == UNSET:
                    unite(parent, node, (other << 9) | beyond | inner, 0)


@wp.func
def _unite_empty(
    grid: Grid,
    closed: wp.array[wp.uint8],
    stored: wp.int32,
    parent: wp.array[wp.int32],
    one: wp.int32,
    other: wp.int32,
):
    if grid.bricks[other] < 0 and closed[other] == UNSET:
        unite(parent, stored + one, stored + other, 0)


@wp.kernel
def unite_empty_bricks(
    start: wp.int32,
    grid: Grid,
    closed: wp.array[wp.uint8],
    stored: wp.int32,
    parent: wp.array[wp.int32],
):
    """Join empty bricks that are not closed."""
    brick = start + wp.tid()
    if grid.bricks[brick] < 0 and closed[brick] == UNSET:
        place = brick_place(brick, grid.size)
        if place[0] + 1 < grid.size[0]:
            _unite_empty(grid, closed, stored, parent, brick, brick + grid.size[1] * grid.size[2])
        if place[1] + 1 < grid.size[1]:
            _unite_empty(grid, closed, stored, parent, brick, brick + grid.size[2])
        if place[2] + 1 < grid.size[2]:
            _unite_empty(grid, closed, stored, parent, brick, brick + 1)


@wp.kernel
def find_roots(start: wp.int32, parent: wp.array[wp.int32], root: wp.array[wp.int32]):
    i = start + wp.tid()
    root[i] = peek_root(parent, i) >> 1


@wp.kernel
def classify_cells(
    start: wp.int32,
    parent: wp.array[wp.int32],
    outer: wp.int32,
    touched: wp.array[wp.uint8],
    states: wp.array[wp.uint8],
):
    """Cells, and behind them empty bricks, are outside if they are connected to the member `outer`; 0 if touched."""
    i = start + wp.tid()
    if i < touched.shape[0] and touched[i] != UNSET:
        states[i] = UNSET
        return
    states[i] = wp.where(peek_root(parent, i) == peek_root(parent, outer), IS_OUTSIDE, IS_INSIDE)


@wp.kernel
def classify_points(
    start: wp.int32,
    grid: Grid,
    cells: wp.array[wp.uint8],
    empty: wp.array[wp.uint8],
    states: wp.array[wp.uint8],
):
    """The state of a lattice point from the untouched ones of the eight cells round it; 0 if there is none.

    Both states meet only at a point in a hole of the surface; most cells win, and a draw closes the hole.
    """
    node = start + wp.tid()
    inner = (node & 7) != 0 and (node & 56) != 0 and (node & 448) != 0  # all eight cells lie in the same brick
    p = place_of(grid, node)
    balance = wp.int32(0)
    seen = wp.int32(0)
    for corner in range(8):
        x = corner & 1
        y = (corner >> 1) & 1
        z = corner >> 2
        state = wp.uint8(0)
        if inner:
            state = cells[node - ((x << 6) | (y << 3) | z)]
        else:
            state = state_at(cells, empty, node_at(grid, p[0] - x, p[1] - y, p[2] - z))
        if state == IS_OUTSIDE:
            balance += 1
            seen += 1
        if state == IS_INSIDE:
            balance -= 1
            seen += 1
    if seen == 0:
        states[node] = UNSET
    elif balance > 0:
        states[node] = IS_OUTSIDE
    else:
        states[node] = IS_INSIDE


@wp.func
def _passable(
    grid: Grid,
    blocked: wp.array[wp.uint8],
    torn: wp.array[wp.uint8],
    p: wp.vec3i,
    axis: wp.int32,
):
    """Whether no face crosses the lattice edge that leaves p and no boundary edge of the mesh runs beside it."""
    node = node_at(grid, p[0], p[1], p[2])
    if blocked[node * 3 + axis] != UNSET:
        return False
    for corner in range(4):
        q = p
        q[(axis + 1) % 3] -= corner & 1
        q[(axis + 2) % 3] -= corner >> 1
        beside = node_at(grid, q[0], q[1], q[2])
        if beside >= 0 and torn[beside] != UNSET:
            return False
    return True


@wp.kernel
def unite_points(
    start: wp.int32,
    grid: Grid,
    blocked: wp.array[wp.uint8],
    torn: wp.array[wp.uint8],
    states: wp.array[wp.uint8],
    parent: wp.array[wp.int32],
):
    """Join undecided lattice points along passable edges."""
    node = start + wp.tid()
    if states[node] == UNSET:
        p = place_of(grid, node)
        for axis in range(3):
            q = p
            q[axis] += 1
            after = node_at(grid, q[0], q[1], q[2])
            if after >= 0 and states[after] == UNSET and _passable(grid, blocked, torn, p, axis):
                unite(parent, node, after, 0)


@wp.kernel
def count_contacts(
    start: wp.int32,
    grid: Grid,
    blocked: wp.array[wp.uint8],
    torn: wp.array[wp.uint8],
    states: wp.array[wp.uint8],
    root: wp.array[wp.int32],
    balance: wp.array[wp.int32],
):
    """Passable edges from groups of undecided points to outside points, less those to inside points."""
    node = start + wp.tid()
    if states[node] == UNSET:
        p = place_of(grid, node)
        for way in range(6):
            axis = way >> 1
            q = p
            base = p
            if way & 1 == 1:
                q[axis] += 1
            else:
                q[axis] -= 1
                base = q
            other = node_at(grid, q[0], q[1], q[2])
            if other >= 0 and states[other] != UNSET and _passable(grid, blocked, torn, base, axis):
                if states[other] == IS_OUTSIDE:
                    wp.atomic_add(balance, root[node], 1)
                if states[other] == IS_INSIDE:
                    wp.atomic_add(balance, root[node], -1)


@wp.kernel
def edge_states(
    start: wp.int32,
    grid: Grid,
    states: wp.array[wp.uint8],
    empty: wp.array[wp.uint8],
    edges: wp.array[wp.int64],
    ends: wp.array2d[wp.uint8],
):
    """The states of both ends of lattice edges node * 3 + axis."""
    i = start + wp.tid()
    node = wp.int32(edges[i] // wp.int64(3))
    axis = wp.int32(edges[i] % wp.int64(3))
    q = place_of(grid, node)
    q[axis] += 1
    ends[i, 0] = states[node]
    ends[i, 1] = state_at(states, empty, node_at(grid, q[0], q[1], q[2]))


@wp.kernel
def beside_outside(
    start: wp.int32,
    points: wp.array[wp.vec3],
    grid: Grid,
    states: wp.array[wp.uint8],
    empty: wp.array[wp.uint8],
    found: wp.array[wp.uint8],
):
    """Whether the cell that holds a point has a corner outside."""
    i = start + wp.tid()
    p = points[i]
    found[i] = UNSET
    for corner in range(8):
        x = wp.int32(wp.floor(p[0])) + (corner & 1)
        y = wp.int32(wp.floor(p[1])) + ((corner >> 1) & 1)
        z = wp.int32(wp.floor(p[2])) + (corner >> 2)
        if state_at(states, empty, node_at(grid, x, y, z)) == IS_OUTSIDE:
            found[i] = SET
