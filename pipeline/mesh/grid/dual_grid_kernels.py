"""Warp kernels that voxelise faces as a flexible dual grid: the crossed grid lines, what voxels sum up, their vertices.

Each kernel but the last has a row for each slab and face (or edge), slab * count + face, and works on the cells of
that slab alone, low <= x < high: a CPU's threads, one a slab, do not disturb each other, and on a GPU no thread has the
whole of a large face. Sums are integers, so that their order means nothing.
"""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from ...warp.launch import configure
from .voxel_bits_kernels import Voxels, row_of, word_of

configure(__name__, fuse_fp=False, max_unroll=1)  # a CPU and CUDA cross the same edges

UNITS = wp.constant(wp.float64(2.0**40))  # of a sum: terms are below 4, and 2^20 of them fit
_ONE = wp.constant(wp.float64(1.0))
_ZERO = wp.constant(wp.float64(0.0))
_FAR = wp.constant(wp.float64(1.0e300))
_STEEP = wp.constant(wp.float64(1.0e-6))  # of a normal, below which a column of cells is tested as a whole


@wp.struct
class Triangle:
    """A face in cells: its corners, unit normal, and the slab in which it is looked at; ok if it has an area there."""

    a: wp.vec3d
    b: wp.vec3d
    c: wp.vec3d
    normal: wp.vec3d
    low: wp.int32
    high: wp.int32
    ok: wp.bool


@wp.func
def _whole(value: wp.float64):
    return wp.int64(wp.floor(value * UNITS + wp.float64(0.5)))


@wp.func
def _add(sums: wp.array2d[wp.int64], row: wp.int32, square: wp.mat33d, linear: wp.vec3d):
    """Add p^T square p + 2 linear p to what a voxel's vertex p is to make small."""
    wp.atomic_add(sums, row, 0, _whole(square[0, 0]))
    wp.atomic_add(sums, row, 1, _whole(square[0, 1]))
    wp.atomic_add(sums, row, 2, _whole(square[0, 2]))
    wp.atomic_add(sums, row, 3, _whole(square[1, 1]))
    wp.atomic_add(sums, row, 4, _whole(square[1, 2]))
    wp.atomic_add(sums, row, 5, _whole(square[2, 2]))
    wp.atomic_add(sums, row, 6, _whole(linear[0]))
    wp.atomic_add(sums, row, 7, _whole(linear[1]))
    wp.atomic_add(sums, row, 8, _whole(linear[2]))


@wp.func
def _point(points: wp.array[wp.vec3], i: wp.int32):
    p = points[i]
    return wp.vec3d(wp.float64(p[0]), wp.float64(p[1]), wp.float64(p[2]))


@wp.func
def _triangle(points: wp.array[wp.vec3], faces: wp.array2d[wp.int32], bounds: wp.array[wp.int32], i: wp.int32):
    slab = i // faces.shape[0]
    face = i - slab * faces.shape[0]
    t = Triangle()
    t.low = bounds[slab]
    t.high = bounds[slab + 1]
    x = points[faces[face, 0]][0]
    y = points[faces[face, 1]][0]
    z = points[faces[face, 2]][0]
    if wp.max(x, wp.max(y, z)) < wp.float32(t.low - 1) or wp.min(x, wp.min(y, z)) > wp.float32(t.high + 1):
        t.ok = False
        return t
    t.a = _point(points, faces[face, 0])
    t.b = _point(points, faces[face, 1])
    t.c = _point(points, faces[face, 2])
    across = wp.cross(t.b - t.a, t.c - t.b)
    length = wp.sqrt(across[0] * across[0] + across[1] * across[1] + across[2] * across[2])
    t.ok = length > _ZERO
    if t.ok:
        t.normal = across / length
    return t


@wp.func
def _lerp(a: wp.float64, b: wp.float64, at: wp.float64, p: wp.vec3d, q: wp.vec3d):
    """Between p at a and q at b; p where these are one."""
    share = _ZERO
    if a != b:
        share = (at - a) / (b - a)
    return (_ONE - share) * p + share * q


@wp.func
def _turned(p: wp.vec3d, axis: wp.int32):
    """(u, v, depth) of a point seen along an axis."""
    return wp.vec3d(p[(axis + 1) % 3], p[(axis + 2) % 3], p[axis])


@wp.func
def _cell(value: wp.float64, top: wp.int32):
    """The cell of a coordinate, towards 0, within 0 .. top."""
    return wp.int32(wp.clamp(value, _ZERO, wp.float64(top)))


@wp.func
def _columns(low: wp.int32, high: wp.int32, left: wp.vec3d, right: wp.vec3d):
    """The columns between left and right whose depth may lie in low .. high - 1: first and one behind the last."""
    slope = (right[2] - left[2]) / wp.max(right[0] - left[0], wp.float64(1.0e-300))
    first = left[0] - _ONE
    last = right[0] + _ONE
    if wp.abs(slope) > _STEEP:
        one = left[0] + (wp.float64(low - 2) - left[2]) / slope
        two = left[0] + (wp.float64(high + 2) - left[2]) / slope
        first = wp.max(first, wp.min(one, two) - wp.float64(2.0))
        last = wp.min(last, wp.max(one, two) + wp.float64(2.0))
    return first, last


@wp.func
def _concern(
    grid: Voxels,
    t: Triangle,
    axis: wp.int32,
    column: wp.int32,
    line: wp.int32,
    depth: wp.float64,
    regularisation: wp.float64,
    count: wp.bool,
    sums: wp.array2d[wp.int64],
    crossed: wp.array2d[wp.uint8],
):
    """Mark the four cells round a crossing, or add the crossing to them."""
    at = wp.vec3d()
    cell = wp.vec3i()
    u = (axis + 1) % 3
    v = (axis + 2) % 3
    at[u] = wp.float64(column + 1)
    at[v] = wp.float64(line + 1)
    at[axis] = depth
    cell[axis] = wp.int32(depth)
    for corner in range(4):
        cell[u] = column + (corner & 1)
        cell[v] = line + (corner >> 1)
        if cell[0] >= t.low and cell[0] < t.high:
            if count:
                word = word_of(grid, cell[0], cell[1], cell[2])
                wp.atomic_or(grid.bits, word, wp.uint32(1) << wp.uint32(cell[2] & 31))
            else:
                row = row_of(grid, cell[0], cell[1], cell[2])
                origin = wp.vec3d(wp.float64(cell[0]), wp.float64(cell[1]), wp.float64(cell[2]))
                square = wp.outer(t.normal, t.normal) + regularisation * wp.identity(n=3, dtype=wp.float64)
                linear = wp.dot(t.normal, origin - t.a) * t.normal - regularisation * (at - origin)
                _add(sums, row, square, linear)
                if corner == 0:  # the cell that owns the edge
                    crossed[row, axis] = wp.uint8(1)


@wp.kernel
def cross(
    start: wp.int32,
    points: wp.array[wp.vec3],
    faces: wp.array2d[wp.int32],
    bounds: wp.array[wp.int32],
    grid: Voxels,
    regularisation: wp.float64,
    count: wp.bool,
    sums: wp.array2d[wp.int64],
    crossed: wp.array2d[wp.uint8],
):
    """Where faces cross the inner grid lines, by scan lines: the cells there are marked as voxels (count), or what
    crosses is added to them, and to the mean crossing times `regularisation`."""
    t = _triangle(points, faces, bounds, start + wp.tid())
    if not t.ok:
        return
    top = grid.side - 1
    for axis in range(3):
        a = _turned(t.a, axis)
        b = _turned(t.b, axis)
        c = _turned(t.c, axis)
        for k in range(3):  # in the order of v, equal ones as they are
            if b[1] < a[1] and k != 1:
                other = a
                a = b
                b = other
            if c[1] < b[1] and k == 1:
                other = b
                b = c
                c = other
        for half in range(2):
            tip = a
            far = c
            first = _cell(a[1], top)
            last = _cell(b[1], top)
            if half == 1:
                tip = c
                far = a
                first = last
                last = _cell(c[1], top)
            if axis == 1:  # v is x
                first = wp.max(first, t.low - 1)
                last = wp.min(last, t.high)
            for line in range(first, last):
                v = wp.float64(line + 1)
                left = _lerp(tip[1], b[1], v, tip, b)
                right = _lerp(tip[1], far[1], v, tip, far)
                if left[0] > right[0]:
                    other = left
                    left = right
                    right = other
                low = _cell(left[0], top)
                high = _cell(right[0], top)
                if axis == 2:  # u is x
                    low = wp.max(low, t.low - 1)
                    high = wp.min(high, t.high)
                elif axis == 0:
                    near, away = _columns(t.low, t.high, left, right)
                    low = wp.max(low, _cell(near, top))
                    high = wp.min(high, _cell(away + _ONE, top))
                for column in range(low, high):
                    depth = _lerp(left[0], right[0], wp.float64(column + 1), left, right)[2]
                    if depth > -_ONE and depth < wp.float64(grid.side):
                        inside = wp.max(depth, _ZERO)
                        _concern(grid, t, axis, column, line, inside, regularisation, count, sums, crossed)


@wp.func
def _meets_plane(t: Triangle, p: wp.vec3d):
    """Whether the plane of a triangle passes through the unit cell at p."""
    near = wp.vec3d()
    far = wp.vec3d()
    for k in range(3):
        if t.normal[k] > _ZERO:
            far[k] = _ONE
        near[k] = _ONE - far[k]
    at = wp.dot(t.normal, p)
    return (at + wp.dot(t.normal, far - t.a)) * (at + wp.dot(t.normal, near - t.a)) <= _ZERO


@wp.func
def _right_of(a: wp.vec3d, b: wp.vec3d, p: wp.vec3d, u: wp.int32, v: wp.int32, sign: wp.float64):
    along_u = -sign * (b[v] - a[v])
    along_v = sign * (b[u] - a[u])
    return along_u * (p[u] - a[u]) + along_v * (p[v] - a[v]) + wp.max(along_u, _ZERO) + wp.max(along_v, _ZERO) >= _ZERO


@wp.func
def _meets_outline(t: Triangle, p: wp.vec3d, axis: wp.int32):
    """Whether a cell meets a triangle, seen along an axis."""
    u = (axis + 1) % 3
    v = (axis + 2) % 3
    sign = _ONE
    if t.normal[axis] < _ZERO:
        sign = -_ONE
    return (
        _right_of(t.a, t.b, p, u, v, sign) and _right_of(t.b, t.c, p, u, v, sign) and _right_of(t.c, t.a, p, u, v, sign)
    )


@wp.kernel
def touch(
    start: wp.int32,
    points: wp.array[wp.vec3],
    faces: wp.array2d[wp.int32],
    bounds: wp.array[wp.int32],
    grid: Voxels,
    weight: wp.float64,
    sums: wp.array2d[wp.int64],
):
    """Add the planes of faces to the voxels that they overlap (Schwarz & Seidel 2010)."""
    t = _triangle(points, faces, bounds, start + wp.tid())
    if not t.ok:
        return
    n = t.normal
    first = wp.min(t.a, wp.min(t.b, t.c))
    last = wp.max(t.a, wp.max(t.b, t.c)) + wp.vec3d(_ONE, _ONE, _ONE)
    square = weight * wp.outer(n, n)
    for x in range(wp.max(_cell(first[0], grid.side), t.low), wp.min(_cell(last[0], grid.side), t.high)):
        for y in range(_cell(first[1], grid.side), _cell(last[1], grid.side)):
            p = wp.vec3d(wp.float64(x), wp.float64(y), _ZERO)
            if not _meets_outline(t, p, 2):
                continue
            low = first[2]
            high = last[2]
            if wp.abs(n[2]) > _STEEP:  # the plane over the middle of the column, and half a cell to its sides
                middle = p + wp.vec3d(wp.float64(0.5), wp.float64(0.5), _ZERO)
                z = t.a[2] + (n[0] * (t.a[0] - middle[0]) + n[1] * (t.a[1] - middle[1])) / n[2]
                sides = wp.float64(0.5) * (wp.abs(n[0]) + wp.abs(n[1])) / wp.abs(n[2]) + wp.float64(2.0)
                low = wp.max(low, z - sides)
                high = wp.min(high, z + sides)
            for layer in range(_cell(low, grid.side), _cell(high, grid.side)):
                p[2] = wp.float64(layer)
                row = row_of(grid, x, y, layer)
                if row >= 0 and _meets_plane(t, p) and _meets_outline(t, p, 0) and _meets_outline(t, p, 1):
                    _add(sums, row, square, weight * wp.dot(n, p - t.a) * n)


@wp.kernel
def follow(
    start: wp.int32,
    points: wp.array[wp.vec3],
    edges: wp.array2d[wp.int32],
    bounds: wp.array[wp.int32],
    grid: Voxels,
    weight: wp.float64,
    shortest: wp.float64,
    sums: wp.array2d[wp.int64],
):
    """Add the lines of edges to the voxels along them (Amanatides & Woo 1987)."""
    i = start + wp.tid()
    slab = i // edges.shape[0]
    a = _point(points, edges[i - slab * edges.shape[0], 0])
    b = _point(points, edges[i - slab * edges.shape[0], 1])
    if wp.max(a[0], b[0]) < wp.float64(bounds[slab] - 1) or wp.min(a[0], b[0]) > wp.float64(bounds[slab + 1] + 1):
        return
    length = wp.length(b - a)
    if length <= shortest:
        return
    direction = (b - a) / length
    square = weight * (wp.identity(n=3, dtype=wp.float64) - wp.outer(direction, direction))
    cell = wp.vec3i(wp.int32(wp.floor(a[0])), wp.int32(wp.floor(a[1])), wp.int32(wp.floor(a[2])))
    border = wp.vec3d(_FAR, _FAR, _FAR)
    for k in range(3):
        if direction[k] > _ZERO:
            border[k] = (wp.float64(cell[k] + 1) - a[k]) / direction[k]
        elif direction[k] < _ZERO:
            border[k] = (wp.float64(cell[k]) - a[k]) / direction[k]
    inside = wp.bool(True)
    while inside:
        if cell[0] >= bounds[slab] and cell[0] < bounds[slab + 1]:
            row = wp.int32(-1)
            if wp.min(cell) >= 0 and wp.max(cell) < grid.side:
                row = row_of(grid, cell[0], cell[1], cell[2])
            if row >= 0:
                origin = wp.vec3d(wp.float64(cell[0]), wp.float64(cell[1]), wp.float64(cell[2]))
                _add(sums, row, square, square * (origin - a))
        axis = wp.int32(0)
        if border[1] < border[axis]:
            axis = 1
        if border[2] < border[axis]:
            axis = 2
        inside = border[axis] <= length
        if direction[axis] > _ZERO:
            cell[axis] = cell[axis] + 1
        else:
            cell[axis] = cell[axis] - 1
        border[axis] = border[axis] + _ONE / wp.abs(direction[axis])


@wp.func
def _inside(p: wp.vec3d):
    return wp.min(p) >= _ZERO and wp.max(p) <= _ONE


@wp.kernel
def solve(start: wp.int32, sums: wp.array2d[wp.int64], offsets: wp.array[wp.vec3]):
    """The minimum of p^T square p + 2 linear p over the unit cube: the free one where it lies inside, elsewhere the
    best of those on faces, edges and corners."""
    i = start + wp.tid()
    terms = wp.vector(length=9, dtype=wp.float64)
    for k in range(9):
        terms[k] = wp.float64(sums[i, k]) / UNITS
    square = wp.mat33d(
        terms[0], terms[1], terms[2], terms[1], terms[3], terms[4], terms[2], terms[4], terms[5]
    )  # fmt: skip
    linear = wp.vec3d(terms[6], terms[7], terms[8])
    best = -(wp.inverse(square) * linear)
    if not _inside(best):
        least = _FAR
        for constraint in range(26):  # per axis, in base 3: at 0, at 1, or free
            rest = constraint
            system = square
            right = -linear
            fixed = wp.vec3d(_ZERO, _ZERO, _ZERO)
            for k in range(3):
                axis = 2 - k
                kind = rest % 3
                rest = rest // 3
                if kind < 2:
                    for other in range(3):
                        system[axis, other] = _ZERO
                    system[axis, axis] = _ONE
                    right[axis] = wp.float64(kind)
                    fixed[axis] = _ONE
            p = wp.inverse(system) * right
            for axis in range(3):
                if fixed[axis] > _ZERO:
                    p[axis] = right[axis]  # without rounding
            value = wp.dot(p, square * p) + wp.float64(2.0) * wp.dot(linear, p)
            if _inside(p) and value < least:
                least = value
                best = p
    offsets[i] = wp.vec3(wp.float32(best[0]), wp.float32(best[1]), wp.float32(best[2]))
