"""What kernels know of a mesh and of how it is to look, and which point of it a sample sees."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from .view_functions import Projection, View, edge, sample_x, sample_y, shrinking

CLAY, COLOURS, MAPS = 0, 1, 2  # where a material comes from
# What is drawn, and how alpha is treated.
SHADED, NORMALS, BASE_COLOR, WIREFRAME, PBR = 0, 1, 2, 3, 4
OPAQUE, MASK, BLEND = 0, 1, 2


@wp.struct
class Shape:
    vertices: wp.array[wp.vec3]
    faces: wp.array[wp.vec3i]
    normals: wp.array[wp.vec3]
    crease: wp.float32  # cosine from which on a vertex normal counts for a face; -2: always, and its sign too
    source: wp.int32  # CLAY, COLOURS or MAPS
    colours: wp.array2d[wp.float32]  # [V, 6]
    uvs: wp.array[wp.vec2]
    maps: wp.array2d[wp.float32]  # [S * S, 6]
    mips: wp.array2d[wp.float32]  # every level below, one after the other
    map_side: wp.int32
    levels: wp.int32  # of mips
    alpha: wp.int32  # OPAQUE, MASK or BLEND


@wp.struct
class Look:
    mode: wp.int32
    clay: wp.vec3
    clay_roughness: wp.float32
    line: wp.vec3
    line_width: wp.float32  # pixels
    radius: wp.float32  # world units over which ambient occlusion looks
    softness: wp.float32  # tangent of the angle under which the shadow-casting box is seen
    layered: wp.bool


@wp.struct
class Hit:
    """The point of a face that a sample sees."""

    corner: wp.vec3i
    weights: wp.vec3
    position: wp.vec3
    normal: wp.vec3  # unit normal for shading, towards the viewer


@wp.func
def corner_normal(shape: Shape, vertex: wp.int32, facet: wp.vec3, side: wp.float32):
    n = shape.normals[vertex]
    if shape.crease < -1.0:
        return n * side
    cosine = wp.dot(n, facet)
    if wp.abs(cosine) < shape.crease:
        return facet
    return n * wp.sign(cosine)


@wp.func
def look_up(view: View, shape: Shape, projected: Projection, face: wp.int32, column: wp.int32, row: wp.int32):
    hit = Hit()
    corner = shape.faces[face]
    hit.corner = corner
    a = projected.screen[corner[0]]
    b = projected.screen[corner[1]]
    c = projected.screen[corner[2]]
    x = sample_x(column, row)
    y = sample_y(column, row)
    u = wp.float32(edge(b, c, x, y))
    v = wp.float32(edge(c, a, x, y))
    w = wp.float32(edge(a, b, x, y))
    if not view.parallel:  # weights on the picture -> weights in space
        u *= shrinking(view, projected.near[corner[0]])
        v *= shrinking(view, projected.near[corner[1]])
        w *= shrinking(view, projected.near[corner[2]])
    hit.weights = wp.vec3(u, v, w) / (u + v + w)
    p = shape.vertices[corner[0]]
    q = shape.vertices[corner[1]]
    r = shape.vertices[corner[2]]
    hit.position = p * hit.weights[0] + q * hit.weights[1] + r * hit.weights[2]
    viewer = wp.normalize(view.eye - hit.position)
    facet = wp.normalize(wp.cross(q - p, r - p))
    side = 1.0
    if wp.dot(facet, viewer) < 0.0:
        side = -1.0
    facet = facet * side
    n = corner_normal(shape, corner[0], facet, side) * hit.weights[0]
    n += corner_normal(shape, corner[1], facet, side) * hit.weights[1]
    n += corner_normal(shape, corner[2], facet, side) * hit.weights[2]
    if wp.length_sq(n) < 1.0e-12:
        n = facet
    n = wp.normalize(n)
    facing = wp.dot(n, viewer)
    if facing < 0.02:  # a smooth normal may turn away at the outline
        n = wp.normalize(n + viewer * (0.02 - facing))
    hit.normal = n
    return hit
