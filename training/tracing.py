"""Rays through distance fields: where they hit, how much sky and light a surface sees. Rays are packed over objects."""

from __future__ import annotations

import torch

from pipeline.warp.availability import ABSENT

from .objects import Objects

NEAR = 4e-4  # world units from the surface that count as hit
STEPS, _AT_ONCE = 96, 8  # of a ray; and before those that have ended are dropped
CAUTION = 0.9  # of the distance that a step takes: not all distances are exact
LIFT = 4e-3  # from the surface, of rays that leave it
SHADOW_STEPS, SHADOW_STEP = 20, (0.012, 0.12)  # and the shortest and longest of them, world units
_OCCLUSION = (0.15, 0.35, 0.6, 1.0)  # of the reach, where the distance along the normal is asked


def box_span(objects: Objects, owner: torch.Tensor, eyes: torch.Tensor, rays: torch.Tensor):
    """Where rays [M, 3] from eyes [M, 3] enter and leave their objects' boxes: [M] each; not entered: enter > leave."""
    inverse = 1 / torch.where(rays.abs() < 1e-9, 1e-9, rays)
    half = objects.half[owner] + 2 * NEAR
    one, two = (-half - eyes) * inverse, (half - eyes) * inverse
    return torch.minimum(one, two).amax(1).clamp_min(0), torch.maximum(one, two).amin(1)


def march(objects: Objects, owner, eyes, rays, start: torch.Tensor, end: torch.Tensor):
    """Sphere tracing (Hart 1996), from outside or inside.

    Args:
        owner: [M] int64 ascending.  eyes, rays: [M, 3] world, rays unit.  start, end: [M] along the rays.

    Returns:
        [M] distance along the ray to the first surface, inf for none; [M] int64 its part.
    """
    if ABSENT:
        return march_plain(objects, owner, eyes, rays, start, end)
    from .tracing_kernels import march as fast

    return fast(objects, owner, eyes, rays, start, end)


def march_plain(objects: Objects, owner, eyes, rays, start: torch.Tensor, end: torch.Tensor):
    """march() in torch."""
    hit = torch.full_like(start, torch.inf)
    parts = torch.zeros_like(owner)
    t, alive = start.clone(), (start < end).nonzero()[:, 0]
    for first in range(0, STEPS, _AT_ONCE):
        own, eye, ray, at, last = owner[alive], eyes[alive], rays[alive], t[alive], end[alive]
        found = torch.zeros_like(alive, dtype=torch.bool)
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


def openness(objects: Objects, owner, points, normals: torch.Tensor, reach: torch.Tensor) -> torch.Tensor:
    """[M] 0-1, how much of the sky points see: how much nearer than expected the surface is along their normals.

    reach: [M] world units beyond which nothing darkens.
    """
    blocked, total = torch.zeros_like(reach), 0.0
    for share in _OCCLUSION:
        away = share * reach
        distance, _ = objects.distance_at(points + normals * away[:, None], owner)
        weight = 1 / share**0.5
        blocked = blocked + weight * (1 - distance / away).clamp(0, 1)
        total += weight
    return (1 - blocked / total).clamp(0, 1)


def lightness(objects: Objects, owner, points, normals, lights, softness: torch.Tensor) -> torch.Tensor:
    """[M] 0-1, the part of a round light that points see (soft shadows of distance fields, Aaltonen, GDC 2018).

    lights: [M, 3] unit, towards the light's middle. softness: [M] tangent of half the angle under which it is seen.
    """
    if ABSENT:
        return lightness_plain(objects, owner, points, normals, lights, softness)
    from .tracing_kernels import lightness as fast

    return fast(objects, owner, points, normals, lights, softness)


def lightness_plain(objects: Objects, owner, points, normals, lights, softness: torch.Tensor) -> torch.Tensor:
    """lightness() in torch."""
    clear = torch.ones_like(softness)
    start = points + normals * LIFT
    t = torch.full_like(softness, 2 * LIFT)
    for _ in range(SHADOW_STEPS):
        distance, _ = objects.distance_at(start + lights * t[:, None], owner)
        clear = torch.minimum(clear, distance / (softness * t))
        t = t + distance.abs().clamp(*SHADOW_STEP)
    clear = clear.clamp(-1, 1)
    return 0.25 * (1 + clear) ** 2 * (2 - clear)
