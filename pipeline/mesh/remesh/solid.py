"""One closed manifold surface round what a mesh encloses, holes closed and open sheets made solid."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch

from ...errors import EmptyResultError, SettingsError
from ...warp.launch import launch_parallel
from ..mesh import Mesh
from ..query.surface import Surface
from ..topology.measures import face_measures
from ..topology.sorting import by_kernels
from . import contour_kernels
from .contour import Edges, contour, find_cells, find_edges
from .hollow import Carved, carve, cross_base, cross_carved, cut_base
from .hollow_settings import Hollow, check_hollow
from .hollow_walls import Hollowed
from .interior import enclosed
from .lattice import Lattice, faces_near
from .lattice_functions import OUTSIDE, THICK
from .lids import smooth_lids
from .specks import drop_specks, fill_tunnels

_BAND = 1.0  # cells to either side of a sheet that become solid at least; thinner ones tear
_SEEN = 2.0  # cells beyond a band, to which a sheet is looked for
_FLAT = 0.05  # cells above a base that belong to it
_CHUNK = 1 << 21  # rows


@dataclass(frozen=True)
class _Sheets:
    """What the surface does not enclose."""

    faces: torch.Tensor  # [S, 3] those of the mesh that are near
    surface: Surface  # of these, in cells
    distance: torch.Tensor  # [nodes of the lattice] float32, cells to the surface near sheets, inf elsewhere
    band: float  # cells to either side that became solid


def solid(
    mesh: Mesh, resolution: int = 256, wall: float = 0.0, cavities: bool = False, hollow: Hollow | None = None
) -> tuple[Mesh, dict]:
    """The boundary of what a mesh encloses, as one closed manifold mesh.

    Inner shells disappear, parts that touch or overlap become one. Holes get a small smooth lid, whatever
    their size, where the rest of the surface goes round a body (see interior.py). What encloses nothing (open sheets,
    which are components with a boundary loop that only a large lid would close; walls thinner than a cell) becomes a
    solid that reaches a cell or half of `wall` to either side of it. Without boundary edges the winding of the
    input does not matter; repeated and degenerate faces do no harm.

    Args:
        mesh: faces beside each other share vertices, for what lies beside an edge of one face is taken for a hole. With
            boundary edges it is consistently oriented, outward, as clean() leaves it.
        resolution: cells along the longest side of the bounding box, 8 - 2048.
        wall: world units; open sheets become so thick at least, up to half of the longest side.
        cavities: whether cavities without a way out stay (see cavities.py); they are filled otherwise.
        hollow: how to hollow out the result; None: it stays solid. Walls are at least THIN cells thick, drains NARROW.

    Returns:
        the mesh, float32 and int32, wound outward: every edge has two faces and the faces round every vertex are one
        fan; {"resolution", "cell" (world units), "closed_edges" (lattice edges across which a hole was closed),
        "thickened" (lattice points inside thickened sheets), "undecided" (lattice points that a minimum cut parted)},
        and with `hollow` "hollow": {"volume_before", "volume" (world units), "cavities", "drains", "left_solid" (places
        behind the wall without room for a drain)} and "hollowed": a Hollowed, to measure by what becomes of the result.

    Raises:
        SettingsError: a resolution, a wall or a drain out of range. EmptyResultError: no faces, or none with an area.
    """
    mesh.require_faces()
    longest = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max())
    if not 0 <= wall <= max(longest / 2, 0):
        raise SettingsError(
            f"The wall is {wall:g} thick; choose from 0 to {longest / 2:.4g}, half of the longest side."
        )
    if hollow is not None and longest > 0:
        check_hollow(hollow, longest, resolution)
    band = max(_BAND, wall / 2 * resolution / longest if longest > 0 else 0.0)
    lattice, torn, report = enclosed(mesh, resolution, ceil(band) + 4, cavities)
    sheets = _thicken(lattice, band)
    if torn is not None:
        drop_specks(lattice, torn)
        fill_tunnels(lattice, torn)
    base = _base(lattice, hollow)
    if base is not None:
        lattice = cut_base(lattice, base)
    points, triangles, edges = _surface(lattice, sheets, base)
    closed = int((edges.normal == 0).all(1).sum())
    thickened = int((lattice.states == THICK).sum())
    report = {"resolution": resolution, "cell": lattice.cell, "closed_edges": closed, "thickened": thickened, **report}
    if hollow is not None:
        whole = _volume(points, triangles)
        cells = hollow.wall / lattice.cell, hollow.drain / 2 / lattice.cell
        carved = carve(lattice, points, triangles, *cells)
        body = Mesh.known(lattice.to_world(points), triangles)
        report["hollowed"] = Hollowed(body, hollow.wall, hollow.drain, carved.axes(), lattice.cell)
        points, triangles, _ = _surface(carved.lattice, sheets, base, carved)
        unit = lattice.cell**3
        report["hollow"] = {
            "volume_before": whole * unit,
            "volume": _volume(points, triangles) * unit,
            "cavities": carved.cavities,
            "drains": len(carved.drains),
            "left_solid": carved.left,
        }
    return Mesh.known(lattice.to_world(points), triangles), report


def _surface(
    lattice: Lattice, sheets: _Sheets | None, base: float | None, carved: Carved | None = None
) -> tuple[torch.Tensor, torch.Tensor, Edges]:
    """Vertices in cells and triangles between inside and outside, and the edges that they cross."""
    cells = find_cells(lattice)
    if len(cells.nodes) == 0:
        raise EmptyResultError("All faces of the mesh are without area: there is no surface to work on.")
    edges = find_edges(lattice, cells)
    if sheets is not None:
        _cross_bands(lattice, sheets, edges)
    if base is not None:
        cross_base(lattice, edges, base)
    if carved is not None:
        cross_carved(carved, edges)
    points, triangles, free = contour(lattice, cells, edges)
    points = smooth_lids(points, triangles, free)
    if base is not None:  # the planes of crossings meet there but for rounding
        points[:, 2] = torch.where(points[:, 2] < base + _FLAT, base, points[:, 2])
    return points, triangles, edges


def _base(lattice: Lattice, hollow: Hollow | None) -> float | None:
    """The height in cells below which all is cut off."""
    if hollow is None or not hollow.base:
        return None
    heights = lattice.points[lattice.faces.long().unique(), 2].double()
    return float(heights.amin() + hollow.base * (heights.amax() - heights.amin()))


def _volume(points: torch.Tensor, triangles: torch.Tensor) -> float:
    whole = torch.zeros(len(triangles), dtype=torch.int64, device=points.device)
    return float(face_measures(points, triangles, whole, 1, by_kernels(triangles))[1])


def _thicken(lattice: Lattice, band: float) -> _Sheets | None:
    """Move the outside points within `band` cells of sheets inside; None if there are no sheets.

    Sheets are touched cells that have only outside points up to one cell away.
    """
    marks = torch.zeros_like(lattice.states)
    given = lattice.grid, lattice.touched, lattice.states, lattice.empty
    launch_parallel(contour_kernels.mark_sheets, lattice.nodes, *given, marks)
    front = marks.nonzero().squeeze(1)
    if len(front) == 0:
        return None
    for _ in range(ceil(band) + 2):  # a cell's points are up to one from its lowest
        near = marks
        marks = lattice.around(front, 1) | near
        front = (marks > near).nonzero().squeeze(1)
    nodes = ((marks > 0) & (lattice.states == OUTSIDE)).nonzero().squeeze(1)
    faces = lattice.faces[faces_near(lattice, nodes, band + _SEEN + 1)]  # edges of these points end one beside them
    surface = Surface(lattice.points, faces)
    distance = torch.full((lattice.nodes,), torch.inf, device=marks.device)
    for chunk in nodes.split(_CHUNK):
        distance[chunk] = surface.closest(lattice.coordinates(chunk).float(), band + _SEEN).distance
    lattice.states[distance <= band] = THICK
    return _Sheets(faces, surface, distance, band)


def _cross_bands(lattice: Lattice, sheets: _Sheets, edges: Edges) -> None:
    """Write depth and normal of the edges that leave the band round a sheet."""
    band = sheets.band
    distance = torch.full((lattice.nodes,), torch.inf, device=lattice.states.device)  # bricks stored since are far
    distance[: len(sheets.distance)] = sheets.distance
    rows = (lattice.ends(edges.key) == THICK).any(1).nonzero().squeeze(1)
    for chunk in rows.split(_CHUNK):
        key = edges.key[chunk]
        low = lattice.coordinates(key // 3)
        step = torch.nn.functional.one_hot(key % 3, 3).int()
        high = lattice.look_up(low + step)
        distances = torch.stack([distance[key // 3], distance[high.clamp_min(0)]], 1)
        up = edges.rising[chunk]
        inner, outer = torch.where(up, *distances.unbind(1)), torch.where(up, *distances.flip(1).unbind(1))
        outer = torch.where(outer.isfinite() & (outer > band), outer, inner + 1)
        share = ((band - inner) / (outer - inner).clamp_min(1e-3)).clamp(0.02, 0.98)
        edges.depth[chunk] = torch.where(up, share, 1 - share)
        point = low + step * edges.depth[chunk][:, None]
        hits = sheets.surface.closest(point, band + _SEEN)
        away = point - hits.points(lattice.points, sheets.faces)
        edges.normal[chunk] = torch.nn.functional.normalize(away, dim=1, eps=1e-30)
