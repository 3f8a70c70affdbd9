"""Warp kernels of dual contouring on a lattice: sheets, signs of cells, their vertices and faces."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from ...warp.launch import configure
from .lattice_functions import IS_OUTSIDE, SET, UNSET, Grid, cross_2d, node_at, place_of, state_at

configure(__name__, max_unroll=1)


@wp.kernel
def mark_sheets(
    start: wp.int32,
    grid: Grid,
    touched: wp.array[wp.uint8],
    states: wp.array[wp.uint8],
    empty: wp.array[wp.uint8],
    sheet: wp.array[wp.uint8],
):
    """Mark touched cells that have no inside point within one cell."""
    node = start + wp.tid()
    if touched[node] == UNSET:
        return
    p = place_of(grid, node)
    for x in range(-1, 3):
        for y in range(-1, 3):
            for z in range(-1, 3):
                if state_at(states, empty, node_at(grid, p[0] + x, p[1] + y, p[2] + z)) != IS_OUTSIDE:
                    return
    sheet[node] = SET


@wp.kernel
def cell_signs(
    start: wp.int32,
    grid: Grid,
    states: wp.array[wp.uint8],
    empty: wp.array[wp.uint8],
    signs: wp.array[wp.uint8],
):
    """Bit x + 2 y + 4 z of a cell: whether this corner is not outside."""
    node = start + wp.tid()
    p = place_of(grid, node)
    bits = wp.int32(0)
    for corner in range(8):
        x = p[0] + (corner & 1)
        y = p[1] + ((corner >> 1) & 1)
        z = p[2] + (corner >> 2)
        if state_at(states, empty, node_at(grid, x, y, z)) != IS_OUTSIDE:
            bits = bits | (1 << corner)
    signs[node] = wp.uint8(bits)


@wp.kernel
def place_vertices(
    start: wp.int32,
    grid: Grid,
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
    free: wp.array[wp.uint8],
):
    """The point of a cell with the least squared distance to the tangent planes of one loop of crossed edges, drawn to
    the crossings' mean by `pull` per crossing, within the cell; in cells. free: whether most have no tangent plane."""
    i = start + wp.tid()
    row = cell[i]
    mine = i - first[row]
    mean = wp.vec3(0.0, 0.0, 0.0)
    count = wp.float32(0.0)
    planes = wp.float32(0.0)
    form = wp.mat33(0.0)
    right = wp.vec3(0.0, 0.0, 0.0)
    for e in range(12):
        if wp.int32(loops[kind[row], e]) == mine:
            axis = e >> 2
            p = wp.vec3i(0, 0, 0)
            p[(axis + 1) % 3] = e & 1
            p[(axis + 2) % 3] = (e >> 1) & 1
            node = node_at(grid, xyz[row, 0] + p[0], xyz[row, 1] + p[1], xyz[row, 2] + p[2])
            edge = edge_of[row_of[node], axis]
            at = wp.vec3(wp.float32(p[0]), wp.float32(p[1]), wp.float32(p[2]))
            at[axis] = at[axis] + depth[edge]
            n = normal[edge]
            mean += at
            count += 1.0
            planes += wp.dot(n, n)
            form += wp.outer(n, n)
            right += n * wp.dot(n, at)
    free[i] = UNSET
    if 2.0 * planes < count:
        free[i] = SET
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
    abc = cross_2d(b[0] - a[0], b[1] - a[1], c[0] - a[0], c[1] - a[1])
    acd = cross_2d(c[0] - a[0], c[1] - a[1], d[0] - a[0], d[1] - a[1])
    penalty = wp.float32(0.0)
    if wp.min(abc, acd) <= 1.0e-6:
        penalty = 4.0
    third = d
    if cross_2d(a[0], a[1], c[0], c[1]) < 0.0:  # the axis lies right of a -> c, where b is
        third = b
    at_a = wp.abs(cross_2d(c[0], c[1], third[0], third[1]))
    at_c = wp.abs(cross_2d(third[0], third[1], a[0], a[1]))
    at_third = wp.abs(cross_2d(a[0], a[1], c[0], c[1]))
    total = wp.max(at_a + at_c + at_third, 1.0e-12)
    height = (at_a * a[2] + at_c * c[2] + at_third * third[2]) / total
    return wp.abs(height - depth) + penalty


@wp.func
def _vertex_beside(
    grid: Grid,
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
    row = row_of[node_at(grid, p[0], p[1], p[2])]
    return first[row] + wp.int32(loops[kind[row], axis * 4 + b + 2 * c])


@wp.kernel
def join_vertices(
    start: wp.int32,
    grid: Grid,
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
    p = _vertex_beside(grid, corner, axis, 1, 1, row_of, loops, kind, first)
    q = _vertex_beside(grid, corner, axis, 0, 1, row_of, loops, kind, first)
    r = _vertex_beside(grid, corner, axis, 0, 0, row_of, loops, kind, first)
    s = _vertex_beside(grid, corner, axis, 1, 0, row_of, loops, kind, first)
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
