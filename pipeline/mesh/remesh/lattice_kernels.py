"""Warp kernels on a lattice of bricks round a surface: rasterising faces, flooding empty space, dual contouring.

The lattice is counted in cells; cell and lattice point (x, y, z) have the same node. Cells lie in bricks of 8 x 8 x 8;
only bricks near the surface are stored: `bricks` maps a brick of the dense coarse grid to its slot, -1 where it is not
stored, and node = slot * 512 + place in the brick. A negative node -1 - b stands for all of the empty brick b.
"""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from ...warp.launch import configure
from ...warp.union_find_kernels import peek_root, unite

configure(__name__, max_unroll=1)

OUTSIDE = 1
INSIDE = 2
THICK = 3  # inside only because a sheet was given a thickness

_OUTSIDE = wp.constant(wp.uint8(OUTSIDE))
_INSIDE = wp.constant(wp.uint8(INSIDE))
_NONE = wp.constant(wp.uint8(0))
_SET = wp.constant(wp.uint8(1))
_SLACK = wp.constant(1.0e-3)  # cells; what lies this near counts as touched, so that rounding opens no gap


@wp.func
def _node(bricks: wp.array[wp.int32], size: wp.vec3i, x: wp.int32, y: wp.int32, z: wp.int32):
    brick = ((x >> 3) * size[1] + (y >> 3)) * size[2] + (z >> 3)
    slot = bricks[brick]
    if slot < 0:
        return -1 - brick
    return (slot << 9) | ((x & 7) << 6) | ((y & 7) << 3) | (z & 7)


@wp.func
def _place(places: wp.array[wp.int32], size: wp.vec3i, node: wp.int32):
    brick = places[node >> 9]
    x = brick // (size[1] * size[2])
    y = (brick // size[2]) % size[1]
    z = brick % size[2]
    return wp.vec3i(x * 8 + ((node >> 6) & 7), y * 8 + ((node >> 3) & 7), z * 8 + (node & 7))


@wp.func
def _at(values: wp.array[wp.uint8], empty: wp.array[wp.uint8], node: wp.int32):
    if node < 0:
        return empty[-1 - node]
    return values[node]


# --- rasterising -----------------------------------------------------------------------------------------------------


@wp.func
def _separates(axis: wp.vec3, a: wp.vec3, b: wp.vec3, c: wp.vec3, half: wp.float32):
    p = wp.dot(axis, a)
    q = wp.dot(axis, b)
    r = wp.dot(axis, c)
    reach = half * (wp.abs(axis[0]) + wp.abs(axis[1]) + wp.abs(axis[2]))
    return wp.min(p, wp.min(q, r)) > reach or wp.max(p, wp.max(q, r)) < -reach


@wp.func
def _separates_across(edge: wp.vec3, a: wp.vec3, b: wp.vec3, c: wp.vec3, half: wp.float32):
    return (
        _separates(wp.vec3(0.0, -edge[2], edge[1]), a, b, c, half)
        or _separates(wp.vec3(edge[2], 0.0, -edge[0]), a, b, c, half)
        or _separates(wp.vec3(-edge[1], edge[0], 0.0), a, b, c, half)
    )


@wp.func
def _overlaps(a: wp.vec3, b: wp.vec3, c: wp.vec3, low: wp.vec3, side: wp.float32, slack: wp.float32):
    """Whether a triangle meets the cube [low, low + side], by the separating axes (Akenine-Moeller 2001)."""
    half = 0.5 * side + slack
    middle = low + wp.vec3(0.5 * side, 0.5 * side, 0.5 * side)
    p = a - middle
    q = b - middle
    r = c - middle
    apart = (
        _separates(wp.vec3(1.0, 0.0, 0.0), p, q, r, half)
        or _separates(wp.vec3(0.0, 1.0, 0.0), p, q, r, half)
        or _separates(wp.vec3(0.0, 0.0, 1.0), p, q, r, half)
        or _separates(wp.cross(q - p, r - p), p, q, r, half)
        or _separates_across(q - p, p, q, r, half)
        or _separates_across(r - q, p, q, r, half)
        or _separates_across(p - r, p, q, r, half)
    )
    return not apart


@wp.func
def _brick_of(value: wp.float32, top: wp.int32):
    return wp.clamp(wp.int32(wp.floor(value * 0.125)), 0, top)


@wp.kernel
def mark_bricks(
    start: wp.int32,
    points: wp.array[wp.vec3],
    faces: wp.array2d[wp.int32],
    size: wp.vec3i,
    slack: wp.float32,
    marks: wp.array[wp.uint8],
):
    """Mark the bricks within `slack` cells of a face."""
    f = start + wp.tid()
    a = points[faces[f, 0]]
    b = points[faces[f, 1]]
    c = points[faces[f, 2]]
    low = wp.min(a, wp.min(b, c)) - wp.vec3(slack, slack, slack)
    high = wp.max(a, wp.max(b, c)) + wp.vec3(slack, slack, slack)
    for x in range(_brick_of(low[0], size[0] - 1), _brick_of(high[0], size[0] - 1) + 1):
        for y in range(_brick_of(low[1], size[1] - 1), _brick_of(high[1], size[1] - 1) + 1):
            for z in range(_brick_of(low[2], size[2] - 1), _brick_of(high[2], size[2] - 1) + 1):
                brick = (x * size[1] + y) * size[2] + z
                if marks[brick] != _NONE:  # most are, by a neighbour
                    continue
                corner = wp.vec3(8.0 * wp.float32(x), 8.0 * wp.float32(y), 8.0 * wp.float32(z))
                if _overlaps(a, b, c, corner, 8.0, slack):
                    marks[brick] = _SET


@wp.kernel
def list_bricks(
    start: wp.int32,
    points: wp.array[wp.vec3],
    faces: wp.array2d[wp.int32],
    size: wp.vec3i,
    write: wp.bool,
    counts: wp.array[wp.int32],
    ends: wp.array[wp.int64],
    pair_face: wp.array[wp.int32],
    pair_brick: wp.array[wp.int32],
):
    """The bricks that a face touches: counted, or written as pairs (face, brick)."""
    f = start + wp.tid()
    slack = 2.0 * _SLACK
    a = points[faces[f, 0]]
    b = points[faces[f, 1]]
    c = points[faces[f, 2]]
    low = wp.min(a, wp.min(b, c)) - wp.vec3(slack, slack, slack)
    high = wp.max(a, wp.max(b, c)) + wp.vec3(slack, slack, slack)
    first = wp.vec3i(_brick_of(low[0], size[0] - 1), _brick_of(low[1], size[1] - 1), _brick_of(low[2], size[2] - 1))
    last = wp.vec3i(_brick_of(high[0], size[0] - 1), _brick_of(high[1], size[1] - 1), _brick_of(high[2], size[2] - 1))
    one = first[0] == last[0] and first[1] == last[1] and first[2] == last[2]
    found = wp.int32(0)
    for x in range(first[0], last[0] + 1):
        for y in range(first[1], last[1] + 1):
            for z in range(first[2], last[2] + 1):
                corner = wp.vec3(8.0 * wp.float32(x), 8.0 * wp.float32(y), 8.0 * wp.float32(z))
                if one or _overlaps(a, b, c, corner, 8.0, slack):
                    if write:
                        at = wp.int32(ends[f]) - counts[f] + found
                        pair_face[at] = f
                        pair_brick[at] = (x * size[1] + y) * size[2] + z
                    found += 1
    if not write:
        counts[f] = found


@wp.kernel
def touch_cells(
    start: wp.int32,
    points: wp.array[wp.vec3],
    faces: wp.array2d[wp.int32],
    pair_face: wp.array[wp.int32],
    pair_brick: wp.array[wp.int32],
    bricks: wp.array[wp.int32],
    size: wp.vec3i,
    touched: wp.array[wp.uint8],
):
    """Mark the cells of a brick that a face touches."""
    i = start + wp.tid()
    f = pair_face[i]
    brick = pair_brick[i]
    first = wp.vec3i(brick // (size[1] * size[2]) * 8, (brick // size[2]) % size[1] * 8, brick % size[2] * 8)
    origin = wp.vec3(wp.float32(first[0]), wp.float32(first[1]), wp.float32(first[2]))
    a = points[faces[f, 0]] - origin
    b = points[faces[f, 1]] - origin
    c = points[faces[f, 2]] - origin
    low = wp.min(a, wp.min(b, c)) - wp.vec3(_SLACK, _SLACK, _SLACK)
    high = wp.max(a, wp.max(b, c)) + wp.vec3(_SLACK, _SLACK, _SLACK)
    base = bricks[brick] << 9
    for x in range(wp.max(wp.int32(wp.floor(low[0])), 0), wp.min(wp.int32(wp.floor(high[0])), 7) + 1):
        for y in range(wp.max(wp.int32(wp.floor(low[1])), 0), wp.min(wp.int32(wp.floor(high[1])), 7) + 1):
            for z in range(wp.max(wp.int32(wp.floor(low[2])), 0), wp.min(wp.int32(wp.floor(high[2])), 7) + 1):
                node = base | (x << 6) | (y << 3) | z
                if touched[node] != _NONE:  # most are, by a neighbour
                    continue
                if _overlaps(a, b, c, wp.vec3(wp.float32(x), wp.float32(y), wp.float32(z)), 1.0, _SLACK):
                    touched[node] = _SET


@wp.func
def _side(au: wp.float32, av: wp.float32, bu: wp.float32, bv: wp.float32):
    return au * bv - av * bu


@wp.kernel
def cross_edges(
    start: wp.int32,
    points: wp.array[wp.vec3],
    faces: wp.array2d[wp.int32],
    pair_face: wp.array[wp.int32],
    pair_brick: wp.array[wp.int32],
    bricks: wp.array[wp.int32],
    size: wp.vec3i,
    write: wp.bool,
    counts: wp.array[wp.int32],
    ends: wp.array[wp.int64],
    edge: wp.array[wp.int64],
    depth: wp.array[wp.float32],
    face: wp.array[wp.int32],
):
    """The lattice edges of a brick that a face crosses: counted, or written as edge = node * 3 + axis, depth 0-1."""
    i = start + wp.tid()
    if write and counts[i] == 0:
        return
    f = pair_face[i]
    brick = pair_brick[i]
    first = wp.vec3i(brick // (size[1] * size[2]) * 8, (brick // size[2]) % size[1] * 8, brick % size[2] * 8)
    origin = wp.vec3(wp.float32(first[0]), wp.float32(first[1]), wp.float32(first[2]))
    a = points[faces[f, 0]] - origin
    b = points[faces[f, 1]] - origin
    c = points[faces[f, 2]] - origin
    low = wp.min(a, wp.min(b, c)) - wp.vec3(_SLACK, _SLACK, _SLACK)
    high = wp.max(a, wp.max(b, c)) + wp.vec3(_SLACK, _SLACK, _SLACK)
    node = bricks[brick] << 9
    found = wp.int32(0)
    for axis in range(3):
        u = (axis + 1) % 3
        v = (axis + 2) % 3
        for j in range(wp.max(wp.int32(wp.ceil(low[u])), 0), wp.min(wp.int32(wp.floor(high[u])), 7) + 1):
            for k in range(wp.max(wp.int32(wp.ceil(low[v])), 0), wp.min(wp.int32(wp.floor(high[v])), 7) + 1):
                pu = wp.float32(j)
                pv = wp.float32(k)
                at_a = _side(b[u] - pu, b[v] - pv, c[u] - pu, c[v] - pv)
                at_b = _side(c[u] - pu, c[v] - pv, a[u] - pu, a[v] - pv)
                at_c = _side(a[u] - pu, a[v] - pv, b[u] - pu, b[v] - pv)
                area = at_a + at_b + at_c
                if area < 0.0:
                    at_a = -at_a
                    at_b = -at_b
                    at_c = -at_c
                    area = -area
                near_a = -_SLACK * wp.length(wp.vec2(c[u] - b[u], c[v] - b[v]))
                near_b = -_SLACK * wp.length(wp.vec2(a[u] - c[u], a[v] - c[v]))
                near_c = -_SLACK * wp.length(wp.vec2(b[u] - a[u], b[v] - a[v]))
                if area > 1.0e-12 and at_a >= near_a and at_b >= near_b and at_c >= near_c:
                    at_a = wp.max(at_a, 0.0)
                    at_b = wp.max(at_b, 0.0)
                    at_c = wp.max(at_c, 0.0)
                    height = (at_a * a[axis] + at_b * b[axis] + at_c * c[axis]) / (at_a + at_b + at_c)
                    h = wp.int32(wp.floor(height))
                    if h >= 0 and h < 8:
                        if write:
                            at = wp.int32(ends[i]) - counts[i] + found
                            inner = wp.vec3i(0, 0, 0)
                            inner[axis] = h
                            inner[u] = j
                            inner[v] = k
                            inner_node = node | (inner[0] << 6) | (inner[1] << 3) | inner[2]
                            edge[at] = wp.int64(inner_node * 3 + axis)
                            depth[at] = height - wp.float32(h)
                            face[at] = f
                        found += 1
    if not write:
        counts[i] = found


@wp.kernel
def mark_segments(
    start: wp.int32,
    points: wp.array[wp.vec3],
    ends: wp.array2d[wp.int32],
    bricks: wp.array[wp.int32],
    size: wp.vec3i,
    marks: wp.array[wp.uint8],
):
    """Mark the cells along line segments (ends [N, 2]), looked at four times a cell."""
    i = start + wp.tid()
    a = points[ends[i, 0]]
    b = points[ends[i, 1]]
    steps = wp.int32(wp.length(b - a) * 4.0) + 1
    for s in range(steps + 1):
        p = a + (b - a) * (wp.float32(s) / wp.float32(steps))
        node = _node(bricks, size, wp.int32(wp.floor(p[0])), wp.int32(wp.floor(p[1])), wp.int32(wp.floor(p[2])))
        if node >= 0:
            marks[node] = _SET


# --- flooding --------------------------------------------------------------------------------------------------------


@wp.kernel
def unite_cells(start: wp.int32, touched: wp.array[wp.uint8], parent: wp.array[wp.int32]):
    """Join untouched cells of the same brick across their faces. On a CPU a brick's must be in the same launch."""
    node = start + wp.tid()
    if touched[node] == _NONE:
        if (node & 7) != 7 and touched[node + 1] == _NONE:
            unite(parent, node, node + 1, 0)
        if (node & 56) != 56 and touched[node + 8] == _NONE:
            unite(parent, node, node + 8, 0)
        if (node & 448) != 448 and touched[node + 64] == _NONE:
            unite(parent, node, node + 64, 0)


@wp.kernel
def unite_bricks(
    start: wp.int32,
    places: wp.array[wp.int32],
    bricks: wp.array[wp.int32],
    size: wp.vec3i,
    touched: wp.array[wp.uint8],
    stored: wp.int32,
    parent: wp.array[wp.int32],
):
    """Join untouched cells across the six sides of a brick; one thread a brick and side."""
    row = start + wp.tid()
    slot = row // 6
    side = row % 6
    axis = side >> 1
    step = wp.vec3i(0, 0, 0)
    step[axis] = 2 * (side & 1) - 1
    place = _place(places, size, slot << 9) + 8 * step
    brick = ((place[0] >> 3) * size[1] + (place[1] >> 3)) * size[2] + (place[2] >> 3)
    other = bricks[brick]
    if (side & 1) == 1 or other < 0:  # a stored neighbour looks across the other sides; empty bricks do not look
        along = 6 - 3 * axis  # bits of the place in a brick along the axis
        here = (7 * (side & 1)) << along
        beyond = (7 - 7 * (side & 1)) << along
        near = wp.where(axis == 2, 3, 0)
        far = wp.where(axis == 0, 3, 6)
        for i in range(64):
            inner = ((i & 7) << near) | ((i >> 3) << far)
            node = (slot << 9) | here | inner
            if touched[node] == _NONE:
                if other < 0:
                    unite(parent, node, stored + brick, 0)
                elif touched[(other << 9) | beyond | inner] == _NONE:
                    unite(parent, node, (other << 9) | beyond | inner, 0)


@wp.kernel
def unite_empty_bricks(
    start: wp.int32, bricks: wp.array[wp.int32], size: wp.vec3i, stored: wp.int32, parent: wp.array[wp.int32]
):
    brick = start + wp.tid()
    if bricks[brick] < 0:
        x = brick // (size[1] * size[2])
        y = (brick // size[2]) % size[1]
        z = brick % size[2]
        if x + 1 < size[0] and bricks[brick + size[1] * size[2]] < 0:
            unite(parent, stored + brick, stored + brick + size[1] * size[2], 0)
        if y + 1 < size[1] and bricks[brick + size[2]] < 0:
            unite(parent, stored + brick, stored + brick + size[2], 0)
        if z + 1 < size[2] and bricks[brick + 1] < 0:
            unite(parent, stored + brick, stored + brick + 1, 0)


@wp.kernel
def find_roots(start: wp.int32, parent: wp.array[wp.int32], root: wp.array[wp.int32]):
    i = start + wp.tid()
    root[i] = peek_root(parent, i) >> 1


@wp.kernel
def judge_cells(
    start: wp.int32,
    parent: wp.array[wp.int32],
    outer: wp.int32,
    touched: wp.array[wp.uint8],
    states: wp.array[wp.uint8],
):
    """Cells, and behind them empty bricks, are outside if they hang together with the member `outer`; 0 if touched."""
    i = start + wp.tid()
    if i < touched.shape[0] and touched[i] != _NONE:
        states[i] = _NONE
        return
    states[i] = wp.where(peek_root(parent, i) == peek_root(parent, outer), _OUTSIDE, _INSIDE)


@wp.kernel
def judge_points(
    start: wp.int32,
    places: wp.array[wp.int32],
    bricks: wp.array[wp.int32],
    size: wp.vec3i,
    cells: wp.array[wp.uint8],
    empty: wp.array[wp.uint8],
    states: wp.array[wp.uint8],
):
    """The state of a lattice point from the untouched ones of the eight cells round it; 0 if there is none.

    Both states meet only at a point in a hole of the surface; most cells win, and a draw closes the hole.
    """
    node = start + wp.tid()
    inner = (node & 7) != 0 and (node & 56) != 0 and (node & 448) != 0  # all eight cells lie in the same brick
    p = _place(places, size, node)
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
            state = _at(cells, empty, _node(bricks, size, p[0] - x, p[1] - y, p[2] - z))
        if state == _OUTSIDE:
            balance += 1
            seen += 1
        if state == _INSIDE:
            balance -= 1
            seen += 1
    if seen == 0:
        states[node] = _NONE
    elif balance > 0:
        states[node] = _OUTSIDE
    else:
        states[node] = _INSIDE


@wp.func
def _passable(
    bricks: wp.array[wp.int32],
    size: wp.vec3i,
    blocked: wp.array[wp.uint8],
    torn: wp.array[wp.uint8],
    p: wp.vec3i,
    axis: wp.int32,
):
    """Whether no face crosses the lattice edge that leaves p and no open edge of the mesh runs beside it."""
    node = _node(bricks, size, p[0], p[1], p[2])
    if blocked[node * 3 + axis] != _NONE:
        return False
    for corner in range(4):
        q = p
        q[(axis + 1) % 3] -= corner & 1
        q[(axis + 2) % 3] -= corner >> 1
        beside = _node(bricks, size, q[0], q[1], q[2])
        if beside >= 0 and torn[beside] != _NONE:
            return False
    return True


@wp.kernel
def unite_points(
    start: wp.int32,
    places: wp.array[wp.int32],
    bricks: wp.array[wp.int32],
    size: wp.vec3i,
    blocked: wp.array[wp.uint8],
    torn: wp.array[wp.uint8],
    states: wp.array[wp.uint8],
    parent: wp.array[wp.int32],
):
    """Join undecided lattice points along passable edges."""
    node = start + wp.tid()
    if states[node] == _NONE:
        p = _place(places, size, node)
        for axis in range(3):
            q = p
            q[axis] += 1
            after = _node(bricks, size, q[0], q[1], q[2])
            if after >= 0 and states[after] == _NONE and _passable(bricks, size, blocked, torn, p, axis):
                unite(parent, node, after, 0)


@wp.kernel
def count_contacts(
    start: wp.int32,
    places: wp.array[wp.int32],
    bricks: wp.array[wp.int32],
    size: wp.vec3i,
    blocked: wp.array[wp.uint8],
    torn: wp.array[wp.uint8],
    states: wp.array[wp.uint8],
    root: wp.array[wp.int32],
    balance: wp.array[wp.int32],
):
    """Passable edges from groups of undecided points to outside points, less those to inside points."""
    node = start + wp.tid()
    if states[node] == _NONE:
        p = _place(places, size, node)
        for way in range(6):
            axis = way >> 1
            q = p
            base = p
            if way & 1 == 1:
                q[axis] += 1
            else:
                q[axis] -= 1
                base = q
            other = _node(bricks, size, q[0], q[1], q[2])
            if other >= 0 and states[other] != _NONE and _passable(bricks, size, blocked, torn, base, axis):
                if states[other] == _OUTSIDE:
                    wp.atomic_add(balance, root[node], 1)
                else:
                    wp.atomic_add(balance, root[node], -1)


@wp.kernel
def edge_states(
    start: wp.int32,
    places: wp.array[wp.int32],
    bricks: wp.array[wp.int32],
    size: wp.vec3i,
    states: wp.array[wp.uint8],
    empty: wp.array[wp.uint8],
    edges: wp.array[wp.int64],
    ends: wp.array2d[wp.uint8],
):
    """The states of both ends of lattice edges node * 3 + axis."""
    i = start + wp.tid()
    node = wp.int32(edges[i] // wp.int64(3))
    axis = wp.int32(edges[i] % wp.int64(3))
    q = _place(places, size, node)
    q[axis] += 1
    ends[i, 0] = states[node]
    ends[i, 1] = _at(states, empty, _node(bricks, size, q[0], q[1], q[2]))


@wp.kernel
def beside_outside(
    start: wp.int32,
    points: wp.array[wp.vec3],
    bricks: wp.array[wp.int32],
    size: wp.vec3i,
    states: wp.array[wp.uint8],
    empty: wp.array[wp.uint8],
    found: wp.array[wp.uint8],
):
    """Whether the cell that holds a point has a corner outside."""
    i = start + wp.tid()
    p = points[i]
    found[i] = _NONE
    for corner in range(8):
        x = wp.int32(wp.floor(p[0])) + (corner & 1)
        y = wp.int32(wp.floor(p[1])) + ((corner >> 1) & 1)
        z = wp.int32(wp.floor(p[2])) + (corner >> 2)
        if _at(states, empty, _node(bricks, size, x, y, z)) == _OUTSIDE:
            found[i] = _SET


# --- sheets ----------------------------------------------------------------------------------------------------------


@wp.kernel
def mark_sheets(
    start: wp.int32,
    places: wp.array[wp.int32],
    bricks: wp.array[wp.int32],
    size: wp.vec3i,
    touched: wp.array[wp.uint8],
    states: wp.array[wp.uint8],
    empty: wp.array[wp.uint8],
    reach: wp.int32,
    near: wp.array[wp.uint8],
):
    """Mark the lattice points within `reach` of touched cells that have no inside point within one cell."""
    node = start + wp.tid()
    if touched[node] == _NONE:
        return
    p = _place(places, size, node)
    for x in range(-1, 3):
        for y in range(-1, 3):
            for z in range(-1, 3):
                if _at(states, empty, _node(bricks, size, p[0] + x, p[1] + y, p[2] + z)) != _OUTSIDE:
                    return
    for x in range(-reach, reach + 2):
        for y in range(-reach, reach + 2):
            for z in range(-reach, reach + 2):
                other = _node(bricks, size, p[0] + x, p[1] + y, p[2] + z)
                if other >= 0:
                    near[other] = _SET


@wp.kernel
def coordinates(
    start: wp.int32,
    places: wp.array[wp.int32],
    size: wp.vec3i,
    nodes: wp.array[wp.int64],
    xyz: wp.array2d[wp.int32],
):
    i = start + wp.tid()
    p = _place(places, size, wp.int32(nodes[i]))
    for axis in range(3):
        xyz[i, axis] = p[axis]


@wp.kernel
def look_up(
    start: wp.int32, bricks: wp.array[wp.int32], size: wp.vec3i, xyz: wp.array2d[wp.int32], nodes: wp.array[wp.int64]
):
    i = start + wp.tid()
    nodes[i] = wp.int64(_node(bricks, size, xyz[i, 0], xyz[i, 1], xyz[i, 2]))


# --- dual contouring -------------------------------------------------------------------------------------------------


@wp.kernel
def cell_signs(
    start: wp.int32,
    places: wp.array[wp.int32],
    bricks: wp.array[wp.int32],
    size: wp.vec3i,
    states: wp.array[wp.uint8],
    empty: wp.array[wp.uint8],
    signs: wp.array[wp.uint8],
):
    """Bit x + 2 y + 4 z of a cell: whether this corner is not outside."""
    node = start + wp.tid()
    p = _place(places, size, node)
    bits = wp.int32(0)
    for corner in range(8):
        x = p[0] + (corner & 1)
        y = p[1] + ((corner >> 1) & 1)
        z = p[2] + (corner >> 2)
        if _at(states, empty, _node(bricks, size, x, y, z)) != _OUTSIDE:
            bits = bits | (1 << corner)
    signs[node] = wp.uint8(bits)


@wp.kernel
def place_vertices(
    start: wp.int32,
    bricks: wp.array[wp.int32],
    size: wp.vec3i,
    xyz: wp.array2d[wp.int32],
    row_of: wp.array[wp.int32],
    edge_of: wp.array2d[wp.int32],
    loops: wp.array2d[wp.int8],
    kind: wp.array[wp.int32],
    first: wp.array[wp.int32],
    cell: wp.array[wp.int32],
    depth: wp.array[wp.float32],
    normal: wp.array[wp.vec3],
    pull: wp.float32,
    vertices: wp.array[wp.vec3],
):
    """The point of a cell with the least squared distance to the tangent planes of one loop of crossed edges, drawn to
    the crossings' mean by `pull` per crossing, within the cell; in cells."""
    i = start + wp.tid()
    row = cell[i]
    mine = i - first[row]
    mean = wp.vec3(0.0, 0.0, 0.0)
    count = wp.float32(0.0)
    form = wp.mat33(0.0)
    right = wp.vec3(0.0, 0.0, 0.0)
    for e in range(12):
        if wp.int32(loops[kind[row], e]) == mine:
            axis = e >> 2
            p = wp.vec3i(0, 0, 0)
            p[(axis + 1) % 3] = e & 1
            p[(axis + 2) % 3] = (e >> 1) & 1
            node = _node(bricks, size, xyz[row, 0] + p[0], xyz[row, 1] + p[1], xyz[row, 2] + p[2])
            edge = edge_of[row_of[node], axis]
            at = wp.vec3(wp.float32(p[0]), wp.float32(p[1]), wp.float32(p[2]))
            at[axis] = at[axis] + depth[edge]
            n = normal[edge]
            mean += at
            count += 1.0
            form += wp.outer(n, n)
            right += n * wp.dot(n, at)
    mean = mean / count
    form += wp.mat33(pull * count, 0.0, 0.0, 0.0, pull * count, 0.0, 0.0, 0.0, pull * count)
    right += mean * (pull * count)
    x = wp.inverse(form) * right
    if wp.min(x) < 0.0 or wp.max(x) > 1.0:
        x = wp.vec3(wp.clamp(x[0], 0.0, 1.0), wp.clamp(x[1], 0.0, 1.0), wp.clamp(x[2], 0.0, 1.0))
        for _sweep in range(8):  # projected Gauss-Seidel: the best point of the box
            for axis in range(3):
                rest = right[axis] - wp.dot(form[axis], x) + form[axis, axis] * x[axis]
                x[axis] = wp.clamp(rest / form[axis, axis], 0.0, 1.0)
    vertices[i] = x + wp.vec3(wp.float32(xyz[row, 0]), wp.float32(xyz[row, 1]), wp.float32(xyz[row, 2]))


@wp.func
def _along(p: wp.vec3, axis: wp.int32):
    return wp.vec3(p[(axis + 1) % 3], p[(axis + 2) % 3], p[axis])


@wp.func
def _height_error(a: wp.vec3, b: wp.vec3, c: wp.vec3, d: wp.vec3, depth: wp.float32):
    """How far from `depth` the triangles a b c and a c d meet the third axis; 4 more if one of them is turned round."""
    abc = _side(b[0] - a[0], b[1] - a[1], c[0] - a[0], c[1] - a[1])
    acd = _side(c[0] - a[0], c[1] - a[1], d[0] - a[0], d[1] - a[1])
    penalty = wp.float32(0.0)
    if wp.min(abc, acd) <= 1.0e-6:
        penalty = 4.0
    third = d
    if _side(a[0], a[1], c[0], c[1]) < 0.0:  # the axis lies right of a -> c, where b is
        third = b
    at_a = wp.abs(_side(c[0], c[1], third[0], third[1]))
    at_c = wp.abs(_side(third[0], third[1], a[0], a[1]))
    at_third = wp.abs(_side(a[0], a[1], c[0], c[1]))
    total = wp.max(at_a + at_c + at_third, 1.0e-12)
    height = (at_a * a[2] + at_c * c[2] + at_third * third[2]) / total
    return wp.abs(height - depth) + penalty


@wp.func
def _vertex_beside(
    bricks: wp.array[wp.int32],
    size: wp.vec3i,
    corner: wp.vec3i,
    axis: wp.int32,
    b: wp.int32,
    c: wp.int32,
    row_of: wp.array[wp.int32],
    loops: wp.array2d[wp.int8],
    kind: wp.array[wp.int32],
    first: wp.array[wp.int32],
):
    p = corner
    p[(axis + 1) % 3] -= b
    p[(axis + 2) % 3] -= c
    row = row_of[_node(bricks, size, p[0], p[1], p[2])]
    return first[row] + wp.int32(loops[kind[row], axis * 4 + b + 2 * c])


@wp.kernel
def join_vertices(
    start: wp.int32,
    bricks: wp.array[wp.int32],
    size: wp.vec3i,
    corners: wp.array2d[wp.int32],
    axes: wp.array[wp.int32],
    depth: wp.array[wp.float32],
    rising: wp.array[wp.bool],
    row_of: wp.array[wp.int32],
    loops: wp.array2d[wp.int8],
    kind: wp.array[wp.int32],
    first: wp.array[wp.int32],
    vertices: wp.array[wp.vec3],
    faces: wp.array2d[wp.int32],
):
    """Two triangles from the vertices of the four cells round a crossed lattice edge. They are split along the diagonal
    that passes nearer to the crossing (so that ridges stay), along the shorter one where both do."""
    i = start + wp.tid()
    corner = wp.vec3i(corners[i, 0], corners[i, 1], corners[i, 2])
    axis = axes[i]
    p = _vertex_beside(bricks, size, corner, axis, 1, 1, row_of, loops, kind, first)
    q = _vertex_beside(bricks, size, corner, axis, 0, 1, row_of, loops, kind, first)
    r = _vertex_beside(bricks, size, corner, axis, 0, 0, row_of, loops, kind, first)
    s = _vertex_beside(bricks, size, corner, axis, 1, 0, row_of, loops, kind, first)
    origin = wp.vec3(wp.float32(corner[0]), wp.float32(corner[1]), wp.float32(corner[2]))
    a = _along(vertices[p] - origin, axis)
    b = _along(vertices[q] - origin, axis)
    c = _along(vertices[r] - origin, axis)
    d = _along(vertices[s] - origin, axis)
    gain = _height_error(b, c, d, a, depth[i]) - _height_error(a, b, c, d, depth[i])
    if wp.abs(gain) < 0.01:
        gain = wp.length(d - b) - wp.length(c - a)
    if gain < 0.0:
        t = p
        p = q
        q = r
        r = s
        s = t
    faces[2 * i, 0] = p
    faces[2 * i + 1, 0] = p
    if rising[i]:
        faces[2 * i, 1] = q
        faces[2 * i, 2] = r
        faces[2 * i + 1, 1] = r
        faces[2 * i + 1, 2] = s
    else:
        faces[2 * i, 1] = r
        faces[2 * i, 2] = q
        faces[2 * i + 1, 1] = s
        faces[2 * i + 1, 2] = r
