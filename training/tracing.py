"""Rays through distance fields: where they hit, how much sky and light a surface sees. Rays are packed over objects."""

from __future__ import annotations

import torch

from pipeline.warp import unavailable_reason

from . import tracing_reference as reference
from .objects import Objects

_OCCLUSION = (0.15, 0.35, 0.6, 1.0)  # of max_distance, where the distance along the normal is asked


def box_span(objects: Objects, owner: torch.Tensor, eyes: torch.Tensor, rays: torch.Tensor):
    """Where rays [M, 3] from eyes [M, 3] enter and leave their objects' boxes: [M] each; not entered: enter > leave."""
    inverse = 1 / torch.where(rays.abs() < 1e-9, 1e-9, rays)
    half = objects.half[owner] + 2 * reference.NEAR
    one, two = (-half - eyes) * inverse, (half - eyes) * inverse
    return torch.minimum(one, two).amax(1).clamp_min(0), torch.maximum(one, two).amin(1)


def march(objects: Objects, owner, eyes, rays, start: torch.Tensor, end: torch.Tensor):
    """Sphere tracing (Hart 1996), from outside or inside.

    Args:
        owner: [M] int64 ascending.  eyes, rays: [M, 3] world, rays unit.  start, end: [M] along the rays.

    Returns:
        [M] distance along the ray to the first surface, inf for none; [M] int64 its part.
    """
    if unavailable_reason():
        return reference.march(objects, owner, eyes, rays, start, end)
    from .tracing_kernels import march as fast

    return fast(objects, owner, eyes, rays, start, end)


def openness(objects: Objects, owner, points, normals: torch.Tensor, max_distance: torch.Tensor) -> torch.Tensor:
    """[M] 0-1, how much of the sky points see: how much nearer than expected the surface is along their normals.

    max_distance: [M] world units beyond which nothing darkens.
    """
    blocked, total = torch.zeros_like(max_distance), 0.0
    for share in _OCCLUSION:
        away = share * max_distance
        distance, _ = objects.distance_at(points + normals * away[:, None], owner)
        weight = 1 / share**0.5
        blocked = blocked + weight * (1 - distance / away).clamp(0, 1)
        total += weight
    return (1 - blocked / total).clamp(0, 1)


def lightness(objects: Objects, owner, points, normals, lights, softness: torch.Tensor) -> torch.Tensor:
    """[M] 0-1, the part of a round light that points see (soft shadows of distance fields, Aaltonen, GDC 2018).

    lights: [M, 3] unit, towards the light's middle. softness: [M] tangent of half the angle under which it is seen.
    """
    if unavailable_reason():
        return reference.lightness(objects, owner, points, normals, lights, softness)
    from .tracing_kernels import lightness as fast

    return fast(objects, owner, points, normals, lights, softness)
