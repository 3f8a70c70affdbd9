"""Warp kernels that move vertices against slivers and against faces that go through each other.

Vocabulary as in link_kernels.py. A bad face is a sliver or goes through another.
"""
# No `from __future__ import annotations`: Warp reads the annotations as they are. A variable that a loop changes must
# be declared as `int(0)`, for Warp takes a bare literal as a constant.
# ruff: noqa: UP018, RUF046

import warp as wp

from ...warp.launch import configure
from .crossing_functions import crossings_at, crossings_of, meet
from .link_kernels import USES, next_half_edge, previous_half_edge
from .quadric_kernels import Weights, doubles, floats, linear, matrix, quadric, shape, value

configure(__name__)

SHUFFLE = wp.constant(wp.uint32(0x9E3779B1))  # odd, so that no two vertices draw the same number
NO_MOVE = wp.constant(wp.int64(0x7FFFFFFFFFFFFFFF))
SLIVER = wp.constant(1)  # bits of what is bad about a face
CROSSING = wp.constant(2)
HOPELESS = wp.constant(32)  # faces that a vertex's faces may go through at most if it is to be moved out of them
UPRIGHT = wp.constant(0.5)  # cosine of the angle by which a move may turn a face
BETTER = wp.constant(1.1)  # times its worst shape that a move has to bring if it brings nothing else


@wp.kernel
def find_bad(
    start: wp.int32,
    weights: Weights,
    tree: wp.uint64,
    changed: wp.array[wp.uint8],
    points: wp.array[wp.vec3],
    faces: wp.array[wp.int32],
    bad: wp.array[wp.uint8],
):
    """What is bad about each of the faces that have changed or that were bad."""
    s = start + wp.tid()
    if changed[s] == wp.uint8(0) and bad[s] == wp.uint8(0):
        return
    a = points[faces[3 * s]]
    b = points[faces[3 * s + 1]]
    c = points[faces[3 * s + 2]]
    found = int(0)
    if shape(a, b, c, wp.length(wp.cross(b - a, c - a))) < weights.good_shape:
        found += SLIVER
    if crossings_of(wp.vec3i(faces[3 * s], faces[3 * s + 1], faces[3 * s + 2]), s, s, tree, points, faces, 0) > 0:
        found += CROSSING
    bad[s] = wp.uint8(found)


@wp.func
def square_error(q: quadric, x: wp.vec3):
    """Mean square distance from a vertex's planes, if it moves by x."""
    a = matrix(q)
    trace = a[0, 0] + a[1, 1] + a[2, 2]
    return wp.max(value(a, linear(q), wp.float64(q[9]), doubles(x)), wp.float64(0.0)) / wp.max(trace, wp.float64(1e-30))


@wp.func
def eased(q: quadric, towards: wp.vec3, pull: wp.float64):
    """By how much a vertex moves if its planes and a pull towards a place are weighed against each other."""
    a = matrix(q)
    trace = wp.max(a[0, 0] + a[1, 1] + a[2, 2], wp.float64(1e-30))
    ridge = pull * trace
    zero = wp.float64(0.0)
    system = a + wp.mat33d(ridge, zero, zero, zero, ridge, zero, zero, zero, ridge)
    return floats(wp.inverse(system) * (ridge * doubles(towards) - linear(q)))


@wp.func
def worst_at(
    v: wp.int32,
    at: wp.vec3,
    points: wp.array[wp.vec3],
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
):
    """The worst shape of a vertex's faces if it were at a place; -1 if one turns too far."""
    p = points[v]
    worst = float(1.0)
    for i in range(offsets[v], offsets[v + 1]):
        one = points[faces[next_half_edge(star[i])]]
        two = points[faces[previous_half_edge(star[i])]]
        old = wp.cross(one - p, two - p)
        new = wp.cross(one - at, two - at)
        area = wp.length(new)
        worst = wp.min(worst, shape(at, one, two, area))
        if wp.dot(old, new) < UPRIGHT * wp.length(old) * area:
            worst = -1.0
    return worst


@wp.func
def middle_of(
    v: wp.int32,
    on_boundary: wp.bool,
    points: wp.array[wp.vec3],
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    edges: wp.array[wp.uint8],
):
    """The middle of a vertex's neighbours, of one on a boundary of those along it."""
    total = wp.vec3()
    count = float(0.0)
    for i in range(offsets[v], offsets[v + 1]):
        c = star[i]
        if not on_boundary or (int(edges[c]) & USES) != 2:
            total += points[faces[next_half_edge(c)]]
            count += 1.0
        if not on_boundary or (int(edges[previous_half_edge(c)]) & USES) != 2:
            total += points[faces[previous_half_edge(c)]]
            count += 1.0
    return total / wp.max(count, 1.0)


@wp.func
def push(p: wp.vec3, u: wp.vec3, w: wp.vec3, d: wp.vec3, e: wp.vec3, f: wp.vec3):
    """By how much the corner p of the face p-u-w has to move so that it lies on the side of d-e-f on which the others
    lie, and a little more; 0 if these lie on both."""
    n = wp.normalize(wp.cross(e - d, f - d))
    height = wp.dot(p - d, n)
    move = wp.vec3()
    if height * wp.dot(u - d, n) <= 0.0 and height * wp.dot(w - d, n) <= 0.0:
        move = -1.1 * height * n
    return move


@wp.func
def pushes(
    v: wp.int32,
    tree: wp.uint64,
    points: wp.array[wp.vec3],
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    limit: wp.int32,
):
    """How many faces the faces of a vertex go through, and the shortest and the longest push out of these; counts end
    above the limit."""
    p = points[v]
    shortest = wp.vec3()
    longest = wp.vec3()
    least = float(wp.inf)
    most = float(0.0)
    total = int(0)
    for i in range(offsets[v], offsets[v + 1]):
        u = faces[next_half_edge(star[i])]
        w = faces[previous_half_edge(star[i])]
        ahead = points[u]
        behind = points[w]
        query = wp.mesh_query_aabb(tree, wp.min(wp.min(p, ahead), behind), wp.max(wp.max(p, ahead), behind))
        g = wp.int32(0)
        while wp.mesh_query_aabb_next(query, g):
            if total > limit:
                break
            other = wp.vec3i(faces[3 * g], faces[3 * g + 1], faces[3 * g + 2])
            d = points[other[0]]
            e = points[other[1]]
            f = points[other[2]]
            if meet(wp.vec3i(v, u, w), p, ahead, behind, other, d, e, f):
                total += 1
                if other[0] != v and other[1] != v and other[2] != v:
                    move = push(p, ahead, behind, d, e, f)
                    size = wp.length_sq(move)
                    if size > 0.0 and size < least:
                        least = size
                        shortest = move
                    if size > most:
                        most = size
                        longest = move
    return total, shortest, longest


@wp.kernel
def propose(
    start: wp.int32,
    weights: Weights,
    tree: wp.uint64,
    pull: wp.float64,
    allowed: wp.array[wp.float64],
    points: wp.array[wp.vec3],
    quadrics: wp.array[quadric],
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    edges: wp.array[wp.uint8],
    feature: wp.array[wp.uint8],
    bad: wp.array[wp.uint8],
    changed: wp.array[wp.uint8],
    settled: wp.array[wp.uint8],
    goals: wp.array[wp.vec3],
    counts: wp.array[wp.int32],
    keys: wp.array[wp.int64],
):
    """Where a vertex of bad faces would rather be, how many faces its faces would go through there, and the key of its
    move, the least for the greatest gain; NO_MOVE where it has nothing to gain. It is settled then, and not asked again
    before one of its faces has changed.

    Tried are places towards the middle of its neighbours, along what its planes leave free, and pushes. A place has to
    be within the mean square error that it has, a fifth more, and what is allowed: [0] against slivers, [1] crossing.
    """
    v = start + wp.tid()
    keys[v] = NO_MOVE
    kinds = int(0)
    waits = settled[v] != wp.uint8(0)
    for i in range(offsets[v], offsets[v + 1]):
        kinds = kinds | int(bad[star[i] // 3])
        waits = waits and changed[star[i] // 3] == wp.uint8(0)
    if kinds == 0 or waits:
        return
    settled[v] = wp.uint8(1)
    p = points[v]
    q = quadrics[v]
    before = int(0)
    shortest = wp.vec3()
    longest = wp.vec3()
    if kinds >= CROSSING:
        before, shortest, longest = pushes(v, tree, points, faces, offsets, star, HOPELESS)
        if before > HOPELESS:
            return
    most = wp.float64(1.2) * square_error(q, wp.vec3())
    if before > 0:
        most += allowed[1]
    else:
        most += allowed[0]
    worst = worst_at(v, p, points, faces, offsets, star)
    fair = 0.9 * wp.min(worst, weights.good_shape)
    least = int(before)
    best = float(worst)
    goal = p
    x = eased(q, middle_of(v, feature[v] != wp.uint8(0), points, faces, offsets, star, edges) - p, pull)
    for k in range(5):
        move = x
        if k == 1:
            move = 0.5 * x
        if k == 2:
            move = 0.25 * x
        if k == 3:
            move = shortest
        if k == 4:
            move = longest
        if wp.length_sq(move) > 0.0 and square_error(q, move) <= most:
            now = worst_at(v, p + move, points, faces, offsets, star)
            if now >= fair and (least > 0 or now > BETTER * best):
                after = crossings_at(v, p + move, tree, points, faces, offsets, star, least)
                if after < least or (after == least and now > BETTER * best):
                    least = after
                    best = now
                    goal = p + move
    if best > worst or least < before:
        settled[v] = wp.uint8(0)
        goals[v] = goal
        counts[v] = least
        gain = wp.int64(64 * wp.min(before - least, 1000) + wp.int32(32.0 * wp.clamp(best - worst, 0.0, 1.0)))
        keys[v] = ((wp.int64(1 << 20) - gain) << wp.int64(32)) | wp.int64(wp.uint32(v) * SHUFFLE)


@wp.kernel
def pick(
    start: wp.int32,
    keys: wp.array[wp.int64],
    goals: wp.array[wp.vec3],
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    picked: wp.array[wp.uint8],
    moved: wp.array[wp.vec3],
):
    """Vertices whose move gains more than that of any neighbour. `moved` begins as points."""
    v = start + wp.tid()
    key = keys[v]
    if key != NO_MOVE:
        first = bool(True)
        for i in range(offsets[v], offsets[v + 1]):
            first = first and keys[faces[next_half_edge(star[i])]] >= key
            first = first and keys[faces[previous_half_edge(star[i])]] >= key
        if first:
            picked[v] = wp.uint8(1)
            moved[v] = goals[v]


@wp.kernel
def take_back(
    start: wp.int32,
    tree: wp.uint64,
    moved: wp.array[wp.vec3],
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    counts: wp.array[wp.int32],
    picked: wp.array[wp.uint8],
):
    """Give up moves whose faces go through more faces than it seemed, since these move, too."""
    v = start + wp.tid()
    if picked[v] == wp.uint8(0):
        return
    if crossings_at(v, moved[v], tree, moved, faces, offsets, star, counts[v]) > counts[v]:
        picked[v] = wp.uint8(0)


@wp.kernel
def move_vertices(
    start: wp.int32,
    picked: wp.array[wp.uint8],
    goals: wp.array[wp.vec3],
    points: wp.array[wp.vec3],
    quadrics: wp.array[quadric],
):
    """Move the picked vertices, and their quadrics with them."""
    v = start + wp.tid()
    if picked[v] != wp.uint8(0):
        q = quadrics[v]
        x = doubles(goals[v]) - doubles(points[v])
        a = matrix(q)
        b = floats(linear(q) + a * x)
        q[9] = wp.float32(wp.max(value(a, linear(q), wp.float64(q[9]), x), wp.float64(0.0)))
        q[6] = b[0]
        q[7] = b[1]
        q[8] = b[2]
        quadrics[v] = q
        points[v] = goals[v]


@wp.kernel
def mark_moved(start: wp.int32, picked: wp.array[wp.uint8], faces: wp.array[wp.int32], touched: wp.array[wp.uint8]):
    """Faces that have a picked vertex."""
    f = start + wp.tid()
    if int(picked[faces[3 * f]]) + int(picked[faces[3 * f + 1]]) + int(picked[faces[3 * f + 2]]) > 0:
        touched[f] = wp.uint8(1)
