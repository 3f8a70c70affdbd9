"""Warp kernels of bricks.py: look-ups in bricks of voxels."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from ..warp.launch import configure

configure(__name__)


@wp.func
def brick_of(x: wp.int32, y: wp.int32, z: wp.int32, shape: wp.vec3i):
    """Place of the 8 x 8 x 8 brick round a voxel in a box of bricks; coordinates from the box's corner."""
    return ((x >> 3) * shape[1] + (y >> 3)) * shape[2] + (z >> 3)


@wp.func
def slot_of(x: wp.int32, y: wp.int32, z: wp.int32):
    """Place of a voxel in its brick."""
    return (x & 7) * 64 + (y & 7) * 8 + (z & 7)


@wp.kernel
def mark_bricks(
    start: wp.int32, coords: wp.array[wp.vec4i], origin: wp.vec3i, shape: wp.vec3i, used: wp.array[wp.uint8]
):
    c = coords[start + wp.tid()]
    used[brick_of(c[1] - origin[0], c[2] - origin[1], c[3] - origin[2], shape)] = wp.uint8(1)


@wp.kernel
def fill_bricks(
    start: wp.int32,
    coords: wp.array[wp.vec4i],
    origin: wp.vec3i,
    shape: wp.vec3i,
    brick: wp.array[wp.int32],
    slots: wp.array[wp.int32],
):
    i = start + wp.tid()
    c = coords[i]
    x = c[1] - origin[0]
    y = c[2] - origin[1]
    z = c[3] - origin[2]
    slots[brick[brick_of(x, y, z, shape)] * 512 + slot_of(x, y, z)] = i


@wp.func
def brick_row(
    x: wp.int32,
    y: wp.int32,
    z: wp.int32,
    shape: wp.vec3i,
    brick: wp.array[wp.int32],
    slots: wp.array[wp.int32],
):
    """Row of a voxel, -1 where there is none."""
    row = wp.int32(-1)
    if x >= 0 and y >= 0 and z >= 0 and (x >> 3) < shape[0] and (y >> 3) < shape[1] and (z >> 3) < shape[2]:
        b = brick[brick_of(x, y, z, shape)]
        if b >= 0:
            row = slots[b * 512 + slot_of(x, y, z)]
    return row


_Rows = wp.types.vector(length=8, dtype=wp.int32)
_Weights = wp.types.vector(length=8, dtype=wp.float32)


@wp.kernel
def trilinear_in_bricks(
    start: wp.int32,
    points: wp.array[wp.vec3],
    origin: wp.vec3i,
    shape: wp.vec3i,
    brick: wp.array[wp.int32],
    slots: wp.array[wp.int32],
    feats: wp.array2d[wp.float32],
    out: wp.array2d[wp.float32],
):
    i = start + wp.tid()
    far = wp.float32(1 << 20)  # far outside is as absent as just outside
    px = wp.clamp(points[i][0] - 0.5, -far, far)
    py = wp.clamp(points[i][1] - 0.5, -far, far)
    pz = wp.clamp(points[i][2] - 0.5, -far, far)
    x = wp.int32(wp.floor(px))
    y = wp.int32(wp.floor(py))
    z = wp.int32(wp.floor(pz))
    fx = px - wp.float32(x)
    fy = py - wp.float32(y)
    fz = pz - wp.float32(z)
    rows = _Rows()
    weights = _Weights()
    total = wp.float32(0.0)
    some = wp.int32(-1)
    for corner in range(8):
        dx = corner >> 2
        dy = (corner >> 1) & 1
        dz = corner & 1
        row = brick_row(x + dx - origin[0], y + dy - origin[1], z + dz - origin[2], shape, brick, slots)
        weight = wp.where(dx == 1, fx, 1.0 - fx) * wp.where(dy == 1, fy, 1.0 - fy) * wp.where(dz == 1, fz, 1.0 - fz)
        rows[corner] = row
        weights[corner] = weight
        if row >= 0:
            total += weight
            some = row
    channels = feats.shape[1]
    scale = 1.0 / wp.max(total, 1.0e-12)
    for channel in range(channels):
        value = wp.float32(0.0)
        if some >= 0:
            base = feats[some, channel]  # what is the same all round stays the same to the bit
            for corner in range(8):
                if rows[corner] >= 0:
                    value += weights[corner] * (feats[rows[corner], channel] - base)
            value = wp.where(total > 0.0, base + value * scale, 0.0)
        out[i, channel] = value
    out[i, channels] = total
