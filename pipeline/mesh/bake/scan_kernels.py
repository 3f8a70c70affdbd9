"""Scan conversion of triangles for kernels: the spans of raster.rasterise, which the packing of charts draws by too."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

_ZERO = wp.constant(wp.float64(0.0))  # of its type, which Warp does not derive


@wp.func
def by_height(a: wp.vec2d, b: wp.vec2d, c: wp.vec2d):
    """Three points, the lower first; equally high ones keep their order."""
    low = a
    mid = b
    high = c
    if low[1] > mid[1]:
        low = b
        mid = a
    if mid[1] > high[1]:
        high = mid
        mid = c
        if low[1] > mid[1]:
            mid = low
            low = c
    return low, mid, high


@wp.func
def at_height(start: wp.vec2d, end: wp.vec2d, y: wp.float64):
    """x of the edge from its lower end to its higher one at height y."""
    height = end[1] - start[1]
    t = _ZERO
    if height > _ZERO:
        t = (y - start[1]) / height
    return start[0] + t * (end[0] - start[0])


@wp.func
def covered_span(low: wp.vec2d, mid: wp.vec2d, high: wp.vec2d, y: wp.float64):
    """Least and greatest x of a triangle, its corners as by_height gives them, at height y."""
    one = at_height(low, high, y)
    other = at_height(low, mid, y)
    if y >= mid[1]:
        other = at_height(mid, high, y)
    return wp.vec2d(wp.min(one, other), wp.max(one, other))
