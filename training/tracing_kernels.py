"""Warp kernels of tracing.py: one thread follows one ray to its end. tracing_reference.py defines the results."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import torch
import warp as wp

from pipeline.warp.launch import configure, launch_parallel

from . import tracing_reference as reference
from .fields_kernels import nearest

configure(__name__)

STEPS, NEAR, CAUTION = wp.constant(reference.STEPS), wp.constant(reference.NEAR), wp.constant(reference.CAUTION)
SHADOW_STEPS, LIFT = wp.constant(reference.SHADOW_STEPS), wp.constant(reference.LIFT)
SHORTEST, LONGEST = wp.constant(reference.SHADOW_STEP[0]), wp.constant(reference.SHADOW_STEP[1])


@wp.func
def distance_at(rows: wp.array2d[wp.float32], middle: wp.vec3, scale: wp.float32, point: wp.vec3):
    """Signed distance of a point of the world, and the part that decides it."""
    distance, decider = nearest(rows, point / scale + middle)
    return distance * scale, decider


@wp.kernel
def follow(
    start: wp.int32,
    table: wp.array3d[wp.float32],
    middle: wp.array[wp.vec3],
    scale: wp.array[wp.float32],
    owner: wp.array[wp.int64],
    eyes: wp.array[wp.vec3],
    rays: wp.array[wp.vec3],
    first: wp.array[wp.float32],
    last: wp.array[wp.float32],
    hit: wp.array[wp.float32],
    part: wp.array[wp.int64],
):
    i = start + wp.tid()
    own = wp.int32(owner[i])
    rows = table[own]
    t = first[i]
    step = wp.int32(0)
    while t < last[i] and step < STEPS:
        distance, decider = distance_at(rows, middle[own], scale[own], eyes[i] + rays[i] * t)
        distance = wp.abs(distance)
        if distance < NEAR * (1.0 + 4.0 * wp.float32(step) / wp.float32(STEPS)):
            hit[i] = t
            part[i] = wp.int64(decider)
            return
        t += CAUTION * distance
        step += 1


@wp.kernel
def shade(
    start: wp.int32,
    table: wp.array3d[wp.float32],
    middle: wp.array[wp.vec3],
    scale: wp.array[wp.float32],
    owner: wp.array[wp.int64],
    points: wp.array[wp.vec3],
    normals: wp.array[wp.vec3],
    lights: wp.array[wp.vec3],
    softness: wp.array[wp.float32],
    lit: wp.array[wp.float32],
):
    i = start + wp.tid()
    own = wp.int32(owner[i])
    rows = table[own]
    at = points[i] + normals[i] * LIFT
    t = 2.0 * LIFT
    clear = wp.float32(1.0)
    for _ in range(SHADOW_STEPS):
        distance, _part = distance_at(rows, middle[own], scale[own], at + lights[i] * t)
        clear = wp.min(clear, distance / (softness[i] * t))
        t += wp.clamp(wp.abs(distance), SHORTEST, LONGEST)
    clear = wp.max(clear, -1.0)
    lit[i] = 0.25 * (1.0 + clear) * (1.0 + clear) * (2.0 - clear)


_RAYS = 1 << 12  # of one launch on a CPU


def march(objects, owner, eyes, rays, start: torch.Tensor, end: torch.Tensor):
    """As tracing.march."""
    hit, part = torch.full_like(start, torch.inf), torch.zeros_like(owner)
    given = objects.table, objects.middle, objects.scale, owner, eyes, rays, start, end
    launch_parallel(follow, len(owner), *given, hit, part, chunk=_RAYS)
    return hit, part


def lightness(objects, owner, points, normals, lights, softness: torch.Tensor) -> torch.Tensor:
    """As tracing.lightness."""
    lit = torch.empty_like(softness)
    given = objects.table, objects.middle, objects.scale, owner, points, normals, lights, softness
    launch_parallel(shade, len(owner), *given, lit, chunk=_RAYS)
    return lit
