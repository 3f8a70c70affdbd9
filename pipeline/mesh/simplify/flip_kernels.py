"""Warp kernels that flip edges of bad faces: which flips pay, which of these go together, the flips.

Vocabulary as in link_kernels.py and relax_kernels.py. The edge a-b of the faces a-b-u and b-a-w is flipped to u-w.
"""
# No `from __future__ import annotations`: Warp reads the annotations as they are. A variable that a loop changes must
# be declared as `bool(False)`, for Warp takes a bare literal as a constant.
# ruff: noqa: UP018, RUF046

import warp as wp

from ...warp.launch import configure
from .crossing_functions import UNLIMITED, crossings_of
from .link_kernels import OWNER, next_half_edge, previous_half_edge
from .quadric_kernels import Weights, quadric, shape
from .relax_kernels import BETTER, CROSSING

configure(__name__)

SHUFFLE = wp.constant(wp.uint32(0x9E3779B1))  # odd, so that no two half-edges draw the same number
NO_FLIP = wp.constant(wp.int64(0x7FFFFFFFFFFFFFFF))  # above every key, of which the least is sought


@wp.func
def rms(q: quadric):
    """Root mean square distance of a vertex from its planes."""
    return wp.sqrt(wp.max(q[9], 0.0) / wp.max(q[0] + q[3] + q[5], 1e-30))


@wp.kernel
def find_flips(
    start: wp.int32,
    weights: Weights,
    tree: wp.uint64,
    bad: wp.array[wp.uint8],
    points: wp.array[wp.vec3],
    quadrics: wp.array[quadric],
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    edges: wp.array[wp.uint8],
    twins: wp.array[wp.int32],
    keys: wp.array[wp.int64],
):
    """By half-edge that owns an edge of two faces: its twin, and the key of its flip, the least for the greatest gain;
    NO_FLIP where it does not pay: where neither face is bad, both go through as many faces as before and the worse
    of both becomes no better, the surface would move by more than it has by the collapse, a face would turn over, or
    u-w is an edge already."""
    h = start + wp.tid()
    keys[h] = NO_FLIP
    if int(edges[h]) == OWNER + 2:
        a = faces[h]
        b = faces[next_half_edge(h)]
        u = faces[previous_half_edge(h)]
        twin = wp.int32(-1)
        for i in range(offsets[b], offsets[b + 1]):
            if faces[next_half_edge(star[i])] == a:
                twin = star[i]
        twins[h] = twin
        if twin >= 0:
            kinds = int(bad[h // 3]) | int(bad[twin // 3])
            if kinds == 0:
                return
            w = faces[previous_half_edge(twin)]
            pa = points[a]
            pb = points[b]
            pu = points[u]
            pw = points[w]
            one = wp.cross(pb - pa, pu - pa)
            two = wp.cross(pa - pb, pw - pb)
            before = wp.min(shape(pa, pb, pu, wp.length(one)), shape(pa, pb, pw, wp.length(two)))
            near = wp.cross(pw - pa, pu - pa)
            far = wp.cross(pu - pb, pw - pb)
            after = wp.min(shape(pa, pw, pu, wp.length(near)), shape(pb, pu, pw, wp.length(far)))
            middle = wp.normalize(wp.normalize(one) + wp.normalize(two))
            across = wp.cross(pb - pa, pw - pu)
            apart = wp.abs(wp.dot(pu - pa, across)) / wp.max(wp.length(across), 1e-30)
            moved = wp.max(wp.max(rms(quadrics[a]), rms(quadrics[b])), wp.max(rms(quadrics[u]), rms(quadrics[w])))
            upright = wp.min(wp.dot(wp.normalize(near), middle), wp.dot(wp.normalize(far), middle))
            pays = after > BETTER * before
            fair = after > 0.9 * wp.min(before, weights.good_shape) and kinds >= CROSSING
            if (pays or fair) and upright > 0.5 and apart <= moved + weights.flip_tolerance and u != w:
                joined = bool(False)
                for i in range(offsets[u], offsets[u + 1]):
                    joined = joined or faces[next_half_edge(star[i])] == w or faces[previous_half_edge(star[i])] == w
                if not joined:
                    s = h // 3
                    t = twin // 3
                    old = int(0)
                    if kinds >= CROSSING:
                        old = crossings_of(wp.vec3i(a, b, u), s, t, tree, points, faces, UNLIMITED)
                        old += crossings_of(wp.vec3i(b, a, w), s, t, tree, points, faces, UNLIMITED)
                    new = crossings_of(wp.vec3i(a, w, u), s, t, tree, points, faces, old)
                    new += crossings_of(wp.vec3i(b, u, w), s, t, tree, points, faces, old)
                    if new < old or (new == old and pays):
                        # coarse, so that most are drawn by lot
                        gain = wp.int64(64 * wp.min(old - new, 1000) + wp.int32(32.0 * (1.0 + after - before)))
                        lack = wp.int64(1 << 20) - gain
                        keys[h] = (lack << wp.int64(32)) | wp.int64(wp.uint32(h) * SHUFFLE)


@wp.kernel
def claim(
    start: wp.int32,
    faces: wp.array[wp.int32],
    twins: wp.array[wp.int32],
    keys: wp.array[wp.int64],
    claims: wp.array[wp.int64],
):
    """The least key of the flips that a vertex takes part in."""
    h = start + wp.tid()
    key = keys[h]
    if key != NO_FLIP:
        wp.atomic_min(claims, faces[h], key)
        wp.atomic_min(claims, faces[next_half_edge(h)], key)
        wp.atomic_min(claims, faces[previous_half_edge(h)], key)
        wp.atomic_min(claims, faces[previous_half_edge(twins[h])], key)


@wp.kernel
def flip(
    start: wp.int32,
    faces: wp.array[wp.int32],
    twins: wp.array[wp.int32],
    keys: wp.array[wp.int64],
    claims: wp.array[wp.int64],
    touched: wp.array[wp.uint8],
):
    """Flip the edges whose four vertices no better flip claims: no two of them share a vertex."""
    h = start + wp.tid()
    key = keys[h]
    if key != NO_FLIP:
        twin = twins[h]
        a = faces[h]
        b = faces[next_half_edge(h)]
        u = faces[previous_half_edge(h)]
        w = faces[previous_half_edge(twin)]
        if claims[a] == key and claims[b] == key and claims[u] == key and claims[w] == key:
            faces[next_half_edge(h)] = w  # a-b-u becomes a-w-u
            faces[next_half_edge(twin)] = u  # b-a-w becomes b-u-w
            touched[h // 3] = wp.uint8(1)
            touched[twin // 3] = wp.uint8(1)
