"""Which faces are neighbours: those of an edge of more than two are paired, and all faces are consistently oriented."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import minimum_spanning_tree

from ...sums import sum_by
from .columns import chunks
from .half_edges import HalfEdges, Sheets, border, components, kept_twins, previous_half_edge, two_colour
from .measures import face_measures
from .steady import steady_angle

_OPEN = 4.0  # radians by which a sheet that is all border counts as bent more
_ROUNDS = 64  # deepest nest of faces round an edge before the slow way
_ENUMERATED = 64  # most faces at an edge for which every pair of them is weighed


@dataclass(frozen=True)
class Topology:
    """Which half-edges of faces are one edge of the surface, after every edge of more than two faces was taken apart
    in pairs. Half-edge h = 3 f + k leads from faces[f, k] to the next corner."""

    faces: torch.Tensor  # [F, 3] int32
    twin: torch.Tensor  # [3 F] int32; -1 where the surface is open
    component: torch.Tensor  # [F] int64, faces joined across twins, numbered from 0
    non_orientable: torch.Tensor  # [components] bool, cannot be consistently oriented
    area: torch.Tensor  # [components] float64
    volume: torch.Tensor  # [components] float64, signed, between the faces and the middle of the bounding box
    non_manifold: torch.Tensor  # [N] int64 half-edges of the edges that have more than two faces
    non_manifold_edges: int  # how many edges these are
    kernels: bool  # as of HalfEdges

    def border(self) -> torch.Tensor:
        """[N] int64 half-edges of edges with one face."""
        return border(self.twin, self.non_manifold)

    def closed(self) -> torch.Tensor:
        """[components] bool: has an inside, as nothing is open and all faces can be consistently oriented."""
        closed = ~self.non_orientable
        closed[self.component[(self.twin < 0).nonzero().squeeze(1) // 3]] = False
        return closed

    def kept(self, keep: torch.Tensor) -> Topology:
        """Only the components [components] bool marked."""
        face = keep[self.component]
        rows, place, twin = kept_twins(self.twin, face)
        return replace(
            self,
            faces=self.faces.index_select(0, rows),
            twin=twin,
            component=(keep.cumsum(0) - 1).index_select(0, self.component.index_select(0, rows)),
            non_orientable=self.non_orientable[keep],
            area=self.area[keep],
            volume=self.volume[keep],
            non_manifold=place[self.non_manifold[face[self.non_manifold // 3]]].long(),
        )

    def turned(self, flip: torch.Tensor) -> Topology:
        """With the faces [F] bool wound the other way: (a, b, c) becomes (c, b, a). Volumes stay."""
        face = flip.nonzero().squeeze(1)
        if len(face) == 0:
            return self
        faces, twin = self.faces.clone(), self.twin.clone()
        for chunk in chunks(face):
            some = face[chunk]
            faces[some] = self.faces[some].flip(1)
            half = (3 * some[:, None] + torch.arange(3, device=face.device)).reshape(-1)
            other = self.twin[half].long()
            other = torch.where(other < 0, other, _turned(other.clamp_min(0), flip))
            half = _turned(half, flip)
            twin[half] = other.int()
            twin[other[other >= 0]] = half[other >= 0].int()
        return replace(self, faces=faces, twin=twin, non_manifold=_turned(self.non_manifold, flip))


def _turned(half: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Where a half-edge is once its face is wound the other way: the first and the second change places."""
    corner = half % 3
    return half + torch.where(flip[half // 3] & (corner < 2), 1 - 2 * corner, 0).to(half.dtype)


def match(vertices: torch.Tensor, edges: HalfEdges) -> tuple[Topology, torch.Tensor]:
    """Pair the half-edges of every edge, and find the faces to turn for all pairs to be consistently oriented.

    Edges of two faces are pairs. At edges of more the faces are sorted by their angle round the edge, sheets that meet
    there are wound as the majority of such edges asks (neighbours in angle run against each other along the edge),
    outward by volume, and then the two faces round each wedge of material are a pair: bodies that touch in an edge
    part. Where windings do not allow all faces to be paired (an odd number: a fin on a surface), the pairs nearest to
    flat come first, those of sheets with much border last, and the rest stay open.

    Returns:
        the topology of the faces as they are, but with the volumes they have once turned; [F] bool the faces to turn.
    """
    faces, twin = edges.faces, edges.twin.clone() if len(edges.non_manifold) else edges.twin
    sheets = Sheets.of(edges)
    count = len(sheets.orientable)
    wound = torch.where(sheets.flip[:, None], faces.flip(1), faces)
    area, volume = face_measures(vertices, wound, sheets.label, count, edges.kernels)
    label, turn = sheets.label, torch.zeros(count, dtype=torch.bool, device=faces.device)
    if len(edges.non_manifold):
        around = _sorted_round_edges(vertices, edges)
        half = around.half
        start, end = edges.ends(half)
        sheet = label[half // 3]
        forward = (start < end) ^ sheets.flip[half // 3]
        border = torch.bincount(label[edges.border() // 3], minlength=count)
        loose = _OPEN * (border / torch.bincount(label, minlength=count))[sheet]
        turn = _align(around, forward, sheet, loose, volume) & sheets.orientable
        pairs = _pairs(around, forward ^ turn[sheet], loose)
        twin[pairs[:, 0]], twin[pairs[:, 1]] = pairs[:, 1].int(), pairs[:, 0].int()
        ends = label[pairs // 3]
        joined, total = components(ends[:, 0], ends[:, 1], count)
    else:
        joined, total = torch.arange(count, device=faces.device), count
    non_orientable = torch.zeros(total, dtype=torch.bool, device=faces.device)
    non_orientable[joined[~sheets.orientable]] = True
    area, volume = (sum_by(each, joined, total) for each in (area, torch.where(turn, -volume, volume)))
    component = joined.index_select(0, label)
    topology = Topology(
        faces,
        twin,
        component,
        non_orientable,
        area,
        volume,
        edges.non_manifold,
        edges.non_manifold_edges,
        edges.kernels,
    )
    return topology, sheets.flip ^ turn.index_select(0, label)


@dataclass(frozen=True)
class _Around:
    """Half-edges of non-manifold edges, edge by edge, anticlockwise as seen from the higher vertex."""

    half: torch.Tensor  # [N] int64
    edge: torch.Tensor  # [N] int64 ascending from 0
    angle: torch.Tensor  # [N] float64, ascending within an edge


def _sorted_round_edges(vertices: torch.Tensor, edges: HalfEdges) -> _Around:
    half, edge = edges.non_manifold, edges.edge
    start, end = edges.ends(half)
    apex, _ = edges.ends(previous_half_edge(half))
    low = vertices[torch.minimum(start, end)].double()
    axis = torch.nn.functional.normalize(vertices[torch.maximum(start, end)].double() - low, dim=1)
    arm = vertices[apex].double() - low
    arm = arm - (arm * axis).sum(1, keepdim=True) * axis
    first = _ring(edge)[1]
    side = torch.linalg.cross(axis, arm[first])
    angle = steady_angle((arm * side).sum(1), (arm * arm[first]).sum(1))
    order = angle.argsort(stable=True)
    order = order[edge[order].argsort(stable=True)]
    return _Around(half[order], edge[order], angle[order])


def _ring(edge: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For entries sorted by edge: [N] the next entry of the same edge, round and round, and [N] its first entry."""
    index = torch.arange(len(edge), device=edge.device)
    begins = torch.ones_like(edge, dtype=torch.bool)
    begins[1:] = edge[1:] != edge[:-1]
    first = index[begins][begins.cumsum(0) - 1]
    return torch.where(begins.roll(-1), first, index + 1), first


def _align(
    around: _Around, forward: torch.Tensor, sheet: torch.Tensor, loose: torch.Tensor, volume: torch.Tensor
) -> torch.Tensor:
    """[S] bool sheets to turn so that most non-manifold edges have neighbours run against each other, and sheets that
    are connected by them enclose a positive volume: a maximum spanning forest of the sheets, weighed by votes."""
    after, _ = _ring(around.edge)
    gap = (around.angle[after] - around.angle) % (2 * torch.pi)
    bend = (gap - torch.pi).abs() + loose + loose[after]
    faces_there = torch.bincount(around.edge)
    flattest = bend.new_full((len(faces_there),), torch.inf).scatter_reduce(0, around.edge, bend, "amin")
    counts = (faces_there % 2 == 0)[around.edge] | (bend == flattest[around.edge])
    a, b = sheet, sheet[after]
    counts &= a != b
    vote = torch.where(forward != forward[after], 1, -1)[counts].cpu().numpy()
    a, b = a[counts].cpu().numpy(), b[counts].cpu().numpy()
    size = len(volume)
    pair, place = np.unique(np.minimum(a, b) * size + np.maximum(a, b), return_inverse=True)
    votes = np.bincount(place, vote, len(pair))
    pair, votes = pair[votes != 0], votes[votes != 0]
    cost = 1 + np.abs(votes).max(initial=0) - np.abs(votes)
    tree = minimum_spanning_tree(coo_matrix((cost, (pair // size, pair % size)), shape=(size, size))).tocoo()
    chosen = np.searchsorted(pair, tree.row.astype(np.int64) * size + tree.col)
    a, b = torch.from_numpy(pair[chosen] // size), torch.from_numpy(pair[chosen] % size)
    group, turn, _ = two_colour(a, b, torch.from_numpy(votes[chosen] < 0), size)
    volume = volume.cpu()
    total = torch.zeros(int(group.max()) + 1, dtype=volume.dtype).index_add_(
        0, group, torch.where(turn, -volume, volume)
    )
    return (turn ^ (total < 0)[group]).to(sheet.device)


def _pairs(around: _Around, forward: torch.Tensor, loose: torch.Tensor) -> torch.Tensor:
    """[P, 2] half-edges that belong together."""
    ahead, here = torch.bincount(around.edge, forward), torch.bincount(around.edge)
    weighed = ((2 * ahead != here) & (here <= _ENUMERATED))[around.edge]
    found = []
    half, edge, runs_up = around.half[~weighed], around.edge[~weighed], forward[~weighed]
    for _ in range(_ROUNDS):
        after, _ = _ring(edge)
        # seen along the edge material lies clockwise of a face that runs up and anticlockwise of one that runs down
        wedge = ~runs_up & runs_up[after]
        if not bool(wedge.any()):
            break
        found.append(torch.stack([half[wedge], half[after[wedge]]], 1))
        left = ~wedge
        left[after[wedge]] = False
        half, edge, runs_up = half[left], edge[left], runs_up[left]
    found.append(_flattest_pairs(*(each[weighed] for each in (around.half, around.edge, around.angle, forward, loose))))
    return torch.cat(found)


def _flattest_pairs(
    half: torch.Tensor, edge: torch.Tensor, angle: torch.Tensor, forward: torch.Tensor, loose: torch.Tensor
) -> torch.Tensor:
    """[P, 2] half-edges that run against each other along the same edge, those nearest to flat first."""
    _, first = _ring(edge)
    size = torch.bincount(edge)[edge]
    a = torch.repeat_interleave(torch.arange(len(half), device=half.device), size)
    b = first[a] + torch.arange(len(a), device=half.device) - (size.cumsum(0) - size)[a]
    apart = forward[a] & ~forward[b]
    a, b = a[apart], b[apart]
    bend = ((angle[a] - angle[b]) % (2 * torch.pi) - torch.pi).abs() + loose[a] + loose[b]
    order = bend.argsort(stable=True)
    a, b, found = a[order], b[order], [half.new_zeros(0, 2)]
    while len(a):
        rank = torch.arange(len(a), device=a.device)
        best = torch.full_like(half, len(a)).scatter_reduce_(0, torch.cat([a, b]), torch.cat([rank, rank]), "amin")
        taken = (best[a] == rank) & (best[b] == rank)
        found.append(torch.stack([half[a[taken]], half[b[taken]]], 1))
        gone = torch.zeros_like(forward)
        gone[a[taken]] = gone[b[taken]] = True
        left = ~(gone[a] | gone[b])
        a, b = a[left], b[left]
    return torch.cat(found)
