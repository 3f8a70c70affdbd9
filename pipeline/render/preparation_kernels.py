"""Warp kernels that prepare a mesh for pictures, once: normals of its vertices, and mip levels of its maps."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from ..warp.launch import configure

configure(__name__)

TENSOR = 1 << 18  # fixed-point steps of one unit of a vertex's normal tensor


@wp.func
def angle(p: wp.vec3, q: wp.vec3, r: wp.vec3):
    a = q - p
    b = r - p
    return wp.atan2(wp.length(wp.cross(a, b)), wp.dot(a, b))


@wp.func
def add_tensor(tensors: wp.array2d[wp.int32], vertex: wp.int32, n: wp.vec3, weight: wp.float32):
    scale = weight * float(TENSOR)
    wp.atomic_add(tensors, vertex, 0, wp.int32(scale * n[0] * n[0]))
    wp.atomic_add(tensors, vertex, 1, wp.int32(scale * n[1] * n[1]))
    wp.atomic_add(tensors, vertex, 2, wp.int32(scale * n[2] * n[2]))
    wp.atomic_add(tensors, vertex, 3, wp.int32(scale * n[0] * n[1]))
    wp.atomic_add(tensors, vertex, 4, wp.int32(scale * n[0] * n[2]))
    wp.atomic_add(tensors, vertex, 5, wp.int32(scale * n[1] * n[2]))


@wp.kernel
def normal_tensors(
    start: wp.int32, faces: wp.array[wp.vec3i], points: wp.array[wp.vec3], tensors: wp.array2d[wp.int32]
):
    """Sum of angle * n n^T of the faces round each vertex [V, 6: xx, yy, zz, xy, xz, yz], in whole numbers: the order
    of the additions then does not matter."""
    corner = faces[start + wp.tid()]
    p = points[corner[0]]
    q = points[corner[1]]
    r = points[corner[2]]
    cross = wp.cross(q - p, r - p)
    length = wp.length(cross)
    if length > 0.0:
        n = cross / length
        add_tensor(tensors, corner[0], n, angle(p, q, r))
        add_tensor(tensors, corner[1], n, angle(q, r, p))
        add_tensor(tensors, corner[2], n, angle(r, p, q))


@wp.kernel
def undirected_normals(start: wp.int32, tensors: wp.array3d[wp.int32], normals: wp.array[wp.vec3]):
    """The tensor's longest column, at unit length: the mean of the normals round a vertex, whatever their signs."""
    i = start + wp.tid()
    xx, yy, zz = wp.int32(0), wp.int32(0), wp.int32(0)
    xy, xz, yz = wp.int32(0), wp.int32(0), wp.int32(0)
    for k in range(tensors.shape[0]):
        xx += tensors[k, i, 0]
        yy += tensors[k, i, 1]
        zz += tensors[k, i, 2]
        xy += tensors[k, i, 3]
        xz += tensors[k, i, 4]
        yz += tensors[k, i, 5]
    column = wp.vec3(float(xy), float(yy), float(yz))
    if xx >= yy and xx >= zz:
        column = wp.vec3(float(xx), float(xy), float(xz))
    elif zz >= yy:
        column = wp.vec3(float(xz), float(yz), float(zz))
    normals[i] = wp.normalize(column)


@wp.kernel
def halve(
    start: wp.int32,
    source: wp.array2d[wp.float32],
    first: wp.int32,
    side: wp.int32,
    target: wp.array2d[wp.float32],
    offset: wp.int32,
):
    """A mip level from the one above. Colours are averaged as squares, which is close to averaging light."""
    i = start + wp.tid()
    half = side // 2
    above = first + 2 * (i // half) * side + 2 * (i % half)
    for k in range(6):
        a = source[above, k]
        b = source[above + 1, k]
        c = source[above + side, k]
        d = source[above + side + 1, k]
        if k < 3:
            target[offset + i, k] = wp.sqrt(0.25 * (a * a + b * b + c * c + d * d))
        else:
            target[offset + i, k] = 0.25 * (a + b + c + d)
