"""Warp kernels of the surface's connections: stars, edges, and what a collapse would do to them.

Vocabulary: corner or half-edge h = 3 f + k is vertex k of face f, and the edge from there to the face's next vertex.
A vertex's star is its corners, listed in `star` from `offsets[v]` to `offsets[v + 1]` in ascending order. An edge is
spoken for by the lowest of its half-edges, the owner. A feature vertex lies on an edge that has not exactly two faces.
"""
# No `from __future__ import annotations`: Warp reads the annotations as they are. A variable that a loop changes must
# be declared as `int(0)`, for Warp takes a bare literal as a constant.
# ruff: noqa: UP018, RUF046

import warp as wp

from ...warp.launch import configure

configure(__name__)

OWNER = wp.constant(64)  # bit of an edge's byte: this half-edge is the owner; below it the number of faces, up to 63
USES = wp.constant(63)  # bits of that number
# What a collapse does to the topology, see classify.
PLAIN = wp.constant(1)
VANISH = wp.constant(2)
BRIDGE = wp.constant(3)
CUT = wp.constant(4)
CHANGES = wp.constant(128)  # bit of an owner's byte: the collapse changes the topology, see classify


@wp.func
def next_half_edge(h: wp.int32):
    return h - h % 3 + (h + 1) % 3


@wp.func
def previous_half_edge(h: wp.int32):
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
    b = faces[next_half_edge(h)]
    if offsets[b + 1] - offsets[b] < offsets[a + 1] - offsets[a]:
        a, b = b, a
    uses = int(0)
    owner = int(h)
    for i in range(offsets[a], offsets[a + 1]):
        c = star[i]
        if faces[next_half_edge(c)] == b:
            uses += 1
            owner = wp.min(owner, c)
        elif faces[previous_half_edge(c)] == b:
            uses += 1
            owner = wp.min(owner, previous_half_edge(c))
    edge = wp.min(uses, USES)
    if owner == h:
        edge += OWNER
    edges[h] = wp.uint8(edge)
    if uses != 2:
        feature[a] = wp.uint8(1)
        feature[b] = wp.uint8(1)


@wp.func
def walk(
    v: wp.int32,
    first: wp.int32,
    last: wp.int32,
    name: wp.int32,
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    renamed: wp.array[wp.int32],
):
    """Round a vertex from the face behind its edge to `first`, face by face, up to its edge to `last` or to a boundary.

    Returns how many faces were passed and the neighbour at which the walk ended. The corners passed are given the name,
    if that is one.
    """
    end = int(first)
    passed = int(0)
    going = bool(True)
    while going:
        corner = int(-1)
        for i in range(offsets[v], offsets[v + 1]):
            if faces[next_half_edge(star[i])] == end:
                corner = star[i]
        going = corner >= 0 and passed < offsets[v + 1] - offsets[v]
        if going:
            end = faces[previous_half_edge(corner)]
            passed += 1
            if name >= 0:
                renamed[corner] = name
            going = end != last
    return passed, end


@wp.func
def parts(
    v: wp.int32,
    u: wp.int32,
    w: wp.int32,
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    edges: wp.array[wp.uint8],
):
    """Whether the edges to u and w part the faces round v into two sectors, one of which may hold a boundary; and no
    edge of v has more than two faces."""
    one, end = walk(v, u, w, -1, faces, offsets, star, faces)
    other, back = walk(v, w, u, -1, faces, offsets, star, faces)
    size = star_size(v, offsets)
    whole = end == w and back == u and one + other == size
    opened = (end == w) != (back == u) and one + other <= size
    return (whole or opened) and most_uses(v, offsets, star, edges) <= 2


@wp.func
def name_sectors(
    v: wp.int32,
    u: wp.int32,
    w: wp.int32,
    left: wp.int32,
    right: wp.int32,
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    renamed: wp.array[wp.int32],
):
    """Give v one name in the faces behind its edge to u up to that to w, and another in the rest."""
    _, end = walk(v, u, w, -1, faces, offsets, star, faces)
    rest = right
    if end != w:
        rest = left
    for i in range(offsets[v], offsets[v + 1]):
        renamed[star[i]] = rest
    if end == w:
        walk(v, u, w, left, faces, offsets, star, renamed)
    else:
        walk(v, w, u, right, faces, offsets, star, renamed)


@wp.func
def most_uses(v: wp.int32, offsets: wp.array[wp.int32], star: wp.array[wp.int32], edges: wp.array[wp.uint8]):
    """The largest number of faces on an edge of v."""
    most = int(0)
    for i in range(offsets[v], offsets[v + 1]):
        most = wp.max(most, int(edges[star[i]]) & USES)
        most = wp.max(most, int(edges[previous_half_edge(star[i])]) & USES)
    return most


@wp.func
def ends_at_boundary(
    v: wp.int32,
    other: wp.int32,
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    edges: wp.array[wp.uint8],
):
    """Whether a walk round v from its edge to another vertex passes faces until it ends at a boundary, and no edge of v
    has more than two."""
    passed, end = walk(v, other, other, -1, faces, offsets, star, faces)
    return passed > 0 and end != other and most_uses(v, offsets, star, edges) <= 2


@wp.func
def star_size(v: wp.int32, offsets: wp.array[wp.int32]):
    return offsets[v + 1] - offsets[v]


@wp.func
def classify(
    h: wp.int32,
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    edges: wp.array[wp.uint8],
    feature: wp.array[wp.uint8],
):
    """What the collapse of an edge does to the topology, by the link condition (Dey et al. 1999): ends share no
    neighbours but across the edge's own faces, no two faces become one, no component vanishes.

    Returns one of
    - PLAIN: nothing, or it closes a hole of three edges, or it is
    - VANISH: the edge is of a component that is a tetrahedron or a single face, all of which goes;
    - BRIDGE: the edge leads from boundary to boundary across the surface, which is cut there: two holes become one;
    - CUT: the ends share one more neighbour, and the cycle of the three parts the surface, which is cut along it and
      closed on either side: a handle less, or a component more;
    - 0: the edge must stay
    and that neighbour, -1 where there is none.
    """
    a = faces[h]
    b = faces[next_half_edge(h)]
    uses = int(edges[h]) & USES
    third = int(-1)
    stays = bool(False)
    for i in range(offsets[a], offsets[a + 1]):
        c = star[i]
        u = faces[next_half_edge(c)]
        w = faces[previous_half_edge(c)]
        if u == b or w == b:
            opposite = next_half_edge(c)
            if u == b:
                opposite = next_half_edge(opposite)
            alone = (int(edges[opposite]) & USES) == 1 and (int(edges[previous_half_edge(opposite)]) & USES) == 1
            if alone:
                o = faces[opposite]
                if uses == 1 and star_size(a, offsets) + star_size(b, offsets) + star_size(o, offsets) == 3:
                    return VANISH, o
                return 0, -1
            continue
        stays = True
        meets_u = bool(False)
        meets_w = bool(False)
        across_u = bool(False)
        across_w = bool(False)
        closes = bool(False)
        for j in range(offsets[b], offsets[b + 1]):
            d = star[j]
            s = faces[next_half_edge(d)]
            t = faces[previous_half_edge(d)]
            has_u = s == u or t == u
            has_w = s == w or t == w
            if s == a or t == a:
                across_u = across_u or has_u
                across_w = across_w or has_w
            else:
                if has_u and has_w:
                    if (
                        star_size(a, offsets) == 3
                        and star_size(b, offsets) == 3
                        and star_size(u, offsets) == 3
                        and star_size(w, offsets) == 3
                        and feature[a] == wp.uint8(0)
                    ):
                        return VANISH, u
                    return 0, -1
                meets_u = meets_u or has_u
                meets_w = meets_w or has_w
                closes = closes or (s == w and (int(edges[d]) & USES) == 1)
        closes = closes and uses == 1 and (int(edges[previous_half_edge(c)]) & USES) == 1
        if meets_u and not across_u:
            if third >= 0 and third != u:
                return 0, -1
            third = u
        if meets_w and not across_w and not closes:
            if third >= 0 and third != w:
                return 0, -1
            third = w
    if third >= 0:
        if (
            uses <= 2
            and parts(a, b, third, faces, offsets, star, edges)
            and parts(b, third, a, faces, offsets, star, edges)
            and parts(third, a, b, faces, offsets, star, edges)
        ):
            return CUT, third
        return 0, -1
    if not stays and star_size(b, offsets) <= star_size(a, offsets):
        return 0, -1
    if uses == 2 and feature[a] != wp.uint8(0) and feature[b] != wp.uint8(0):
        if ends_at_boundary(a, b, faces, offsets, star, edges) and ends_at_boundary(b, a, faces, offsets, star, edges):
            return BRIDGE, -1
        return 0, -1
    return PLAIN, -1
