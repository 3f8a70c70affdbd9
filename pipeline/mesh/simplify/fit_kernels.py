"""Warp kernels that move vertices so that their faces lie on the surface on the average.

Vocabulary as in link_kernels.py. Offsets are of three points of a face, each near a corner, to the surface.
"""
# No `from __future__ import annotations`: Warp reads the annotations as they are. A variable that a loop changes must
# be declared as `float(0.0)`, for Warp takes a bare literal as a constant.
# ruff: noqa: UP018

import warp as wp

from ...warp.launch import configure
from .link_kernels import next_half_edge, previous_half_edge
from .relax_kernels import worst_at

configure(__name__)

NEAR = wp.constant(0.6666667)  # weight of the corner that such a point is near
FAR = wp.constant(0.16666667)  # of each of the other two


@wp.kernel
def find_goals(
    start: wp.int32,
    least_move: float,
    good_shape: float,
    offset: wp.array[wp.float32],
    points: wp.array[wp.vec3],
    faces: wp.array[wp.int32],
    offsets: wp.array[wp.int32],
    star: wp.array[wp.int32],
    feature: wp.array[wp.uint8],
    goals: wp.array[wp.vec3],
    picked: wp.array[wp.uint8],
):
    """Where the offsets round a vertex would have it, weighted by area: those along each face's normal. A vertex of a
    boundary stays, and one whose faces would turn too far or become slivers."""
    v = start + wp.tid()
    p = points[v]
    goals[v] = p
    picked[v] = wp.uint8(0)
    if feature[v] == wp.uint8(0):
        move = wp.vec3()
        total = float(0.0)
        for i in range(offsets[v], offsets[v + 1]):
            c = star[i]
            ahead = next_half_edge(c)
            behind = previous_half_edge(c)
            normal = wp.cross(points[faces[ahead]] - p, points[faces[behind]] - p)  # twice the area long
            move += (NEAR * offset[c] + FAR * (offset[ahead] + offset[behind])) * normal
            total += wp.length(normal)
        if total > 0.0:
            move = move / total
            if wp.length(move) > least_move:
                fair = 0.9 * wp.min(worst_at(v, p, points, faces, offsets, star), good_shape)
                if worst_at(v, p + move, points, faces, offsets, star) >= fair:
                    goals[v] = p + move
                    picked[v] = wp.uint8(1)


@wp.kernel
def hold_turned(
    start: wp.int32,
    points: wp.array[wp.vec3],
    goals: wp.array[wp.vec3],
    faces: wp.array[wp.int32],
    held: wp.array[wp.uint8],
):
    """Vertices of faces that turn too far if all vertices move."""
    f = start + wp.tid()
    a = faces[3 * f]
    b = faces[3 * f + 1]
    c = faces[3 * f + 2]
    old = wp.cross(points[b] - points[a], points[c] - points[a])
    new = wp.cross(goals[b] - goals[a], goals[c] - goals[a])
    if wp.dot(old, new) < 0.5 * wp.length(old) * wp.length(new):
        held[a] = wp.uint8(1)
        held[b] = wp.uint8(1)
        held[c] = wp.uint8(1)


@wp.kernel
def let_go(
    start: wp.int32,
    held: wp.array[wp.uint8],
    points: wp.array[wp.vec3],
    goals: wp.array[wp.vec3],
    picked: wp.array[wp.uint8],
):
    """Held vertices stay where they are."""
    v = start + wp.tid()
    if held[v] != wp.uint8(0):
        goals[v] = points[v]
        picked[v] = wp.uint8(0)
