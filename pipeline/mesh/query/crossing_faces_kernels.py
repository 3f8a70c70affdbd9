"""Warp kernel of crossing.py: which faces go through others, and in fp64 whether a segment goes through a triangle."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from ...warp.launch import configure

configure(__name__)


@wp.func
def pierces(
    start: wp.vec3d,
    end: wp.vec3d,
    above: wp.float64,
    below: wp.float64,
    a: wp.vec3d,
    b: wp.vec3d,
    c: wp.vec3d,
    n: wp.vec3d,
) -> wp.bool:
    """Whether a segment goes through the inside of a triangle with the normal n, above whose plane its ends are so
    high; one that lies in the plane does not."""
    zero = wp.float64(0.0)
    if above * below >= zero:
        return False
    at = start + (end - start) * (above / (above - below))
    first = wp.dot(wp.cross(b - a, at - a), n)
    second = wp.dot(wp.cross(c - b, at - b), n)
    third = wp.dot(wp.cross(a - c, at - c), n)
    return first > zero and second > zero and third > zero


@wp.func
def crosses(start: wp.vec3d, end: wp.vec3d, a: wp.vec3d, b: wp.vec3d, c: wp.vec3d) -> wp.bool:
    """Whether a segment goes through the inside of a triangle, in fp64; one that lies in its plane does not."""
    n = wp.cross(b - a, c - a)
    return pierces(start, end, wp.dot(start - a, n), wp.dot(end - a, n), a, b, c, n)


@wp.func
def through(a: wp.vec3d, b: wp.vec3d, c: wp.vec3d, d: wp.vec3d, e: wp.vec3d, f: wp.vec3d) -> wp.bool:
    """Whether an edge of triangle abc goes through def."""
    return crosses(a, b, d, e, f) or crosses(b, c, d, e, f) or crosses(c, a, d, e, f)


@wp.func
def corner(vertices: wp.array2d[wp.float64], i: wp.int32) -> wp.vec3d:
    return wp.vec3d(vertices[i, 0], vertices[i, 1], vertices[i, 2])


@wp.kernel
def find_crossings(
    start: wp.int32,
    mesh: wp.uint64,
    vertices: wp.array2d[wp.float64],
    faces: wp.array2d[wp.int32],
    asked: wp.array[wp.int32],
    crossed: wp.array[wp.uint8],
):
    row = start + wp.tid()
    i = asked[row]
    i0 = faces[i, 0]
    i1 = faces[i, 1]
    i2 = faces[i, 2]
    a = corner(vertices, i0)
    b = corner(vertices, i1)
    c = corner(vertices, i2)
    low = wp.min(wp.min(a, b), c)
    high = wp.max(wp.max(a, b), c)
    query = wp.mesh_query_aabb(
        mesh,
        wp.vec3(wp.float32(low[0]), wp.float32(low[1]), wp.float32(low[2])),
        wp.vec3(wp.float32(high[0]), wp.float32(high[1]), wp.float32(high[2])),
    )
    other = wp.int32(0)
    while wp.mesh_query_aabb_next(query, other):
        j0 = faces[other, 0]
        j1 = faces[other, 1]
        j2 = faces[other, 2]
        apart = i0 != j0 and i0 != j1 and i0 != j2 and i1 != j0 and i1 != j1 and i1 != j2
        if apart and i2 != j0 and i2 != j1 and i2 != j2:
            d = corner(vertices, j0)
            e = corner(vertices, j1)
            f = corner(vertices, j2)
            if through(a, b, c, d, e, f) or through(d, e, f, a, b, c):
                crossed[row] = wp.uint8(1)
