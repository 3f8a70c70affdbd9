"""Generalised winding numbers: how often a surface, which may have holes, goes round a point."""

from __future__ import annotations

import torch

from ..topology.columns import chunks
from .surface import along_a_curve

_ACCURACY = 2.0  # radii from which a group of faces counts as a dipole: off by less than 0.01 (Barill et al. 2018)
_BRANCHES = 8  # of a node of the tree
_FAR = 1e15  # where padding lies
_PAIRS = 1 << 22  # of points and faces that the reference looks at together
_Nodes = tuple[torch.Tensor, ...]  # lowest and highest corners [N, 3], centres [N, 3], moments [N, 3], areas [N]


def winding_numbers(vertices: torch.Tensor, faces: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """The reference implementation: the sum over all faces.

    Jacobson et al. 2013, "Robust Inside-Outside Segmentation using Generalized Winding Numbers": the signed solid angle
    of the surface over 4 pi. 1 inside a closed surface that is wound outward, 0 outside, between them near holes.

    Args:
        vertices: [V, 3]. faces: [F, 3] int. points: [N, 3].

    Returns:
        [N] float32.
    """
    corner = vertices.double()[faces.long()]
    result = [points.new_zeros(0, dtype=torch.float64)]
    for chunk in points.double().split(max(_PAIRS // max(len(faces), 1), 1)):
        a, b, c = (corner[None, :, i] - chunk[:, None] for i in range(3))  # [n, F, 3] each
        la, lb, lc = a.norm(dim=2), b.norm(dim=2), c.norm(dim=2)
        volume = (a * torch.linalg.cross(b, c)).sum(2)
        below = la * lb * lc + (a * b).sum(2) * lc + (b * c).sum(2) * la + (c * a).sum(2) * lb
        angle = torch.where(volume == 0, 0.0, torch.atan2(volume, below))
        result.append(angle.sum(1) / (2 * torch.pi))
    return torch.cat(result).float()


class WindingField:
    """A surface made ready to be asked for winding numbers, by Warp's kernels on its device.

    Faces along a Morton curve are the leaves of a tree of 8 branches a node; nodes far from a point count as one dipole
    each (Barill et al. 2018, "Fast Winding Numbers for Soups and Clouds").

    Args:
        vertices: [V, 3] finite. faces: [F, 3] int; none make a field of zeros.
    """

    def __init__(self, vertices: torch.Tensor, faces: torch.Tensor) -> None:
        vertices = vertices.float()
        order = along_a_curve(vertices[faces[:, 0].long()])
        self._corners = vertices.new_empty(len(faces), 3, 3)
        lowest: list[_Nodes] = []
        for chunk in chunks(faces) if len(faces) else (slice(0),):  # whole branches
            self._corners[chunk] = vertices[faces[order[chunk]].long()]
            lowest.append(_above(_leaves(self._corners[chunk])))
        nodes: _Nodes = tuple(torch.cat(each) for each in zip(*lowest))
        levels, firsts = [], [0]
        while True:
            low, high, centre, moment, area = nodes
            levels.append((centre, moment, torch.maximum(high - centre, centre - low).norm(dim=1)))
            firsts.append(firsts[-1] + _padded(len(area)))
            if len(area) <= 1:
                break
            nodes = _above(nodes)
        columns = zip(*levels)
        self._centres, self._moments, self._radii = (
            torch.cat([_groups(each, fill).flatten(0, 1) for each in column])
            for column, fill in zip(columns, (_FAR, 0.0, 0.0))
        )
        self._first = torch.tensor(firsts, dtype=torch.int32, device=vertices.device)

    def at(self, points: torch.Tensor) -> torch.Tensor:
        """[N] float32 winding numbers of points [N, 3]."""
        from ...warp.launch import launch_parallel
        from .winding_kernels import winding

        numbers = torch.zeros(len(points), device=points.device)
        if len(self._corners) == 0:
            return numbers
        order = along_a_curve(points)
        tree = self._corners, self._first, self._centres, self._moments, self._radii
        found = torch.empty_like(numbers)
        launch_parallel(winding, len(points), *tree, _ACCURACY, points.float()[order], found)
        numbers[order] = found
        return numbers


def winding_numbers_by_tree(vertices: torch.Tensor, faces: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """As winding_numbers, within 0.02, by Warp's kernels."""
    return WindingField(vertices, faces).at(points)


def _leaves(corners: torch.Tensor) -> _Nodes:
    """Of faces [F, 3, 3]."""
    a, b, c = corners.unbind(1)
    moment = torch.linalg.cross(b - a, c - a) / 2
    return corners.amin(1), corners.amax(1), (a + b + c) / 3, moment, moment.norm(dim=1)


def _above(nodes: _Nodes) -> _Nodes:
    """The nodes of which those given are the branches, _BRANCHES after another."""
    low, high, centre, moment, area = nodes
    low, high = _groups(low, _FAR).amin(1), _groups(high, -_FAR).amax(1)
    weight = _groups(area, 0.0)
    total = weight.sum(1)
    middle = (_groups(centre, 0.0) * weight[..., None]).sum(1) / total.clamp_min(1e-30)[:, None]
    centre = torch.where(total[:, None] > 0, middle, (low + high) / 2)
    return low, high, centre, _groups(moment, 0.0).sum(1), total


def _padded(count: int) -> int:
    return -(-count // _BRANCHES) * _BRANCHES


def _groups(values: torch.Tensor, fill: float) -> torch.Tensor:
    """[N, ...] -> [ceil(N / 8), 8, ...], filled up."""
    rest = _padded(len(values)) - len(values)
    values = torch.cat([values, values.new_full((rest, *values.shape[1:]), fill)])
    return values.reshape(-1, _BRANCHES, *values.shape[1:])
