"""Warp kernels of the parallel edge collapse: stars of vertices, quadrics, costs, independent sets, renaming.

Vocabulary: corner or half-edge h = 3 f + k is vertex k of face f, and the edge from there to the face's next vertex.
A vertex's star is its corners, listed in `star` from `offsets[v]` to `offsets[v + 1]` in ascending order. An edge is
spoken for by the lowest of its half-edges, the owner. A feature vertex lies on an edge that has not exactly two faces.
Quadrics are kept relative to their own vertex's position, where single precision suffices.
"""
# No `from __future__ import annotations`: Warp reads the annotations as they are. A variable that a loop changes must
# be declared as `int(0)`, for Warp takes a bare literal as a constant.
# ruff: noqa: UP018, RUF046

import warp as wp

from ...warp.launch import configure

configure(__name__)

quadric = wp.types.vector(length=10, dtype=wp.float32)  # xx xy xz yy yz zz of A, b, c: x'Ax + 2 b'x + c

OWNER = wp.constant(64)  # bit of an edge's byte: this half-edge is the owner; below it the number of faces, up to 63
USES = wp.constant(63)
SHUFFLE = wp.constant(wp.uint32(0x9E3779B1))  # odd, so that no two half-edges draw the same number
NOTHING = wp.constant(wp.int64(0x7FFFFFFFFFFFFFFF))
KEPT_BITS = wp.constant(wp.int32(~((1 << 20) - 1)))  # of a cost: costs within 1/8 of each other are drawn by lot


@wp.struct
class Weights:
    """The numbers of a CollapseConfig, see collapse.py."""

    border_weight: wp.float32
    tikhonov_weight: wp.float64
    length_cost: wp.float64
    area_exponent: wp.float64
    largest_star: wp.int32
    max_normal_change_cos: wp.float32
    sliver: wp.float32
    largest_mean_square: wp.float64


@wp.func
def next_corner(h: wp.int32):
    return h - h % 3 + (h + 1) % 3


@wp.func
def last_corner(h: wp.int32):
    return h - h % 3 + (h + 2) % 3


@wp.kernel
def find_edges(
    start: wp.int32,
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    edges: wp.array[wp.uint8],
    feature: wp.array[wp.uint8],
):
    h = start + wp.tid()
    a = faces[h]
    b = faces[next_corner(h)]
    if offsets[b + 1] - offsets[b] < offsets[a + 1] - offsets[a]:
        a, b = b, a
    uses = int(0)
    owner = int(h)
    for i in range(offsets[a], offsets[a + 1]):
        c = star[i]
        if faces[next_corner(c)] == b:
            uses += 1
            owner = wp.min(owner, c)
        elif faces[last_corner(c)] == b:
            uses += 1
            owner = wp.min(owner, last_corner(c))
    edge = wp.min(uses, USES)
    if owner == h:
        edge += OWNER
    edges[h] = wp.uint8(edge)
    if uses != 2:
        feature[a] = wp.uint8(1)
        feature[b] = wp.uint8(1)


@wp.func
def add_plane(q: quadric, normal: wp.vec3, weight: float):
    q[0] += weight * normal[0] * normal[0]
    q[1] += weight * normal[0] * normal[1]
    q[2] += weight * normal[0] * normal[2]
    q[3] += weight * normal[1] * normal[1]
    q[4] += weight * normal[1] * normal[2]
    q[5] += weight * normal[2] * normal[2]
    return q


@wp.kernel
def first_quadrics(
    start: wp.int32,
    weights: Weights,
    points: wp.array[wp.vec3],
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    edges: wp.array[wp.uint8],
    least: wp.array[wp.float32],
    quadrics: wp.array[quadric],
):
    """The planes of the faces round a vertex, weighted by their area plus `least`, without which the tiny faces at the
    tips of thin parts would count for nothing, and planes that stand on its open edges. All pass through the vertex,
    so that b and c are 0."""
    v = start + wp.tid()
    q = quadric()
    p = points[v]
    for i in range(offsets[v], offsets[v + 1]):
        c = star[i]
        ahead = points[faces[next_corner(c)]] - p
        behind = points[faces[last_corner(c)]] - p
        normal = wp.cross(ahead, behind)
        doubled = wp.length(normal)
        if doubled > 0.0:
            normal = normal / doubled
            q = add_plane(q, normal, 0.5 * doubled + least[0])
            if (int(edges[c]) & USES) != 2:
                q = add_plane(q, wp.cross(wp.normalize(ahead), normal), weights.border_weight * wp.length_sq(ahead))
            if (int(edges[last_corner(c)]) & USES) != 2:
                q = add_plane(q, wp.cross(wp.normalize(behind), normal), weights.border_weight * wp.length_sq(behind))
    quadrics[v] = q


@wp.func
def matrix(q: quadric):
    xy = wp.float64(q[1])
    xz = wp.float64(q[2])
    yz = wp.float64(q[4])
    return wp.mat33d(wp.float64(q[0]), xy, xz, xy, wp.float64(q[3]), yz, xz, yz, wp.float64(q[5]))


@wp.func
def linear(q: quadric):
    return wp.vec3d(wp.float64(q[6]), wp.float64(q[7]), wp.float64(q[8]))


@wp.func
def value(a: wp.mat33d, b: wp.vec3d, c: wp.float64, x: wp.vec3d):
    return wp.dot(x, a * x) + wp.float64(2.0) * wp.dot(b, x) + c


@wp.func
def doubles(p: wp.vec3):
    return wp.vec3d(wp.float64(p[0]), wp.float64(p[1]), wp.float64(p[2]))


@wp.func
def floats(p: wp.vec3d):
    return wp.vec3(wp.float32(p[0]), wp.float32(p[1]), wp.float32(p[2]))


@wp.func
def place(weights: Weights, p: wp.vec3, q: wp.vec3, of_p: quadric, of_q: quadric, fixed_p: wp.bool, fixed_q: wp.bool):
    """Where the merged vertex goes, what that costs, and its quadric there.

    The least of the summed quadric with a ridge (Trettner & Kobbelt 2020 derive it from uncertain planes) that pulls
    towards the edge's middle whatever the planes leave free. If it lies far outside, the best of both ends and the
    middle. A vertex of an open border does not move for one of the interior. The cost lies between the sum of
    squared distances over the area, which lets small parts vanish, and their mean, which spends faces on them.
    """
    half = wp.float64(0.5) * (doubles(q) - doubles(p))
    ap = matrix(of_p)
    aq = matrix(of_q)
    a = ap + aq
    # both moved to the middle of the edge
    b = linear(of_p) + ap * half + linear(of_q) - aq * half
    c = value(ap, linear(of_p), wp.float64(of_p[9]), half) + value(aq, linear(of_q), wp.float64(of_q[9]), -half)
    trace = a[0, 0] + a[1, 1] + a[2, 2]
    x = wp.vec3d()
    square = wp.float64(4.0) * wp.length_sq(half)
    at = floats(doubles(p) + half)
    if fixed_p and not fixed_q:
        at = p
    elif fixed_q and not fixed_p:
        at = q
    elif trace > wp.float64(0.0):
        ridge = weights.tikhonov_weight * trace
        system = a + wp.mat33d(
            ridge, wp.float64(0.0), wp.float64(0.0),
            wp.float64(0.0), ridge, wp.float64(0.0),
            wp.float64(0.0), wp.float64(0.0), ridge,
        )  # fmt: skip
        inverse = wp.inverse(system)
        x = -(inverse * b)
        x -= inverse * (a * x + b)  # once more from there: what planes do fix is then hardly pulled off them
        if wp.length_sq(x) < square:
            at = floats(doubles(p) + half + x)
        else:
            here = value(a, b, c, -half)
            there = value(a, b, c, half)
            if here <= there and here < c:
                at = p
            elif there < c:
                at = q
    x = doubles(at) - doubles(p) - half
    error = wp.max(value(a, b, c, x), wp.float64(0.0))
    size = wp.max(trace, wp.float64(1e-30))
    cost = (error + weights.length_cost * trace * square) / wp.pow(size, weights.area_exponent)
    b = b + a * x
    merged = quadric(
        wp.float32(a[0, 0]), wp.float32(a[0, 1]), wp.float32(a[0, 2]), wp.float32(a[1, 1]), wp.float32(a[1, 2]),
        wp.float32(a[2, 2]), wp.float32(b[0]), wp.float32(b[1]), wp.float32(b[2]), wp.float32(error),
    )  # fmt: skip
    return at, wp.float32(cost), merged


@wp.func
def shape(a: wp.vec3, b: wp.vec3, c: wp.vec3, doubled_area: float):
    """1 for an equilateral triangle, 0 for a line."""
    return 3.4641016 * doubled_area / wp.max(wp.length_sq(b - a) + wp.length_sq(c - b) + wp.length_sq(a - c), 1e-37)


@wp.func
def keeps_shape(
    weights: Weights,
    v: wp.int32,
    other: wp.int32,
    at: wp.vec3,
    points: wp.array[wp.vec3],
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
):
    """Whether the faces that stay keep their side and stay no slivers when v goes to `at` and `other` too."""
    p = points[v]
    before = float(1.0)
    after = float(1.0)
    for i in range(offsets[v], offsets[v + 1]):
        c = star[i]
        u = faces[next_corner(c)]
        w = faces[last_corner(c)]
        one = points[u]
        two = points[w]
        old = wp.cross(one - p, two - p)
        before = wp.min(before, shape(p, one, two, wp.length(old)))
        if u != other and w != other:
            new = wp.cross(one - at, two - at)
            area = wp.length(new)
            if wp.dot(old, new) < weights.max_normal_change_cos * wp.length(old) * area:
                return False
            after = wp.min(after, shape(at, one, two, area))
    return after >= weights.sliver or after >= before


@wp.func
def keeps_topology(
    a: wp.int32,
    b: wp.int32,
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    edges: wp.array[wp.uint8],
):
    """The link condition (Dey et al. 1999): ends share no neighbours but across the edge's own faces, no two faces
    become one, no part of the surface vanishes."""
    stays = bool(False)
    for i in range(offsets[a], offsets[a + 1]):
        c = star[i]
        u = faces[next_corner(c)]
        w = faces[last_corner(c)]
        if u == b or w == b:
            opposite = next_corner(c)
            if u == b:
                opposite = next_corner(opposite)
            alone = (int(edges[opposite]) & USES) == 1 and (int(edges[last_corner(opposite)]) & USES) == 1
            if alone:
                return False
            continue
        stays = True
        meets_u = bool(False)
        meets_w = bool(False)
        across_u = bool(False)
        across_w = bool(False)
        for j in range(offsets[b], offsets[b + 1]):
            d = star[j]
            s = faces[next_corner(d)]
            t = faces[last_corner(d)]
            has_u = s == u or t == u
            has_w = s == w or t == w
            if s == a or t == a:
                across_u = across_u or has_u
                across_w = across_w or has_w
            else:
                if has_u and has_w:
                    return False
                meets_u = meets_u or has_u
                meets_w = meets_w or has_w
        if (meets_u and not across_u) or (meets_w and not across_w):
            return False
    return stays or offsets[b + 1] - offsets[b] > offsets[a + 1] - offsets[a]


@wp.kernel
def find_costs(
    start: wp.int32,
    weights: Weights,
    limit: wp.array[wp.float32],
    points: wp.array[wp.vec3],
    quadrics: wp.array[quadric],
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    edges: wp.array[wp.uint8],
    feature: wp.array[wp.uint8],
    costs: wp.array[wp.float32],
):
    """Costs of owners; inf for other half-edges and for edges that must stay. Above the limit an edge may be listed
    that must stay."""
    h = start + wp.tid()
    edge = int(edges[h])
    cost = float(wp.inf)
    if edge > OWNER and edge < OWNER + USES:
        a = faces[h]
        b = faces[next_corner(h)]
        fixed_a = feature[a] != wp.uint8(0)
        fixed_b = feature[b] != wp.uint8(0)
        bridges = fixed_a and fixed_b and edge == OWNER + 2
        large = offsets[a + 1] - offsets[a] + offsets[b + 1] - offsets[b] > weights.largest_star
        if not bridges and not large:
            at, price, merged = place(weights, points[a], points[b], quadrics[a], quadrics[b], fixed_a, fixed_b)
            weight = wp.float64(merged[0]) + wp.float64(merged[3]) + wp.float64(merged[5])
            if wp.float64(merged[9]) > weights.largest_mean_square * weight:
                price = wp.inf
            if price > limit[0] or (
                keeps_topology(a, b, faces, offsets, star, edges)
                and keeps_shape(weights, a, b, at, points, faces, offsets, star)
                and keeps_shape(weights, b, a, at, points, faces, offsets, star)
            ):
                cost = price
    costs[h] = cost


@wp.func
def key_of(cost: float, h: wp.int32):
    """Orders edges by cost, roughly, then by a number that looks random and that no two share."""
    drawn = wp.int64(wp.uint32(h) * SHUFFLE)
    return (wp.int64(wp.cast(cost, wp.int32) & KEPT_BITS) << wp.int64(32)) | drawn


@wp.kernel
def least_key(
    start: wp.int32,
    limit: wp.array[wp.float32],
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    costs: wp.array[wp.float32],
    taken: wp.array[wp.uint8],
    keys: wp.array[wp.int64],
):
    """The least key of a vertex's edges that are cheap and free."""
    v = start + wp.tid()
    best = wp.int64(NOTHING)
    if taken[v] == wp.uint8(0):
        for i in range(offsets[v], offsets[v + 1]):
            h = star[i]
            g = last_corner(h)
            if costs[h] <= limit[0] and taken[faces[next_corner(h)]] == wp.uint8(0):
                best = wp.min(best, key_of(costs[h], h))
            if costs[g] <= limit[0] and taken[faces[g]] == wp.uint8(0):
                best = wp.min(best, key_of(costs[g], g))
    keys[v] = best


@wp.kernel
def least_around(
    start: wp.int32,
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    keys: wp.array[wp.int64],
    around: wp.array[wp.int64],
):
    """The least key of a vertex and its neighbours."""
    v = start + wp.tid()
    best = keys[v]
    for i in range(offsets[v], offsets[v + 1]):
        best = wp.min(best, wp.min(keys[faces[next_corner(star[i])]], keys[faces[last_corner(star[i])]]))
    around[v] = best


@wp.kernel
def choose(
    start: wp.int32,
    limit: wp.array[wp.float32],
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    edges: wp.array[wp.uint8],
    costs: wp.array[wp.float32],
    around: wp.array[wp.int64],
    removed: wp.array[wp.uint8],
    taken: wp.array[wp.uint8],
):
    """Edges that hold the least key round both ends: their stars share no face. Writes how many faces each removes."""
    h = start + wp.tid()
    if costs[h] <= limit[0]:
        key = key_of(costs[h], h)
        a = faces[h]
        b = faces[next_corner(h)]
        if around[a] == key and around[b] == key:
            removed[h] = wp.uint8(int(edges[h]) & USES)
            for i in range(offsets[a], offsets[a + 1]):
                taken[faces[next_corner(star[i])]] = wp.uint8(1)
                taken[faces[last_corner(star[i])]] = wp.uint8(1)
            for i in range(offsets[b], offsets[b + 1]):
                taken[faces[next_corner(star[i])]] = wp.uint8(1)
                taken[faces[last_corner(star[i])]] = wp.uint8(1)


@wp.kernel
def merge_ends(
    start: wp.int32,
    weights: Weights,
    faces: wp.array[wp.int32],
    removed: wp.array[wp.uint8],
    feature: wp.array[wp.uint8],
    points: wp.array[wp.vec3],
    quadrics: wp.array[quadric],
    heir: wp.array[wp.int32],
):
    h = start + wp.tid()
    if removed[h] != wp.uint8(0):
        a = faces[h]
        b = faces[next_corner(h)]
        at, _, merged = place(
            weights,
            points[a],
            points[b],
            quadrics[a],
            quadrics[b],
            feature[a] != wp.uint8(0),
            feature[b] != wp.uint8(0),
        )
        points[a] = at
        quadrics[a] = merged
        heir[b] = a


@wp.kernel
def rename(start: wp.int32, heir: wp.array[wp.int32], faces: wp.array[wp.int32], alive: wp.array[wp.uint8]):
    f = start + wp.tid()
    a = heir[faces[3 * f]]
    b = heir[faces[3 * f + 1]]
    c = heir[faces[3 * f + 2]]
    faces[3 * f] = a
    faces[3 * f + 1] = b
    faces[3 * f + 2] = c
    alive[f] = wp.uint8(a != b and b != c and c != a)


@wp.kernel
def renumber(start: wp.int32, number: wp.array[wp.int32], faces: wp.array[wp.int32]):
    h = start + wp.tid()
    faces[h] = number[faces[h]]


@wp.kernel
def mark_used(start: wp.int32, faces: wp.array[wp.int32], used: wp.array[wp.uint8]):
    used[faces[start + wp.tid()]] = wp.uint8(1)


@wp.kernel
def move_faces(
    start: wp.int32,
    faces: wp.array[wp.int32],
    alive: wp.array[wp.uint8],
    place_of: wp.array[wp.int32],
    moved: wp.array[wp.int32],
):
    f = start + wp.tid()
    if alive[f] != wp.uint8(0):
        to = 3 * (place_of[f] - 1)
        for k in range(3):
            moved[to + k] = faces[3 * f + k]
