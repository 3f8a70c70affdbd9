"""UV raster: which triangle covers the centre of each texel and where in it, and the covered texel nearest to each.

A texel (row r, column c) has its centre at u = (c + 0.5) / size, v = (r + 0.5) / size and the index r * size + c.
"""

from __future__ import annotations

import torch
from scipy.ndimage import distance_transform_edt

from ...errors import SettingsError
from ..checks import check_indices

# A triangle whose doubled area is below this part of its longest side squared has none, to fp64 rounding.
FLAT = 1e-12
MAX_SIZE = 16384


def rasterise(uvs: torch.Tensor, faces: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scan-convert triangles in UV space.

    Spans are half open and computed in fp64 from each edge's lower end, so triangles that share an edge leave no
    texel between them and share none. What lies outside 0-1 is cut off at the texture's border. Faces without area in
    UV space, or with a corner that is not finite, cover nothing. Where faces overlap the last one wins.

    Args:
        uvs: [V, 2] in 0-1, v downwards. faces: [F, 3]. Either winding.
        size: texels along a side, 1 .. 16384.

    Returns:
        face [size * size] int64, -1 where nothing covers; barycentric weights [size * size, 3] fp32, 0-1, which sum
        to 1 where covered and are 0 elsewhere.

    Raises:
        MeshError: a face names a vertex that is not there.
        SettingsError: the size is out of range.
    """
    check_raster(uvs, faces, size)
    device = uvs.device
    corners = uvs.double()[faces.long()] * size - 0.5  # texel centres at integers, [F, 3, 2]
    a, b, c = corners.unbind(1)
    area = _cross(b - a, c - a)
    longest = torch.stack([_square(b - a), _square(c - b), _square(a - c)]).amax(0)
    sound = area.abs() > FLAT * longest  # False for NaN
    corners = torch.where(sound[:, None, None], corners, 0)
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
    face.scatter_reduce_(0, texel, owner, "amax")
    weights = torch.zeros(size * size, 3, device=device)
    winner = face[texel] == owner  # overlapping UVs: the weights must be those of the face that stayed
    texel, owner = texel[winner], owner[winner]
    p = torch.stack([texel % size, texel // size], 1).double()
    a, b, c = corners[owner].unbind(1)
    parts = torch.stack([_cross(b - p, c - p), _cross(c - p, a - p), _cross(a - p, b - p)], 1) / area[owner, None]
    parts = parts.clamp(0, 1)
    weights[texel] = (parts / (parts[:, 0] + parts[:, 1] + parts[:, 2])[:, None]).float()
    return face, weights


def check_raster(uvs: torch.Tensor, faces: torch.Tensor, size: int) -> None:
    """Raises SettingsError or MeshError for what no raster can take; see rasterise."""
    if not 1 <= size <= MAX_SIZE:
        raise SettingsError(f"A texture of {size} x {size} texels cannot be made; ask for 1 to {MAX_SIZE} a side.")
    check_indices(faces, len(uvs))


def nearest_covered(covered: torch.Tensor) -> torch.Tensor:
    """Index of the covered texel nearest to each texel.

    Args:
        covered: [S, S] bool, at least one of them True.

    Returns:
        [S * S] int32; its own index for a covered texel.
    """
    rows, columns = distance_transform_edt(~covered.cpu().numpy(), return_distances=False, return_indices=True)
    return torch.from_numpy((rows * len(covered) + columns).reshape(-1)).to(covered.device)


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


def _square(a: torch.Tensor) -> torch.Tensor:
    return a[:, 0] * a[:, 0] + a[:, 1] * a[:, 1]


def _ranges(first: torch.Tensor, last: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For rows i: (i repeated, first[i] .. last[i] - 1), flattened."""
    counts = (last - first).clamp_min(0)
    owner = torch.repeat_interleave(counts)
    within = torch.arange(len(owner), device=first.device) - (counts.cumsum(0) - counts)[owner]
    return owner, first[owner] + within
