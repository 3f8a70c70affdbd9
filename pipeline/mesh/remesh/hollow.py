"""Hollowing out a solid: cavities behind a wall of even thickness, each with a hole to drain it, and a flat base.

All of it is done to the states of a lattice's points, so that what dual contouring makes of them is closed and manifold
as it was before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ...warp.launch import launch_parallel
from ..query.surface import Surface
from . import flood_kernels
from .contour import Edges
from .interior import regions
from .lattice import Lattice, marked_bricks
from .lattice_functions import INSIDE, OUTSIDE, THICK

_BRICK = 8  # lattice points along a brick's side
_SPARE = 1.5  # cells beyond what is looked at, in which distances are known: ends of crossed edges are up to 1 away
_LEAST = 1.0  # cells to the wall that the middle of a cavity has at least
_ENDS = 0.02, 0.98  # of a lattice edge, between which it is crossed
_CHUNK = 1 << 21  # rows


@dataclass(frozen=True)
class Drain:
    """A vertical hole, in cells: round an axis [3] float32 that begins at its upper end, down to a height."""

    top: torch.Tensor
    radius: float
    bottom: float

    def within(self, points: torch.Tensor) -> torch.Tensor:
        """[N] bool: which of the points [N, 3] it takes away."""
        low, high = points[:, 2] > self.bottom, points[:, 2] <= self.top[2]
        return (self.off(points) < self.radius) & low & high

    def off(self, points: torch.Tensor) -> torch.Tensor:
        """[N] distances from the axis."""
        return (points[:, :2] - self.top[:2]).norm(dim=1)


@dataclass(frozen=True)
class Carved:
    """What was taken out of a solid."""

    lattice: Lattice  # with the states of its points after that
    surface: tuple[torch.Tensor, torch.Tensor]  # the solid's: vertices [V, 3] in cells, faces [F, 3]
    solid: torch.Tensor  # [nodes] bool, the points that were inside before
    depth: torch.Tensor  # [nodes] float32, cells from that surface to those; exact near the inside of the wall
    cavity: torch.Tensor  # [nodes] bool, points taken out behind the wall
    wall: float  # cells
    drains: tuple[Drain, ...]
    cavities: int
    left: int  # parts behind the wall that stay solid, as they have no room for a drain

    def axes(self) -> torch.Tensor:
        """[drains, 4] float64 in world units: x, y, lower and upper end of their axes."""
        ends = [[*drain.top.tolist(), drain.bottom] for drain in self.drains]
        x, y, top, bottom = torch.tensor(ends, dtype=torch.float64).reshape(-1, 4).unbind(1)
        axes, origin = torch.stack([x, y, bottom, top], 1), self.lattice.origin.cpu()
        return axes * self.lattice.cell + origin[[0, 1, 2, 2]]


def cut_base(lattice: Lattice, height: float) -> Lattice:
    """Everything below a height (cells) outside."""
    z = _BRICK * (torch.arange(len(lattice.bricks), device=lattice.bricks.device) % lattice.size[2])
    lattice = lattice.with_bricks(_deep(lattice) & (z < height) & (z + _BRICK > height))
    below = torch.cat([lattice.coordinates(part)[:, 2] < height for part in _nodes(lattice)])
    empty = torch.where((lattice.bricks < 0) & (z < height), OUTSIDE, lattice.empty)
    states = torch.where(below, OUTSIDE, lattice.states)
    return replace(lattice, states=states.to(torch.uint8), empty=empty.to(torch.uint8))


def cross_base(lattice: Lattice, edges: Edges, height: float) -> None:
    """Write depth and normal of the edges that leave a solid through its base."""
    low = lattice.coordinates(edges.key // 3)[:, 2]
    depth = height - low
    rows = (edges.axis == 2) & ~edges.rising & (depth > 0) & (depth <= 1)
    # where the surface ends above the base, it ends there still
    rows &= (edges.depth < depth) | (edges.normal == 0).all(1)
    edges.depth[rows] = depth[rows].clamp(*_ENDS)
    edges.normal[rows] = edges.normal.new_tensor([0.0, 0.0, 1.0])


def carve(lattice: Lattice, points: torch.Tensor, faces: torch.Tensor, wall: float, radius: float) -> Carved:
    """Take cavities and their drains out of a solid.

    Args:
        points: [V, 3] in cells, faces: [F, 3] int32, the surface between its inside and its outside points.
        wall, radius: cells; radius of the drains, 0 for none.
    """
    room = wall + max(radius, _LEAST)
    near = marked_bricks(points, faces, lattice.size, int(room + _SPARE) + 1)
    lattice = lattice.with_bricks((near > 0) & _deep(lattice))
    solid = (lattice.states == INSIDE) | (lattice.states == THICK)
    depth = _depths(lattice, Surface(points, faces), solid, (wall, room))
    label, count = _parts(lattice, solid & (depth > wall))
    stored, empty = label[: lattice.nodes], label[lattice.nodes :]
    behind = stored >= 0
    deepest = depth.new_zeros(count).scatter_reduce_(0, stored[behind], depth[behind], "amax")
    kept = torch.cat([deepest >= room, deepest.new_zeros(1).bool()])  # the last for label -1
    cavity = kept[stored]
    drains = ()
    if radius:
        roomy = (cavity & (depth >= room)).nonzero().squeeze(1)
        place, owner = lattice.coordinates(roomy), stored[roomy]
        each = (place[owner == part] for part in kept.nonzero().squeeze(1).tolist())
        drains = tuple(_drain(lattice, solid, places, radius) for places in each)
    states = torch.where(cavity, OUTSIDE, lattice.states).to(torch.uint8)
    for drain in drains:
        nodes = _beside(lattice, drain)
        states[nodes[drain.within(lattice.coordinates(nodes).float())]] = OUTSIDE
    lattice = replace(lattice, states=states, empty=torch.where(kept[empty], OUTSIDE, lattice.empty).to(torch.uint8))
    cavities = int(kept.count_nonzero())
    left = int((deepest >= wall + _LEAST).count_nonzero()) - cavities
    return Carved(lattice, (points, faces), solid, depth, cavity, wall, drains, cavities, left)


def cross_carved(carved: Carved, edges: Edges) -> None:
    """Write depth and normal of the edges that lead into a cavity or a drain: that of these, or of the solid's surface
    where it is crossed too, which is crossed first from inside."""
    lattice, lower = carved.lattice, edges.key // 3
    low = lattice.coordinates(lower)
    step = torch.nn.functional.one_hot(edges.axis.long(), 3).to(low)
    upper = lattice.look_up(low + step)
    start, end = torch.where(edges.rising, lower, upper), torch.where(edges.rising, upper, lower)
    way = torch.where(edges.rising[:, None], step, -step).float()
    place = torch.where(edges.rising[:, None], low, low + step).float()
    stored = (end >= 0) & (start >= 0)  # as all near what was taken out are
    start, end = start.clamp_min(0), end.clamp_min(0)
    share = torch.where(edges.rising, edges.depth, 1 - edges.depth)
    share[stored & carved.solid[end]] = torch.inf

    def cross(rows: torch.Tensor, at: torch.Tensor, normal: torch.Tensor) -> None:
        first = at < share[rows]
        rows, at, normal = rows[first], at[first], normal[first]
        share[rows] = at
        edges.normal[rows] = torch.nn.functional.normalize(normal, dim=1, eps=1e-30)

    rows = (stored & carved.cavity[end]).nonzero().squeeze(1)
    inner, outer = carved.depth[start[rows]], carved.depth[end[rows]]
    at = ((carved.wall - inner) / (outer - inner).clamp_min(1e-3)).clamp(*_ENDS)
    point = place[rows] + at[:, None] * way[rows]
    cross(rows, at, point - Surface(*carved.surface).closest(point).points(*carved.surface))
    for drain in carved.drains:
        rows = drain.within(place + way).nonzero().squeeze(1)
        inner, outer = drain.off(place[rows]), drain.off(place[rows] + way[rows])
        side = inner >= drain.radius
        at = torch.where(side, (inner - drain.radius) / (inner - outer).clamp_min(1e-3), _ENDS[1]).clamp(*_ENDS)
        normal = place[rows] + at[:, None] * way[rows] - drain.top
        normal[:, 2] = 0
        cross(rows, at, torch.where(side[:, None], normal, normal.new_tensor([0.0, 0.0, 1.0])))
    edges.depth.copy_(torch.where(edges.rising, share, 1 - share))


def _deep(lattice: Lattice) -> torch.Tensor:
    """[bricks] bool: empty ones inside."""
    return (lattice.bricks < 0) & (lattice.empty == INSIDE)


def _nodes(lattice: Lattice) -> tuple[torch.Tensor, ...]:
    return torch.arange(lattice.nodes, device=lattice.states.device).split(_CHUNK)


def _depths(lattice: Lattice, surface: Surface, solid: torch.Tensor, bounds: tuple[float, ...]) -> torch.Tensor:
    """[nodes] float32 distances of the points inside from the surface, 0 outside: exact where they may be near one of
    the bounds; elsewhere that of the middle of their brick or of an eighth of it, on the same side of each."""
    points = _BRICK**3

    def near(depth: torch.Tensor, side: int) -> torch.Tensor:
        """Whether a point of a block of side^3 points may be, whose middle is so deep."""
        farthest = math.sqrt(3) / 2 * (side - 1)
        return torch.stack([(depth - bound).abs() < farthest + _SPARE for bound in bounds]).any(0)

    corner = lattice.coordinates(torch.arange(0, lattice.nodes, points, device=solid.device)).float()
    depth = surface.closest(corner + (_BRICK - 1) / 2).distance[:, None].repeat(1, points)  # [bricks, points]
    half = _BRICK // 2
    within = lattice.coordinates(torch.arange(points, device=solid.device)) % _BRICK // half  # [points, 3] 0 or 1
    eighth = (within * within.new_tensor([4, 2, 1])).sum(1)
    bricks = (near(depth[:, 0], _BRICK) & solid.reshape(-1, points).any(1)).nonzero().squeeze(1)
    middle = torch.cartesian_prod(*[torch.tensor([0.0, half], device=solid.device)] * 3) + (half - 1) / 2
    for some in bricks.split(_CHUNK // points):
        blocks = surface.closest((corner[some, None] + middle).reshape(-1, 3)).distance.reshape(-1, 8)
        depth[some] = blocks[:, eighth]
    depth = depth.reshape(-1) * solid
    close = torch.zeros_like(solid).reshape(-1, points)
    close[bricks] = near(depth.reshape(-1, points)[bricks], half)
    for nodes in (close.reshape(-1) & solid).nonzero().squeeze(1).split(_CHUNK):
        depth[nodes] = surface.closest(lattice.coordinates(nodes).float()).distance
    return depth


def _parts(lattice: Lattice, behind: torch.Tensor) -> tuple[torch.Tensor, int]:
    """[nodes + bricks] int64 number of the connected part that a point behind the wall, or an empty brick, is in, -1
    elsewhere; and how many there are."""
    closed = ~_deep(lattice)
    parent = regions(lattice, (~behind).to(torch.uint8), closed.to(torch.uint8))
    root = torch.empty_like(parent)
    launch_parallel(flood_kernels.find_roots, len(parent), parent, root)
    label = torch.full(parent.shape, -1, dtype=torch.int64, device=parent.device)
    member = torch.cat([behind, ~closed])
    found, label[member] = root[member].unique(return_inverse=True)
    return label, len(found)


def _drain(lattice: Lattice, solid: torch.Tensor, places: torch.Tensor, radius: float) -> Drain:
    """From the lowest of the places [N, 3] where a ball has room, amid those that are as low, to below the solid."""
    lowest = places[places[:, 2] == places[:, 2].amin()].float()
    top = lowest[(lowest - lowest.mean(0)).norm(dim=1).argmin()]
    reach = int(radius)
    across = torch.arange(-reach, reach + 1, device=places.device)
    x, y = (each.reshape(-1) for each in torch.meshgrid(across, across, indexing="ij"))
    disc = x**2 + y**2 < max(radius, 1.0) ** 2
    columns = torch.stack([x[disc], y[disc]], 1) + top[:2].int()
    down = torch.arange(int(top[2]), -1, -1, device=places.device)
    points = torch.cat([columns[:, None].expand(-1, len(down), 2), down.expand(len(columns), -1)[..., None]], 2)
    nodes = lattice.look_up(points.reshape(-1, 3).int().contiguous())
    outside = torch.where(nodes >= 0, ~solid[nodes.clamp_min(0)], lattice.empty[(-1 - nodes).clamp_min(0)] == OUTSIDE)
    exits = down[outside.reshape(len(columns), len(down)).int().argmax(1)]  # the first outside
    own = exits[(columns == top[:2].int()).all(1)]
    return Drain(top, radius, max(float(exits.min()), float(own) - 2 * radius))


def _beside(lattice: Lattice, drain: Drain) -> torch.Tensor:
    """The stored points in the box round a drain."""
    reach = torch.tensor([drain.radius, drain.radius, 0.0], device=drain.top.device)
    low, high = (drain.top - reach).floor(), (drain.top + reach).ceil()
    low[2] = drain.bottom
    sides = [torch.arange(int(a), int(b) + 1, device=low.device) for a, b in zip(low, high)]
    nodes = lattice.look_up(torch.cartesian_prod(*sides).int().contiguous())
    return nodes[nodes >= 0]
