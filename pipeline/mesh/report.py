"""What a mesh is like: counts, defects, sizes, and what to know about them in plain words."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from ..words import counted
from .topology.half_edges import HalfEdges, Sheets, components
from .topology.measures import face_measures


@dataclass(frozen=True)
class MeshReport:
    """Plain numbers about a mesh. Lengths in world units."""

    vertices: int
    faces: int
    components: int  # faces joined across edges
    boundary_edges: int  # edges of one face
    boundary_loops: int  # groups of them that are connected: holes, where holes that touch count once
    non_manifold_edges: int  # edges of more than two faces
    inconsistent_edges: int  # edges of two faces that are not consistently oriented
    watertight: bool  # has faces, and each edge exactly two
    euler: int  # vertices in use - edges + faces: 2 (1 - genus) for a closed manifold component
    volume: float | None  # signed; None unless watertight and consistently oriented throughout
    area: float
    bounds: tuple[tuple[float, float, float], tuple[float, float, float]] | None  # of all vertices; None without any

    @property
    def handles(self) -> int:
        """Of all components together, by Euler's formula; about, where holes touch or a component has no two sides."""
        return max(0, (2 * self.components - self.boundary_loops - self.euler) // 2)

    @property
    def least_faces(self) -> int:
        """About how few faces can keep all components, holes and handles: what edge collapse leaves of decoded objects
        if it is let go on as long as the topology stays the same."""
        return 4 * self.components + 5 * self.boundary_loops + 12 * self.handles

    def as_dict(self) -> dict:
        """Plain numbers, lists and None, for JSON."""
        facts = asdict(self)
        facts["bounds"] = None if self.bounds is None else [list(corner) for corner in self.bounds]
        return facts

    def warnings(self) -> list[str]:
        """What may be wrong, one sentence each; empty for a watertight mesh that is wound outward."""
        if self.faces == 0:
            return ["The mesh has no faces."]
        found = []
        if self.boundary_edges:
            loops = counted(self.boundary_loops, "hole or border", "holes or borders")
            found.append(f"{counted(self.boundary_edges, 'boundary edge')} in {loops}: the mesh is not watertight.")
        if self.non_manifold_edges:
            found.append(
                f"{counted(self.non_manifold_edges, 'edge')} with more than two faces: the mesh is not manifold."
            )
        if self.inconsistent_edges:
            found.append(
                f"{counted(self.inconsistent_edges, 'edge')} with inconsistently oriented faces: parts of the mesh "
                "may look inside out."
            )
        if self.volume is not None and self.volume <= 0:
            found.append("The enclosed volume is not positive: the mesh is inside out.")
        if self.area == 0:
            found.append("The mesh has no area.")
        return found


def _point(vertex: torch.Tensor) -> tuple[float, float, float]:
    x, y, z = vertex.tolist()
    return x, y, z


def measure(vertices: torch.Tensor, edges: HalfEdges, sheets: Sheets) -> MeshReport:
    """Count what MeshReport says, on the mesh's device; `Mesh.report` keeps it.

    Args:
        vertices: [V, 3] finite. edges, sheets: of the faces.
    """
    faces = edges.faces
    border, non_manifold, start = edges.border(), edges.non_manifold_edges, faces.reshape(-1)
    one, other = edges.pairs()
    same_way = int((start.index_select(0, one) == start.index_select(0, other)).count_nonzero())
    del one, other
    used = torch.bincount(start, minlength=len(vertices)) > 0
    watertight = len(faces) > 0 and len(border) == 0 and non_manifold == 0
    one = torch.zeros(len(faces), dtype=torch.int64, device=faces.device)
    area, volume = (float(total) for total in face_measures(vertices, faces, one, 1, edges.kernels))
    bounds = None
    if len(vertices):
        bounds = (_point(vertices.amin(0)), _point(vertices.amax(0)))
    return MeshReport(
        vertices=len(vertices),
        faces=len(faces),
        components=_components(edges, sheets),
        boundary_edges=len(border),
        boundary_loops=_loops(edges, border),
        non_manifold_edges=non_manifold,
        inconsistent_edges=same_way,
        watertight=watertight,
        euler=int(used.count_nonzero()) - edges.count + len(faces),
        volume=volume if watertight and same_way == 0 else None,
        area=area,
        bounds=bounds,
    )


def _components(edges: HalfEdges, sheets: Sheets) -> int:
    """Sheets of faces, joined where edges have more than two."""
    sheet = sheets.label[edges.non_manifold // 3]
    together = edges.edge[1:] == edges.edge[:-1]
    return components(sheet[1:][together], sheet[:-1][together], len(sheets.orientable))[1]


def _loops(edges: HalfEdges, border: torch.Tensor) -> int:
    ends = torch.unique(torch.stack(edges.ends(border)), return_inverse=True)
    return components(ends[1][0], ends[1][1], len(ends[0]))[1]
