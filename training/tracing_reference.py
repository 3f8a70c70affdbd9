"""Rays through distance fields in plain torch: the definition of tracing_kernels.py and its fallback without Warp."""

from __future__ import annotations

import torch

from .objects import Objects

NEAR = 4e-4  # world units from the surface that count as hit
STEPS, _AT_ONCE = 96, 8  # of a ray; and steps between two removals of finished rays
CAUTION = 0.9  # of the distance that a step takes: not all distances are exact
LIFT = 4e-3  # from the surface, of rays that leave it
SHADOW_STEPS, SHADOW_STEP = 20, (0.012, 0.12)  # and the shortest and longest of them, world units


def march(objects: Objects, owner, eyes, rays, start: torch.Tensor, end: torch.Tensor):
    """tracing.march() in torch."""
    hit = torch.full_like(start, torch.inf)
    parts = torch.zeros_like(owner)
    t, alive = start.clone(), (start < end).nonzero()[:, 0]
    for first in range(0, STEPS, _AT_ONCE):
        own, eye, ray, at, last = owner[alive], eyes[alive], rays[alive], t[alive], end[alive]
        found, part = torch.zeros_like(alive, dtype=torch.bool), torch.zeros_like(alive)
        for step in range(_AT_ONCE):
            distance, part = objects.distance_at(eye + ray * at[:, None], own)
            distance = distance.abs()
            # a ray that creeps along a surface has reached it
            found = found | (distance < NEAR * (1 + 4 * (first + step) / STEPS))
            at = torch.where(found, at, at + CAUTION * distance)
        inside = at < last
        hit[alive[found & inside]] = at[found & inside]
        parts[alive[found & inside]] = part[found & inside].long()
        going = ~found & inside
        alive, at = alive[going], at[going]
        t[alive] = at
        if len(alive) == 0:
            break
    return hit, parts


def lightness(objects: Objects, owner, points, normals, lights, softness: torch.Tensor) -> torch.Tensor:
    """tracing.lightness() in torch."""
    clear = torch.ones_like(softness)
    start = points + normals * LIFT
    t = torch.full_like(softness, 2 * LIFT)
    for _ in range(SHADOW_STEPS):
        distance, _ = objects.distance_at(start + lights * t[:, None], owner)
        clear = torch.minimum(clear, distance / (softness * t))
        t = t + distance.abs().clamp(*SHADOW_STEP)
    clear = clear.clamp(-1, 1)
    return 0.25 * (1 + clear) ** 2 * (2 - clear)
