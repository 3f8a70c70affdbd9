"""Warp kernels on the half-edges and corners of faces: counting sort, twins, connected sheets, fans, areas.

Half-edge h = 3 f + k leads from corner k of face f to the next one; faces are flat, three corners each.
"""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from ...warp.launch import configure
from ...warp.union_find_kernels import peek_root, unite

configure(__name__, max_unroll=1)

NON_MANIFOLD = -2  # twin of a half-edge on an edge of more than two faces
_NON_MANIFOLD = wp.constant(wp.int32(NON_MANIFOLD))
_SET = wp.constant(wp.uint8(1))  # of a flag


# --- counting sort ---------------------------------------------------------------------------------------------------


@wp.kernel
def count_keys(start: wp.int32, bounds: wp.array[wp.int32], keys: wp.array[wp.int32], counts: wp.array2d[wp.int32]):
    part = start + wp.tid()
    for i in range(bounds[part], bounds[part + 1]):
        key = keys[i]
        counts[part, key] = counts[part, key] + 1


@wp.kernel
def place_keys(
    start: wp.int32,
    bounds: wp.array[wp.int32],
    keys: wp.array[wp.int32],
    places: wp.array2d[wp.int32],
    order: wp.array[wp.int32],
):
    """places: where the next entry with a key of a range goes."""
    part = start + wp.tid()
    for i in range(bounds[part], bounds[part + 1]):
        key = keys[i]
        place = places[part, key]
        order[place] = i
        places[part, key] = place + 1


# --- edges -----------------------------------------------------------------------------------------------------------


@wp.func
def _next(h: wp.int32):
    if h % 3 == 2:
        return h - 2
    return h + 1


@wp.func
def _previous(h: wp.int32):
    if h % 3 == 0:
        return h + 2
    return h - 1


@wp.kernel
def low_ends(start: wp.int32, faces: wp.array[wp.int32], low: wp.array[wp.int32]):
    """The lower end of each half-edge."""
    h = start + wp.tid()
    low[h] = wp.min(faces[h], faces[_next(h)])


@wp.func
def _high(faces: wp.array[wp.int32], h: wp.int32):
    return wp.max(faces[h], faces[_next(h)])


@wp.kernel
def pair_half_edges(
    start: wp.int32,
    faces: wp.array[wp.int32],
    first: wp.array[wp.int32],
    order: wp.array[wp.int32],
    twin: wp.array[wp.int32],
    edges: wp.array[wp.int32],
):
    """Sort the half-edges of a lower end by their higher one (Shell's sort, which also ends for a million of them), and
    pair those that are two of an edge. edges: how many each vertex is the lower end of."""
    v = start + wp.tid()
    low = first[v]
    count = first[v + 1] - low
    gap = wp.int32(1)
    while gap < count // 9:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, count):
            moving = order[low + i]
            end = _high(faces, moving)
            j = wp.int32(i)
            while j >= gap:
                other = order[low + j - gap]
                beyond = _high(faces, other)
                if beyond < end or (beyond == end and other < moving):
                    break
                order[low + j] = other
                j -= gap
            order[low + j] = moving
        gap = gap // 3
    found = wp.int32(0)
    i = wp.int32(0)
    while i < count:
        h = order[low + i]
        end = _high(faces, h)
        after = wp.int32(i + 1)
        while after < count and _high(faces, order[low + after]) == end:
            after += 1
        if after - i == 1:
            twin[h] = -1
        elif after - i == 2:
            other = order[low + i + 1]
            twin[h] = other
            twin[other] = h
        else:
            for j in range(i, after):
                twin[order[low + j]] = _NON_MANIFOLD
        found += 1
        i = after
    edges[v] = found


# --- faces -----------------------------------------------------------------------------------------------------------


@wp.func
def _lowest(faces: wp.array[wp.int32], f: wp.int32):
    return wp.min(faces[3 * f], wp.min(faces[3 * f + 1], faces[3 * f + 2]))


@wp.kernel
def lowest_corners(start: wp.int32, faces: wp.array[wp.int32], lowest: wp.array[wp.int32]):
    f = start + wp.tid()
    lowest[f] = _lowest(faces, f)


@wp.func
def _other_corners(faces: wp.array[wp.int32], f: wp.int32):
    """The two higher corners of a face as one number."""
    a = faces[3 * f]
    b = faces[3 * f + 1]
    c = faces[3 * f + 2]
    high = wp.max(a, wp.max(b, c))
    middle = wp.max(wp.min(a, b), wp.min(wp.max(a, b), c))
    return (wp.int64(middle) << wp.int64(32)) | wp.int64(high)


@wp.kernel
def sort_faces(
    start: wp.int32,
    faces: wp.array[wp.int32],
    first: wp.array[wp.int32],
    order: wp.array[wp.int32],
    again: wp.array[wp.uint8],
):
    """Sort the faces of a lowest corner by their other corners, and mark those with the same as the one before."""
    v = start + wp.tid()
    low = first[v]
    count = first[v + 1] - low
    gap = wp.int32(1)
    while gap < count // 9:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, count):
            moving = order[low + i]
            key = _other_corners(faces, moving)
            j = wp.int32(i)
            while j >= gap:
                other = order[low + j - gap]
                beyond = _other_corners(faces, other)
                if beyond < key or (beyond == key and other < moving):
                    break
                order[low + j] = other
                j -= gap
            order[low + j] = moving
        gap = gap // 3
    for i in range(1, count):
        if _other_corners(faces, order[low + i]) == _other_corners(faces, order[low + i - 1]):
            again[low + i] = _SET


@wp.kernel
def mark_flat(
    start: wp.int32,
    points: wp.array[wp.vec3d],
    faces: wp.array[wp.int32],
    flat: wp.float64,
    marks: wp.array[wp.uint8],
):
    """Faces whose doubled area is at most `flat` times their longest side squared."""
    f = start + wp.tid()
    a = points[faces[3 * f]]
    b = points[faces[3 * f + 1]]
    c = points[faces[3 * f + 2]]
    longest = wp.max(wp.length_sq(b - a), wp.max(wp.length_sq(c - a), wp.length_sq(c - b)))
    if wp.length_sq(wp.cross(b - a, c - a)) <= flat * flat * longest * longest:
        marks[f] = _SET


@wp.kernel
def measure_faces(
    start: wp.int32,
    points: wp.array[wp.vec3d],
    middle: wp.vec3d,
    faces: wp.array[wp.int32],
    area: wp.array[wp.float64],
    volume: wp.array[wp.float64],
):
    f = start + wp.tid()
    a = points[faces[3 * f]] - middle
    b = points[faces[3 * f + 1]] - middle
    c = points[faces[3 * f + 2]] - middle
    normal = wp.cross(b - a, c - a)
    area[f] = wp.length(normal) / wp.float64(2.0)
    volume[f] = wp.dot(a, normal) / wp.float64(6.0)


# --- sheets: a union-find of faces, whose parity says which are to be wound the other way -----------------------------


@wp.func
def _unite(faces: wp.array[wp.int32], parent: wp.array[wp.int32], odd: wp.array[wp.uint8], h: wp.int32, t: wp.int32):
    differ = wp.int32(0)
    if faces[h] == faces[t]:
        differ = 1
    if unite(parent, h // 3, t // 3, differ) == 1:
        odd[h // 3] = _SET


@wp.kernel
def unite_faces(
    start: wp.int32,
    bounds: wp.array[wp.int32],
    faces: wp.array[wp.int32],
    twin: wp.array[wp.int32],
    parent: wp.array[wp.int32],
    odd: wp.array[wp.uint8],
):
    """Join the faces of a range with each other."""
    part = start + wp.tid()
    end = 3 * bounds[part + 1]
    for h in range(3 * bounds[part], end):
        t = twin[h]
        if t > h and t < end:
            _unite(faces, parent, odd, h, t)


@wp.kernel
def unite_ranges(
    bounds: wp.array[wp.int32],
    faces: wp.array[wp.int32],
    twin: wp.array[wp.int32],
    parent: wp.array[wp.int32],
    odd: wp.array[wp.uint8],
):
    """Join faces of different ranges; in one thread."""
    for part in range(bounds.shape[0] - 1):
        end = 3 * bounds[part + 1]
        for h in range(3 * bounds[part], end):
            t = twin[h]
            if t >= end:
                _unite(faces, parent, odd, h, t)


@wp.kernel
def find_sheets(start: wp.int32, parent: wp.array[wp.int32], root: wp.array[wp.int32], turned: wp.array[wp.bool]):
    f = start + wp.tid()
    found = peek_root(parent, f)
    root[f] = found >> 1
    turned[f] = (found & 1) == 1


# --- fans ------------------------------------------------------------------------------------------------------------


@wp.kernel
def one_corner(start: wp.int32, faces: wp.array[wp.int32], corner: wp.array[wp.int32]):
    """Any corner at each vertex; all that are written will do."""
    h = start + wp.tid()
    corner[faces[h]] = h


@wp.kernel
def mark_fans(
    start: wp.int32,
    faces: wp.array[wp.int32],
    twin: wp.array[wp.int32],
    corner: wp.array[wp.int32],
    valence: wp.array[wp.int64],
    several: wp.array[wp.bool],
):
    """Whether the faces round a vertex are not one closed fan of faces that are consistently oriented."""
    v = start + wp.tid()
    if valence[v] > wp.int64(0):
        at = corner[v]
        steps = wp.int64(0)
        closed = wp.bool(False)
        while steps < valence[v]:
            t = twin[_previous(at)]
            if t < 0:
                break
            if faces[t] != v:
                break
            at = t
            steps += wp.int64(1)
            if at == corner[v]:
                closed = True
                break
        several[v] = not (closed and steps == valence[v])
