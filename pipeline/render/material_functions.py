"""Materials as kernels read them: six numbers, base colour RGB, metallic, roughness, alpha."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from .surface_functions import Hit, Shape


@wp.func
def linear(value: wp.float32):
    if value <= 0.04045:
        return value / 12.92
    return wp.pow((value + 0.055) / 1.055, 2.4)


@wp.func
def texel(table: wp.array2d[wp.float32], at: wp.int32):
    return wp.vector(
        table[at, 0], table[at, 1], table[at, 2], table[at, 3], table[at, 4], table[at, 5], dtype=wp.float32
    )


@wp.func
def bilinear(table: wp.array2d[wp.float32], start: wp.int32, side: wp.int32, uv: wp.vec2):
    limit = float(side - 1)
    x = wp.clamp(uv[0] * float(side) - 0.5, 0.0, limit)
    y = wp.clamp(uv[1] * float(side) - 0.5, 0.0, limit)
    column = wp.int32(x)
    row = wp.int32(y)
    s = x - float(column)
    t = y - float(row)
    right = wp.min(column + 1, side - 1)
    below = wp.min(row + 1, side - 1)
    upper = texel(table, start + row * side + column) * (1.0 - s) + texel(table, start + row * side + right) * s
    lower = texel(table, start + below * side + column) * (1.0 - s) + texel(table, start + below * side + right) * s
    return upper * (1.0 - t) + lower * t


@wp.func
def level(shape: Shape, number: wp.int32, uv: wp.vec2):
    start = wp.int32(0)
    side = shape.map_side
    for _ in range(number):
        if side < shape.map_side:
            start += side * side
        side = side // 2
    if number == 0:
        return bilinear(shape.maps, 0, side, uv)
    return bilinear(shape.mips, start, side, uv)


@wp.func
def double_area(a: wp.vec2, b: wp.vec2, c: wp.vec2):
    return wp.abs((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


@wp.func
def from_maps(shape: Shape, hit: Hit, samples: wp.float32):
    """Texture look-up between the two mip levels whose texels are about as large as a sample.

    samples: twice the face's area on the picture, in samples."""
    a = shape.uvs[hit.corner[0]]
    b = shape.uvs[hit.corner[1]]
    c = shape.uvs[hit.corner[2]]
    uv = a * hit.weights[0] + b * hit.weights[1] + c * hit.weights[2]
    texels = double_area(a, b, c) * float(shape.map_side) * float(shape.map_side)
    detail = wp.clamp(0.5 * wp.log2(wp.max(texels, 1.0e-12) / wp.max(samples, 1.0e-12)), 0.0, float(shape.levels))
    number = wp.int32(detail)
    found = level(shape, number, uv)
    part = detail - float(number)
    if part > 0.0:
        found = found * (1.0 - part) + level(shape, number + 1, uv) * part
    return found
