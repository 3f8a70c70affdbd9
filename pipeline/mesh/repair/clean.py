"""Cleaning a mesh: every repair in the order in which they help each other, with a record of what each changed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from ...errors import SettingsError
from ..mesh import Mesh
from ..topology.half_edges import HalfEdges, Sheets
from ..topology.manifold import Topology, match
from ..topology.outward import outward
from ..topology.sorting import by_corners, by_kernels
from ..topology.split import split_non_manifold
from .repair import close_holes, degenerate, drop_unused, large_components, weld
from .winding import sides_seen


@dataclass(frozen=True)
class CleanSettings:
    """What to clean. The defaults are for meshes as decoders and scanners give them."""

    weld: bool = True  # vertices of equal coordinates
    min_area_share: float = 1e-5  # components with less of the mesh's area are dropped; 0 keeps all
    max_hole_perimeter: float = 3e-2  # world units; holes with a shorter boundary loop are filled; 0 fills none

    def __post_init__(self) -> None:
        for name in ("min_area_share", "max_hole_perimeter"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise SettingsError(f"{name} is {value}; expected a number of at least 0.")
        if self.min_area_share > 1:
            raise SettingsError(f"min_area_share is {self.min_area_share}; expected a share, 0 to 1.")


# For a mesh that was clean and then changed: simplifying can make faces degenerate or equal and edges non-manifold,
# but neither fragments nor holes; vertices that the first cleaning split stay apart.
AFTER_SIMPLIFYING = CleanSettings(weld=False, min_area_share=0, max_hole_perimeter=0)


@dataclass(frozen=True, eq=False)
class Cleaned(Mesh):
    """A mesh without degenerate and repeated faces, non-manifold edges and vertices, consistently oriented and
    outward; every vertex is used. Vertices and faces are of the types given."""

    changes: dict[str, int] = field(default_factory=dict)  # what each step changed


def clean(mesh: Mesh, settings: CleanSettings | None = None, by_rays: bool | None = None) -> Cleaned:
    """Weld, drop degenerate and repeated faces, pair the faces at non-manifold edges and orient all consistently, drop
    small components, fill small holes, face outward, split what only touches, drop unused vertices. Faces come in the
    order of their vertices.

    Pairs come before everything that looks at components or boundary edges, so that a mesh is never opened where bodies
    touch; holes are filled before vertices are split, so that what had to stay open there is not filled. An empty
    mesh, or one of which nothing is left, gives an empty mesh.

    by_rays: as of sides_seen; None: where topology is found by kernels.
    """
    settings = settings or CleanSettings()
    vertices, faces = mesh.vertices, mesh.faces
    kind, changes = faces.dtype, {}
    faces = faces.int()
    changes["welded_vertices"] = 0
    if settings.weld:
        vertices, faces, changes["welded_vertices"] = weld(vertices, faces)
    kernels = by_kernels(faces, mesh.kernels)
    order, again = by_corners(faces, kernels)
    flat = degenerate(vertices, faces, kernels).index_select(0, order)
    changes["degenerate_faces"] = int(flat.count_nonzero())
    changes["repeated_faces"] = int((again & ~flat).count_nonzero())
    faces = faces.index_select(0, order[~(flat | again)])
    topology, flip = match(vertices, HalfEdges.of(faces, kernels))
    del order, again, flat, faces
    topology = topology.turned(flip)
    changes["non_manifold_edges"] = topology.non_manifold_edges
    changes["small_components"] = 0
    if settings.min_area_share > 0:
        keep = large_components(topology, settings.min_area_share)
        changes["small_components"] = int((~keep).sum())
        if changes["small_components"]:
            flip, topology = flip[keep[topology.component]], topology.kept(keep)
    if topology.non_orientable.any():
        seen = sides_seen(vertices, topology, kernels if by_rays is None else by_rays)
        flip, topology = flip ^ seen, topology.turned(seen)
    before = len(topology.faces)
    changes["filled_holes"] = 0
    if settings.max_hole_perimeter > 0:
        vertices, topology, changes["filled_holes"] = close_holes(vertices, topology, settings.max_hole_perimeter)
    turn = outward(vertices, topology)
    changes["turned_faces"] = int((flip ^ turn[:before]).sum())
    topology = topology.turned(turn)
    split = split_non_manifold(vertices, topology)
    changes["copied_vertices"], changes["midpoints"] = split.copies, split.midpoints
    vertices, faces, changes["unused_vertices"] = drop_unused(split.vertices, split.faces)
    known = {} if split.midpoints else _topology(faces, topology)
    return Cleaned.known(vertices, faces.to(kind), kernels=kernels, changes=changes, **known)


def _topology(faces: torch.Tensor, found: Topology) -> dict:
    """Edges and sheets of faces that have been parted, joined and turned as was found."""
    none = torch.zeros(len(faces), dtype=torch.bool, device=faces.device)
    sheets = Sheets(found.component, none, ~found.non_orientable)
    return {"edges": HalfEdges.manifold(faces, found.twin, found.kernels), "sheets": sheets}
