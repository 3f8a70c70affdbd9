"""Signed distances of primitives and of their unions and differences, for batches of objects: the plain definition.

Distance functions after Inigo Quilez (iquilezles.org/articles/distfunctions): exact but for eggs, and for unions
and differences inside one another, where they underestimate.
"""

from __future__ import annotations

import math

import torch

# Kinds, along their own z axis. Sizes [4]:
BEAM = 0  # half width at the bottom and at the top (x), half height (z), half depth (y): boxes, roofs, wedges
TURNED = 1  # radius at the bottom and at the top, half height, -: cylinders and cones
BALLS = 2  # radius of a ball at 0 and of one at height h, h, -, and what lies between them: balls and capsules
RING = 3  # radius, radius of its section, elongation along y, elongation of the section along z
EGG = 4  # half axes x, y, z, -
KINDS = (BEAM, TURNED, BALLS, RING, EGG)

# Columns of a table [B, P, WIDTH] of primitives. Operation: +1 add, -1 cut from all before it, 0 absent.
# A point is folded before a primitive sees it: mirrored to positive x and y, or turned about z into the sector at PHASE
# of TURNS equal ones. So one primitive is four legs or three fins.
KIND, OPERATION, ROUND, MIRROR_X, MIRROR_Y, TURNS, PHASE = range(7)
CENTRE, SIZE, ROTATION = slice(7, 10), slice(10, 14), slice(14, 23)  # rotation: rows are the primitive's axes
WIDTH = 23
FAR = 1e3  # distance to an absent primitive


def distances(
    table: torch.Tensor, kinds: torch.Tensor, points: torch.Tensor, owner: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance to an object, and the primitive that decides it, for each of M points.

    Args:
        table: [B, P, WIDTH] float32.
        kinds: [B, P] int64 on the CPU, -1 where absent: which formula each primitive needs, without asking the device.
        points: [M, 3] in their objects' frames.
        owner: [M] int64 ascending, whose distance.

    Returns:
        [M] float32, negative inside; [M] int32 in 0 .. P - 1.
    """
    counts = torch.bincount(owner, minlength=len(table))
    within = torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner]
    padded = points.new_zeros(len(table), int(counts.max()), 3)
    padded[owner, within] = points
    distance, part = _distances(table, kinds, padded)
    return distance[owner, within], part[owner, within]


def _distances(table: torch.Tensor, kinds: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for points [B, N, 3], as [B, N] each."""
    each = points.new_full((len(table), table.shape[1], points.shape[1]), FAR)  # [B, P, N]
    for kind in KINDS:
        objects, slots = (index.to(table.device) for index in (kinds == kind).nonzero(as_tuple=True))
        if len(objects):
            rows = table[objects, slots]  # [M, WIDTH]
            each[objects, slots] = _DISTANCE[kind](_in_own_frame(rows, points[objects]), rows)  # [M, N]
    operation = table[:, :, OPERATION, None]
    distance, part = each[:, 0], torch.zeros_like(each[:, 0], dtype=torch.int32)
    for slot in range(1, table.shape[1]):
        cuts = operation[:, slot] < 0
        new = torch.where(cuts, -each[:, slot], each[:, slot])
        decides = (new > distance) == cuts
        distance = torch.where(decides, new, distance)
        part = part.masked_fill(decides, slot)
    return distance, part


def _in_own_frame(rows: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Points [M, N, 3] folded by each primitive's symmetry and moved into its frame."""
    x, y, z = points.unbind(2)
    x = torch.where(rows[:, MIRROR_X, None] > 0, x.abs(), x)
    y = torch.where(rows[:, MIRROR_Y, None] > 0, y.abs(), y)
    turns, phase = rows[:, TURNS, None], rows[:, PHASE, None]
    step = 2 * math.pi / turns.clamp_min(1)
    angle = torch.where(turns > 1, torch.round((torch.atan2(y, x) - phase) / step) * step + phase, 0)
    x, y = angle.cos() * x + angle.sin() * y, angle.cos() * y - angle.sin() * x
    points = torch.stack([x, y, z], 2) - rows[:, None, CENTRE]
    return points @ rows[:, ROTATION].reshape(-1, 3, 3).transpose(1, 2)


def _trapezoid(x: torch.Tensor, z: torch.Tensor, bottom, top, half: torch.Tensor) -> torch.Tensor:
    """Distance in the plane to |x| <= a width between bottom and top, |z| <= half; x >= 0. Widths and half [M, 1]."""
    beside = x - torch.minimum(x, torch.where(z < 0, bottom, top))
    above = z.abs() - half
    along_x, along_z = top - bottom, 2 * half
    t = ((top - x) * along_x + (half - z) * along_z) / (along_x**2 + along_z**2)
    slant_x, slant_z = x - top + along_x * t.clamp(0, 1), z - half + along_z * t.clamp(0, 1)
    distance = torch.minimum(beside**2 + above**2, slant_x**2 + slant_z**2).sqrt()
    return torch.where((slant_x < 0) & (above < 0), -distance, distance)


def _beam(p: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    x, y, z = p.unbind(2)
    bottom, top, half, depth = (rows[:, SIZE] - rows[:, ROUND, None]).clamp_min(1e-4)[:, :, None].unbind(1)
    flat, beyond = _trapezoid(x.abs(), z, bottom, top, half), y.abs() - depth
    inside = torch.maximum(flat, beyond).clamp_max(0)
    return inside + torch.hypot(flat.clamp_min(0), beyond.clamp_min(0)) - rows[:, ROUND, None]


def _turned(p: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    x, y, z = p.unbind(2)
    bottom, top, half, _ = (rows[:, SIZE] - rows[:, ROUND, None]).clamp_min(1e-4)[:, :, None].unbind(1)
    return _trapezoid(torch.hypot(x, y), z, bottom, top, half) - rows[:, ROUND, None]


def _balls(p: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    x, y, z = p.unbind(2)
    low, high, height, _ = rows[:, SIZE, None].unbind(1)
    slope = ((low - high) / height).clamp(-0.999, 0.999)
    side = (1 - slope**2).sqrt()
    out = torch.hypot(x, y)
    along = side * z - slope * out
    between = side * out + slope * z - low
    return torch.where(
        along < 0,
        torch.hypot(out, z) - low,
        torch.where(along > side * height, torch.hypot(out, z - height) - high, between),
    )


def _ring(p: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    x, y, z = p.unbind(2)
    radius, section, long, tall = rows[:, SIZE, None].unbind(1)
    y = (y.abs() - long).clamp_min(0)
    z = (z.abs() - tall).clamp_min(0)
    return torch.hypot(torch.hypot(x, y) - radius, z) - section


def _egg(p: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    axes = rows[:, None, SIZE][:, :, :3]
    reach = (p / axes).norm(dim=2)
    steepness = (p / axes**2).norm(dim=2)
    return torch.where(reach > 1e-3, reach * (reach - 1) / steepness.clamp_min(1e-6), -axes.amin(2))


_DISTANCE = (_beam, _turned, _balls, _ring, _egg)


def bounds(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounding boxes [B, 3] (low, high) of what is added, in the objects' frames; cuts count for nothing."""
    rotation = table[:, :, ROTATION].unflatten(2, (3, 3))  # [B, P, 3 own axes, 3]
    low, high = _own_bounds(table, rotation)
    low, high = low + table[:, :, CENTRE], high + table[:, :, CENTRE]  # [B, P, 3]
    for axis, mirror in enumerate((MIRROR_X, MIRROR_Y)):
        reach = torch.maximum(high[:, :, axis], -low[:, :, axis])
        both = table[:, :, mirror] > 0
        high[:, :, axis] = torch.where(both, reach, high[:, :, axis])
        low[:, :, axis] = torch.where(both, -reach, low[:, :, axis])
    for number in range(8):  # of a turned primitive's copies
        turns = table[:, :, TURNS]
        angle = table[:, :, PHASE] + number * 2 * math.pi / turns.clamp_min(1)
        there = (turns > 1) & (number < turns)
        copy_low, copy_high = _turned_bounds(table, rotation, angle)
        if number == 0:  # the first copy replaces the primitive itself, which lies at angle 0
            low = torch.where(there[..., None], copy_low, low)
            high = torch.where(there[..., None], copy_high, high)
        low = torch.where(there[..., None], torch.minimum(low, copy_low), low)
        high = torch.where(there[..., None], torch.maximum(high, copy_high), high)
    added = (table[:, :, OPERATION] > 0)[..., None]
    return torch.where(added, low, FAR).amin(1), torch.where(added, high, -FAR).amax(1)


def _turned_bounds(table: torch.Tensor, rotation: torch.Tensor, angle: torch.Tensor):
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    turn = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, zero + 1], -1).unflatten(-1, (3, 3))
    low, high = _own_bounds(table, rotation @ turn.transpose(-1, -2))
    centre = (turn @ table[:, :, CENTRE, None])[..., 0]
    return low + centre, high + centre


def _own_bounds(table: torch.Tensor, rotation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact boxes of primitives whose own axes are the rows of rotation [B, P, 3, 3], relative to their centres."""
    a, b, c, d = table[:, :, SIZE, None].unbind(2)  # [B, P, 1]
    x, y, z = rotation.unbind(2)  # [B, P, 3]
    flat = (1 - z**2).clamp_min(0).sqrt()  # reach of a unit disc round z
    highs = (
        torch.maximum(a * x.abs() - c * z, b * x.abs() + c * z) + d * y.abs(),
        torch.maximum(a * flat - c * z, b * flat + c * z),
        torch.maximum(a.expand_as(z), b + c * z),
        a * flat + b + c * y.abs() + d * z.abs(),
        ((a * x) ** 2 + (b * y) ** 2 + (c * z) ** 2).sqrt(),
    )
    lows = (
        torch.maximum(a * x.abs() + c * z, b * x.abs() - c * z) + d * y.abs(),
        torch.maximum(a * flat + c * z, b * flat - c * z),
        torch.maximum(a.expand_as(z), b - c * z),
        highs[3],
        highs[4],
    )
    kind = table[:, :, KIND].long().clamp_min(0)[..., None, None].expand(*z.shape, 1)
    low = -torch.stack(lows, -1).gather(-1, kind)[..., 0]
    return low, torch.stack(highs, -1).gather(-1, kind)[..., 0]
