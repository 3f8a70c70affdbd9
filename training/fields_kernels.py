"""Warp kernel of fields.py: all primitives of an object in one pass over the points. Reference: fields.distances."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import torch
import warp as wp

from pipeline.warp.launch import configure, launch_parallel

from . import fields

configure(__name__)

BEAM, TURNED, BALLS, RING = (
    wp.constant(fields.BEAM),
    wp.constant(fields.TURNED),
    wp.constant(fields.BALLS),
    wp.constant(fields.RING),
)
WIDTH, FAR = wp.constant(fields.WIDTH), wp.constant(fields.FAR)
KIND, OPERATION, ROUND = wp.constant(fields.KIND), wp.constant(fields.OPERATION), wp.constant(fields.ROUND)
MIRROR_X, MIRROR_Y = wp.constant(fields.MIRROR_X), wp.constant(fields.MIRROR_Y)
TURNS, PHASE = wp.constant(fields.TURNS), wp.constant(fields.PHASE)
CENTRE, SIZE, ROTATION = (wp.constant(each.start) for each in (fields.CENTRE, fields.SIZE, fields.ROTATION))


@wp.func
def hypot(x: wp.float32, y: wp.float32):
    return wp.sqrt(x * x + y * y)


@wp.func
def trapezoid(x: wp.float32, z: wp.float32, bottom: wp.float32, top: wp.float32, half: wp.float32):
    width = top
    if z < 0.0:
        width = bottom
    beside = x - wp.min(x, width)
    above = wp.abs(z) - half
    along_x = top - bottom
    along_z = 2.0 * half
    t = ((top - x) * along_x + (half - z) * along_z) / (along_x * along_x + along_z * along_z)
    t = wp.clamp(t, 0.0, 1.0)
    slant_x = x - top + along_x * t
    slant_z = z - half + along_z * t
    distance = wp.sqrt(wp.min(beside * beside + above * above, slant_x * slant_x + slant_z * slant_z))
    if slant_x < 0.0 and above < 0.0:
        return -distance
    return distance


@wp.func
def primitive(row: wp.array[wp.float32], point: wp.vec3):
    x = point[0]
    y = point[1]
    if row[MIRROR_X] > 0.0:
        x = wp.abs(x)
    if row[MIRROR_Y] > 0.0:
        y = wp.abs(y)
    if row[TURNS] > 1.0:
        step = 2.0 * wp.pi / row[TURNS]
        angle = wp.rint((wp.atan2(y, x) - row[PHASE]) / step) * step + row[PHASE]
        cos = wp.cos(angle)
        sin = wp.sin(angle)
        turned_x = cos * x + sin * y
        y = cos * y - sin * x
        x = turned_x
    at = wp.vec3(x - row[CENTRE], y - row[CENTRE + 1], point[2] - row[CENTRE + 2])
    x = row[ROTATION] * at[0] + row[ROTATION + 1] * at[1] + row[ROTATION + 2] * at[2]
    y = row[ROTATION + 3] * at[0] + row[ROTATION + 4] * at[1] + row[ROTATION + 5] * at[2]
    z = row[ROTATION + 6] * at[0] + row[ROTATION + 7] * at[1] + row[ROTATION + 8] * at[2]
    a = row[SIZE]
    b = row[SIZE + 1]
    c = row[SIZE + 2]
    d = row[SIZE + 3]
    kind = wp.int32(row[KIND])
    if kind == BEAM or kind == TURNED:  # noqa: SIM109 (Warp has no `in`)
        rounded = row[ROUND]
        across = wp.abs(x)
        if kind == TURNED:
            across = hypot(x, y)
        flat = trapezoid(
            across, z, wp.max(a - rounded, 1.0e-4), wp.max(b - rounded, 1.0e-4), wp.max(c - rounded, 1.0e-4)
        )
        if kind == TURNED:
            return flat - rounded
        beyond = wp.abs(y) - wp.max(d - rounded, 1.0e-4)
        outside = hypot(wp.max(flat, 0.0), wp.max(beyond, 0.0))
        return wp.min(wp.max(flat, beyond), 0.0) + outside - rounded
    if kind == BALLS:
        slope = wp.clamp((a - b) / c, -0.999, 0.999)
        side = wp.sqrt(1.0 - slope * slope)
        out = hypot(x, y)
        along = side * z - slope * out
        if along < 0.0:
            return hypot(out, z) - a
        if along > side * c:
            return hypot(out, z - c) - b
        return side * out + slope * z - a
    if kind == RING:
        out = hypot(x, wp.max(wp.abs(y) - c, 0.0)) - a
        return hypot(out, wp.max(wp.abs(z) - d, 0.0)) - b
    reach = wp.length(wp.vec3(x / a, y / b, z / c))
    steepness = wp.length(wp.vec3(x / (a * a), y / (b * b), z / (c * c)))
    if reach > 1.0e-3:
        return reach * (reach - 1.0) / wp.max(steepness, 1.0e-6)
    return -wp.min(a, wp.min(b, c))


@wp.func
def nearest(rows: wp.array2d[wp.float32], point: wp.vec3):
    """Signed distance in the object's own frame, and the slot that decides it."""
    best = FAR
    decider = wp.int32(0)
    for slot in range(rows.shape[0]):
        row = rows[slot]
        operation = row[OPERATION]
        if operation > 0.0:
            new = primitive(row, point)
            if new <= best:
                best = new
                decider = slot
        elif operation < 0.0:
            new = -primitive(row, point)
            if new > best:
                best = new
                decider = slot
    return best, decider


@wp.kernel
def measure(
    start: wp.int32,
    table: wp.array3d[wp.float32],
    points: wp.array[wp.vec3],
    owner: wp.array[wp.int64],
    distance: wp.array[wp.float32],
    part: wp.array[wp.int32],
):
    i = start + wp.tid()
    best, decider = nearest(table[wp.int32(owner[i])], points[i])
    distance[i] = best
    part[i] = decider


def distances(table: torch.Tensor, points: torch.Tensor, owner: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As fields.distances, but reads the kinds from the table; owner in any order."""
    distance = torch.empty(len(points), device=points.device)
    part = torch.empty(len(points), dtype=torch.int32, device=points.device)
    launch_parallel(measure, len(points), table, points, owner, distance, part, chunk=1 << 14)
    return distance, part
