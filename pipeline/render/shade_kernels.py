"""Warp kernels that shade: what the samples of each pixel see, added to the picture."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from ..warp.launch import configure
from .material_functions import from_maps, linear, texel
from .studio_functions import Studio, shine, shown
from .surface_functions import BASE_COLOR, BLEND, CLAY, MAPS, MASK, NORMALS, WIREFRAME, Look, Shape, look_up
from .view_functions import GRID, SAMPLES, Projection, View, edge, face_of, magnification, sample_x, sample_y, towards

configure(__name__)


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
    projected: Projection,
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
            hit = look_up(view, shape, projected, face_of(key), column, row)
            a = projected.screen[hit.corner[0]]
            b = projected.screen[hit.corner[1]]
            c = projected.screen[hit.corner[2]]
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
