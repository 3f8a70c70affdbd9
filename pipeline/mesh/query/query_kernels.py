"""Warp kernels of surface.py: closest points and rays through Warp's bounding volume tree."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from ...warp.launch import configure

configure(__name__)


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
