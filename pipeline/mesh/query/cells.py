"""Faces by the cells of a grid, in plain torch: which lie near each other, and the first that a ray meets.

What reference implementations look through where a bounding volume tree takes Warp.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .scan import ranges

_FINEST = 256  # cells along the longest side at most: 1 M faces lie about 16 to a cell then
_CROWDED = 32  # entries for each face at most, or the cells are made larger: long faces lie in many
_PAIRS = 1 << 18  # of faces, or of a ray and a face, that are looked at together
_EDGE = 1e-9  # of barycentric weights, by which a ray meets a face beside its edge: none slips between two faces
_WIDER = 1e-9  # of a cell, by which boxes are larger than the faces: the same for cells


class FaceCells:
    """A mesh whose faces are listed in each cubic cell that their bounding boxes reach.

    Args:
        corners: [F, 3, 3] float64, finite; at least one face.
    """

    def __init__(self, corners: torch.Tensor) -> None:
        self.corners = corners
        low, high = corners.amin(1), corners.amax(1)
        self._low, top = low.amin(0), high.amax(0)
        extent = top - self._low
        cells = max(1, min(_FINEST, int(len(corners) ** 0.5)))
        most = _CROWDED * len(corners)
        while True:
            self._cell = float(extent.amax().clamp_min(1e-300)) / cells
            self._dims = self._at(top[None])[0] + 1
            wider = _WIDER * self._cell
            first, last = self._at(low - wider).clamp_min(0), torch.minimum(self._at(high + wider), self._dims - 1)
            if cells == 1 or int((last - first + 1).prod(1).sum()) <= most:
                break
            cells //= 2
        self._face, cell = self._listed(first, last)
        self._key, order = cell.sort(stable=True)
        self._face = self._face[order]

    def _at(self, points: torch.Tensor) -> torch.Tensor:
        """[N, 3] int64 cells of points, which lie in the grid."""
        return ((points - self._low) / self._cell).floor().long()

    def _listed(self, first: torch.Tensor, last: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Faces [E] and their cells' numbers [E], a row for each cell from first to last [F, 3]."""
        face, cell = torch.arange(len(first), device=first.device), torch.zeros_like(first[:, 0])
        for axis in range(3):
            owner, place = ranges(first[face, axis], last[face, axis] + 1)
            face, cell = face[owner], cell[owner] * self._dims[axis] + place
        return face, cell

    def neighbours(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pairs of faces [n] that lie in one cell, in blocks; a pair that shares several comes several times."""
        _, counts = torch.unique_consecutive(self._key, return_counts=True)
        end = counts.cumsum(0).repeat_interleave(counts)
        start = torch.arange(1, len(end) + 1, device=end.device)
        for block in _blocks(end - start):
            owner, other = ranges(start[block], end[block])
            yield self._face[block][owner], self._face[other]

    def first_hits(self, origins: torch.Tensor, directions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The first face that each ray meets, from either side: its cells are walked one after the other (Amanatides
        and Woo 1987, "A Fast Voxel Traversal Algorithm for Ray Tracing").

        Args:
            origins: [N, 3] float64 within the bounding box of the mesh. directions: [N, 3] float64 of length 1.

        Returns:
            face [N] int64, -1 for none, and distance [N] float64, inf for none.
        """
        face = torch.full((len(origins),), -1, device=origins.device)
        distance = torch.full((len(origins),), torch.inf, dtype=torch.float64, device=origins.device)
        cell = torch.minimum(self._at(origins).clamp_min(0), self._dims - 1)
        step = directions.sign().long()
        across = self._cell / directions.abs()  # inf along an axis that a ray does not follow
        ahead = self._low + (cell + (step > 0)) * self._cell - origins
        border = torch.where(step == 0, torch.inf, ahead / directions)  # [N, 3] distance of the cell's next walls
        ray = torch.arange(len(origins), device=origins.device)
        while len(ray):
            self._meet(ray, cell, origins, directions, face, distance)
            leaves, axis = border.min(1)
            at = axis[:, None]
            cell.scatter_add_(1, at, step.gather(1, at))
            border.scatter_add_(1, at, across.gather(1, at))
            inside = ((cell >= 0) & (cell < self._dims)).all(1)
            going = (inside & (distance[ray] > leaves)).nonzero().squeeze(1)  # what lies behind this cell may be nearer
            ray, cell, step, across, border = (each[going] for each in (ray, cell, step, across, border))
        return face, distance

    def _meet(self, ray: torch.Tensor, cell: torch.Tensor, origins, directions, face, distance) -> None:
        """Enter into face and distance what rays [n] meet among the faces of their cells [n, 3]."""
        key = (cell[:, 0] * self._dims[1] + cell[:, 1]) * self._dims[2] + cell[:, 2]
        start, end = torch.searchsorted(self._key, key), torch.searchsorted(self._key, key, right=True)
        for block in _blocks(end - start):
            owner, entry = ranges(start[block], end[block])
            one, met = ray[block][owner], self._face[entry]
            far = _distances(origins[one], directions[one], self.corners[met])
            nearest = distance.scatter_reduce(0, one, far, "amin")
            won = (far == nearest[one]) & (far < distance[one])
            face[one[won]] = met[won]
            distance.copy_(nearest)


def _blocks(counts: torch.Tensor) -> Iterator[slice]:
    """Slices of rows that together have about as many pairs as are looked at together; of counts [N] for each."""
    total = counts.cumsum(0)
    start, done = 0, 0
    while start < len(counts):
        end = max(start + 1, int(torch.searchsorted(total, done + _PAIRS, right=True)))
        yield slice(start, end)
        start, done = end, int(total[end - 1])


def _distances(origins: torch.Tensor, directions: torch.Tensor, corners: torch.Tensor) -> torch.Tensor:
    """[n] distance from which each ray meets its triangle [n, 3, 3], inf for not at all (Möller and Trumbore 1997)."""
    a, b, c = corners.unbind(1)
    one, two, from_a = b - a, c - a, origins - a
    side, up = torch.linalg.cross(directions, two), torch.linalg.cross(from_a, one)
    volume = (one * side).sum(1)
    u, v, t = (from_a * side).sum(1) / volume, (directions * up).sum(1) / volume, (two * up).sum(1) / volume
    met = (u >= -_EDGE) & (v >= -_EDGE) & (u + v <= 1 + _EDGE) & (t >= 0)  # NaN, where it lies in the plane, is none
    return torch.where(met, t, torch.inf)
