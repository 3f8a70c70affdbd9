"""Warp kernels that rasterise faces into a lattice: bricks near them, cells they touch, lattice edges they cross."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from ...warp.launch import configure
from .lattice_functions import SET, UNSET, Grid, brick_place, cross_2d, node_at

configure(__name__, max_unroll=1)

_SLACK = wp.constant(1.0e-3)  # cells; what lies this near counts as touched, so that rounding opens no gap


@wp.struct
class Triangle:
    """A face in cells, and the box round it."""

    a: wp.vec3
    b: wp.vec3
    c: wp.vec3
    low: wp.vec3
    high: wp.vec3


@wp.func
def _separates(axis: wp.vec3, a: wp.vec3, b: wp.vec3, c: wp.vec3, half: wp.float32):
    p = wp.dot(axis, a)
    q = wp.dot(axis, b)
    r = wp.dot(axis, c)
    extent = half * (wp.abs(axis[0]) + wp.abs(axis[1]) + wp.abs(axis[2]))
    return wp.min(p, wp.min(q, r)) > extent or wp.max(p, wp.max(q, r)) < -extent


@wp.func
def _separates_across(edge: wp.vec3, a: wp.vec3, b: wp.vec3, c: wp.vec3, half: wp.float32):
    return (
        _separates(wp.vec3(0.0, -edge[2], edge[1]), a, b, c, half)
        or _separates(wp.vec3(edge[2], 0.0, -edge[0]), a, b, c, half)
        or _separates(wp.vec3(-edge[1], edge[0], 0.0), a, b, c, half)
    )


@wp.func
def _overlaps(t: Triangle, low: wp.vec3, side: wp.float32, slack: wp.float32):
    """Whether a triangle meets the cube [low, low + side], by the separating axes (Akenine-Moeller 2001)."""
    half = 0.5 * side + slack
    middle = low + wp.vec3(0.5 * side, 0.5 * side, 0.5 * side)
    p = t.a - middle
    q = t.b - middle
    r = t.c - middle
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
def _triangle(
    points: wp.array[wp.vec3], faces: wp.array2d[wp.int32], face: wp.int32, origin: wp.vec3, slack: wp.float32
):
    """A face as seen from `origin`; its box is wider by `slack` on each side."""
    t = Triangle()
    t.a = points[faces[face, 0]] - origin
    t.b = points[faces[face, 1]] - origin
    t.c = points[faces[face, 2]] - origin
    t.low = wp.min(t.a, wp.min(t.b, t.c)) - wp.vec3(slack, slack, slack)
    t.high = wp.max(t.a, wp.max(t.b, t.c)) + wp.vec3(slack, slack, slack)
    return t


@wp.func
def _in_brick(points: wp.array[wp.vec3], faces: wp.array2d[wp.int32], face: wp.int32, brick: wp.int32, size: wp.vec3i):
    """A face as seen from the lowest corner of a brick."""
    place = 8 * brick_place(brick, size)
    origin = wp.vec3(wp.float32(place[0]), wp.float32(place[1]), wp.float32(place[2]))
    return _triangle(points, faces, face, origin, _SLACK)


@wp.func
def _brick_of(value: wp.float32, top: wp.int32):
    return wp.clamp(wp.int32(wp.floor(value * 0.125)), 0, top)


@wp.func
def _brick_at(p: wp.vec3, size: wp.vec3i):
    """x, y, z of the brick that holds a point, or of the nearest."""
    return wp.vec3i(_brick_of(p[0], size[0] - 1), _brick_of(p[1], size[1] - 1), _brick_of(p[2], size[2] - 1))


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
    t = _triangle(points, faces, f, wp.vec3(0.0, 0.0, 0.0), slack)
    first = _brick_at(t.low, size)
    last = _brick_at(t.high, size)
    for x in range(first[0], last[0] + 1):
        for y in range(first[1], last[1] + 1):
            for z in range(first[2], last[2] + 1):
                brick = (x * size[1] + y) * size[2] + z
                if marks[brick] != UNSET:  # most are, by a neighbour
                    continue
                corner = wp.vec3(8.0 * wp.float32(x), 8.0 * wp.float32(y), 8.0 * wp.float32(z))
                if _overlaps(t, corner, 8.0, slack):
                    marks[brick] = SET


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
    t = _triangle(points, faces, f, wp.vec3(0.0, 0.0, 0.0), slack)
    first = _brick_at(t.low, size)
    last = _brick_at(t.high, size)
    one = first[0] == last[0] and first[1] == last[1] and first[2] == last[2]
    found = wp.int32(0)
    for x in range(first[0], last[0] + 1):
        for y in range(first[1], last[1] + 1):
            for z in range(first[2], last[2] + 1):
                corner = wp.vec3(8.0 * wp.float32(x), 8.0 * wp.float32(y), 8.0 * wp.float32(z))
                if one or _overlaps(t, corner, 8.0, slack):
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
    grid: Grid,
    touched: wp.array[wp.uint8],
):
    """Mark the cells of a brick that a face touches."""
    i = start + wp.tid()
    f = pair_face[i]
    brick = pair_brick[i]
    t = _in_brick(points, faces, f, brick, grid.size)
    base = grid.bricks[brick] << 9
    for x in range(wp.max(wp.int32(wp.floor(t.low[0])), 0), wp.min(wp.int32(wp.floor(t.high[0])), 7) + 1):
        for y in range(wp.max(wp.int32(wp.floor(t.low[1])), 0), wp.min(wp.int32(wp.floor(t.high[1])), 7) + 1):
            for z in range(wp.max(wp.int32(wp.floor(t.low[2])), 0), wp.min(wp.int32(wp.floor(t.high[2])), 7) + 1):
                node = base | (x << 6) | (y << 3) | z
                if touched[node] != UNSET:  # most are, by a neighbour
                    continue
                if _overlaps(t, wp.vec3(wp.float32(x), wp.float32(y), wp.float32(z)), 1.0, _SLACK):
                    touched[node] = SET


@wp.kernel
def cross_edges(
    start: wp.int32,
    points: wp.array[wp.vec3],
    faces: wp.array2d[wp.int32],
    pair_face: wp.array[wp.int32],
    pair_brick: wp.array[wp.int32],
    grid: Grid,
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
    t = _in_brick(points, faces, f, brick, grid.size)
    a = t.a
    b = t.b
    c = t.c
    node = grid.bricks[brick] << 9
    found = wp.int32(0)
    for axis in range(3):
        u = (axis + 1) % 3
        v = (axis + 2) % 3
        for j in range(wp.max(wp.int32(wp.ceil(t.low[u])), 0), wp.min(wp.int32(wp.floor(t.high[u])), 7) + 1):
            for k in range(wp.max(wp.int32(wp.ceil(t.low[v])), 0), wp.min(wp.int32(wp.floor(t.high[v])), 7) + 1):
                pu = wp.float32(j)
                pv = wp.float32(k)
                at_a = cross_2d(b[u] - pu, b[v] - pv, c[u] - pu, c[v] - pv)
                at_b = cross_2d(c[u] - pu, c[v] - pv, a[u] - pu, a[v] - pv)
                at_c = cross_2d(a[u] - pu, a[v] - pv, b[u] - pu, b[v] - pv)
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
    grid: Grid,
    marks: wp.array[wp.uint8],
):
    """Mark the cells along line segments (ends [N, 2]), looked at four times a cell."""
    i = start + wp.tid()
    a = points[ends[i, 0]]
    b = points[ends[i, 1]]
    steps = wp.int32(wp.length(b - a) * 4.0) + 1
    for s in range(steps + 1):
        p = a + (b - a) * (wp.float32(s) / wp.float32(steps))
        node = node_at(grid, wp.int32(wp.floor(p[0])), wp.int32(wp.floor(p[1])), wp.int32(wp.floor(p[2])))
        if node >= 0:
            marks[node] = SET
