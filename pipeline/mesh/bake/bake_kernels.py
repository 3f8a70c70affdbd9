"""Warp kernels of the bake: points moved to a mesh, rays into the open."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from ...warp.launch import configure

configure(__name__)


@wp.kernel
def closest_on_mesh(
    start: wp.int32,
    mesh: wp.uint64,
    points: wp.array[wp.vec3],
    limit: wp.float32,
    closest: wp.array[wp.vec3],
    face: wp.array[wp.int32],
    weights: wp.array[wp.vec3],
):
    i = start + wp.tid()
    found = wp.mesh_query_point_no_sign(mesh, points[i], limit)
    if found.result:
        closest[i] = wp.mesh_eval_position(mesh, found.face, found.u, found.v)
        face[i] = found.face
        weights[i] = wp.vec3(found.u, found.v, 1.0 - found.u - found.v)
    else:
        closest[i] = points[i]
        face[i] = -1
        weights[i] = wp.vec3(0.0, 0.0, 0.0)


_GOLDEN = wp.constant(0.618033988749895)  # golden ratio less 1: steps of a spiral that spreads directions evenly


@wp.kernel
def open_share(
    start: wp.int32,
    mesh: wp.uint64,
    points: wp.array[wp.vec3],
    normals: wp.array[wp.vec3],
    rays: wp.int32,
    limit: wp.float32,
    seed: wp.int32,
    share: wp.array[wp.float32],
):
    i = start + wp.tid()
    n = normals[i]
    side = wp.where(n[2] < 0.0, -1.0, 1.0)  # an orthonormal basis without branches, Duff et al. 2017
    k = -1.0 / (side + n[2])
    xy = n[0] * n[1] * k
    across = wp.vec3(1.0 + side * n[0] * n[0] * k, side * xy, -side * n[0])
    along = wp.vec3(xy, side + n[1] * n[1] * k, -n[1])
    state = wp.rand_init(seed, i)
    shift = wp.randf(state)
    free = wp.int32(0)
    for ray in range(rays):
        # one stratum of the squared sine to a ray, its angle from a golden-ratio lattice shifted at random
        height = (wp.float32(ray) + wp.randf(state)) / wp.float32(rays)
        turn = wp.float32(ray) * _GOLDEN + shift
        angle = 2.0 * wp.pi * (turn - wp.floor(turn))
        sine = wp.sqrt(height)
        direction = (
            across * (sine * wp.cos(angle)) + along * (sine * wp.sin(angle)) + n * wp.sqrt(wp.max(1.0 - height, 0.0))
        )
        if not wp.mesh_query_ray_anyhit(mesh, points[i], direction, limit):
            free += 1
    share[i] = wp.float32(free) / wp.float32(rays)
