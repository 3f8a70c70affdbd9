"""Kernels of the unwrapping on NVIDIA Warp, and how they are launched: rigid flattening and texel drawing.

Every kernel takes the number of its first row, so that a CPU's threads can share the rows.
Sums are gathered in a fixed order: results do not depend on the number of threads. Variables that change in a loop are
declared with a type, for Warp takes a bare number as a constant.
"""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from ...warp.launch import configure
from ..bake.scan_kernels import by_height, covered_span

configure(__name__)

SLACK = wp.constant(1e-3)  # texels: more than rounding texture coordinates to float32 moves a corner
FLAT = wp.constant(1e-5)  # sine of an angle that rounding may give
ROUNDING = wp.constant(1e-7)  # of float32
CLAIM, FIND, MARK = wp.constant(0), wp.constant(1), wp.constant(2)  # modes of the drawing, see draw


@wp.kernel
def diagonal(
    start: wp.int32,
    first: wp.array[wp.int32],
    incident: wp.array[wp.int32],
    cot: wp.array2d[wp.float32],
    out: wp.array[wp.float32],
):
    """Diagonal of the Laplacian; see laplace."""
    i = start + wp.tid()
    total = wp.float32(0.0)
    for k in range(first[i], first[i + 1]):
        c = incident[k]
        f = c // 3
        j = c - 3 * f
        total += cot[f, (j + 1) % 3] + cot[f, (j + 2) % 3]
    out[i] = total


@wp.kernel
def laplace(
    start: wp.int32,
    first: wp.array[wp.int32],
    incident: wp.array[wp.int32],
    faces: wp.array[wp.vec3i],
    cot: wp.array2d[wp.float32],
    still: wp.float32,
    u: wp.array[wp.vec2],
    out: wp.array[wp.vec2],
):
    """The cotangent Laplacian, its diagonal times 1 + still, times u: vertex by vertex over its corners (3 * face +
    corner)."""
    i = start + wp.tid()
    total = wp.vec2(0.0, 0.0)
    here = u[i]
    for k in range(first[i], first[i + 1]):
        c = incident[k]
        f = c // 3
        j = c - 3 * f
        n = (j + 1) % 3
        m = (j + 2) % 3
        v = faces[f]
        total += cot[f, m] * (here - u[v[n]]) + cot[f, n] * (here - u[v[m]])
        total += still * (cot[f, m] + cot[f, n]) * here
    out[i] = total


@wp.kernel
def rotate(
    start: wp.int32,
    faces: wp.array[wp.vec3i],
    rest: wp.array2d[wp.vec2],
    cot: wp.array2d[wp.float32],
    u: wp.array[wp.vec2],
    pull: wp.array2d[wp.vec2],
):
    """The local step: the rotation nearest to how a face now lies, and what the rotated face asks of its corners."""
    f = start + wp.tid()
    v = faces[f]
    a = wp.float32(0.0)
    b = wp.float32(0.0)
    for k in range(3):
        n = (k + 1) % 3
        w = cot[f, (k + 2) % 3]
        now = u[v[n]] - u[v[k]]
        x = rest[f, n] - rest[f, k]
        a += w * (now[0] * x[0] + now[1] * x[1])
        b += w * (now[1] * x[0] - now[0] * x[1])
    size = wp.sqrt(a * a + b * b)
    if size > 0.0:
        a /= size
        b /= size
    else:
        a = wp.float32(1.0)
        b = wp.float32(0.0)
    for k in range(3):
        n = (k + 1) % 3
        m = (k + 2) % 3
        x = cot[f, m] * (rest[f, k] - rest[f, n]) + cot[f, n] * (rest[f, k] - rest[f, m])
        pull[f, k] = wp.vec2(a * x[0] - b * x[1], b * x[0] + a * x[1])


@wp.kernel
def gather(
    start: wp.int32,
    first: wp.array[wp.int32],
    incident: wp.array[wp.int32],
    pull: wp.array2d[wp.vec2],
    out: wp.array[wp.vec2],
):
    i = start + wp.tid()
    total = wp.vec2(0.0, 0.0)
    for k in range(first[i], first[i + 1]):
        c = incident[k]
        f = c // 3
        total += pull[f, c - 3 * f]
    out[i] = total


@wp.kernel
def boxes(
    start: wp.int32,
    turns: wp.int32,
    first: wp.array[wp.int32],
    points: wp.array[wp.vec2d],
    directions: wp.array[wp.vec2d],
    low: wp.array2d[wp.vec2d],
    high: wp.array2d[wp.vec2d],
):
    """The box round points first[c] .. first[c + 1] - 1 after turning them so that a direction becomes the x axis."""
    i = start + wp.tid()
    c = i // turns
    k = i - c * turns
    d = directions[k]
    least = wp.vec2d(wp.float64(1e300), wp.float64(1e300))
    most = -least
    for j in range(first[c], first[c + 1]):
        p = points[j]
        q = wp.vec2d(d[0] * p[0] + d[1] * p[1], d[0] * p[1] - d[1] * p[0])
        least = wp.min(least, q)
        most = wp.max(most, q)
    low[c, k] = least
    high[c, k] = most


@wp.kernel
def draw(
    start: wp.int32,
    mode: wp.int32,
    faces: wp.array[wp.vec3i],
    points: wp.array[wp.vec2d],
    labels: wp.array[wp.int32],
    low: wp.array[wp.vec2i],
    sizes: wp.array[wp.vec2i],
    offset: wp.array[wp.int64],
    owner: wp.array[wp.int32],
    flags: wp.array[wp.uint8],
    turned: wp.array[wp.uint8],
):
    """Scan-converts faces as raster.rasterise does, each into the box of its chart.

    Texel (column x, row y) of chart c stands at offset[c] + (y - low) * width + (x - low). Mode CLAIM: owner = face at
    covered texels, the last to write stays. FIND: flags = 1 for the owner of a covered texel and the face, if these are
    two (no thread counts: on a CPU Warp has no atomics). MARK: flags = 1 at texels that are covered, or would be if
    corners were rounded, and at the texel of the face's centroid; `turned` the same after a quarter turn (x, y) ->
    (height - 1 - y, x).
    """
    f = start + wp.tid()
    v = faces[f]
    label = labels[f]
    x0 = low[label][0]
    y0 = low[label][1]
    width = wp.int64(sizes[label][0])
    height = wp.int64(sizes[label][1])
    base = offset[label]
    a = points[v[0]]
    b = points[v[1]]
    c = points[v[2]]
    if mode == MARK:
        third = wp.float64(1.0) / wp.float64(3.0)
        x = wp.int64(wp.int32(wp.round((a[0] + b[0] + c[0]) * third)) - x0)
        y = wp.int64(wp.int32(wp.round((a[1] + b[1] + c[1]) * third)) - y0)
        flags[base + y * width + x] = wp.uint8(1)
        turned[base + x * height + height - wp.int64(1) - y] = wp.uint8(1)
    a, b, c = by_height(a, b, c)
    slack = wp.float64(0.0)
    if mode == MARK:
        slack = wp.float64(SLACK)
    for row in range(wp.int32(wp.ceil(a[1] - slack)), wp.int32(wp.ceil(c[1] + slack))):
        level = wp.float64(row)
        span = covered_span(a, b, c, level)
        if mode == MARK:
            below = covered_span(a, b, c, wp.clamp(level - slack, a[1], c[1]))
            above = covered_span(a, b, c, wp.clamp(level + slack, a[1], c[1]))
            if level < a[1] or level > c[1]:
                span = below
            if wp.abs(b[1] - level) <= slack:  # a corner between the three heights
                below = wp.vec2d(wp.min(below[0], b[0]), wp.max(below[1], b[0]))
            span[0] = wp.min(span[0], wp.min(below[0], above[0])) - slack
            span[1] = wp.max(span[1], wp.max(below[1], above[1])) + slack
        y = wp.int64(row - y0)
        for column in range(wp.int32(wp.ceil(span[0])), wp.int32(wp.ceil(span[1]))):
            x = wp.int64(column - x0)
            at = base + y * width + x
            if mode == CLAIM:
                owner[at] = f
            elif mode == FIND:
                if owner[at] != f:
                    flags[owner[at]] = wp.uint8(1)
                    flags[f] = wp.uint8(1)
            else:
                flags[at] = wp.uint8(1)
                turned[base + x * height + height - wp.int64(1) - y] = wp.uint8(1)


@wp.func
def cross(a: wp.vec2d, b: wp.vec2d):
    return a[0] * b[1] - a[1] * b[0]


@wp.kernel
def circle(
    start: wp.int32,
    first: wp.array[wp.int32],
    incident: wp.array[wp.int32],
    faces: wp.array[wp.vec3i],
    points: wp.array[wp.vec2d],
    folded: wp.array[wp.uint8],
):
    """folded = 1 for faces round a vertex of which two or more lie in the direction of the x axis from it."""
    i = start + wp.tid()
    times = wp.int32(0)
    for k in range(first[i], first[i + 1]):
        c = incident[k]
        f = c // 3
        j = c - 3 * f
        right = points[faces[f][(j + 1) % 3]] - points[i]
        left = points[faces[f][(j + 2) % 3]] - points[i]
        if right[1] < wp.float64(0.0) and left[1] >= wp.float64(0.0) and cross(right, left) > wp.float64(0.0):
            times += 1
    if times > 1:
        for k in range(first[i], first[i + 1]):
            folded[incident[k] // 3] = wp.uint8(1)


@wp.kernel
def find_boundary(
    start: wp.int32,
    first: wp.array[wp.int32],
    incident: wp.array[wp.int32],
    faces: wp.array[wp.vec3i],
    points: wp.array[wp.vec2d],
    boundary: wp.array[wp.uint8],
    folded: wp.array[wp.uint8],
):
    """boundary = 1 for half-edges (3 * face + corner, from that corner to the next) without a face on their other side;
    folded = 1 for faces that have a half-edge in common, and for those with a boundary edge that leaves one of its ends
    into another face, and that face."""
    h = start + wp.tid()
    f = h // 3
    j = h - 3 * f
    v = faces[f]
    tail = v[j]
    head = v[(j + 1) % 3]
    unpaired = wp.int32(1)
    for k in range(first[tail], first[tail + 1]):
        c = incident[k]
        g = c // 3
        i = c - 3 * g
        if faces[g][(i + 2) % 3] == head:
            unpaired = wp.int32(0)
        if g != f and faces[g][(i + 1) % 3] == head:
            folded[f] = wp.uint8(1)
    boundary[h] = wp.uint8(unpaired)
    if unpaired == 0:
        return
    for end in range(2):
        at = tail
        along = points[head] - points[tail]
        if end == 1:
            at = head
            along = -along
        sine = wp.float64(FLAT) * wp.length(along)
        for k in range(first[at], first[at + 1]):
            c = incident[k]
            g = c // 3
            i = c - 3 * g
            right = points[faces[g][(i + 1) % 3]] - points[at]
            left = points[faces[g][(i + 2) % 3]] - points[at]
            if cross(right, along) > sine * wp.length(right) and cross(along, left) > sine * wp.length(left):
                folded[f] = wp.uint8(1)
                folded[g] = wp.uint8(1)


@wp.kernel
def edge_boxes(
    start: wp.int32,
    half_edges: wp.array[wp.int32],
    faces: wp.array[wp.vec3i],
    points: wp.array[wp.vec2d],
    labels: wp.array[wp.int32],
    low: wp.array[wp.vec3],
    high: wp.array[wp.vec3],
):
    """Boxes of half-edges, those of each chart in a plane of its own."""
    i = start + wp.tid()
    h = half_edges[i]
    f = h // 3
    j = h - 3 * f
    a = points[faces[f][j]]
    b = points[faces[f][(j + 1) % 3]]
    z = wp.float32(labels[f])
    least = wp.min(a, b)
    most = wp.max(a, b)
    slack = wp.float64(ROUNDING) * (wp.float64(1.0) + wp.length(a) + wp.length(b))
    low[i] = wp.vec3(wp.float32(least[0] - slack), wp.float32(least[1] - slack), z - 0.25)
    high[i] = wp.vec3(wp.float32(most[0] + slack), wp.float32(most[1] + slack), z + 0.25)


@wp.kernel
def crossings(
    start: wp.int32,
    bvh: wp.uint64,
    low: wp.array[wp.vec3],
    high: wp.array[wp.vec3],
    half_edges: wp.array[wp.int32],
    faces: wp.array[wp.vec3i],
    points: wp.array[wp.vec2d],
    labels: wp.array[wp.int32],
    folded: wp.array[wp.uint8],
):
    """folded = 1 for faces whose half-edge crosses another of the same chart."""
    i = start + wp.tid()
    h = half_edges[i]
    f = h // 3
    j = h - 3 * f
    v = faces[f]
    a = points[v[j]]
    b = points[v[(j + 1) % 3]]
    query = wp.bvh_query_aabb(bvh, low[i], high[i])
    other = wp.int32(0)
    while wp.bvh_query_next(query, other):
        h = half_edges[other]
        g = h // 3
        k = h - 3 * g
        w = faces[g]
        tail = w[k]
        head = w[(k + 1) % 3]
        if labels[g] != labels[f] or tail == v[j] or tail == v[(j + 1) % 3] or head == v[j] or head == v[(j + 1) % 3]:
            continue
        c = points[tail]
        d = points[head]
        apart = cross(b - a, c - a) * cross(b - a, d - a) < wp.float64(0.0)
        if apart and cross(d - c, a - c) * cross(d - c, b - c) < wp.float64(0.0):
            folded[f] = wp.uint8(1)
