"""Warp kernels of occlusion: how much of the sky and of the first box each pixel sees."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import math

import warp as wp

from ..warp.launch import configure
from .surface_functions import Look, Shape, look_up
from .view_functions import (
    GRID,
    SAMPLES,
    Projection,
    View,
    depth_of,
    face_of,
    magnification,
    sample_x,
    sample_y,
    towards,
)

configure(__name__)

SLICES, STEPS = 2, 6  # of ambient occlusion, at each pixel
BLOCKERS, TAPS = 8, 16  # of soft shadows, at each pixel
COSINE, SINE = math.cos(math.pi * (3 - math.sqrt(5))), math.sin(math.pi * (3 - math.sqrt(5)))  # the golden angle


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
    radius: wp.float32,
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
                near = wp.clamp(2.0 - 2.0 * distance / radius, 0.0, 1.0)
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
    radius: wp.float32,
    turned: wp.float32,
):
    """0-1, how much of the cosine-weighted hemisphere is open: horizons in planes through the viewer, which are turned
    by 0-1 of the angle between two of them (Jimenez et al. 2016, Practical Real-Time Strategies for Accurate Indirect
    Occlusion)."""
    point = towards(view, position)
    n = wp.vec3(wp.dot(view.right, normal), wp.dot(view.up, normal), wp.dot(view.back, normal))
    viewer = wp.normalize(-point)
    samples = wp.min(magnification(view, -point[2]) * radius, 0.25 * float(view.side))
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
        one = horizon(view, keys, point, viewer, x, y, dx, dy, samples, jitter, radius, wp.cos(tilt + quarter))
        two = horizon(view, keys, point, viewer, x, y, -dx, -dy, samples, jitter, radius, wp.cos(tilt - quarter))
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
    projected: Projection,
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
        hit = look_up(view, shape, projected, face_of(keys[row * view.side + column]), column, row)
        positions[i] = hit.position
        normals[i] = hit.normal
        opens[i] = wp.vec2(
            ambient(view, keys, hit.position, hit.normal, column, row, look.radius, turned),
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
