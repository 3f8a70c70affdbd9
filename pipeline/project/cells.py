"""Smooth values on a surface, whatever its triangles and charts: a grid of cells that the surface passes through.

Each cell has a value for each of the six directions along the axes, and a point of the surface has those of the cells
round it by trilinear weights times the squares of its normal's coordinates, which add up to 1 (the "ambient cube" of
McTaggart, "Half-Life 2 / Valve source shading", 2004). So two sides of a thin wall have values of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix, diags

from ..sums import grouped_sums, largest_of

_SIDE = 48  # cells along the object's longest side
_ROWS = 1 << 19  # points whose temporaries are held at once
_PRECISE, _MOST_STEPS = 1e-4, 1000  # of the right hand side that may be left of it, and steps to get there at most
_KEEP = 1e-4  # weight below which a point says nothing of a cell


class Cells:
    """The cells round points of a surface.

    Args:
        points: [N, 3] world, close enough to each other that no cell of the surface is left out. normals: [N, 3] unit.
    """

    def __init__(self, points: torch.Tensor, normals: torch.Tensor) -> None:
        self._low = points.amin(0)
        self._cell = float((points.amax(0) - self._low).amax().clamp_min(1e-9)) / _SIDE
        self._index = torch.full((6, *(_SIDE + 3,) * 3), -1, dtype=torch.int64, device=points.device)
        for place, weight in self._corners(points, normals):
            self._index.view(-1)[place[weight > _KEEP]] = 0
        used = (self._index.view(-1) == 0).nonzero()[:, 0]
        self._index.view(-1)[used] = torch.arange(len(used), device=points.device)
        self.count = len(used)

    def gathered(
        self, points: torch.Tensor, normals: torch.Tensor, values: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums at the cells of weights [N] times values [N, C], and of the weights: [M, C] and [M] float64."""
        most = torch.cat([values.new_ones(1).double(), largest_of(values).double()]) * largest_of(weights)
        added = grouped_sums(self.count, 24 * len(points), 2 * most)  # squares of a rounded unit normal may pass 1
        for part in _parts(len(points)):
            given, trust = values[part].double(), weights[part].double()
            for place, weight in self._corners(points[part], normals[part]):
                row = self._index.view(-1)[place]
                share = torch.where(row >= 0, weight.double() * trust, 0)
                row = row.clamp_min(0)
                added.add(row, torch.cat([share[:, None], share[:, None] * given], 1))
        mass, total = added.total().split([1, values.shape[1]], 1)
        return total.contiguous(), mass[:, 0].contiguous()

    def at(self, points: torch.Tensor, normals: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """[N, C] float32: cells' values [M, C] at points [N, 3] with normals [N, 3]."""
        values = values.float()
        found = torch.zeros(len(points), values.shape[1], device=points.device)
        for part in _parts(len(points)):
            whole = torch.zeros(part.stop - part.start, 1, device=points.device)
            for place, weight in self._corners(points[part], normals[part]):
                row = self._index.view(-1)[place]
                share = torch.where(row >= 0, weight, 0)[:, None]
                found[part] += share * values[row.clamp_min(0)]
                whole += share
            found[part] /= whole.clamp_min(1e-6)
        return found

    def smoothed(self, total: torch.Tensor, mass: torch.Tensor, length: float, fade: float) -> torch.Tensor:
        """[M, C] float64: the values that agree with the sums and, as far as these leave it open, with each other.

        The minimum of sum mass |v - total / mass|^2 + (length / cell)^2 m sum |v_i - v_j|^2 + (length / fade)^2 m sum
        |v|^2, over the cells and over pairs of neighbours; m is the mean mass of cells that have some.

        Args:
            length: world units over which values are smoothed. fade: over which they fade to 0 where nothing is known.
        """
        known = mass[mass > 0]
        if len(known) == 0:
            return torch.zeros_like(total)
        scale = float(known.mean())
        one, two = (each.cpu().numpy() for each in self._pairs())
        links = coo_matrix((np.ones(len(one)), (one, two)), (self.count,) * 2)
        links = links + links.T
        degree = np.asarray(links.sum(1)).reshape(-1)
        smooth = (length / self._cell) ** 2
        weight = mass.cpu().numpy() / scale
        matrix = diags(weight + smooth * degree + (length / fade) ** 2 + 1e-9) - smooth * links
        return torch.from_numpy(_solved(matrix.tocsr(), total.cpu().numpy() / scale)).to(total.device)

    def _pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Neighbouring cells [P] and [P]: side by side with one direction, or one place with directions that are not
        opposite."""
        index, pairs = self._index, []
        for axis in (1, 2, 3):
            side = index.shape[axis] - 1
            pairs.append((index.narrow(axis, 0, side), index.narrow(axis, 1, side)))
        pairs += [(index[a], index[b]) for a in range(6) for b in range(a) if a // 2 != b // 2]
        both = [(one[found], two[found]) for one, two in pairs for found in [(one >= 0) & (two >= 0)]]
        one, two = (torch.cat(each) for each in zip(*both))
        return one, two

    def _corners(self, points: torch.Tensor, normals: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """For each of the 24 cells that a point belongs to its place in the index [N] and its weight [N]."""
        at = ((points - self._low) / self._cell + 1).clamp(0, _SIDE + 1.999)  # cell values stand at whole numbers
        base = at.floor()
        part = at - base  # [N, 3]
        side = _SIDE + 3
        x, y, z = base.long().unbind(1)
        first = (x * side + y) * side + z
        corners = []  # eight of a place in the index beyond the first and a trilinear weight [N]
        for corner in itertools.product((0, 1), repeat=3):
            own = [part[:, k] if step else 1 - part[:, k] for k, step in enumerate(corner)]
            corners.append(((corner[0] * side + corner[1]) * side + corner[2], own[0] * own[1] * own[2]))
        for axis in range(3):
            facing = normals[:, axis].square()
            place = (2 * axis + (normals[:, axis] < 0).long()) * side**3 + first
            for beyond, weight in corners:
                yield place + beyond, facing * weight


def _solved(matrix: csr_matrix, wanted: np.ndarray) -> np.ndarray:
    """x of matrix @ x = wanted [M, C], column by column, for a symmetric positive definite matrix: conjugate gradients,
    preconditioned by the diagonal, which converge in a hundred steps or so."""
    diagonal = matrix.diagonal()
    left = np.ascontiguousarray(wanted.T)  # [C, M]: numpy sums along rows several times as fast as down columns of C
    found = np.zeros_like(left)
    step = left / diagonal
    size = (left * step).sum(1, keepdims=True)  # [C, 1]
    enough = _PRECISE**2 * size
    for _ in range(_MOST_STEPS):
        if (size <= enough).all():
            break
        moved = np.ascontiguousarray((matrix @ np.ascontiguousarray(step.T)).T)
        length = size / np.maximum((step * moved).sum(1, keepdims=True), 1e-300)
        found += length * step
        left -= length * moved
        scaled = left / diagonal
        size, before = (left * scaled).sum(1, keepdims=True), size
        step = scaled + size / np.maximum(before, 1e-300) * step
    return np.ascontiguousarray(found.T)


def _parts(count: int) -> Iterator[slice]:
    return (slice(first, min(first + _ROWS, count)) for first in range(0, count, _ROWS))
