"""Scan conversion in plain torch: which grid points each triangle of a plane covers."""

from __future__ import annotations

import torch

# A triangle whose doubled area is below this part of its longest side squared has none, to fp64 rounding.
FLAT = 1e-12


def scan(corners: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Every grid point that every triangle covers.

    Spans are half open and computed in fp64 from each edge's lower end, so triangles that share an edge leave no point
    between them and share none. Triangles without area, or with a corner that is not finite, cover nothing.

    Args:
        corners: [F, 3, 2] float64 x and y; grid points are the integers 0 .. size - 1 along both axes.

    Returns:
        point [N] int64, y * size + x, and triangle [N] int64, by triangle and row.
    """
    corners = torch.where(sound(corners)[:, None, None], corners, 0)
    order = corners[:, :, 1].argsort(dim=1, stable=True)
    low, mid, high = corners.gather(1, order[:, :, None].expand(-1, -1, 2)).unbind(1)
    owner, row = ranges(_clip(low[:, 1], size), _clip(high[:, 1], size))
    y = row.double()
    upper = y >= mid[owner, 1]
    one = _at(low[owner], high[owner], y)
    other = torch.where(upper, _at(mid[owner], high[owner], y), _at(low[owner], mid[owner], y))
    left, right = torch.minimum(one, other), torch.maximum(one, other)
    span, column = ranges(_clip(left, size), _clip(right, size))
    return row[span] * size + column, owner[span]


def barycentric(corners: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """[N, 3] weights, 0-1, of points [N, 2] in the triangles [N, 3, 2] that cover them."""
    a, b, c = corners.unbind(1)
    parts = [doubled_area(torch.stack(each, 1)) for each in ((points, b, c), (a, points, c), (a, b, points))]
    weights = (torch.stack(parts, 1) / doubled_area(corners)[:, None]).clamp(0, 1)
    return weights / (weights[:, 0] + weights[:, 1] + weights[:, 2])[:, None]


def doubled_area(corners: torch.Tensor) -> torch.Tensor:
    """[F] twice the area of triangles [F, 3, 2], positive where they turn from x to y."""
    a, b, c = corners.unbind(1)
    u, v = b - a, c - a
    return u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]


def sound(corners: torch.Tensor) -> torch.Tensor:
    """[F] bool: triangles [F, 3, 2] that have an area; False for NaN."""
    sides = corners.roll(-1, 1) - corners
    return doubled_area(corners).abs() > FLAT * (sides[:, :, 0] ** 2 + sides[:, :, 1] ** 2).amax(1)


def ranges(first: torch.Tensor, last: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For rows i: (i repeated, first[i] .. last[i] - 1), flattened."""
    counts = (last - first).clamp_min(0)
    owner = torch.repeat_interleave(counts)
    within = torch.arange(len(owner), device=first.device) - (counts.cumsum(0) - counts)[owner]
    return owner, first[owner] + within


def _clip(values: torch.Tensor, size: int) -> torch.Tensor:
    """First integer not below each value, within 0 .. size."""
    return values.ceil().clamp(0, size).long()


def _at(start: torch.Tensor, end: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x of the edge start-end [N, 2] at height y."""
    height = end[:, 1] - start[:, 1]
    t = torch.where(height > 0, (y - start[:, 1]) / height.clamp_min(1e-300), 0)
    return start[:, 0] + t * (end[:, 0] - start[:, 0])
