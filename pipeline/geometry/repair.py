"""Topology of triangle meshes: open edges, small holes, winding, leftovers. Plain torch, on the mesh's device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class HalfEdges:
    """Directed edges of faces, grouped by the undirected edge they lie on.

    Half-edge h of face f = h // 3 goes from start[h] to end[h]; order lists half-edges so that those of one
    edge follow each other, group their edge's number, uses how many faces an edge has.
    """

    start: torch.Tensor  # [3 F] int64
    end: torch.Tensor  # [3 F]
    order: torch.Tensor  # [3 F]
    group: torch.Tensor  # [3 F], ascending, aligned with order
    uses: torch.Tensor  # [E]

    @classmethod
    def of(cls, faces: torch.Tensor) -> HalfEdges:
        """faces: [F, 3]."""
        faces = faces.long()
        start, end = faces.reshape(-1), faces.roll(-1, 1).reshape(-1)
        key = torch.minimum(start, end) * (int(faces.max()) + 1 if len(faces) else 1) + torch.maximum(start, end)
        key, order = key.sort(stable=True)
        first = torch.ones_like(key, dtype=torch.bool)
        first[1:] = key[1:] != key[:-1]
        group = first.cumsum(0) - 1
        return cls(start, end, order, group, torch.bincount(group))

    def with_uses(self, count: int) -> torch.Tensor:
        """[E', count] half-edges of the edges that have exactly `count` faces."""
        return self.order[(self.uses == count)[self.group]].reshape(-1, count)


def compact(vertices: torch.Tensor, faces: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Drop vertices that no face uses; the rest keep their order."""
    used = torch.zeros(len(vertices), dtype=torch.bool, device=vertices.device)
    used[faces.reshape(-1).long()] = True
    new_index = used.cumsum(0) - 1
    return vertices[used], new_index[faces.long()].to(faces.dtype)


def drop_bad_faces(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """Faces without those of no area (to fp32 rounding) and without repeats of the same three vertices."""
    a, b, c = vertices[faces.long()].double().unbind(1)
    doubled_area = torch.linalg.cross(b - a, c - a).norm(dim=1)
    longest = torch.stack([(b - a).norm(dim=1), (c - b).norm(dim=1), (a - c).norm(dim=1)]).amax(0)
    faces = faces[doubled_area > 1e-9 * longest**2]
    i, j, k = faces.long().sort(1).values.unbind(1)
    pair = torch.unique(i * len(vertices) + j, return_inverse=True)[1]
    ids = torch.unique(pair * len(vertices) + k, return_inverse=True)[1]
    first = torch.full((int(ids.max()) + 1 if len(ids) else 0,), len(ids), device=ids.device)
    first = first.scatter_reduce(0, ids, torch.arange(len(ids), device=ids.device), "amin")
    return faces[first.sort().values]


def fill_small_holes(
    vertices: torch.Tensor, faces: torch.Tensor, max_perimeter: float = 3e-2
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Close loops of open edges that are shorter than max_perimeter (world units) with a fan round their centre.

    Loops and centres as CuMesh: open edges join at vertices where exactly two of them meet; a chain is a loop if
    both ends of each edge lead on within it; the centre is the mean of the edges' midpoints. The fan continues the
    winding of the faces beside it.

    Returns:
        vertices with the centres behind, faces with the fans behind, the number of holes filled.
    """
    edges = HalfEdges.of(faces)
    open_edges = edges.with_uses(1).squeeze(1)
    if len(open_edges) == 0:
        return vertices, faces, 0
    start, end = edges.start[open_edges], edges.end[open_edges]
    loop = _chains(start, end)
    ends = torch.cat([start, end])
    _, place, meetings = torch.unique(
        torch.stack([torch.cat([loop, loop]), ends], 1), dim=0, return_inverse=True, return_counts=True
    )
    leads_on = (meetings[place] > 1).reshape(2, -1).all(0)
    count = int(loop.max()) + 1
    closed = vertices.new_ones(count).scatter_reduce(0, loop, leads_on.to(vertices.dtype), "amin") > 0
    length = (vertices[end] - vertices[start]).norm(dim=1)
    perimeter = vertices.new_zeros(count).index_add_(0, loop, length)
    chosen = closed & (perimeter < max_perimeter)
    keep = chosen[loop]
    start, end, loop = start[keep], end[keep], (chosen.cumsum(0) - 1)[loop[keep]]
    holes = int(chosen.sum())
    if holes == 0:
        return vertices, faces, 0
    centre = vertices.new_zeros(holes, 3).index_add_(0, loop, (vertices[start] + vertices[end]) / 2)
    centre = centre / torch.bincount(loop, minlength=holes)[:, None]
    fan = torch.stack([end, start, len(vertices) + loop], 1).to(faces.dtype)
    return torch.cat([vertices, centre]), torch.cat([faces, fan]), holes


def _chains(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """[N] chain of each open edge: edges are joined at vertices where exactly two meet."""
    ends = torch.cat([start, end]).cpu().numpy()
    owner = np.tile(np.arange(len(start)), 2)
    order = np.argsort(ends, kind="stable")
    _, first, meeting = np.unique(ends[order], return_index=True, return_counts=True)
    pair = first[meeting == 2]
    a, b = owner[order[pair]], owner[order[pair + 1]]
    return torch.from_numpy(_components(a, b, len(start))).to(start.device)


def _components(a: np.ndarray, b: np.ndarray, count: int) -> np.ndarray:
    """[count] int64 component of each node of the graph with edges a-b."""
    graph = coo_matrix((np.ones(len(a), np.int8), (a, b)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def orient(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """Faces wound alike across every edge of two faces, and outward (positive signed volume) for each component.

    Components that cannot be oriented (Moebius strips) keep their winding.
    """
    edges = HalfEdges.of(faces)
    pairs = edges.with_uses(2)
    a, b = (pairs // 3).cpu().numpy().T
    same_way = (edges.start[pairs[:, 0]] == edges.start[pairs[:, 1]]).cpu().numpy()
    count = len(faces)
    # Node f is face f as it is, node count + f the same face flipped. Faces that run along their common edge in
    # opposite directions agree as they are; the others agree if one is flipped.
    near, far = (
        np.concatenate([a, a + count]),
        np.concatenate([np.where(same_way, b + count, b), np.where(same_way, b, b + count)]),
    )
    label = _components(near, far, 2 * count)
    plain, flipped = label[:count], label[count:]
    component = np.minimum(plain, flipped)
    flip = torch.from_numpy((plain > flipped) & (plain != flipped)).to(faces.device)
    faces = torch.where(flip[:, None], faces.flip(1), faces)
    x, y, z = vertices[faces.long()].double().unbind(1)
    volume = (x * torch.linalg.cross(y, z)).sum(1)
    component = torch.unique(torch.from_numpy(component).to(faces.device), return_inverse=True)[1]
    total = volume.new_zeros(int(component.max()) + 1 if count else 0).index_add_(0, component, volume)
    orientable = torch.from_numpy(plain != flipped).to(faces.device)
    inward = (total < 0)[component] & orientable
    return torch.where(inward[:, None], faces.flip(1), faces)


def vertex_normals(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """[V, 3] float32 unit normals, faces weighted by area; (0, 0, 1) where they cancel."""
    a, b, c = vertices[faces.long()].double().unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    total = normal.new_zeros(len(vertices), 3)
    for corner in range(3):
        total.index_add_(0, faces[:, corner].long(), normal)
    length = total.norm(dim=1, keepdim=True)
    up = total.new_tensor([0.0, 0.0, 1.0])
    return torch.where(length > 1e-30, total / length.clamp_min(1e-30), up).float()
