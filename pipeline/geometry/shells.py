"""The outside of a mesh, found by flooding the empty space round it, and the faces that lie on it: the outer shell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from ..errors import EmptyResultError, SettingsError
from .checks import check_mesh
from .half_edges import HalfEdges, Sheets
from .repair import compact

RESOLUTIONS = (8, 2048)
_BORDER = 2  # bricks of empty space before the mesh
# The lattice is moved by odd fractions of a cell: modelled parts like to lie on round coordinates.
_SHIFT = (0.381966, 0.236068, 0.302776)
_BLOCK = 4  # cells along a side of the blocks in which views of a patch are counted


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

    @cached_property
    def launcher(self) -> Launcher:
        return Launcher(self.bricks, self.size)

    @property
    def nodes(self) -> int:
        return len(self.states)

    def to_world(self, points: torch.Tensor) -> torch.Tensor:
        """Lattice coordinates [N, 3] as float32 world positions."""
        return (points.double() * self.cell + self.origin).float()

    def ends(self, edges: torch.Tensor) -> torch.Tensor:
        """[N, 2] uint8 states of both ends of lattice edges [N]."""
        result = torch.empty(len(edges), 2, dtype=torch.uint8, device=edges.device)
        self.launcher.over(len(edges), "edge_states", self.places, ..., self.states, self.empty, edges, result)
        return result


class Launcher:
    """Runs the kernels of shells_kernels.py; among their arguments `...` stands for the lattice's bricks and size."""

    def __init__(self, bricks: torch.Tensor, size: tuple[int, int, int]) -> None:
        from . import kernels, shells_kernels

        self._module, self._base = shells_kernels, kernels
        self._where = kernels.device_of(bricks)
        self.size = kernels.wp.vec3i(*size)
        self._bricks = kernels.array(bricks)

    def over(self, count: int, kernel: str, *arguments) -> None:
        """Rows that do not disturb each other."""
        given = self._given(arguments)
        self._base.run(getattr(self._module, kernel), count, lambda start, _end: [start, *given], self._where)

    def together(self, count: int, kernel: str, *arguments) -> None:
        """Rows that write to each other's places through atomics."""
        self._base.run_whole(getattr(self._module, kernel), count, self._given(arguments), self._where)

    def _given(self, arguments: tuple) -> list:
        given = []
        for each in arguments:
            if each is ...:
                given += [self._bricks, self.size]
            else:
                given.append(self._module.array(each) if isinstance(each, torch.Tensor) else each)
        return given


def outer_shell(
    vertices: torch.Tensor, faces: torch.Tensor, resolution: int = 256
) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Remove the inner and double shells of a mesh: patches of its surface that do not border on the outside.

    A patch is what hangs together over edges of exactly two faces, so that closed inner components and inner sheets on
    non-manifold edges are patches of their own. A face is seen where a lattice edge that begins outside meets it first.
    A patch stays, as a whole, if somewhere in it most of what lies in a block of 4 x 4 x 4 cells is seen (what shows
    through pinholes does not keep it), or if half of it is seen. Patches that no lattice edge meets stay if they lie in
    a cell with an outside corner, those that hardly one meets also if they share an edge with a patch that stays. Hence
    the outer surface gets no holes, and parts of it that lie inside another body stay.

    Args:
        vertices: [V, 3] finite. faces: [F, 3] integers.
        resolution: cells along the longest side of the bounding box. Space behind openings narrower than a cell counts
            as inside.

    Returns:
        vertices, faces (order and winding kept) and {"patches", "patches_removed", "faces_removed", "resolution"}.

    Raises:
        As outside().
    """
    check_mesh(vertices, faces, some_faces=True)
    edges = HalfEdges.of(faces)
    lattice = outside(vertices, faces, resolution, edges=edges)
    sheets = Sheets.of(edges.faces, edges.twin)
    patch, count = sheets.label, len(sheets.orientable)
    owner = patch.index_select(0, lattice.face)
    crossings = torch.bincount(owner, minlength=count)
    stays = _seen_patches(lattice, owner, crossings)
    stays |= _beside_outside(lattice, patch, crossings == 0)
    stays |= (crossings < _BLOCK) & _attached(edges, patch, stays)
    keep = stays[patch]
    removed = int((~keep).sum())
    report = {
        "patches": count,
        "patches_removed": int((~stays).sum()),
        "faces_removed": removed,
        "resolution": resolution,
    }
    if removed == 0:
        return vertices, faces, report
    return *compact(vertices, faces[keep]), report


def outside(
    vertices: torch.Tensor, faces: torch.Tensor, resolution: int, margin: int = 2, edges: HalfEdges | None = None
) -> Lattice:
    """The lattice round a mesh with the states of its points.

    Args:
        vertices: [V, 3] finite. faces: [F, 3] integers.
        resolution: cells along the longest side of the bounding box, 8 - 2048.
        margin: cells round the surface that are stored, at most 14.
        edges: those of the faces, if they are known.

    Raises:
        EmptyResultError: no faces, or all in one point. MeshError: see check_mesh.
        SettingsError: a resolution out of range or too large for the memory layout.
    """
    check_mesh(vertices, faces, some_faces=True)
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
    size = tuple(int(cells // 8) + 2 * _BORDER + 2 for cells in ((high - low) / cell).tolist())
    bricks, places = _store_bricks(points, faces, size, margin)
    if len(places) * 512 * 3 >= 2**31:
        raise SettingsError(f"The surface fills too many cells at shell resolution {resolution}; choose a smaller one.")
    launch = Launcher(bricks, size)
    torn = _torn(launch, points, edges or HalfEdges.of(faces), len(places) * 512)
    touched, crossed, depth, face = _rasterise(launch, points, faces, len(places))
    cells, empty = _flood(launch, places, touched, len(bricks))
    states = torch.empty_like(cells)
    launch.over(len(states), "judge_points", places, ..., cells, empty, states)
    _settle(launch, places, states, crossed, torn)
    return Lattice(cell, origin, points, faces, size, bricks, places, touched, crossed, depth, face, states, empty)


def _store_bricks(points, faces, size, margin) -> tuple[torch.Tensor, torch.Tensor]:
    """bricks [B] int32 and places [slots] int32: stored are those within `margin` cells of a face."""
    marks = torch.zeros(size[0] * size[1] * size[2], dtype=torch.uint8, device=points.device)
    bricks = torch.full(marks.shape, -1, dtype=torch.int32, device=points.device)
    launch = Launcher(bricks, size)
    launch.over(len(faces), "mark_bricks", points, faces, launch.size, float(margin), marks)
    places = marks.nonzero().squeeze(1)
    bricks[places] = torch.arange(len(places), dtype=torch.int32, device=points.device)
    return bricks, places.int()


def _rasterise(launch, points, faces, slots) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """touched, crossed, depth and face of a Lattice."""

    def new(count: int, dtype=torch.int32) -> torch.Tensor:
        return torch.empty(count, dtype=dtype, device=points.device)

    counts = new(len(faces))
    launch.over(
        len(faces), "list_bricks", points, faces, launch.size, False, counts, new(0, torch.int64), new(0), new(0)
    )
    ends = counts.cumsum(0)
    pairs = new(int(ends[-1])), new(int(ends[-1]))
    launch.over(len(faces), "list_bricks", points, faces, launch.size, True, counts, ends, *pairs)
    touched = torch.zeros(slots * 512, dtype=torch.uint8, device=points.device)
    launch.over(len(pairs[0]), "touch_cells", points, faces, *pairs, ..., touched)
    counts = new(len(pairs[0]))
    nothing = new(0, torch.int64), new(0, torch.int64), new(0, torch.float32), new(0)
    launch.over(len(counts), "cross_edges", points, faces, *pairs, ..., False, counts, *nothing)
    ends = counts.cumsum(0)
    total = int(ends[-1])
    crossed, depth, face = new(total, torch.int64), new(total, torch.float32), new(total)
    launch.over(len(counts), "cross_edges", points, faces, *pairs, ..., True, counts, ends, crossed, depth, face)
    return touched, crossed, depth, face


def _flood(launch, places, touched, bricks) -> tuple[torch.Tensor, torch.Tensor]:
    """States of cells, [slots * 512] uint8 (0 where touched), and of empty bricks, [bricks] uint8."""
    stored = len(touched)
    parent = torch.arange(stored + bricks, dtype=torch.int32, device=touched.device)
    launch.over(stored, "unite_cells", touched, parent)
    launch.together(6 * len(places), "unite_bricks", places, ..., touched, stored, parent)
    launch.together(bricks, "unite_empty_bricks", ..., stored, parent)
    state = torch.empty(len(parent), dtype=torch.uint8, device=touched.device)
    launch.over(len(parent), "judge_cells", parent, stored, touched, state)  # brick 0 lies in the border
    return state[:stored], state[stored:]


def _torn(launch, points, edges, nodes) -> torch.Tensor:
    """[nodes] uint8: cells that hold an open edge of the mesh."""
    segments = torch.stack(edges.ends(edges.border()), 1).int()
    torn = torch.zeros(nodes, dtype=torch.uint8, device=points.device)
    launch.over(len(segments), "mark_segments", points, segments, ..., torn)
    return torn


def _settle(launch, places, states, crossed, torn) -> None:
    """Give the lattice points without a state that of the settled points most of their group's passable edges lead to;
    where they lead nowhere, inside."""
    from .shells_kernels import INSIDE, OUTSIDE

    blocked = torch.zeros(len(states) * 3, dtype=torch.uint8, device=states.device)
    blocked[crossed] = 1
    parent = torch.arange(len(states), dtype=torch.int32, device=states.device)
    launch.together(len(states), "unite_points", places, ..., blocked, torn, states, parent)
    root = torch.empty_like(parent)
    launch.over(len(states), "find_roots", parent, root)
    balance = parent.zero_()
    launch.together(len(states), "count_contacts", places, ..., blocked, torn, states, root, balance)
    open_ = (states == 0).nonzero().squeeze(1)
    states[open_] = torch.where(balance[root[open_].long()] > 0, OUTSIDE, INSIDE).to(torch.uint8)


def _attached(edges: HalfEdges, patch: torch.Tensor, stays: torch.Tensor) -> torch.Tensor:
    """[patches] bool: those that share an edge of more than two faces with one that stays."""
    owner = patch[edges.crowded // 3]
    bright = torch.zeros(edges.crowded_edges, dtype=torch.bool, device=patch.device)
    bright[edges.edge[stays[owner]]] = True
    return torch.zeros_like(stays).index_fill_(0, owner[bright[edges.edge]], True)


def _seen_patches(lattice: Lattice, owner: torch.Tensor, crossings: torch.Tensor) -> torch.Tensor:
    """[patches] bool: those seen from outside, where lattice edges meet them. owner: [K] the patch of each crossing,
    crossings: [patches] how many each has."""
    count = len(crossings)
    seen = first_crossings(lattice)
    views = torch.bincount(owner[seen], minlength=count)
    result = (views > 0) & (2 * views >= crossings)
    # the others per patch and block of cells; blocks are parts of a brick, in the order of nodes
    rows = ((views > 0) & ~result).index_select(0, owner).nonzero().squeeze(1)
    node, owner, seen = lattice.crossed[rows] // 3, owner[rows], seen[rows]
    per_side = 8 // _BLOCK
    block = node // 512
    for shift in (6, 3, 0):
        block = block * per_side + (node >> shift & 7) // _BLOCK
    place, views = torch.unique(block * count + owner, return_inverse=True)
    total, bright = torch.bincount(views), torch.bincount(views[seen], minlength=len(place))
    lit = (bright >= _BLOCK) & (2 * bright >= total)
    result[place[lit] % count] = True
    return result


def first_crossings(lattice: Lattice) -> torch.Tensor:
    """[K] bool: crossings that an outside end of their lattice edge sees, that is, no other lies between."""
    from .shells_kernels import OUTSIDE

    outer = lattice.ends(lattice.crossed) == OUTSIDE
    edge, order = lattice.crossed.int().sort()
    again = edge[1:] == edge[:-1]
    shared = torch.zeros(len(edge), dtype=torch.bool, device=edge.device)  # of an edge with other crossings
    shared[1:] = again
    shared[:-1] |= again
    rows = order[shared]
    seen = outer.any(1)
    seen[rows] = False
    edge = torch.unique_consecutive(edge[shared], return_inverse=True)[1]
    for side in (0, 1):
        depth = lattice.depth[rows] if side == 0 else 1 - lattice.depth[rows]
        nearest = torch.full((int(edge[-1]) + 1 if len(edge) else 0,), 2.0, device=edge.device)
        nearest.scatter_reduce_(0, edge, depth, "amin")
        seen[rows[outer[rows, side] & (depth <= nearest[edge])]] = True
    return seen


def _beside_outside(lattice: Lattice, patch: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """[patches] bool: those asked for, [patches] bool, with a vertex in a cell that has an outside corner."""
    face = asked[patch].nonzero().squeeze(1)
    corners = lattice.points[lattice.faces[face].reshape(-1).long()]  # [3 N, 3]
    found = torch.empty(len(corners), dtype=torch.uint8, device=patch.device)
    lattice.launcher.over(len(found), "beside_outside", corners, ..., lattice.states, lattice.empty, found)
    beside = patch[face[(found.reshape(-1, 3) > 0).any(1)]]
    return torch.zeros_like(asked).index_fill_(0, beside, True)
