"""A lattice round a mesh: the bricks near its faces, the cells that they touch and the edges that they cross."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ...errors import EmptyResultError, SettingsError
from ...warp.launch import array, launch_parallel
from ..mesh import Mesh
from . import band_kernels, crossing_kernels, flood_kernels
from .lattice_functions import Grid, vector
from .resolution import RESOLUTIONS

# The lattice is shifted by odd fractions of a cell, since modelled parts often lie on round coordinates.
_SHIFT = (0.381966, 0.236068, 0.302776)
_NEAR = 8  # cells up to which bricks near a face are found exactly; the cost of that grows with the distance
_LARGEST = 2**31  # 3 edges a lattice point are numbered as int32


@dataclass(frozen=True)
class Frame:
    """A cubic lattice round a mesh, of which only bricks of 8 x 8 x 8 points near the surface are stored."""

    cell: float  # world units
    origin: torch.Tensor  # [3] float64, position of lattice point (0, 0, 0)
    points: torch.Tensor  # [V, 3] float32, the mesh's vertices in cells
    faces: torch.Tensor  # [F, 3] int32
    size: tuple[int, int, int]  # bricks along x, y, z
    bricks: torch.Tensor  # [size] int32, slot of a brick, -1 for an empty one
    places: torch.Tensor  # [slots] int32, brick of a slot

    @property
    def wide(self):
        """size as kernels take it."""
        return vector(self.size)

    @property
    def grid(self):
        """bricks, places and size as kernels take them."""
        grid = Grid()
        grid.bricks, grid.places, grid.size = array(self.bricks), array(self.places), self.wide
        return grid

    @property
    def nodes(self) -> int:
        return len(self.places) * 512

    def to_world(self, points: torch.Tensor) -> torch.Tensor:
        """Lattice coordinates [N, 3] as float32 world positions."""
        return (points.double() * self.cell + self.origin).float()

    def storing(self, new: torch.Tensor) -> Frame:
        """With empty bricks [size] bool stored behind the others, which keep their nodes."""
        new = new.nonzero().squeeze(1)
        bricks, first = self.bricks.clone(), len(self.places)
        bricks[new] = torch.arange(first, first + len(new), dtype=torch.int32, device=new.device)
        return replace(self, bricks=bricks, places=torch.cat([self.places, new.int()]))

    def coordinates(self, nodes: torch.Tensor) -> torch.Tensor:
        """[N, 3] int32 lattice coordinates of nodes [N] int64."""
        xyz = torch.empty(len(nodes), 3, dtype=torch.int32, device=nodes.device)
        launch_parallel(band_kernels.coordinates, len(nodes), self.grid, nodes, xyz)
        return xyz

    def look_up(self, xyz: torch.Tensor) -> torch.Tensor:
        """[N] int64 nodes at lattice coordinates [N, 3] int32; -1 - b in the empty brick b."""
        nodes = torch.empty(len(xyz), dtype=torch.int64, device=xyz.device)
        launch_parallel(band_kernels.look_up, len(xyz), self.grid, xyz, nodes)
        return nodes

    def around(self, nodes: torch.Tensor, steps: int, missing: torch.Tensor | None = None) -> torch.Tensor:
        """[nodes] uint8: the lattice points up to `steps` away along each axis from given ones, but for those in the
        outermost bricks. missing: [size] uint8, where empty bricks that would hold some are marked."""
        marks = torch.zeros(self.nodes, dtype=torch.uint8, device=nodes.device)
        missing = torch.zeros_like(self.bricks, dtype=torch.uint8) if missing is None else missing
        given = self.grid, nodes, steps, marks, missing
        launch_parallel(band_kernels.mark_around, len(nodes), *given)
        return marks

    def along(self, segments: torch.Tensor) -> torch.Tensor:
        """[nodes] uint8: cells through which line segments between vertices [N, 2] run."""
        marks = torch.zeros(self.nodes, dtype=torch.uint8, device=self.points.device)
        launch_parallel(crossing_kernels.mark_segments, len(segments), self.points, segments.int(), self.grid, marks)
        return marks


@dataclass(frozen=True)
class Lattice(Frame):
    """A lattice with the cells and edges that faces touch and cross, and the side of its points (see interior.py)."""

    touched: torch.Tensor  # [slots * 512] uint8, cells that a face touches
    crossed: torch.Tensor  # [K] int64, crossed lattice edges node * 3 + axis, several rows for several faces
    depth: torch.Tensor  # [K] float32, where, 0-1
    face: torch.Tensor  # [K] int32, by which face
    states: torch.Tensor  # [slots * 512] uint8, of lattice points; 0 until they are known
    empty: torch.Tensor  # [size] uint8, of all points of an empty brick

    def with_bricks(self, new: torch.Tensor) -> Lattice:
        """As storing(), with the states of the new points."""
        frame, states = self.storing(new), self.empty[new].repeat_interleave(512)
        touched = torch.cat([self.touched, torch.zeros_like(states)])
        states = torch.cat([self.states, states])
        return replace(self, bricks=frame.bricks, places=frame.places, touched=touched, states=states)

    def ends(self, edges: torch.Tensor) -> torch.Tensor:
        """[N, 2] uint8 states of both ends of lattice edges [N]."""
        result = torch.empty(len(edges), 2, dtype=torch.uint8, device=edges.device)
        launch_parallel(flood_kernels.edge_states, len(edges), self.grid, self.states, self.empty, edges, result)
        return result


def frame_of(mesh: Mesh, resolution: int, margin: int = 2) -> Frame:
    """The lattice round a mesh.

    Args:
        resolution: cells along the longest side of the bounding box, 8 - 2048.
        margin: cells round the surface that are stored.

    Raises:
        EmptyResultError: no faces, or all in one point.
        SettingsError: a resolution out of range.
    """
    low, high = box_of(mesh, resolution)
    vertices, faces = mesh.vertices, mesh.faces.to(torch.int32).contiguous()
    cell = float((high - low).max()) / resolution
    border = 2 + _farther(margin)  # bricks of empty space before the mesh, the outermost of which are not stored
    origin = low - cell * (8 * border + torch.tensor(_SHIFT, dtype=torch.float64, device=low.device))
    points = ((vertices.double() - origin) / cell).float()
    x, y, z = (int(cells // 8) + 2 * border + 2 for cells in ((high - low) / cell).tolist())
    size = (x, y, z)
    marks = marked_bricks(points, faces, size, margin)
    places = marks.nonzero().squeeze(1)
    bricks = torch.full(marks.shape, -1, dtype=torch.int32, device=points.device)
    bricks[places] = torch.arange(len(places), dtype=torch.int32, device=points.device)
    return Frame(cell, origin, points, faces, size, bricks, places.int())


def box_of(mesh: Mesh, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[3] float64 low and high corners of the faces of a mesh that a lattice can be laid round. Errors as frame_of."""
    mesh.require_faces()
    if not RESOLUTIONS[0] <= resolution <= RESOLUTIONS[1]:
        low, high = RESOLUTIONS
        raise SettingsError(f"The shell resolution is {resolution}; choose one from {low} to {high} cells.")
    used = torch.bincount(mesh.faces.reshape(-1), minlength=len(mesh.vertices)) > 0
    corner = mesh.vertices if bool(used.all()) else mesh.vertices[used]
    low, high = corner.amin(0).double(), corner.amax(0).double()
    if bool((low == high).all()):
        raise EmptyResultError("All vertices of the mesh lie in one point: there is no surface to work on.")
    return low, high


def _farther(margin: int) -> int:
    """Bricks beyond those near faces that lie within `margin` cells of them."""
    return max(0, -(-(margin - _NEAR) // 8))


def marked_bricks(points: torch.Tensor, faces: torch.Tensor, size: tuple[int, int, int], margin: int) -> torch.Tensor:
    """[size] uint8: the bricks within `margin` cells of faces [F, 3] int32, or a little farther. points: in cells."""
    marks = torch.zeros(size[0] * size[1] * size[2], dtype=torch.uint8, device=points.device)
    near = min(margin, _NEAR)
    launch_parallel(crossing_kernels.mark_bricks, len(faces), points, faces, vector(size), float(near), marks)
    if more := _farther(margin):
        marks = _grown(marks.reshape(size).float(), more).reshape(-1).to(torch.uint8)
    return marks


def _grown(marks: torch.Tensor, bricks: int) -> torch.Tensor:
    """Float marks [x, y, z], also of what lies up to so many bricks away along each axis. One axis after the other, as
    a pool over all three of a thick wall's bricks takes minutes."""
    for axis in range(3):
        line = marks.movedim(axis, 2)
        marks = torch.nn.functional.max_pool1d(line, 2 * bricks + 1, 1, bricks).movedim(2, axis)
    return marks


def touched_cells(frame: Frame, points: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """[nodes] uint8: the cells that faces [F, 3] int32 touch, where their bricks are stored. points: in cells."""
    return _touched((points, faces, *_face_bricks(points, faces, frame), frame.grid), frame.nodes)


def _face_bricks(points: torch.Tensor, faces: torch.Tensor, frame: Frame) -> tuple[torch.Tensor, torch.Tensor]:
    """Faces and the bricks that they touch, int32, as pairs."""
    device = points.device
    counts = torch.empty(len(faces), dtype=torch.int32, device=device)
    nothing = torch.empty(0, dtype=torch.int64, device=device), counts[:0], counts[:0]
    kernel, given = crossing_kernels.list_bricks, (points, faces, frame.wide)
    launch_parallel(kernel, len(faces), *given, False, counts, *nothing)
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    pairs = counts.new_empty(total), counts.new_empty(total)
    launch_parallel(kernel, len(faces), *given, True, counts, ends, *pairs)
    return pairs


def faces_near(lattice: Frame, nodes: torch.Tensor, reach: float) -> torch.Tensor:
    """Rows of the faces within `reach` cells of lattice points [N], and of others that are not much farther."""
    marks = torch.zeros(lattice.size, device=nodes.device)
    x, y, z = (lattice.coordinates(nodes).long() // 8).unbind(1)
    marks[x, y, z] = 1
    bricks = 1 + int(reach // 8)
    wide = _grown(marks, bricks).reshape(-1) > 0
    face, brick = _face_bricks(lattice.points, lattice.faces, lattice)
    near = torch.zeros(len(lattice.faces), dtype=torch.bool, device=nodes.device)
    near[face[wide[brick]]] = True
    return near.nonzero().squeeze(1)


def _touched(given: tuple, nodes: int) -> torch.Tensor:
    points, _, pairs = given[:3]
    touched = torch.zeros(nodes, dtype=torch.uint8, device=points.device)
    launch_parallel(crossing_kernels.touch_cells, len(pairs), *given, touched)
    return touched


def rasterise(frame: Frame, resolution: int) -> Lattice:
    """The lattice with all that its faces touch and cross, and no states.

    Raises:
        SettingsError: too many cells for the memory layout.
    """
    if frame.nodes * 3 >= _LARGEST:
        raise SettingsError(f"The surface fills too many cells at shell resolution {resolution}; choose a smaller one.")
    points, faces, device = frame.points, frame.faces, frame.points.device

    def new(count: int, dtype=torch.int32) -> torch.Tensor:
        return torch.empty(count, dtype=dtype, device=device)

    pairs = _face_bricks(points, faces, frame)
    given = points, faces, *pairs, frame.grid
    touched = _touched(given, frame.nodes)
    counts = new(len(pairs[0]))
    nothing = new(0, torch.int64), new(0, torch.int64), new(0, torch.float32), new(0)
    launch_parallel(crossing_kernels.cross_edges, len(counts), *given, False, counts, *nothing)
    ends = counts.cumsum(0)
    total = int(ends[-1])
    crossed, depth, face = new(total, torch.int64), new(total, torch.float32), new(total)
    launch_parallel(crossing_kernels.cross_edges, len(counts), *given, True, counts, ends, crossed, depth, face)
    states = torch.zeros_like(touched)
    empty = torch.zeros(len(frame.bricks), dtype=torch.uint8, device=device)
    return Lattice(**vars(frame), touched=touched, crossed=crossed, depth=depth, face=face, states=states, empty=empty)
