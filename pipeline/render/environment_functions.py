"""Light from a picture of the surroundings as kernels look it up; see environment.py."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp


@wp.func
def on_sphere(picture: wp.array2d[wp.vec3], first: wp.int32, rows: wp.int32, d: wp.vec3):
    """Bilinear, in the rows from `first` on, round the sphere along them."""
    columns = picture.shape[1]
    y = (0.5 - wp.asin(wp.clamp(d[2], -1.0, 1.0)) / wp.pi) * float(rows) - 0.5
    x = (0.5 + wp.atan2(d[0], d[1]) / (2.0 * wp.pi)) * float(columns) - 0.5
    y = wp.clamp(y, 0.0, float(rows - 1))
    row = wp.int32(y)
    below = first + wp.min(row + 1, rows - 1)
    t = y - float(row)
    s = x - wp.floor(x)
    column = (wp.int32(wp.floor(x)) + columns) % columns
    right = (column + 1) % columns
    upper = picture[first + row, column] * (1.0 - s) + picture[first + row, right] * s
    lower = picture[below, column] * (1.0 - s) + picture[below, right] * s
    return upper * (1.0 - t) + lower * t


@wp.func
def environment_light(
    sharp: wp.array2d[wp.vec3],
    blurred: wp.array2d[wp.vec3],
    levels: wp.int32,
    first_blur: wp.float32,
    d: wp.vec3,
    blur: wp.float32,
):
    """Radiance from direction d, blurred: between the two levels whose blur is next to it; each blurs twice as far."""
    rows = blurred.shape[0] // levels
    if blur < first_blur:
        part = blur / first_blur
        return on_sphere(sharp, 0, sharp.shape[0], d) * (1.0 - part) + on_sphere(blurred, 0, rows, d) * part
    at = wp.min(wp.log2(blur / first_blur), float(levels - 1))
    level = wp.min(wp.int32(at), levels - 1)
    more = wp.min(level + 1, levels - 1)
    part = at - float(level)
    return on_sphere(blurred, level * rows, rows, d) * (1.0 - part) + on_sphere(blurred, more * rows, rows, d) * part
