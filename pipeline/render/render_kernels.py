"""Warp kernels of the preview renderer: z-buffer, surface normals, ambient occlusion, shadows and shading."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import math

import warp as wp

from ..warp.launch import configure

configure(__name__)

GRID = 256  # fixed-point steps of a sample's side: a vertex snaps to them, which makes coverage exact
SAMPLES = 2  # along a pixel's side
SCALE = 2147483520.0  # nearness 0-1 -> the upper 32 bits of a key, whose sign stays clear; largest float32 below 2^31
LARGE = 1 << 12  # samples in a face's bounds from which it is drawn in bands of rows
BAND = 16  # rows
TENSOR = 1 << 18  # fixed-point steps of one unit of a vertex's normal tensor

SLICES, STEPS = 2, 6  # of ambient occlusion, at each pixel
BLOCKERS, TAPS = 8, 16  # of soft shadows, at each pixel
COSINE, SINE = math.cos(math.pi * (3 - math.sqrt(5))), math.sin(math.pi * (3 - math.sqrt(5)))  # the golden angle

CLAY, COLOURS, MAPS = 0, 1, 2  # where a material comes from
SHADED, NORMALS, BASE_COLOR, WIREFRAME, PBR = 0, 1, 2, 3, 4
OPAQUE, MASK, BLEND = 0, 1, 2


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
class Studio:
    """Light of a half-bright sky over a floor and of rectangular soft boxes; see pipeline/render/scene.py.

    Directions are in the studio's frame: the world's, turned about z by the camera's azimuth.
    """

    cosine: wp.float32
    sine: wp.float32
    zenith: wp.vec3
    nadir: wp.vec3
    horizon: wp.float32
    edge: wp.float32
    axes: wp.array[wp.mat33]  # rows: a box's right, up and the direction to its centre
    half: wp.array[wp.vec2]  # radians
    radiance: wp.array[wp.vec3]
    harmonics: wp.array[wp.vec3]  # [18]: irradiance / pi of everything but the first box, then of the first box


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
    reach: wp.float32  # world units over which ambient occlusion looks
    softness: wp.float32  # tangent of the angle under which the shadow-casting box is seen
    layered: wp.bool


@wp.struct
class Hit:
    """The point of a face that a sample sees."""

    corner: wp.vec3i
    weights: wp.vec3
    position: wp.vec3
    normal: wp.vec3  # unit normal for shading, towards the viewer


# Depth


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


@wp.kernel
def project(
    start: wp.int32,
    view: View,
    points: wp.array[wp.vec3],
    screen: wp.array[wp.vec2i],
    near: wp.array[wp.float32],
):
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
            screen[i] = wp.vec2i(wp.int32(wp.round(x)), wp.int32(wp.round(y)))
    near[i] = wp.max(value, 0.0)


@wp.func
def edge(a: wp.vec2i, b: wp.vec2i, x: wp.int32, y: wp.int32):
    """Twice the signed area of (a, b, sample): exact."""
    return wp.int64(b[0] - a[0]) * wp.int64(y - a[1]) - wp.int64(b[1] - a[1]) * wp.int64(x - a[0])


@wp.func
def fill(
    side: wp.int32,
    a: wp.vec2i,
    b: wp.vec2i,
    c: wp.vec2i,
    near: wp.vec3,
    face: wp.int32,
    first_row: wp.int32,
    last_row: wp.int32,
    first_column: wp.int32,
    last_column: wp.int32,
    before: wp.array[wp.uint64],
    layered: wp.bool,
    keys: wp.array[wp.uint64],
):
    area = edge(a, b, c[0], c[1])
    if area != wp.int64(0):
        turn = wp.int64(1)
        if area < wp.int64(0):
            turn = wp.int64(-1)
        scale = 1.0 / wp.float32(area * turn)
        low = wp.uint64(4294967295) - wp.uint64(face)
        for row in range(first_row, last_row + 1):
            for column in range(first_column, last_column + 1):
                x = sample_x(column, row)
                y = sample_y(column, row)
                u = edge(b, c, x, y) * turn
                v = edge(c, a, x, y) * turn
                w = edge(a, b, x, y) * turn
                if u >= wp.int64(0) and v >= wp.int64(0) and w >= wp.int64(0):
                    value = (wp.float32(u) * near[0] + wp.float32(v) * near[1] + wp.float32(w) * near[2]) * scale
                    key = (wp.uint64(wp.clamp(value, 1.0e-9, 1.0) * SCALE) << wp.uint64(32)) | low
                    i = row * side + column
                    if not layered or key < before[i]:
                        wp.atomic_max(keys, i, key)


@wp.kernel
def draw(
    start: wp.int32,
    side: wp.int32,
    faces: wp.array[wp.vec3i],
    screen: wp.array[wp.vec2i],
    near: wp.array[wp.float32],
    before: wp.array[wp.uint64],
    layered: wp.bool,
    keys: wp.array[wp.uint64],
    large: wp.array[wp.bool],
):
    """Key of the nearest face of every sample: nearness above, 2^32 - 1 - face below; of equals the first face."""
    face = start + wp.tid()
    corner = faces[face]
    depth = wp.vec3(near[corner[0]], near[corner[1]], near[corner[2]])
    if wp.min(wp.min(depth[0], depth[1]), depth[2]) > 0.0:
        a = screen[corner[0]]
        b = screen[corner[1]]
        c = screen[corner[2]]
        first_column = wp.max((wp.min(wp.min(a[0], b[0]), c[0]) - 192) >> 8, 0)
        last_column = wp.min((wp.max(wp.max(a[0], b[0]), c[0]) - 64) >> 8, side - 1)
        first_row = wp.max((wp.min(wp.min(a[1], b[1]), c[1]) - 192) >> 8, 0)
        last_row = wp.min((wp.max(wp.max(a[1], b[1]), c[1]) - 64) >> 8, side - 1)
        if first_column <= last_column and first_row <= last_row:
            if (last_column - first_column + 1) * (last_row - first_row + 1) >= LARGE:
                large[face] = True
            else:
                fill(side, a, b, c, depth, face, first_row, last_row, first_column, last_column, before, layered, keys)


@wp.kernel
def draw_large(
    start: wp.int32,
    side: wp.int32,
    bands: wp.int32,
    which: wp.array[wp.int32],
    faces: wp.array[wp.vec3i],
    screen: wp.array[wp.vec2i],
    near: wp.array[wp.float32],
    before: wp.array[wp.uint64],
    layered: wp.bool,
    keys: wp.array[wp.uint64],
):
    """draw() for one band of rows of a large face, so that one face does not occupy one thread for long."""
    i = start + wp.tid()
    face = which[i // bands]
    band = i % bands
    corner = faces[face]
    a = screen[corner[0]]
    b = screen[corner[1]]
    c = screen[corner[2]]
    first_column = wp.max((wp.min(wp.min(a[0], b[0]), c[0]) - 192) >> 8, 0)
    last_column = wp.min((wp.max(wp.max(a[0], b[0]), c[0]) - 64) >> 8, side - 1)
    first_row = wp.max((wp.min(wp.min(a[1], b[1]), c[1]) - 192) >> 8, band * BAND)
    last_row = wp.min((wp.max(wp.max(a[1], b[1]), c[1]) - 64) >> 8, wp.min(band * BAND + BAND, side) - 1)
    depth = wp.vec3(near[corner[0]], near[corner[1]], near[corner[2]])
    fill(side, a, b, c, depth, face, first_row, last_row, first_column, last_column, before, layered, keys)


# Normals


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
def look_up(
    view: View,
    shape: Shape,
    screen: wp.array[wp.vec2i],
    near: wp.array[wp.float32],
    face: wp.int32,
    column: wp.int32,
    row: wp.int32,
):
    hit = Hit()
    corner = shape.faces[face]
    hit.corner = corner
    a = screen[corner[0]]
    b = screen[corner[1]]
    c = screen[corner[2]]
    x = sample_x(column, row)
    y = sample_y(column, row)
    u = wp.float32(edge(b, c, x, y))
    v = wp.float32(edge(c, a, x, y))
    w = wp.float32(edge(a, b, x, y))
    if not view.parallel:  # weights on the picture -> weights in space
        u *= shrinking(view, near[corner[0]])
        v *= shrinking(view, near[corner[1]])
        w *= shrinking(view, near[corner[2]])
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


# Materials: six numbers, base colour RGB, metallic, roughness, alpha


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


# Light


@wp.func
def window(x: wp.float32, half: wp.float32, blur: wp.float32):
    return 0.5 * (wp.tanh((x + half) / blur) - wp.tanh((x - half) / blur))


@wp.func
def box_light(studio: Studio, k: wp.int32, d: wp.vec3, blur: wp.float32):
    at = studio.axes[k] * d
    up = wp.asin(wp.clamp(at[1], -1.0, 1.0))
    right = wp.atan2(at[0], at[2]) * wp.cos(up)
    soft = wp.sqrt(studio.edge * studio.edge + blur * blur)
    half = studio.half[k]
    return studio.radiance[k] * (window(right, half[0], soft) * window(up, half[1], soft))


@wp.func
def surroundings(studio: Studio, d: wp.vec3, blur: wp.float32):
    """Radiance from direction d, blurred, without the first box."""
    soft = wp.sqrt(studio.horizon * studio.horizon + blur * blur)
    sky = 0.5 + 0.5 * wp.tanh(wp.asin(wp.clamp(d[2], -1.0, 1.0)) / soft)
    light = studio.nadir * (1.0 - sky) + studio.zenith * sky
    for k in range(1, studio.radiance.shape[0]):
        light += box_light(studio, k, d, blur)
    return light


@wp.func
def diffuse(studio: Studio, first: wp.int32, n: wp.vec3):
    """Irradiance / pi from spherical harmonics of degree 2 (Ramamoorthi and Hanrahan 2001)."""
    h = studio.harmonics
    light = h[first] + h[first + 1] * n[1] + h[first + 2] * n[2] + h[first + 3] * n[0]
    light += h[first + 4] * (n[0] * n[1]) + h[first + 5] * (n[1] * n[2])
    light += h[first + 6] * (3.0 * n[2] * n[2] - 1.0) + h[first + 7] * (n[0] * n[2])
    light += h[first + 8] * (n[0] * n[0] - n[1] * n[1])
    return wp.max(light, wp.vec3(0.0, 0.0, 0.0))


@wp.func
def studio_frame(studio: Studio, d: wp.vec3):
    return wp.vec3(studio.cosine * d[0] + studio.sine * d[1], studio.cosine * d[1] - studio.sine * d[0], d[2])


@wp.func
def shine(
    studio: Studio,
    base: wp.vec3,
    metallic: wp.float32,
    roughness: wp.float32,
    n: wp.vec3,
    viewer: wp.vec3,
    open_sky: wp.float32,
    lit: wp.float32,
):
    """Light that a glTF metallic-roughness surface sends to the viewer.

    Cook-Torrance with GGX by the split sum (Karis 2013): the light blurred by the lobe, times the lobe's
    directional albedo in Karis' fit of 2014, scaled for multiple scattering (Turquin 2019). What is not reflected
    enters the diffuse part, so no more light leaves than arrives.

    Args:
        base: linear. n, viewer: unit, world frame. open_sky, lit: 0-1, how much of the sky and of the first box is
            seen.
    """
    rough = wp.clamp(roughness, 0.05, 1.0)
    alpha = rough * rough
    facing = wp.clamp(wp.dot(n, viewer), 0.0, 1.0)
    fall = 1.0 - rough
    a004 = wp.min(fall * fall, wp.pow(2.0, -9.28 * facing)) * fall + 0.0425 - 0.0275 * rough
    scale = -1.04 * a004 + 1.04 - 0.572 * rough
    bias = wp.max(1.04 * a004 - 0.04 + 0.022 * rough, 0.0)
    once = wp.clamp(scale + bias, 0.05, 1.0)
    more = 1.0 / once - 1.0
    plastic = wp.min((0.04 * scale + bias) * (1.0 + 0.04 * more), 1.0)
    metal = wp.cw_mul(base * scale + wp.vec3(bias, bias, bias), wp.vec3(1.0, 1.0, 1.0) + base * more)
    metal = wp.min(metal, wp.vec3(1.0, 1.0, 1.0))
    reflected = metal * metallic + wp.vec3(plastic, plastic, plastic) * (1.0 - metallic)

    mirror = n * (2.0 * wp.dot(n, viewer)) - viewer
    pull = (1.0 - alpha) * (wp.sqrt(1.0 - alpha) + alpha)  # of rough lobes towards the normal (Lagarde 2014)
    mirror = studio_frame(studio, wp.normalize(n * (1.0 - pull) + mirror * pull))
    blur = 2.45 * alpha / (1.0 + 2.1 * alpha)  # fitted to the integral of GGX over boxes; error below 2 %
    seen = wp.clamp(wp.pow(facing + open_sky, wp.pow(2.0, -16.0 * rough - 1.0)) - 1.0 + open_sky, 0.0, 1.0)
    mirrored = surroundings(studio, mirror, blur) * seen + box_light(studio, 0, mirror, blur) * wp.min(seen, lit)

    normal = studio_frame(studio, n)
    arriving = diffuse(studio, 0, normal) * open_sky + diffuse(studio, 9, normal) * lit
    kept = base * ((1.0 - plastic) * (1.0 - metallic))
    return wp.cw_mul(reflected, mirrored) + wp.cw_mul(kept, arriving)


@wp.func
def shown(colour: wp.vec3):
    """Highlights above 0.8 compressed to below 1 without a change of hue: Khronos' PBR Neutral tone mapper."""
    low = wp.min(wp.min(colour[0], colour[1]), colour[2])
    offset = 0.04
    if low < 0.08:
        offset = low - 6.25 * low * low
    colour = colour - wp.vec3(offset, offset, offset)
    peak = wp.max(wp.max(colour[0], colour[1]), colour[2])
    start = 0.76
    if peak < start:
        return colour
    rest = 1.0 - start
    compressed = 1.0 - rest * rest / (peak + rest - start)
    colour = colour * (compressed / peak)
    grey = 1.0 - 1.0 / (0.15 * (peak - compressed) + 1.0)
    return colour * (1.0 - grey) + wp.vec3(compressed, compressed, compressed) * grey


# Occlusion


@wp.func
def fraction(value: wp.float32):
    return value - wp.floor(value)


@wp.func
def horizon(
    view: View,
    keys: wp.array[wp.uint64],
    point: wp.vec3,
    viewer: wp.vec3,
    x: wp.float32,
    y: wp.float32,
    dx: wp.float32,
    dy: wp.float32,
    samples: wp.float32,
    jitter: wp.float32,
    reach: wp.float32,
    floor: wp.float32,
):
    """Cosine of the angle between the viewer and the highest thing along a line on the picture from sample (x, y)."""
    best = floor
    for k in range(STEPS):
        t = (float(k) + jitter) / float(STEPS)
        walk = 1.5 + t * t * samples
        column = wp.int32(x + dx * walk)
        row = wp.int32(y - dy * walk)
        if column >= 0 and row >= 0 and column < view.side and row < view.side:
            key = keys[row * view.side + column]
            if key != wp.uint64(0):
                depth = depth_of(view, key)
                size = 1.0 / magnification(view, depth)
                at_x = (float(sample_x(column, row)) / float(GRID) - view.middle) * size
                at_y = (view.middle - float(sample_y(column, row)) / float(GRID)) * size
                offset = wp.vec3(at_x, at_y, -depth) - point
                distance = wp.length(offset)
                near = wp.clamp(2.0 - 2.0 * distance / reach, 0.0, 1.0)
                cosine = wp.dot(offset, viewer) / wp.max(distance, 1.0e-9)
                best = wp.max(best, floor + (cosine - floor) * near)
    return best


@wp.func
def ambient(
    view: View,
    keys: wp.array[wp.uint64],
    position: wp.vec3,
    normal: wp.vec3,
    column: wp.int32,
    row: wp.int32,
    reach: wp.float32,
    turned: wp.float32,
):
    """0-1, how much of the cosine-weighted hemisphere is open: horizons in planes through the viewer, which are turned
    by 0-1 of the angle between two of them (Jimenez et al. 2016, Practical Real-Time Strategies for Accurate Indirect
    Occlusion)."""
    point = towards(view, position)
    n = wp.vec3(wp.dot(view.right, normal), wp.dot(view.up, normal), wp.dot(view.back, normal))
    viewer = wp.normalize(-point)
    samples = wp.min(magnification(view, -point[2]) * reach, 0.25 * float(view.side))
    x = float(sample_x(column, row)) / float(GRID)
    y = float(sample_y(column, row)) / float(GRID)
    total = wp.float32(0.0)
    for k in range(SLICES):
        turn = (float(k) + turned) * (wp.pi / float(SLICES))
        jitter = fraction(turned * 7.0 + 0.0625 + float(k) / float(SLICES))
        dx = wp.cos(turn)
        dy = wp.sin(turn)
        direction = wp.vec3(dx, dy, 0.0)
        flat = direction - viewer * wp.dot(direction, viewer)
        axis = wp.normalize(wp.cross(direction, viewer))
        inplane = n - axis * wp.dot(n, axis)
        length = wp.max(wp.length(inplane), 1.0e-6)
        tilt = wp.acos(wp.clamp(wp.dot(inplane, viewer) / length, -1.0, 1.0))
        if wp.dot(flat, inplane) < 0.0:
            tilt = -tilt
        quarter = 1.5707963
        # where nothing is in the way the horizon is the surface itself
        one = horizon(view, keys, point, viewer, x, y, dx, dy, samples, jitter, reach, wp.cos(tilt + quarter))
        two = horizon(view, keys, point, viewer, x, y, -dx, -dy, samples, jitter, reach, wp.cos(tilt - quarter))
        high = wp.min(wp.acos(wp.clamp(one, -1.0, 1.0)), tilt + quarter)
        low = wp.max(-wp.acos(wp.clamp(two, -1.0, 1.0)), tilt - quarter)
        arc = 2.0 * wp.cos(tilt) + 2.0 * (high + low) * wp.sin(tilt)
        arc -= wp.cos(2.0 * high - tilt) + wp.cos(2.0 * low - tilt)
        total += 0.25 * length * arc
    return wp.clamp(total / float(SLICES), 0.0, 1.0)


@wp.func
def behind(light: View, keys: wp.array[wp.uint64], x: wp.float32, y: wp.float32):
    column = wp.clamp(wp.int32(x), 0, light.side - 1)
    row = wp.clamp(wp.int32(y), 0, light.side - 1)
    return depth_of(light, keys[row * light.side + column])


@wp.func
def unshadowed(
    light: View,
    keys: wp.array[wp.uint64],
    position: wp.vec3,
    normal: wp.vec3,
    softness: wp.float32,
    turned: wp.float32,
):
    """0-1, the part of the first box that is seen: its shadow map, averaged over a disc that grows with the distance
    to what casts the shadow (Fernando, Percentage-Closer Soft Shadows, 2005). The taps follow a sunflower pattern that
    is turned by 0-1 of a circle."""
    n = wp.vec3(wp.dot(light.right, normal), wp.dot(light.up, normal), wp.dot(light.back, normal))
    away = wp.clamp(1.0 - 4.0 * n[2], 0.0, 1.0)  # near the terminator the irradiance itself fades: no second edge
    if away == 1.0:
        return 1.0
    unit = 1.0 / light.focal
    seen = towards(light, position + normal * (2.0 * unit))
    depth = -seen[2]
    x = light.middle + light.focal * seen[0]
    y = light.middle - light.focal * seen[1]
    steep = wp.max(n[2], 0.15)
    slope_x = n[0] / steep * unit  # the receiver's depth a sample to the right, and one up
    slope_y = n[1] / steep * unit
    widest = softness * light.focal * 0.4
    gap = wp.float32(0.0)
    blockers = wp.float32(0.0)
    spoke = wp.vec2(wp.cos(2.0 * wp.pi * turned), wp.sin(2.0 * wp.pi * turned))
    for k in range(BLOCKERS):
        tap = spoke * (widest * wp.sqrt((float(k) + 0.5) / float(BLOCKERS)))
        front = depth - behind(light, keys, x + tap[0], y - tap[1]) + slope_x * tap[0] + slope_y * tap[1]
        if front > unit:
            gap += front
            blockers += 1.0
        spoke = wp.vec2(COSINE * spoke[0] - SINE * spoke[1], SINE * spoke[0] + COSINE * spoke[1])
    if blockers == 0.0:
        return 1.0
    radius = wp.clamp(softness * gap / blockers * light.focal, 1.5, widest)
    clear = wp.float32(0.0)
    for k in range(TAPS):
        tap = spoke * (radius * wp.sqrt((float(k) + 0.5) / float(TAPS)))
        front = depth - behind(light, keys, x + tap[0], y - tap[1]) + slope_x * tap[0] + slope_y * tap[1]
        if front <= unit:
            clear += 1.0
        spoke = wp.vec2(COSINE * spoke[0] - SINE * spoke[1], SINE * spoke[0] + COSINE * spoke[1])
    return away + (1.0 - away) * clear / float(TAPS)


@wp.kernel
def visibility(
    start: wp.int32,
    view: View,
    light: View,
    shape: Shape,
    look: Look,
    screen: wp.array[wp.vec2i],
    near: wp.array[wp.float32],
    keys: wp.array[wp.uint64],
    shadow: wp.array[wp.uint64],
    positions: wp.array[wp.vec3],
    normals: wp.array[wp.vec3],
    opens: wp.array[wp.vec2],
):
    """Of one pixel: a point that it sees, its normal (0: none) and how much of the sky and of the first box it sees.
    The directions that are tried differ within every 4 x 4 pixels, in the order of Bayer's matrix; smooth() averages
    over as many."""
    i = start + wp.tid()
    pixels = view.side // SAMPLES
    x = i % pixels
    y = i // pixels
    mixed = x ^ y
    turned = float(((mixed & 1) << 3) | ((y & 1) << 2) | (mixed & 2) | ((y & 2) >> 1)) / 16.0
    found = wp.int32(-1)
    for number in range(SAMPLES * SAMPLES):
        at = (SAMPLES * y + number // SAMPLES) * view.side + SAMPLES * x + number % SAMPLES
        if found < 0 and keys[at] != wp.uint64(0):
            found = number
    normals[i] = wp.vec3(0.0, 0.0, 0.0)
    if found >= 0:
        column = SAMPLES * x + found % SAMPLES
        row = SAMPLES * y + found // SAMPLES
        hit = look_up(view, shape, screen, near, face_of(keys[row * view.side + column]), column, row)
        positions[i] = hit.position
        normals[i] = hit.normal
        opens[i] = wp.vec2(
            ambient(view, keys, hit.position, hit.normal, column, row, look.reach, turned),
            unshadowed(light, shadow, hit.position, hit.normal, look.softness, turned),
        )


@wp.kernel
def smooth(
    start: wp.int32,
    view: View,
    positions: wp.array[wp.vec3],
    normals: wp.array[wp.vec3],
    first: wp.int32,
    opens: wp.array[wp.vec2],
    smoothed: wp.array[wp.vec2],
):
    """Mean over 4 x 4 pixels, from `first` of this one on, of those on about the same plane."""
    i = start + wp.tid()
    n = normals[i]
    if wp.length_sq(n) > 0.0:
        pixels = view.side // SAMPLES
        x = i % pixels
        y = i // pixels
        p = positions[i]
        pixel = float(SAMPLES) / magnification(view, -towards(view, p)[2])
        total = opens[i]
        weight = wp.float32(1.0)
        for dy in range(first, first + 4):
            for dx in range(first, first + 4):
                inside = x + dx >= 0 and y + dy >= 0 and x + dx < pixels and y + dy < pixels
                if inside and (dx != 0 or dy != 0):
                    j = i + dy * pixels + dx
                    off = wp.dot(n, positions[j] - p) / (2.0 * pixel)
                    alike = wp.max(wp.dot(n, normals[j]), 0.0)
                    part = alike * alike * alike * alike / (1.0 + off * off * off * off)
                    total += opens[j] * part
                    weight += part
        smoothed[i] = total / weight


@wp.func
def gathered(
    view: View,
    positions: wp.array[wp.vec3],
    normals: wp.array[wp.vec3],
    smoothed: wp.array[wp.vec2],
    position: wp.vec3,
    x: wp.int32,
    y: wp.int32,
):
    """What the pixel (x, y), or else the one beside it that saw the point nearest to `position`, sees of the light."""
    pixels = view.side // SAMPLES
    i = y * pixels + x
    close = 3.0 * float(SAMPLES) / magnification(view, -towards(view, position)[2])
    best = wp.length(positions[i] - position)
    if best > close:
        for k in range(9):
            column = x + k % 3 - 1
            row = y + k // 3 - 1
            if column >= 0 and row >= 0 and column < pixels and row < pixels:
                j = row * pixels + column
                distance = wp.length(positions[j] - position)
                if distance < best and wp.length_sq(normals[j]) > 0.0:
                    best = distance
                    i = j
    return smoothed[i]


# Pictures


@wp.func
def lines(a: wp.vec2i, b: wp.vec2i, c: wp.vec2i, column: wp.int32, row: wp.int32, width: wp.float32):
    """0-1, how much of a sample the edges of a face cover. Where faces are smaller than lines the lines grow faint, so
    that a dense mesh stays readable."""
    x = sample_x(column, row)
    y = sample_y(column, row)
    unit = float(GRID * SAMPLES)
    ab = wp.length(wp.vec2(float(b[0] - a[0]), float(b[1] - a[1]))) / unit
    bc = wp.length(wp.vec2(float(c[0] - b[0]), float(c[1] - b[1]))) / unit
    ca = wp.length(wp.vec2(float(a[0] - c[0]), float(a[1] - c[1]))) / unit
    area = wp.abs(wp.float32(edge(a, b, c[0], c[1]))) / (unit * unit)
    near = wp.abs(wp.float32(edge(a, b, x, y))) / (unit * unit) / wp.max(ab, 1.0e-6)
    near = wp.min(near, wp.abs(wp.float32(edge(b, c, x, y))) / (unit * unit) / wp.max(bc, 1.0e-6))
    near = wp.min(near, wp.abs(wp.float32(edge(c, a, x, y))) / (unit * unit) / wp.max(ca, 1.0e-6))
    height = area / wp.max(wp.max(ab, bc), wp.max(ca, 1.0e-6))
    strength = wp.clamp(0.2 + 0.13 * height, 0.0, 0.85)
    return strength * wp.clamp(0.5 * width + 0.25 - near, 0.0, 0.5) * 2.0


@wp.kernel
def shade(
    start: wp.int32,
    view: View,
    shape: Shape,
    studio: Studio,
    look: Look,
    screen: wp.array[wp.vec2i],
    near: wp.array[wp.float32],
    keys: wp.array[wp.uint64],
    positions: wp.array[wp.vec3],
    normals: wp.array[wp.vec3],
    smoothed: wp.array[wp.vec2],
    through: wp.array[wp.float32],
    picture: wp.array[wp.vec4],
):
    """Add what one pixel's samples see to the picture: colour times coverage, and coverage.

    through: of each sample, what the layers in front let pass; read and updated if look.layered.
    """
    i = start + wp.tid()
    pixels = view.side // SAMPLES
    total = wp.vec4(0.0, 0.0, 0.0, 0.0)
    for number in range(SAMPLES * SAMPLES):
        column = SAMPLES * (i % pixels) + number % SAMPLES
        row = SAMPLES * (i // pixels) + number // SAMPLES
        at = row * view.side + column
        key = keys[at]
        if key != wp.uint64(0):
            hit = look_up(view, shape, screen, near, face_of(key), column, row)
            a = screen[hit.corner[0]]
            b = screen[hit.corner[1]]
            c = screen[hit.corner[2]]
            base = look.clay
            metallic = wp.float32(0.0)
            roughness = look.clay_roughness
            cover = wp.float32(1.0)
            if shape.source != CLAY:
                material = wp.vector(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, dtype=wp.float32)
                if shape.source == MAPS:
                    samples = wp.abs(wp.float32(edge(a, b, c[0], c[1]))) / float(GRID * GRID)
                    material = from_maps(shape, hit, samples)
                else:
                    for k in range(3):
                        material += texel(shape.colours, hit.corner[k]) * hit.weights[k]
                for k in range(6):
                    material[k] = wp.clamp(material[k], 0.0, 1.0)
                base = wp.vec3(linear(material[0]), linear(material[1]), linear(material[2]))
                metallic = material[3]
                roughness = material[4]
                if shape.alpha == BLEND:
                    cover = material[5]
                if shape.alpha == MASK and material[5] < 0.5:
                    cover = wp.float32(0.0)
            colour = base
            if look.mode == NORMALS:
                n = hit.normal
                colour = wp.vec3(wp.dot(view.right, n), wp.dot(view.up, n), wp.dot(view.back, n)) * 0.5
                colour += wp.vec3(0.5, 0.5, 0.5)
            elif look.mode != BASE_COLOR and cover > 0.0:
                viewer = wp.normalize(view.eye - hit.position)
                seen = gathered(view, positions, normals, smoothed, hit.position, i % pixels, i // pixels)
                colour = shown(shine(studio, base, metallic, roughness, hit.normal, viewer, seen[0], seen[1]))
                if look.mode == WIREFRAME:
                    part = lines(a, b, c, column, row, look.line_width)
                    colour = colour * (1.0 - part) + look.line * part
            weight = cover / float(SAMPLES * SAMPLES)
            if look.layered:
                weight *= through[at]
                through[at] = through[at] * (1.0 - cover)
            total += wp.vec4(colour[0] * weight, colour[1] * weight, colour[2] * weight, weight)
    picture[i] += total
