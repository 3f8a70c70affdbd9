"""Warp functions: whether two faces go through each other, and how many a vertex's faces go through."""
# No `from __future__ import annotations`: Warp reads the annotations as they are. A variable that a loop changes must
# be declared as `int(0)`, for Warp takes a bare literal as a constant.
# ruff: noqa: UP018, RUF046

import warp as wp

from ...warp.launch import configure
from ..query.crossing_faces_kernels import pierces
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
def straddles(heights: wp.vec3d):
    """Whether a triangle whose corners have such heights above a plane has some on either side of it."""
    return wp.min(heights) < wp.float64(0.0) and wp.max(heights) > wp.float64(0.0)


@wp.func
def heights_above(a: wp.vec3d, n: wp.vec3d, d: wp.vec3d, e: wp.vec3d, f: wp.vec3d):
    """Of points above the plane through a with the normal n, in lengths of that."""
    return wp.vec3d(wp.dot(d - a, n), wp.dot(e - a, n), wp.dot(f - a, n))


@wp.func
def meet(one: wp.vec3i, a: wp.vec3, b: wp.vec3, c: wp.vec3, other: wp.vec3i, d: wp.vec3, e: wp.vec3, f: wp.vec3):
    """Whether two faces go through each other; vertices that they share do not count, nor faces that share two.

    Of most one lies beside the plane of the other, which is soon known."""
    pa = doubles(a)
    pb = doubles(b)
    pc = doubles(c)
    pd = doubles(d)
    pe = doubles(e)
    pf = doubles(f)
    its_normal = wp.cross(pe - pd, pf - pd)
    mine_there = heights_above(pd, its_normal, pa, pb, pc)
    if not straddles(mine_there):
        return False
    if not overlap(wp.min(wp.min(a, b), c), wp.max(wp.max(a, b), c), d, e, f):
        return False
    my_normal = wp.cross(pb - pa, pc - pa)
    its_here = heights_above(pa, my_normal, pd, pe, pf)
    if not straddles(its_here):
        return False
    count = int(0)
    mine = int(-1)
    its = int(-1)
    for k in range(3):
        at = shared(other, one[k])
        if at >= 0:
            count += 1
            mine = k
            its = at
    if count > 1:
        return False
    # an edge that ends in a shared vertex goes through nothing there
    found = bool(False)
    if mine != 0 and mine != 1:
        found = pierces(pa, pb, mine_there[0], mine_there[1], pd, pe, pf, its_normal)
    if not found and mine != 1 and mine != 2:
        found = pierces(pb, pc, mine_there[1], mine_there[2], pd, pe, pf, its_normal)
    if not found and mine != 2 and mine != 0:
        found = pierces(pc, pa, mine_there[2], mine_there[0], pd, pe, pf, its_normal)
    if not found and its != 0 and its != 1:
        found = pierces(pd, pe, its_here[0], its_here[1], pa, pb, pc, my_normal)
    if not found and its != 1 and its != 2:
        found = pierces(pe, pf, its_here[1], its_here[2], pa, pb, pc, my_normal)
    if not found and its != 2 and its != 0:
        found = pierces(pf, pd, its_here[2], its_here[0], pa, pb, pc, my_normal)
    return found


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
    total = int(0)
    for i in range(offsets[v], offsets[v + 1]):  # one by one: the box of all meets far more faces
        u = faces[next_half_edge(star[i])]
        w = faces[previous_half_edge(star[i])]
        if total <= limit:
            total += crossings_if(
                wp.vec3i(v, u, w), at, points[u], points[w], -1, -1, tree, points, faces, limit - total
            )
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
    return crossings_if(one, points[one[0]], points[one[1]], points[one[2]], s, t, tree, points, faces, limit)


@wp.func
def crossings_if(
    one: wp.vec3i,
    at: wp.vec3,
    ahead: wp.vec3,
    behind: wp.vec3,
    s: wp.int32,
    t: wp.int32,
    tree: wp.uint64,
    points: wp.array[wp.vec3],
    faces: wp.array[wp.int32],
    limit: wp.int32,
):
    """How many faces other than s and t a face goes through if its first vertex is at another place; counts end above
    the limit."""
    query = wp.mesh_query_aabb(tree, wp.min(wp.min(at, ahead), behind), wp.max(wp.max(at, ahead), behind))
    g = wp.int32(0)
    total = int(0)
    while wp.mesh_query_aabb_next(query, g):
        if g != s and g != t:
            other = wp.vec3i(faces[3 * g], faces[3 * g + 1], faces[3 * g + 2])
            d = place_of(other[0], one[0], at, points)
            e = place_of(other[1], one[0], at, points)
            f = place_of(other[2], one[0], at, points)
            if meet(one, at, ahead, behind, other, d, e, f):
                total += 1
        if total > limit:
            break
    return total
