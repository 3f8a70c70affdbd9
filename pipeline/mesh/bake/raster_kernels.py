"""Warp kernels of the UV raster and of the distance transform that fills its margins."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from ...warp.launch import configure
from ..query.scan import FLAT
from .scan_kernels import by_height, covered_span

# The raster must agree with its reference to the bit, so products and sums are not fused.
configure(__name__, fuse_fp=False)

_FLAT = wp.constant(wp.float64(FLAT))
_HALF = wp.constant(wp.float64(0.5))  # of its type, which Warp does not derive; those below too
_ZERO = wp.constant(wp.float64(0.0))
_ONE = wp.constant(wp.float64(1.0))
_SEGMENT = wp.constant(64)  # texels of a row that one thread fills in a large triangle
_SMALL = wp.constant(1024)  # texels of the box of a triangle that one thread fills whole


@wp.func
def cross2(a: wp.vec2d, b: wp.vec2d):
    return a[0] * b[1] - a[1] * b[0]


@wp.func
def square2(a: wp.vec2d):
    return a[0] * a[0] + a[1] * a[1]


@wp.func
def first_texel(value: wp.float64, size: wp.int32):
    """First integer not below a value, within 0 .. size."""
    return wp.int32(wp.clamp(wp.ceil(value), _ZERO, wp.float64(size)))


@wp.func
def texel_corners(points: wp.array[wp.vec2d], corners: wp.vec3i, size: wp.int32):
    """The corners of a triangle with texel centres at integers."""
    scale = wp.float64(size)
    half = wp.vec2d(_HALF, _HALF)
    return points[corners[0]] * scale - half, points[corners[1]] * scale - half, points[corners[2]] * scale - half


@wp.func
def has_area(a: wp.vec2d, b: wp.vec2d, c: wp.vec2d):
    longest = wp.max(wp.max(square2(b - a), square2(c - b)), square2(a - c))
    return wp.abs(cross2(b - a, c - a)) > _FLAT * longest


@wp.func
def span(low: wp.vec2d, mid: wp.vec2d, high: wp.vec2d, row: wp.int32, size: wp.int32):
    """First column of a row that a triangle covers, and the one behind the last."""
    covered = covered_span(low, mid, high, wp.float64(row))
    return first_texel(covered[0], size), first_texel(covered[1], size)


@wp.kernel
def cover_band(
    start: wp.int32,
    points: wp.array[wp.vec2d],
    faces: wp.array[wp.vec3i],
    size: wp.int32,
    bands: wp.int32,
    covered: wp.array[wp.int32],
):
    """The texels of one of so many bands of rows, face after face, so that the last one stays."""
    band = start + wp.tid()
    first_row = size * band // bands
    end_row = size * (band + 1) // bands
    for f in range(faces.shape[0]):
        a, b, c = texel_corners(points, faces[f], size)
        if has_area(a, b, c):
            low, mid, high = by_height(a, b, c)
            for row in range(wp.max(first_texel(low[1], size), first_row), wp.min(first_texel(high[1], size), end_row)):
                left, right = span(low, mid, high, row, size)
                for column in range(left, right):
                    covered[row * size + column] = f


@wp.func
def box_of(low: wp.vec2d, mid: wp.vec2d, high: wp.vec2d, size: wp.int32):
    """First row, row behind the last, first column, column behind the last."""
    left = first_texel(wp.min(wp.min(low[0], mid[0]), high[0]), size)
    right = first_texel(wp.max(wp.max(low[0], mid[0]), high[0]), size)
    return first_texel(low[1], size), first_texel(high[1], size), left, right


@wp.kernel
def cover_small(
    start: wp.int32,
    points: wp.array[wp.vec2d],
    faces: wp.array[wp.vec3i],
    size: wp.int32,
    covered: wp.array[wp.int32],
    pieces: wp.array[wp.int64],
):
    f = start + wp.tid()
    pieces[f] = wp.int64(0)
    a, b, c = texel_corners(points, faces[f], size)
    if has_area(a, b, c):
        low, mid, high = by_height(a, b, c)
        top, bottom, left, right = box_of(low, mid, high, size)
        if (bottom - top) * (right - left) > _SMALL:
            pieces[f] = wp.int64(bottom - top) * wp.int64((right - left + _SEGMENT - 1) / _SEGMENT)
        else:
            for row in range(top, bottom):
                begin, end = span(low, mid, high, row, size)
                for column in range(begin, end):
                    wp.atomic_max(covered, row * size + column, f)


@wp.kernel
def cover_pieces(
    start: wp.int64,
    points: wp.array[wp.vec2d],
    faces: wp.array[wp.vec3i],
    size: wp.int32,
    ends: wp.array[wp.int64],
    covered: wp.array[wp.int32],
):
    piece = start + wp.int64(wp.tid())
    f = wp.lower_bound(ends, piece + wp.int64(1))  # the first face whose pieces end behind this one
    before = wp.int64(0)
    if f > 0:
        before = ends[f - 1]
    a, b, c = texel_corners(points, faces[f], size)
    low, mid, high = by_height(a, b, c)
    top, _bottom, left, right = box_of(low, mid, high, size)
    segments = (right - left + _SEGMENT - 1) / _SEGMENT
    place = wp.int32(piece - before)
    row = top + place / segments
    segment = left + place % segments * _SEGMENT
    begin, end = span(low, mid, high, row, size)
    for column in range(wp.max(begin, segment), wp.min(end, segment + _SEGMENT)):
        wp.atomic_max(covered, row * size + column, f)


@wp.kernel
def barycentric_weights(
    start: wp.int32,
    points: wp.array[wp.vec2d],
    faces: wp.array[wp.vec3i],
    size: wp.int32,
    covered: wp.array[wp.int32],
    weights: wp.array[wp.vec3],
):
    texel = start + wp.tid()
    f = covered[texel]
    if f >= 0:
        a, b, c = texel_corners(points, faces[f], size)
        p = wp.vec2d(wp.float64(texel % size), wp.float64(texel / size))
        area = cross2(b - a, c - a)
        x = wp.clamp(cross2(b - p, c - p) / area, _ZERO, _ONE)
        y = wp.clamp(cross2(c - p, a - p) / area, _ZERO, _ONE)
        z = wp.clamp(cross2(a - p, b - p) / area, _ZERO, _ONE)
        total = x + y + z
        weights[texel] = wp.vec3(wp.float32(x / total), wp.float32(y / total), wp.float32(z / total))


@wp.kernel
def nearest_in_column(start: wp.int32, mask: wp.array2d[wp.uint8], row: wp.array2d[wp.int16]):
    """Row of the nearest covered texel in each texel's column, -1 if the column has none."""
    column = start + wp.tid()
    size = mask.shape[0]
    last = wp.int32(-1)
    for i in range(size):
        if mask[i, column] != wp.uint8(0):
            last = i
        row[i, column] = wp.int16(last)
    last = wp.int32(-1)
    for back in range(size):
        i = size - 1 - back
        above = wp.int32(row[i, column])
        if above == i:
            last = i
        elif last >= 0 and (above < 0 or last - i < i - above):
            row[i, column] = wp.int16(last)


@wp.func
def gap_squared(row: wp.array2d[wp.int16], i: wp.int32, column: wp.int32, size: wp.int32):
    """Squared distance to the nearest covered texel of a column; larger than any in the texture if there is none."""
    near = wp.int32(row[i, column])
    gap = wp.where(near < 0, 2 * size, near - i)
    return gap * gap


@wp.kernel
def nearest_in_plane(start: wp.int32, row: wp.array2d[wp.int16], found: wp.array2d[wp.int32]):
    """The nearest covered texel. A row of `found` first holds the stack of the envelope: the column of each parabola
    and, 16 bits higher, where it becomes the lowest; writing from the back never meets an entry still in use."""
    i = start + wp.tid()
    size = row.shape[0]
    top = wp.int32(0)
    found[i, 0] = 0
    for u in range(1, size):
        g = gap_squared(row, i, u, size)
        searching = wp.bool(True)
        while searching:
            entry = found[i, top]
            s = entry & 0xFFFF
            t = entry >> 16
            here = (t - s) * (t - s) + gap_squared(row, i, s, size)
            if here > (t - u) * (t - u) + g:
                top -= 1
                searching = top >= 0
            else:
                searching = wp.bool(False)
        if top < 0:
            top = wp.int32(0)
            found[i, 0] = u
        else:
            s = found[i, top] & 0xFFFF
            begin = 1 + (u * u - s * s + g - gap_squared(row, i, s, size)) / (2 * (u - s))
            if begin < size:
                top += 1
                found[i, top] = u | (begin << 16)
    for back in range(size):
        u = size - 1 - back
        entry = found[i, top]
        s = entry & 0xFFFF
        if u == entry >> 16:
            top -= 1
        found[i, u] = wp.int32(row[i, s]) * size + s
