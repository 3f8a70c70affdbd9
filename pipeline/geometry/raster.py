"""UV raster in plain torch: which triangle covers the centre of each texel, and where in it."""

from __future__ import annotations

import torch


def rasterise(uvs: torch.Tensor, faces: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scan-convert triangles in UV space.

    A texel (row r, column c) has its centre at u = (c + 0.5) / size, v = (r + 0.5) / size. Spans are half
    open and computed in fp64 from each edge's lower end, so triangles that share an edge leave no texel
    between them and share none.

    Args:
        uvs: [V, 2] in 0-1, v downwards. faces: [F, 3]. Either winding.

    Returns:
        face [size * size] int64, -1 where nothing covers; barycentric weights [size * size, 3] fp32.
    """
    device = uvs.device
    corners = uvs.double()[faces.long()] * size - 0.5  # texel centres at integers, [F, 3, 2]
    order = corners[:, :, 1].argsort(dim=1, stable=True)
    low, mid, high = corners.gather(1, order[:, :, None].expand(-1, -1, 2)).unbind(1)
    owner, row = _ranges(_clip(low[:, 1], size), _clip(high[:, 1], size))
    y = row.double()
    upper = y >= mid[owner, 1]
    one = _at(low[owner], high[owner], y)
    other = torch.where(upper, _at(mid[owner], high[owner], y), _at(low[owner], mid[owner], y))
    left, right = torch.minimum(one, other), torch.maximum(one, other)
    span, column = _ranges(_clip(left, size), _clip(right, size))
    texel, owner = row[span] * size + column, owner[span]

    face = torch.full((size * size,), -1, dtype=torch.int64, device=device)
    face[texel] = owner
    weights = torch.zeros(size * size, 3, device=device)
    p = torch.stack([column, row[span]], 1).double()
    a, b, c = corners[owner].unbind(1)
    area = _cross(b - a, c - a)
    bary = torch.stack([_cross(b - p, c - p), _cross(c - p, a - p), _cross(a - p, b - p)], 1) / area[:, None]
    winner = face[texel] == owner  # overlapping UVs: the weights must be those of the face that stayed
    weights[texel[winner]] = bary[winner].float().clamp(0, 1)
    return face, weights


def _clip(values: torch.Tensor, size: int) -> torch.Tensor:
    """First integer not below each value, within 0 .. size."""
    return values.ceil().clamp(0, size).long()


def _at(start: torch.Tensor, end: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x of the edge start-end [N, 2] at height y."""
    height = end[:, 1] - start[:, 1]
    t = torch.where(height > 0, (y - start[:, 1]) / height.clamp_min(1e-300), 0)
    return start[:, 0] + t * (end[:, 0] - start[:, 0])


def _cross(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _ranges(first: torch.Tensor, last: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For rows i: (i repeated, first[i] .. last[i] - 1), flattened."""
    counts = (last - first).clamp_min(0)
    owner = torch.repeat_interleave(counts)
    within = torch.arange(len(owner), device=first.device) - (counts.cumsum(0) - counts)[owner]
    return owner, first[owner] + within
