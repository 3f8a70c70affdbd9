"""Walls and drains of a hollow object after simplifying: walls restored to their thickness, and all of it measured.

Snapping and simplifying move the two sides of a wall independently.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...sums import running_sums, sum_by
from ..mesh import Mesh
from ..query.surface import Surface
from ..topology.measures import unit_normals

_FAR = 2.0  # wall thicknesses within which the nearest point is searched
_ROUNDS = 6  # of moves, each starting from the previous result
_LEAST = 1e-3  # of the wall; smaller deficits are ignored
_SHORTEST = 0.2  # of a move; below, it is not tried
_SURE = 0.1  # of the wall; above, the direction from the nearest point is taken as inward
_BESIDE = 1.5  # cells round a drain whose faces belong to it
_HEIGHTS, _WAYS = 8, 16  # at which a drain's width is measured
_OPEN = 0.5  # of a drain's radius, as far from its axis as one must see through it
_THINNER = 0.9  # of the wall; above, a deficit is rounding


@dataclass(frozen=True)
class Sides:
    """Rows of a mesh's faces: those of its cavities, those of its outside."""

    inner: torch.Tensor
    outer: torch.Tensor

    @property
    def both(self) -> bool:
        return len(self.inner) > 0 and len(self.outer) > 0


@dataclass(frozen=True)
class Hollowed:
    """The input and the settings of a hollow object, in world units.

    body: the solid before. wall: thickness. drain: diameter. drains: [N, 4] float64, their axes: x, y, lower and upper
    end. cell: of the lattice.
    """

    body: Mesh
    wall: float
    drain: float
    drains: torch.Tensor
    cell: float

    def sides(self, mesh: Mesh) -> Sides:
        """Which faces of a mesh that was made of the hollow solid are those of its cavities, and which its outside.

        Only drains, which are neither, connect the two: cavities are the components behind half of the wall.
        """
        middle = mesh.vertices.float()[mesh.faces.long()].mean(1)
        apart = (~self._drains_near(middle)).nonzero().squeeze(1)
        if len(apart) == 0:
            return Sides(apart, apart)
        near = Surface(self.body.vertices, self.body.faces).closest(middle[apart], self.wall / 2).face >= 0
        label = Mesh.known(mesh.vertices, mesh.faces[apart], kernels=mesh.kernels).sheets.label.long()
        votes = torch.where(near, -1, 1)
        behind = sum_by(votes, label, len(apart))[label] > 0
        return Sides(apart[behind], apart[~behind])

    def thickened(self, mesh: Mesh, sides: Sides) -> Mesh:
        """The mesh, with the vertices of its cavities moved inward where the wall is thinner than asked for: at them,
        or in the middles of their faces."""
        if not sides.both:
            return mesh
        outside = _Outside.of(mesh, sides.outer)
        faces, points = mesh.faces[sides.inner].long(), mesh.vertices.float()
        free = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        free[faces] = True
        free[outside.faces] = False
        free &= ~self._drains_near(points)
        lack, move = self._lacking(outside, points, faces)
        least = lack.new_tensor(_LEAST * self.wall)
        for _ in range(_ROUNDS):
            share = (free & (lack > least)).float()
            if not bool(share.any()):
                break
            while True:
                moved = points + share[:, None] * move
                found, onward = self._lacking(outside, moved, faces)
                worse = found > torch.maximum(lack, least)
                if not bool(worse.any()):
                    break
                # in a narrow place a move away from one wall leads into another: reduce the moves there
                held = faces[worse[faces].any(1)].reshape(-1)
                share[held] = torch.where(share[held] > _SHORTEST, share[held] / 2, 0.0)
            points, lack, move = moved, found, onward
        return Mesh.known(points, mesh.faces, kernels=mesh.kernels)

    def measured(self, mesh: Mesh, sides: Sides, thickness: Callable[[Mesh, torch.Tensor], torch.Tensor]) -> dict:
        """Measure walls and drains of the result.

        Args:
            sides: of it, before its vertices were moved. thickness: a row of the backend table for WALL_THICKNESS.

        Returns:
            {"wall_min": world units between cavities and the outside, None without cavities; "drains_open": through
            how many one sees; "drain_min": the least diameter of these, None without any; "thin_share": of the area
            outside, where the object itself is thinner than the wall; "thin": how thin, so that 1 % of that is thinner
            still, None where there is nothing}
        """
        facts = {"wall_min": None, "thin_share": 0.0, "thin": None}
        if sides.both:
            corners = mesh.vertices.float()[mesh.faces[sides.inner].long()]
            at = corners.reshape(-1, 3)
            asked = torch.cat([at[~self._drains_near(at)], corners.mean(1)])
            found = float(_Outside.of(mesh, sides.outer).surface.closest(asked, _FAR * self.wall).distance.min())
            facts["wall_min"] = found if math.isfinite(found) else None
            facts |= self._thin(mesh, sides.outer, thickness)
        return {**facts, **self._through(mesh)}

    def _drains_near(self, points: torch.Tensor) -> torch.Tensor:
        """[N] bool: which of the points [N, 3] lie in a drain or beside it."""
        found = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        beside = _BESIDE * self.cell
        for x, y, bottom, top in self.drains.tolist():
            near = (points[:, 0] - x) ** 2 + (points[:, 1] - y) ** 2 < (self.drain / 2 + beside) ** 2
            found |= near & (points[:, 2] > bottom - beside) & (points[:, 2] < top + beside)
        return found

    def _lacking(
        self, outside: _Outside, points: torch.Tensor, faces: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[V] what the wall lacks at points [V, 3] or in the middles of their faces [F, 3], whichever is more; and
        [V, 3] the move that would mend it."""
        rows = faces.unique()
        own, middle = self._lack(outside, points[rows]), self._lack(outside, points[faces].mean(1))
        lack, move = torch.zeros(len(points), device=points.device), torch.zeros_like(points)
        lack[rows], move[rows] = own
        corner, between = faces.reshape(-1), middle[0].repeat_interleave(3)
        most = lack.scatter_reduce(0, corner, between, "amax")
        source = ((between >= most[corner]) & (between > lack[corner])).nonzero().squeeze(1)
        first = torch.full((len(points),), len(faces), device=points.device)  # of equals, in one order on any device
        first.scatter_reduce_(0, corner[source], source // 3, "amin")
        given = first < len(faces)
        move[given] = middle[1][first[given]]
        return most, move

    def _lack(self, outside: _Outside, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[N] what the wall lacks at points [N, 3], and [N, 3] the move inward that would mend it."""
        hits = outside.surface.closest(points, self.wall)
        at = hits.points(outside.vertices, outside.faces)
        away = torch.where(hits.face[:, None] < 0, points.new_tensor([self.wall, 0.0, 0.0]), points - at)
        normal = outside.normals[hits.face.clamp_min(0)]
        through = (hits.face >= 0) & ((away * normal).sum(1) > 0)  # outside of the object
        distance = torch.where(through, -hits.distance, hits.distance)  # inf where there is no lack
        sure = hits.distance > _SURE * self.wall
        way = torch.nn.functional.normalize(torch.where(through[:, None], -away, away), dim=1, eps=1e-30)
        lack = (self.wall - distance).clamp_min(0)
        return lack, lack[:, None] * torch.where(sure[:, None], way, -normal)

    def _thin(self, mesh: Mesh, outer: torch.Tensor, thickness: Callable) -> dict:
        areas = mesh.face_normals[1][outer]  # also used by thickness
        outer, areas = outer[areas > 0], areas[areas > 0]
        found = thickness(mesh, outer).double()
        thin = found < _THINNER * self.wall
        if not bool(thin.any()):
            return {}
        found, order = found[thin].sort()
        share = running_sums(areas[thin][order]) / areas[thin].sum()
        return {
            "thin_share": float(areas[thin].sum() / areas.sum()),
            "thin": float(found[int((share < 0.01).count_nonzero())]),
        }

    def _through(self, mesh: Mesh) -> dict:
        """The number of open drains, and the diameter of the narrowest."""
        # in cells: rays are cast in fp32, and neither lengths nor areas may leave its range
        middle = mesh.vertices.double().mean(0)
        surface = Surface(((mesh.vertices.double() - middle) / self.cell).float(), mesh.faces)
        least, seen = math.inf, 0
        low = middle[[0, 1, 2, 2]].cpu()
        radius = self.drain / 2 / self.cell
        turn = 2 * math.pi * torch.arange(_WAYS, dtype=torch.float64) / _WAYS
        ways = torch.stack([turn.cos(), turn.sin(), torch.zeros_like(turn)], 1)
        for x, y, bottom, top in ((self.drains - low) / self.cell).tolist():
            axis = torch.tensor([x, y, top], dtype=torch.float64)
            start = torch.cat([axis[None], axis + _OPEN * radius * ways])
            down = torch.tensor([0.0, 0.0, -1.0]).expand(len(start), 3)
            met = _rays(surface, start, down, mesh)
            if not bool((met > top - bottom).all()):
                continue
            seen += 1
            height = torch.linspace(bottom, top, _HEIGHTS + 2, dtype=torch.float64)[1:-1]
            middles = torch.stack([height.new_full(height.shape, x), height.new_full(height.shape, y), height], 1)
            start = middles.repeat_interleave(_WAYS, 0)
            least = min(least, 2 * float(_rays(surface, start, ways.repeat(_HEIGHTS, 1), mesh).min()))
        return {"drains_open": seen, "drain_min": least * self.cell if math.isfinite(least) else None}


@dataclass(frozen=True)
class _Outside:
    """The faces of a mesh's outside: corners [F, 3] in `vertices`, unit normals [F, 3]."""

    vertices: torch.Tensor
    faces: torch.Tensor
    normals: torch.Tensor
    surface: Surface

    @classmethod
    def of(cls, mesh: Mesh, rows: torch.Tensor) -> _Outside:
        vertices, faces = mesh.vertices.float(), mesh.faces[rows].long()
        return cls(vertices, faces, unit_normals(vertices, faces)[0].float(), Surface(vertices, faces))


def _rays(surface: Surface, start: torch.Tensor, way: torch.Tensor, mesh: Mesh) -> torch.Tensor:
    device = mesh.vertices.device
    return surface.rays(start.float().to(device), way.float().to(device)).distance
