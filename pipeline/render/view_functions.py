"""What kernels share of a camera or a light: how points are projected, and the keys of its z-buffer."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

GRID = 256  # fixed-point steps of a sample's side: a vertex is rounded to them, which makes coverage exact
SAMPLES = 2  # along a pixel's side
SCALE = 2147483520.0  # nearness 0-1 -> the upper 32 bits of a key, whose sign stays clear; largest float32 below 2^31


@wp.struct
class View:
    """A camera or a light. Samples are numbered from the picture's upper left corner."""

    eye: wp.vec3
    right: wp.vec3
    up: wp.vec3
    back: wp.vec3  # towards the viewer
    focal: wp.float32  # samples of one world unit: at depth 1 in perspective, at any depth in a parallel view
    middle: wp.float32  # the optical axis: column and row
    near: wp.float32
    far: wp.float32
    parallel: wp.bool
    side: wp.int32  # samples


@wp.struct
class Projection:
    """A mesh's vertices on the picture."""

    screen: wp.array[wp.vec2i]  # fixed-point samples: column and row
    near: wp.array[wp.float32]  # nearness, 0 out of sight


@wp.func
def towards(view: View, point: wp.vec3):
    offset = point - view.eye
    return wp.vec3(wp.dot(view.right, offset), wp.dot(view.up, offset), wp.dot(view.back, offset))


@wp.func
def nearness(view: View, depth: wp.float32):
    """1 at the near plane to 0 at the far one, linear on the picture. Not positive: out of sight."""
    if view.parallel:
        return (view.far - depth) / (view.far - view.near)
    if depth < view.near * 0.9999:
        return 0.0
    return wp.min((1.0 / depth - 1.0 / view.far) / (1.0 / view.near - 1.0 / view.far), 1.0)


@wp.func
def shrinking(view: View, near: wp.float32):
    """1 / depth from nearness, in perspective."""
    return near * (1.0 / view.near - 1.0 / view.far) + 1.0 / view.far


@wp.func
def depth_of(view: View, key: wp.uint64):
    near = wp.float32(key >> wp.uint64(32)) / SCALE
    if view.parallel:
        return view.far - near * (view.far - view.near)
    return 1.0 / shrinking(view, near)


@wp.func
def face_of(key: wp.uint64):
    return wp.int32(wp.uint64(4294967295) - (key & wp.uint64(4294967295)))


@wp.func
def magnification(view: View, depth: wp.float32):
    if view.parallel:
        return view.focal
    return view.focal / depth


@wp.func
def sample_x(column: wp.int32, row: wp.int32):
    """Samples of a pixel form a rotated square (four different columns and rows): better edges at no cost."""
    return column * GRID + 192 - 128 * (row & 1)


@wp.func
def sample_y(column: wp.int32, row: wp.int32):
    return row * GRID + 64 + 128 * (column & 1)


@wp.func
def edge(a: wp.vec2i, b: wp.vec2i, x: wp.int32, y: wp.int32):
    """Twice the signed area of (a, b, sample): exact."""
    return wp.int64(b[0] - a[0]) * wp.int64(y - a[1]) - wp.int64(b[1] - a[1]) * wp.int64(x - a[0])
