"""Warp kernels of quadrics: the planes round a vertex, where two vertices merge, and what faces become of it.

Quadrics are kept relative to their own vertex's position, where single precision suffices.
"""
# No `from __future__ import annotations`: Warp reads the annotations as they are. A variable that a loop changes must
# be declared as `int(0)`, for Warp takes a bare literal as a constant.
# ruff: noqa: UP018

import warp as wp

from ...warp.launch import configure
from .link_kernels import USES, next_half_edge, previous_half_edge

configure(__name__)

quadric = wp.types.vector(length=10, dtype=wp.float32)  # xx xy xz yy yz zz of A, b, c: x'Ax + 2 b'x + c


@wp.struct
class Weights:
    """The numbers of a CollapseConfig, see collapse.py."""

    border_weight: wp.float32
    end_weight: wp.float32
    tikhonov_weight: wp.float64
    length_cost: wp.float64
    largest_star: wp.int32
    max_normal_change_cos: wp.float32
    good_shape: wp.float32
    sliver_cost: wp.float32
    flip_tolerance: wp.float32
    largest_mean_square: wp.float64
    bridge_cost: wp.float32
    cut_cost: wp.float32
    vanish_cost: wp.float32
    vanish_length_cost: wp.float32
    largest_change: wp.float32  # side of a cycle along which the surface may be cut; below inf nothing may vanish


@wp.func
def add_plane(q: quadric, normal: wp.vec3, weight: float):
    q[0] += weight * normal[0] * normal[0]
    q[1] += weight * normal[0] * normal[1]
    q[2] += weight * normal[0] * normal[2]
    q[3] += weight * normal[1] * normal[1]
    q[4] += weight * normal[1] * normal[2]
    q[5] += weight * normal[2] * normal[2]
    return q


@wp.func
def held(q: quadric, weight: float):
    """With planes through the vertex in all directions."""
    q[0] += weight
    q[3] += weight
    q[5] += weight
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
    tips of thin parts would count for nothing, and planes that stand on its boundary edges. All pass through the
    vertex, so that b and c are 0."""
    v = start + wp.tid()
    q = quadric()
    p = points[v]
    for i in range(offsets[v], offsets[v + 1]):
        c = star[i]
        ahead = points[faces[next_half_edge(c)]] - p
        behind = points[faces[previous_half_edge(c)]] - p
        normal = wp.cross(ahead, behind)
        doubled = wp.length(normal)
        if doubled > 0.0:
            normal = normal / doubled
            q = add_plane(q, normal, 0.5 * doubled + least[0])
            if (int(edges[c]) & USES) != 2:
                q = add_plane(q, wp.cross(wp.normalize(ahead), normal), weights.border_weight * wp.length_sq(ahead))
            if (int(edges[previous_half_edge(c)]) & USES) != 2:
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
    middle. A vertex of an open border does not move for one of the interior. The cost is the sum of squared
    distances over the area, and of a part of the edge's length.
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
    cost = error + weights.length_cost * trace * square
    b = b + a * x
    merged = quadric(
        wp.float32(a[0, 0]), wp.float32(a[0, 1]), wp.float32(a[0, 2]), wp.float32(a[1, 1]), wp.float32(a[1, 2]),
        wp.float32(a[2, 2]), wp.float32(b[0]), wp.float32(b[1]), wp.float32(b[2]), wp.float32(error),
    )  # fmt: skip
    return at, wp.float32(cost), merged


@wp.func
def keeps_bound(weights: Weights, merged: quadric):
    """Whether the mean square of a vertex's distances from its planes is within the bound."""
    weight = wp.float64(merged[0]) + wp.float64(merged[3]) + wp.float64(merged[5])
    return wp.float64(merged[9]) <= weights.largest_mean_square * weight


@wp.func
def shape(a: wp.vec3, b: wp.vec3, c: wp.vec3, doubled_area: float):
    """1 for an equilateral triangle, 0 for a line."""
    return 3.4641016 * doubled_area / wp.max(wp.length_sq(b - a) + wp.length_sq(c - b) + wp.length_sq(a - c), 1e-37)


@wp.func
def worst_shape(
    weights: Weights,
    v: wp.int32,
    other: wp.int32,
    at: wp.vec3,
    points: wp.array[wp.vec3],
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
):
    """The worst shape among the faces that stay when v goes to `at` and `other` too; -1 if one turns too far."""
    p = points[v]
    worst = float(1.0)
    for i in range(offsets[v], offsets[v + 1]):
        c = star[i]
        u = faces[next_half_edge(c)]
        w = faces[previous_half_edge(c)]
        if u != other and w != other:
            one = points[u]
            two = points[w]
            old = wp.cross(one - p, two - p)
            new = wp.cross(one - at, two - at)
            area = wp.length(new)
            if wp.dot(old, new) < weights.max_normal_change_cos * wp.length(old) * area:
                return -1.0
            worst = wp.min(worst, shape(at, one, two, area))
    return worst


@wp.func
def normal_of(
    v: wp.int32,
    points: wp.array[wp.vec3],
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
):
    """Of a vertex, weighted by area."""
    total = wp.vec3()
    p = points[v]
    for i in range(offsets[v], offsets[v + 1]):
        c = star[i]
        total += wp.cross(points[faces[next_half_edge(c)]] - p, points[faces[previous_half_edge(c)]] - p)
    return total


@wp.func
def bulges(
    a: wp.int32,
    b: wp.int32,
    c: wp.int32,
    points: wp.array[wp.vec3],
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
):
    """Whether the surface faces away from the middle of a cycle of three vertices, as round a rod, instead of towards
    it, as in a tunnel."""
    middle = (points[a] + points[b] + points[c]) / 3.0
    away = wp.dot(normal_of(a, points, faces, offsets, star), points[a] - middle)
    away += wp.dot(normal_of(b, points, faces, offsets, star), points[b] - middle)
    away += wp.dot(normal_of(c, points, faces, offsets, star), points[c] - middle)
    return away > 0.0
