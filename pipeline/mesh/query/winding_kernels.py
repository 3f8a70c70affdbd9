"""Warp kernel of winding_number.py: a walk through a tree of dipoles."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from ...warp.launch import configure

configure(__name__)


@wp.func
def _solid_angle(a: wp.vec3, b: wp.vec3, c: wp.vec3):
    """Signed, over 2, of a triangle as seen from the origin (Van Oosterom & Strackee 1983)."""
    la = wp.length(a)
    lb = wp.length(b)
    lc = wp.length(c)
    volume = wp.dot(a, wp.cross(b, c))
    below = la * lb * lc + wp.dot(a, b) * lc + wp.dot(b, c) * la + wp.dot(c, a) * lb
    if volume == 0.0:  # seen from its own plane; atan2 would take its inside for half of the sky
        return wp.float32(0.0)
    return wp.atan2(volume, below)


@wp.kernel
def winding(
    start: wp.int32,
    corners: wp.array2d[wp.vec3],
    first: wp.array[wp.int32],
    centres: wp.array[wp.vec3],
    moments: wp.array[wp.vec3],
    radii: wp.array[wp.float32],
    accuracy: wp.float32,
    points: wp.array[wp.vec3],
    numbers: wp.array[wp.float32],
):
    """Level 0 of the tree are the faces; first[k] is where the nodes of level k + 1 begin, its last entry where all
    end. Faces and nodes farther away than `accuracy` of their radii count as dipoles."""
    i = start + wp.tid()
    p = points[i]
    top = first.shape[0] - 1
    last = first[top] - first[top - 1]
    level = top
    node = wp.int32(0)
    dipoles = wp.float32(0.0)
    angles = wp.float32(0.0)
    while level < top or node < last:
        deeper = wp.bool(False)
        if level == 0:
            if node < corners.shape[0]:
                a = corners[node, 0] - p
                b = corners[node, 1] - p
                c = corners[node, 2] - p
                away = (a + b + c) / 3.0
                squared = wp.length_sq(away)
                size = wp.max(wp.length_sq(a - away), wp.max(wp.length_sq(b - away), wp.length_sq(c - away)))
                if squared > accuracy * accuracy * size:
                    dipoles += 0.5 * wp.dot(wp.cross(b - a, c - a), away) / (squared * wp.sqrt(squared))
                else:
                    angles += _solid_angle(a, b, c)
        else:
            row = first[level - 1] + node
            away = centres[row] - p
            squared = wp.length_sq(away)
            limit = accuracy * radii[row]
            if squared > limit * limit:
                dipoles += wp.dot(moments[row], away) / (squared * wp.sqrt(squared))
            else:
                deeper = True
        if deeper:
            level -= 1
            node = node << 3
        else:
            node += 1
            while level < top and (node & 7) == 0:
                node = node >> 3
                level += 1
    numbers[i] = (dipoles + 2.0 * angles) / (4.0 * wp.pi)
