"""Warp functions: whether two faces go through each other, and how many a vertex's faces go through."""
# No `from __future__ import annotations`: Warp reads the annotations as they are. A variable that a loop changes must
# be declared as `int(0)`, for Warp takes a bare literal as a constant.
# ruff: noqa: UP018, RUF046

import warp as wp

from ...warp.launch import configure
from ..query.printability_kernels import crosses, through
from .link_kernels import next_half_edge, previous_half_edge
from .quadric_kernels import doubles

configure(__name__)

UNLIMITED = wp.constant(wp.int32(0x7FFFFFFF))  # every crossing is counted


@wp.func
def overlap(low: wp.vec3, high: wp.vec3, a: wp.vec3, b: wp.vec3, c: wp.vec3):
    """Whether the box of a triangle meets a box."""
    least = wp.min(wp.min(a, b), c)
    most = wp.max(wp.max(a, b), c)
    return (
        least[0] <= high[0]
        and least[1] <= high[1]
        and least[2] <= high[2]
        and most[0] >= low[0]
        and most[1] >= low[1]
        and most[2] >= low[2]
    )


@wp.func
def shared(one: wp.vec3i, v: wp.int32):
    """Which corner of a face is a vertex, -1 if none is."""
    at = wp.int32(-1)
    for k in range(3):
        if one[k] == v:
            at = k
    return at


@wp.func
def meet(one: wp.vec3i, a: wp.vec3, b: wp.vec3, c: wp.vec3, other: wp.vec3i, d: wp.vec3, e: wp.vec3, f: wp.vec3):
    """Whether two faces go through each other; vertices that they share do not count, nor faces that share two."""
    if not overlap(wp.min(wp.min(a, b), c), wp.max(wp.max(a, b), c), d, e, f):
        return False
    count = int(0)
    mine = int(0)
    its = int(0)
    for k in range(3):
        at = shared(other, one[k])
        if at >= 0:
            count += 1
            mine = k
            its = at
    if count > 1:
        return False
    pa = doubles(a)
    pb = doubles(b)
    pc = doubles(c)
    pd = doubles(d)
    pe = doubles(e)
    pf = doubles(f)
    if count == 0:
        return through(pa, pb, pc, pd, pe, pf) or through(pd, pe, pf, pa, pb, pc)
    start = pb
    end = pc
    if mine == 1:
        start = pc
        end = pa
    if mine == 2:
        start = pa
        end = pb
    first = pe
    last = pf
    if its == 1:
        first = pf
        last = pd
    if its == 2:
        first = pd
        last = pe
    return crosses(start, end, pd, pe, pf) or crosses(first, last, pa, pb, pc)


@wp.func
def place_of(u: wp.int32, v: wp.int32, at: wp.vec3, points: wp.array[wp.vec3]):
    """Position of a vertex u while v is elsewhere."""
    if u == v:
        return at
    return points[u]


@wp.func
def crossings_at(
    v: wp.int32,
    at: wp.vec3,
    tree: wp.uint64,
    points: wp.array[wp.vec3],
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    limit: wp.int32,
):
    """How many faces the faces of a vertex would go through if it were at another place; counts end above the limit."""
    low = at
    high = at
    for i in range(offsets[v], offsets[v + 1]):
        ahead = points[faces[next_half_edge(star[i])]]
        behind = points[faces[previous_half_edge(star[i])]]
        low = wp.min(low, wp.min(ahead, behind))
        high = wp.max(high, wp.max(ahead, behind))
    total = int(0)
    query = wp.mesh_query_aabb(tree, low, high)
    g = wp.int32(0)
    while wp.mesh_query_aabb_next(query, g):
        other = wp.vec3i(faces[3 * g], faces[3 * g + 1], faces[3 * g + 2])
        d = place_of(other[0], v, at, points)
        e = place_of(other[1], v, at, points)
        f = place_of(other[2], v, at, points)
        for i in range(offsets[v], offsets[v + 1]):
            u = faces[next_half_edge(star[i])]
            w = faces[previous_half_edge(star[i])]
            if meet(wp.vec3i(v, u, w), at, points[u], points[w], other, d, e, f):
                total += 1
        if total > limit:
            break
    return total


@wp.func
def crossings_of(
    one: wp.vec3i,
    s: wp.int32,
    t: wp.int32,
    tree: wp.uint64,
    points: wp.array[wp.vec3],
    faces: wp.array[wp.int32],
    limit: wp.int32,
):
    """How many faces a face goes through, other than s and t; counts end above the limit."""
    a = points[one[0]]
    b = points[one[1]]
    c = points[one[2]]
    query = wp.mesh_query_aabb(tree, wp.min(wp.min(a, b), c), wp.max(wp.max(a, b), c))
    g = wp.int32(0)
    total = int(0)
    while wp.mesh_query_aabb_next(query, g):
        if g != s and g != t:
            other = wp.vec3i(faces[3 * g], faces[3 * g + 1], faces[3 * g + 2])
            if meet(one, a, b, c, other, points[other[0]], points[other[1]], points[other[2]]):
                total += 1
        if total > limit:
            break
    return total
