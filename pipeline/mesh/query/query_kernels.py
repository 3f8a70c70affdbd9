"""Warp kernels of surface.py: an order of points, closest points and rays through Warp's bounding volume tree."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from ...warp.launch import configure

configure(__name__)


@wp.func
def apart(cell: wp.int32) -> wp.int32:
    """Ten bits with two empty ones behind each."""
    c = wp.clamp(cell, 0, 1023)
    c = (c | c << 16) & 0x030000FF
    c = (c | c << 8) & 0x0300F00F
    c = (c | c << 4) & 0x030C30C3
    return (c | c << 2) & 0x09249249


@wp.kernel
def place_on_curve(
    start: wp.int32,
    points: wp.array[wp.vec3],
    low: wp.array[wp.float32],
    scale: wp.array[wp.float32],
    code: wp.array[wp.int32],
):
    i = start + wp.tid()
    at = points[i]
    x = wp.int32((at[0] - low[0]) * scale[0])
    y = wp.int32((at[1] - low[1]) * scale[0])
    z = wp.int32((at[2] - low[2]) * scale[0])
    code[i] = apart(x) | apart(y) << 1 | apart(z) << 2


@wp.kernel
def closest_point(
    start: wp.int32,
    mesh: wp.uint64,
    points: wp.array[wp.vec3],
    limit: wp.float32,
    face: wp.array[wp.int32],
    weights: wp.array[wp.vec3],
    distance: wp.array[wp.float32],
):
    i = start + wp.tid()
    found = wp.mesh_query_point_no_sign(mesh, points[i], limit)
    if found.result:
        at = wp.mesh_eval_position(mesh, found.face, found.u, found.v)
        face[i] = found.face
        weights[i] = wp.vec3(found.u, found.v, 1.0 - found.u - found.v)
        distance[i] = wp.length(at - points[i])
    else:
        face[i] = -1
        weights[i] = wp.vec3(0.0, 0.0, 0.0)
        distance[i] = wp.inf


@wp.kernel
def cast_ray(
    start: wp.int32,
    mesh: wp.uint64,
    origins: wp.array[wp.vec3],
    directions: wp.array[wp.vec3],
    limit: wp.float32,
    face: wp.array[wp.int32],
    weights: wp.array[wp.vec3],
    distance: wp.array[wp.float32],
):
    i = start + wp.tid()
    found = wp.mesh_query_ray(mesh, origins[i], directions[i], limit)
    if found.result:
        face[i] = found.face
        weights[i] = wp.vec3(found.u, found.v, 1.0 - found.u - found.v)
        distance[i] = found.t
    else:
        face[i] = -1
        weights[i] = wp.vec3(0.0, 0.0, 0.0)
        distance[i] = wp.inf
