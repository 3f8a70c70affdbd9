"""Warp kernels of the z-buffer: vertices on the picture, and the nearest face of every sample."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from ..warp.launch import configure
from .view_functions import GRID, SCALE, Projection, View, edge, magnification, nearness, sample_x, sample_y, towards

configure(__name__)

LARGE = 1 << 12  # samples in a face's bounds from which it is drawn in bands of rows
BAND = 16  # rows


@wp.struct
class Canvas:
    """The z-buffer of a view, or of one worker, and of a layer in front of it."""

    side: wp.int32  # samples
    layered: wp.bool  # only what lies behind `before` counts
    before: wp.array[wp.uint64]  # [side * side] keys
    keys: wp.array[wp.uint64]


@wp.kernel
def project(start: wp.int32, view: View, points: wp.array[wp.vec3], projected: Projection):
    i = start + wp.tid()
    seen = towards(view, points[i])
    depth = -seen[2]
    value = nearness(view, depth)
    if value > 0.0:
        size = magnification(view, depth)
        x = (view.middle + size * seen[0]) * float(GRID)
        y = (view.middle - size * seen[1]) * float(GRID)
        limit = 268435456.0  # products of two differences stay below 2^60
        if wp.abs(x) > limit or wp.abs(y) > limit:
            value = 0.0
        else:
            projected.screen[i] = wp.vec2i(wp.int32(wp.round(x)), wp.int32(wp.round(y)))
    projected.near[i] = wp.max(value, 0.0)


@wp.func
def bounds(a: wp.vec2i, b: wp.vec2i, c: wp.vec2i):
    """Columns from first to last and rows from first to last whose samples a face may cover."""
    return wp.vec4i(
        (wp.min(wp.min(a[0], b[0]), c[0]) - 192) >> 8,
        (wp.max(wp.max(a[0], b[0]), c[0]) - 64) >> 8,
        (wp.min(wp.min(a[1], b[1]), c[1]) - 192) >> 8,
        (wp.max(wp.max(a[1], b[1]), c[1]) - 64) >> 8,
    )


@wp.func
def fill(canvas: Canvas, projected: Projection, corner: wp.vec3i, face: wp.int32, box: wp.vec4i):
    """Draw the samples of a face within some columns and rows."""
    a = projected.screen[corner[0]]
    b = projected.screen[corner[1]]
    c = projected.screen[corner[2]]
    near = wp.vec3(projected.near[corner[0]], projected.near[corner[1]], projected.near[corner[2]])
    area = edge(a, b, c[0], c[1])
    if area != wp.int64(0):
        turn = wp.int64(1)
        if area < wp.int64(0):
            turn = wp.int64(-1)
        scale = 1.0 / wp.float32(area * turn)
        low = wp.uint64(4294967295) - wp.uint64(face)
        for row in range(box[2], box[3] + 1):
            for column in range(box[0], box[1] + 1):
                x = sample_x(column, row)
                y = sample_y(column, row)
                u = edge(b, c, x, y) * turn
                v = edge(c, a, x, y) * turn
                w = edge(a, b, x, y) * turn
                if u >= wp.int64(0) and v >= wp.int64(0) and w >= wp.int64(0):
                    value = (wp.float32(u) * near[0] + wp.float32(v) * near[1] + wp.float32(w) * near[2]) * scale
                    key = (wp.uint64(wp.clamp(value, 1.0e-9, 1.0) * SCALE) << wp.uint64(32)) | low
                    i = row * canvas.side + column
                    if not canvas.layered or key < canvas.before[i]:
                        wp.atomic_max(canvas.keys, i, key)


@wp.kernel
def draw(start: wp.int32, faces: wp.array[wp.vec3i], projected: Projection, canvas: Canvas, large: wp.array[wp.bool]):
    """Key of the nearest face of every sample: nearness above, 2^32 - 1 - face below; of equals the first face."""
    face = start + wp.tid()
    corner = faces[face]
    if wp.min(wp.min(projected.near[corner[0]], projected.near[corner[1]]), projected.near[corner[2]]) > 0.0:
        box = bounds(projected.screen[corner[0]], projected.screen[corner[1]], projected.screen[corner[2]])
        last = canvas.side - 1
        box = wp.vec4i(wp.max(box[0], 0), wp.min(box[1], last), wp.max(box[2], 0), wp.min(box[3], last))
        if box[0] <= box[1] and box[2] <= box[3]:
            if (box[1] - box[0] + 1) * (box[3] - box[2] + 1) >= LARGE:
                large[face] = True
            else:
                fill(canvas, projected, corner, face, box)


@wp.kernel
def draw_large(
    start: wp.int32,
    faces: wp.array[wp.vec3i],
    which: wp.array[wp.int32],
    bands: wp.int32,
    projected: Projection,
    canvas: Canvas,
):
    """draw() for one band of rows of a large face, so that one face does not occupy one thread for long."""
    i = start + wp.tid()
    face = which[i // bands]
    first = i % bands * BAND
    corner = faces[face]
    box = bounds(projected.screen[corner[0]], projected.screen[corner[1]], projected.screen[corner[2]])
    last = canvas.side - 1
    box = wp.vec4i(
        wp.max(box[0], 0), wp.min(box[1], last), wp.max(box[2], first), wp.min(box[3], wp.min(first + BAND - 1, last))
    )
    fill(canvas, projected, corner, face, box)
