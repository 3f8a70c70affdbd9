"""Warp kernels of the parallel edge collapse: costs, independent sets of edges, merging, renaming.

Vocabulary as in link_kernels.py and quadric_kernels.py.
"""
# No `from __future__ import annotations`: Warp reads the annotations as they are. A variable that a loop changes must
# be declared as `int(0)`, for Warp takes a bare literal as a constant.
# ruff: noqa: UP018

import warp as wp

from ...warp.launch import configure
from .link_kernels import (
    BRIDGE,
    CHANGES,
    CUT,
    OWNER,
    PLAIN,
    USES,
    VANISH,
    classify,
    name_sectors,
    next_half_edge,
    previous_half_edge,
    walk,
)
from .quadric_kernels import Weights, bulges, held, keeps_bound, place, quadric, worst_shape

configure(__name__)

SHUFFLE = wp.constant(wp.uint32(0x9E3779B1))  # odd, so that no two half-edges draw the same number
NOTHING = wp.constant(wp.int64(0x7FFFFFFFFFFFFFFF))  # above every key, of which the least is sought
KEPT_BITS = wp.constant(wp.int32(~((1 << 20) - 1)))  # of a cost: costs within 1/8 of each other are drawn by lot


@wp.func
def keeps_parts(weights: Weights, kind: wp.int32, a: wp.int32, b: wp.int32, third: wp.int32, points: wp.array[wp.vec3]):
    """Whether a change of the topology is small beside the bound, which quadrics do not know of."""
    if weights.largest_change == float(wp.inf):
        return True
    side = wp.length(points[b] - points[a])
    if kind == CUT:
        side = wp.max(side, wp.max(wp.length(points[third] - points[a]), wp.length(points[third] - points[b])))
    return kind != VANISH and side <= weights.largest_change


@wp.func
def moment(
    v: wp.int32,
    points: wp.array[wp.vec3],
    quadrics: wp.array[quadric],
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
):
    """Of a component that is a tetrahedron or a face: the weight of its planes times its longest edge, squared."""
    weight = quadrics[v][0] + quadrics[v][3] + quadrics[v][5]
    longest = float(0.0)
    for i in range(offsets[v], offsets[v + 1]):
        u = faces[next_half_edge(star[i])]
        w = faces[previous_half_edge(star[i])]
        weight += quadrics[u][0] + quadrics[u][3] + quadrics[u][5]
        if offsets[v + 1] - offsets[v] == 1:
            weight += quadrics[w][0] + quadrics[w][3] + quadrics[w][5]
        longest = wp.max(longest, wp.max(wp.length_sq(points[u] - points[v]), wp.length_sq(points[w] - points[u])))
        longest = wp.max(longest, wp.length_sq(points[w] - points[v]))
    return weight * longest


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
    that must stay. An owner whose collapse changes the topology is marked."""
    h = start + wp.tid()
    edge = int(edges[h])
    cost = float(wp.inf)
    if edge > OWNER and edge < OWNER + USES:
        a = faces[h]
        b = faces[next_half_edge(h)]
        if offsets[a + 1] - offsets[a] + offsets[b + 1] - offsets[b] <= weights.largest_star:
            fixed_a = feature[a] != wp.uint8(0)
            fixed_b = feature[b] != wp.uint8(0)
            at, price, merged = place(weights, points[a], points[b], quadrics[a], quadrics[b], fixed_a, fixed_b)
            if price > limit[0]:
                cost = price
            elif keeps_bound(weights, merged):
                kind, third = classify(h, faces, offsets, star, edges, feature)
                if kind == VANISH:
                    moved = moment(a, points, quadrics, faces, offsets, star)
                    cost = wp.max(price * weights.vanish_cost, moved * weights.vanish_length_cost)
                elif kind != 0:
                    worst = wp.min(
                        worst_shape(weights, a, b, at, points, faces, offsets, star),
                        worst_shape(weights, b, a, at, points, faces, offsets, star),
                    )
                    if worst >= 0.0:
                        cost = price * wp.min(weights.good_shape / wp.max(worst, 1e-12), weights.sliver_cost)
                        cost = wp.max(cost, price)
                if kind > PLAIN:
                    edges[h] = wp.uint8(edge + CHANGES)
                    if not keeps_parts(weights, kind, a, b, third, points):
                        cost = float(wp.inf)
                if kind == BRIDGE:
                    cost *= weights.bridge_cost
                if kind == CUT and bulges(a, b, third, points, faces, offsets, star):
                    cost *= weights.cut_cost
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
            g = previous_half_edge(h)
            if costs[h] <= limit[0] and taken[faces[next_half_edge(h)]] == wp.uint8(0):
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
        best = wp.min(best, wp.min(keys[faces[next_half_edge(star[i])]], keys[faces[previous_half_edge(star[i])]]))
    around[v] = best


@wp.func
def take(
    v: wp.int32,
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    taken: wp.array[wp.uint8],
):
    """Leave no edge of a vertex's neighbours to later passes."""
    for i in range(offsets[v], offsets[v + 1]):
        taken[faces[next_half_edge(star[i])]] = wp.uint8(1)
        taken[faces[previous_half_edge(star[i])]] = wp.uint8(1)


@wp.kernel
def choose(
    start: wp.int32,
    limit: wp.array[wp.float32],
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    edges: wp.array[wp.uint8],
    feature: wp.array[wp.uint8],
    costs: wp.array[wp.float32],
    around: wp.array[wp.int64],
    removed: wp.array[wp.uint8],
    changed: wp.array[wp.uint8],
    taken: wp.array[wp.uint8],
):
    """Edges that hold the least key round both ends: their stars share no face. Writes how many faces each removes, and
    what it does to the topology if it does anything."""
    h = start + wp.tid()
    if costs[h] <= limit[0]:
        key = key_of(costs[h], h)
        a = faces[h]
        b = faces[next_half_edge(h)]
        if around[a] == key and around[b] == key:
            faces_gone = int(edges[h]) & USES
            free = bool(True)
            third = wp.int32(-1)
            if int(edges[h]) >= CHANGES:
                kind, cut_at = classify(h, faces, offsets, star, edges, feature)
                if kind == CUT:
                    third = cut_at
                    free = around[third] == key
                if kind == VANISH and faces_gone == 2:
                    faces_gone = 4
                if free:
                    changed[h] = wp.uint8(kind)
            if free:
                removed[h] = wp.uint8(faces_gone)
                take(a, faces, offsets, star, taken)
                take(b, faces, offsets, star, taken)
                if third >= 0:  # or another cut of a later pass could name the same corners
                    take(third, faces, offsets, star, taken)


@wp.kernel
def merge_ends(
    start: wp.int32,
    weights: Weights,
    faces: wp.array[wp.int32],
    removed: wp.array[wp.uint8],
    changed: wp.array[wp.uint8],
    feature: wp.array[wp.uint8],
    points: wp.array[wp.vec3],
    quadrics: wp.array[quadric],
    heir: wp.array[wp.int32],
):
    """Move the ends to where they merge. Where the surface is cut both live on."""
    h = start + wp.tid()
    if removed[h] != wp.uint8(0):
        a = faces[h]
        b = faces[next_half_edge(h)]
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
        if int(changed[h]) >= BRIDGE:
            merged = merged * 0.5
            points[b] = at
            quadrics[b] = merged
        else:
            heir[b] = a
        quadrics[a] = merged


@wp.kernel
def change_topology(
    start: wp.int32,
    weights: Weights,
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    edges: wp.array[wp.uint8],
    feature: wp.array[wp.uint8],
    removed: wp.array[wp.uint8],
    changed: wp.array[wp.uint8],
    rank: wp.array[wp.int32],
    first_copy: wp.int32,
    points: wp.array[wp.vec3],
    quadrics: wp.array[quadric],
    heir: wp.array[wp.int32],
    renamed: wp.array[wp.int32],
):
    """Cut the surface where the chosen edges say so: one side keeps the vertices' names, the other side takes that of
    the edge's other end, and on a cycle a copy of the third vertex, in row first_copy + rank - 1. `renamed` begins as
    faces. The vertices of a cycle are held where they are: all planes of a rod lie along it, and its new ends would
    draw back for nothing."""
    h = start + wp.tid()
    if removed[h] != wp.uint8(0) and changed[h] != wp.uint8(0):
        a = faces[h]
        b = faces[next_half_edge(h)]
        kind, third = classify(h, faces, offsets, star, edges, feature)
        if kind == VANISH:
            for i in range(offsets[a], offsets[a + 1]):
                heir[faces[next_half_edge(star[i])]] = a
                heir[faces[previous_half_edge(star[i])]] = a
        if kind == BRIDGE:
            for i in range(offsets[a], offsets[a + 1]):
                renamed[star[i]] = b
            for i in range(offsets[b], offsets[b + 1]):
                renamed[star[i]] = a
            walk(a, b, -1, a, faces, offsets, star, renamed)
            walk(b, a, -1, b, faces, offsets, star, renamed)
        if kind == CUT:
            copy = first_copy + rank[h] - 1
            points[copy] = points[third]
            along = points[b] - points[a]
            across = points[third] - points[a]
            weight = weights.end_weight * (wp.length_sq(along) + wp.length_sq(across))
            quadrics[a] = held(quadrics[a], weight)
            quadrics[b] = held(quadrics[b], weight)
            quadrics[third] = held(quadrics[third] * 0.5, weight)
            quadrics[copy] = quadrics[third]
            name_sectors(a, b, third, a, b, faces, offsets, star, renamed)
            name_sectors(b, third, a, a, b, faces, offsets, star, renamed)
            name_sectors(third, a, b, third, copy, faces, offsets, star, renamed)


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
