"""The outer shell of a mesh: the faces that can be seen from outside, as whole patches of its surface."""

from __future__ import annotations

import torch

from ...warp.launch import launch_parallel
from ..mesh import Mesh
from ..repair.repair import compact
from ..topology.half_edges import HalfEdges, Sheets, kept_twins
from . import flood_kernels
from .interior import outside
from .lattice import Lattice, box_of
from .lattice_functions import OUTSIDE

_BLOCK = 4  # cells along a side of the blocks in which views of a patch are counted


def outer_shell(mesh: Mesh, resolution: int = 256) -> tuple[Mesh, dict]:
    """Remove the inner and double shells of a mesh: patches of its surface that do not border on the outside.

    A patch is what is connected over edges of exactly two faces, so that closed inner components and inner sheets on
    non-manifold edges are patches of their own. A face is seen where a lattice edge that begins outside meets it first.
    A patch stays, as a whole, if somewhere in it most of what lies in a block of 4 x 4 x 4 cells is seen (what shows
    through pinholes does not keep it), or if half of it is seen. Patches that no lattice edge meets stay if they lie in
    a cell with an outside corner, those that hardly one meets also if they share an edge with a patch that stays. Hence
    the outer surface gets no holes, and parts of it that lie inside another body stay.

    Args:
        resolution: cells along the longest side of the bounding box. Space behind openings narrower than a cell counts
            as inside.

    Returns:
        the mesh (order and winding kept; itself where nothing is removed) and
        {"patches", "patches_removed", "faces_removed", "resolution"}.

    Raises:
        As outside().
    """
    patch, count = mesh.sheets.label, len(mesh.sheets.orientable)
    if count == 1:  # the only one borders on the outside
        box_of(mesh, resolution)
        return mesh, {"patches": 1, "patches_removed": 0, "faces_removed": 0, "resolution": resolution}
    lattice = outside(mesh, resolution)
    owner = patch.index_select(0, lattice.face)
    crossings = torch.bincount(owner, minlength=count)
    stays = _seen_patches(lattice, owner, crossings)
    stays |= _beside_outside(lattice, patch, crossings == 0)
    stays |= (crossings < _BLOCK) & _attached(mesh.edges, patch, stays)
    keep = stays[patch]
    removed = int((~keep).sum())
    report = {
        "patches": count,
        "patches_removed": int((~stays).sum()),
        "faces_removed": removed,
        "resolution": resolution,
    }
    if removed == 0:
        return mesh, report
    return _kept(mesh, keep, stays), report


def _kept(mesh: Mesh, keep: torch.Tensor, stays: torch.Tensor) -> Mesh:
    """Faces [F] bool of a mesh that are whole patches, [patches] bool: where all edges are manifold they keep their
    neighbours, and what is known of these."""
    vertices, faces = compact(mesh.vertices, mesh.faces[keep])
    edges, sheets = mesh.edges, mesh.sheets
    if len(edges.non_manifold):
        return Mesh.known(vertices, faces, kernels=mesh.kernels)
    rows, _, twin = kept_twins(edges.twin, keep)
    label = (stays.cumsum(0) - 1).index_select(0, sheets.label.index_select(0, rows))
    sheets = Sheets(label, sheets.flip.index_select(0, rows), sheets.orientable[stays])
    edges = HalfEdges.manifold(faces, twin, edges.kernels)
    return Mesh.known(vertices, faces, kernels=mesh.kernels, edges=edges, sheets=sheets)


def _attached(edges: HalfEdges, patch: torch.Tensor, stays: torch.Tensor) -> torch.Tensor:
    """[patches] bool: those that share an edge of more than two faces with one that stays."""
    owner = patch[edges.non_manifold // 3]
    bright = torch.zeros(edges.non_manifold_edges, dtype=torch.bool, device=patch.device)
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
    launch_parallel(
        flood_kernels.beside_outside, len(found), corners, lattice.grid, lattice.states, lattice.empty, found
    )
    beside = patch[face[(found.reshape(-1, 3) > 0).any(1)]]
    return torch.zeros_like(asked).index_fill_(0, beside, True)
