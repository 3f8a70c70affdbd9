"""A lattice round a mesh that knows which of its points lie outside, found by flooding the empty space."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...errors import EmptyResultError, SettingsError
from ...warp.launch import CHUNK, launch_atomic, launch_parallel
from ..mesh import Mesh
from . import lattice_kernels as kernels
from .resolution import RESOLUTIONS

_BORDER = 2  # bricks of empty space before the mesh
# The lattice is moved by odd fractions of a cell: modelled parts like to lie on round coordinates.
_SHIFT = (0.381966, 0.236068, 0.302776)


@dataclass(frozen=True)
class Lattice:
    """A cubic lattice round a mesh, stored near the surface only, that knows which of its points lie outside.

    A lattice point is outside if it can be reached from infinity. Empty space is flooded through the faces of cells
    that no face of the mesh touches, so that holes narrower than a cell let nothing through. Points between touched
    cells only (in narrow gaps, in thin walls) side with those that they reach along lattice edges that no face crosses,
    away from open edges of the mesh; if that is nobody, they are inside. Hence a gap of more than one cell between
    closed surfaces is open, a wall of more than one cell is solid, and enclosed cavities are inside.
    """

    cell: float  # world units
    origin: torch.Tensor  # [3] float64, position of lattice point (0, 0, 0)
    points: torch.Tensor  # [V, 3] float32, the mesh's vertices in cells
    faces: torch.Tensor  # [F, 3] int32
    size: tuple[int, int, int]  # bricks along x, y, z
    bricks: torch.Tensor  # [size] int32, slot of a brick, -1 for an empty one
    places: torch.Tensor  # [slots] int32, brick of a slot
    touched: torch.Tensor  # [slots * 512] uint8, cells that a face touches
    crossed: torch.Tensor  # [K] int64, crossed lattice edges node * 3 + axis, several rows for several faces
    depth: torch.Tensor  # [K] float32, where, 0-1
    face: torch.Tensor  # [K] int32, by which face
    states: torch.Tensor  # [slots * 512] uint8, of lattice points
    empty: torch.Tensor  # [size] uint8, of all points of an empty brick

    @property
    def grid(self) -> tuple:
        """bricks and size as kernels take them."""
        return self.bricks, kernels.wp.vec3i(*self.size)

    @property
    def nodes(self) -> int:
        return len(self.states)

    def to_world(self, points: torch.Tensor) -> torch.Tensor:
        """Lattice coordinates [N, 3] as float32 world positions."""
        return (points.double() * self.cell + self.origin).float()

    def ends(self, edges: torch.Tensor) -> torch.Tensor:
        """[N, 2] uint8 states of both ends of lattice edges [N]."""
        result = torch.empty(len(edges), 2, dtype=torch.uint8, device=edges.device)
        launch_parallel(
            kernels.edge_states, len(edges), self.places, *self.grid, self.states, self.empty, edges, result
        )
        return result


def outside(mesh: Mesh, resolution: int, margin: int = 2) -> Lattice:
    """The lattice round a mesh with the states of its points.

    Args:
        resolution: cells along the longest side of the bounding box, 8 - 2048.
        margin: cells round the surface that are stored, at most 14.

    Raises:
        EmptyResultError: no faces, or all in one point.
        SettingsError: a resolution out of range or too large for the memory layout.
    """
    mesh.require_faces()
    vertices, faces = mesh.vertices, mesh.faces
    if not RESOLUTIONS[0] <= resolution <= RESOLUTIONS[1]:
        low, high = RESOLUTIONS
        raise SettingsError(f"The shell resolution is {resolution}; choose one from {low} to {high} cells.")
    faces = faces.to(torch.int32).contiguous()
    used = torch.bincount(faces.reshape(-1), minlength=len(vertices)) > 0
    corner = vertices if bool(used.all()) else vertices[used]
    low, high = corner.amin(0).double(), corner.amax(0).double()
    cell = float((high - low).max()) / resolution
    if cell <= 0:
        raise EmptyResultError("All vertices of the mesh lie in one point: there is no surface to work on.")
    origin = low - cell * (8 * _BORDER + torch.tensor(_SHIFT, dtype=torch.float64, device=low.device))
    points = ((vertices.double() - origin) / cell).float()
    x, y, z = (int(cells // 8) + 2 * _BORDER + 2 for cells in ((high - low) / cell).tolist())
    size = (x, y, z)
    bricks, places = _store_bricks(points, faces, size, margin)
    if len(places) * 512 * 3 >= 2**31:
        raise SettingsError(f"The surface fills too many cells at shell resolution {resolution}; choose a smaller one.")
    grid = bricks, kernels.wp.vec3i(*size)
    torn = _torn(grid, points, mesh.edges, len(places) * 512)
    touched, crossed, depth, face = _rasterise(grid, points, faces, len(places))
    cells, empty = _flood(grid, places, touched, len(bricks))
    states = torch.empty_like(cells)
    launch_parallel(kernels.judge_points, len(states), places, *grid, cells, empty, states)
    _settle(grid, places, states, crossed, torn)
    return Lattice(cell, origin, points, faces, size, bricks, places, touched, crossed, depth, face, states, empty)


def _store_bricks(points, faces, size: tuple[int, int, int], margin) -> tuple[torch.Tensor, torch.Tensor]:
    """bricks [B] int32 and places [slots] int32: stored are those within `margin` cells of a face."""
    marks = torch.zeros(size[0] * size[1] * size[2], dtype=torch.uint8, device=points.device)
    bricks = torch.full(marks.shape, -1, dtype=torch.int32, device=points.device)
    grid = bricks, kernels.wp.vec3i(*size)
    launch_parallel(kernels.mark_bricks, len(faces), points, faces, grid[1], float(margin), marks)
    places = marks.nonzero().squeeze(1)
    bricks[places] = torch.arange(len(places), dtype=torch.int32, device=points.device)
    return bricks, places.int()


def _rasterise(grid, points, faces, slots) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """touched, crossed, depth and face of a Lattice."""

    def new(count: int, dtype=torch.int32) -> torch.Tensor:
        return torch.empty(count, dtype=dtype, device=points.device)

    counts = new(len(faces))
    launch_parallel(
        kernels.list_bricks, len(faces), points, faces, grid[1], False, counts, new(0, torch.int64), new(0), new(0)
    )
    ends = counts.cumsum(0)
    pairs = new(int(ends[-1])), new(int(ends[-1]))
    launch_parallel(kernels.list_bricks, len(faces), points, faces, grid[1], True, counts, ends, *pairs)
    touched = torch.zeros(slots * 512, dtype=torch.uint8, device=points.device)
    launch_parallel(kernels.touch_cells, len(pairs[0]), points, faces, *pairs, *grid, touched)
    counts = new(len(pairs[0]))
    nothing = new(0, torch.int64), new(0, torch.int64), new(0, torch.float32), new(0)
    launch_parallel(kernels.cross_edges, len(counts), points, faces, *pairs, *grid, False, counts, *nothing)
    ends = counts.cumsum(0)
    total = int(ends[-1])
    crossed, depth, face = new(total, torch.int64), new(total, torch.float32), new(total)
    launch_parallel(
        kernels.cross_edges, len(counts), points, faces, *pairs, *grid, True, counts, ends, crossed, depth, face
    )
    return touched, crossed, depth, face


def _flood(grid, places, touched, bricks) -> tuple[torch.Tensor, torch.Tensor]:
    """States of cells, [slots * 512] uint8 (0 where touched), and of empty bricks, [bricks] uint8."""
    stored = len(touched)
    parent = 2 * torch.arange(stored + bricks, dtype=torch.int32, device=touched.device)
    launch_parallel(kernels.unite_cells, stored, touched, parent, chunk=CHUNK)  # whole bricks
    launch_atomic(kernels.unite_bricks, 6 * len(places), places, *grid, touched, stored, parent)
    launch_atomic(kernels.unite_empty_bricks, bricks, *grid, stored, parent)
    state = torch.empty(len(parent), dtype=torch.uint8, device=touched.device)
    launch_parallel(kernels.judge_cells, len(parent), parent, stored, touched, state)  # brick 0 lies in the border
    return state[:stored], state[stored:]


def _torn(grid, points, edges, nodes) -> torch.Tensor:
    """[nodes] uint8: cells that hold an open edge of the mesh."""
    segments = torch.stack(edges.ends(edges.border()), 1).int()
    torn = torch.zeros(nodes, dtype=torch.uint8, device=points.device)
    launch_parallel(kernels.mark_segments, len(segments), points, segments, *grid, torn)
    return torn


def _settle(grid, places, states, crossed, torn) -> None:
    """Give the lattice points without a state that of the settled points most of their group's passable edges lead to;
    where they lead nowhere, inside."""
    blocked = torch.zeros(len(states) * 3, dtype=torch.uint8, device=states.device)
    blocked[crossed] = 1
    parent = 2 * torch.arange(len(states), dtype=torch.int32, device=states.device)
    launch_atomic(kernels.unite_points, len(states), places, *grid, blocked, torn, states, parent)
    root = torch.empty_like(parent)
    launch_parallel(kernels.find_roots, len(states), parent, root)
    balance = parent.zero_()
    launch_atomic(kernels.count_contacts, len(states), places, *grid, blocked, torn, states, root, balance)
    open_ = (states == 0).nonzero().squeeze(1)
    states[open_] = torch.where(balance[root[open_].long()] > 0, kernels.OUTSIDE, kernels.INSIDE).to(torch.uint8)
