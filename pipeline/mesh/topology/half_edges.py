"""Which faces meet in which edge: half-edges sorted by edge, their twins, and the parts and windings that follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components

from ...warp import cores, unavailable_reason

_PEELS = 8  # large parts that are searched one by one on a CPU before the rest is labelled together
_LARGE = 16  # a part is large if it has at least one face in so many
_COUNTERS = 4  # cores that count keys, each with a counter for every key
_NON_MANIFOLD = -2  # for the time being, twin of the half-edges on edges of more than two faces


def by_kernels(tensor: torch.Tensor, wanted: bool | None = None) -> bool:
    """Whether a large step is taken by the kernels of topology_kernels.py: as wanted, else on a CPU, where chains of
    torch's operations spend most of their time on temporary tensors and on waking threads. CUDA's sorts and gathers are
    fast as they are."""
    return tensor.device.type == "cpu" and not unavailable_reason() if wanted is None else wanted


def grouped(key: torch.Tensor, count: int, kernels: bool | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """[N] int32, the stable order of keys [N] int32 in 0 .. count - 1, and [count + 1] int32, where each begins in it.

    On a CPU a counting sort, each core counting and placing a range of the keys (without Warp the transposition of a
    sparse matrix with one entry a row), 5-10 times faster than a comparison sort; on CUDA torch's radix sort.
    """
    if by_kernels(key, kernels):
        return _counted(key, count)
    if key.device.type != "cpu":
        key, order = key.sort(stable=True)
        numbers = torch.arange(count + 1, dtype=key.dtype, device=key.device)
        return order.int(), torch.searchsorted(key, numbers, out_int32=True)  # unlike counting, without a wait
    first = torch.zeros(count + 1, dtype=torch.int32)
    first[1:] = torch.bincount(key, minlength=count).cumsum(0)
    rows = np.arange(len(key) + 1, dtype=np.int32)
    matrix = csr_matrix((np.zeros(len(key), np.int8), key.numpy(), rows), shape=(len(key), count))
    return torch.from_numpy(matrix.tocsc().indices.astype(np.int32, copy=False)), first


def _counted(key: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`grouped` on a CPU with Warp."""
    from ...warp import launch
    from . import topology_kernels as kernels

    bounds = _ranges(len(key), most=_COUNTERS)
    counts = torch.zeros(len(bounds) - 1, count, dtype=torch.int32)
    launch.launch_parallel(kernels.count_keys, len(counts), bounds, key, counts, chunk=1)
    ends = torch.zeros(count * len(counts) + 1, dtype=torch.int32)  # by key, then by range
    torch.cumsum(counts.T.reshape(-1), 0, dtype=torch.int32, out=ends[1:])
    # a copy even for one range, where the transposed is contiguous as it is: placing counts it up, `ends` must stay
    places = ends[:-1].reshape(count, len(counts)).T.clone(memory_format=torch.contiguous_format)
    order = torch.empty_like(key)
    launch.launch_parallel(kernels.place_keys, len(counts), bounds, key, places, order, chunk=1)
    return order, ends[:: len(counts)].contiguous()


def _ranges(count: int, most: int) -> torch.Tensor:
    """[R + 1] int32 bounds of about equal ranges of rows, one for each core but no more than `most`."""
    parts = max(min(cores(), most), 1)
    return torch.tensor([count * i // parts for i in range(parts + 1)], dtype=torch.int32)


def by_corners(faces: torch.Tensor, kernels: bool | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Faces [F, 3] in the order of their corners: their lowest ones, then the next, then the highest, then as given.

    Neighbours in space, whose vertices mostly have neighbouring numbers, are then neighbours in memory, too: all that
    follows is several times faster than on faces in random order.

    Returns:
        order [F] int32; [F] bool in this order: has the same three vertices as the face before.
    """
    count = int(faces.max()) + 1 if len(faces) else 0
    if not by_kernels(faces, kernels):
        low, middle, high = faces.sort(1).values.int().unbind(1)
        order = grouped(high, count, False)[0]
        for key in (middle, low):
            order = order.index_select(0, grouped(key.index_select(0, order), count, False)[0])
        again = torch.zeros(len(faces), dtype=torch.bool, device=faces.device)
        for key in (low, middle, high):
            key = key.index_select(0, order)
            again[1:] |= key[1:] != key[:-1]
        again[1:] = ~again[1:]
        return order, again
    from ...warp import launch
    from .topology_kernels import lowest_corners, sort_faces

    faces = faces.to(torch.int32).contiguous().reshape(-1)
    low = torch.empty(len(faces) // 3, dtype=torch.int32, device=faces.device)
    again = torch.zeros(len(low), dtype=torch.uint8, device=faces.device)
    launch.launch_parallel(lowest_corners, len(low), faces, low)
    order, first = grouped(low, count, True)
    launch.launch_parallel(sort_faces, count, faces, first, order, again)
    return order, again.bool()


@dataclass(frozen=True)
class HalfEdges:
    """Directed edges of faces, and which of them lie on the same undirected edge.

    Half-edge h = 3 f + k leads from faces[f, k] to the next corner of that face.
    """

    faces: torch.Tensor  # [F, 3] int32
    twin: torch.Tensor  # [3 F] int32, the other half-edge of an edge of two faces; -1 on other edges
    non_manifold: torch.Tensor  # [N] int64 half-edges of edges of more than two faces, edge by edge, rising within one
    edge: torch.Tensor  # [N] int64 which of these edges each lies on, ascending from 0
    count: int  # of all edges
    kernels: bool  # whether by kernels of topology_kernels.py, which go on from here

    @classmethod
    def of(cls, faces: torch.Tensor, kernels: bool | None = None) -> HalfEdges:
        """faces: [F, 3]. kernels: see by_kernels."""
        faces = faces.to(torch.int32).contiguous()
        kernels = by_kernels(faces, kernels)
        twin, count = (_paired_by_vertex if kernels else _paired_by_sorting)(faces)
        non_manifold = (twin == _NON_MANIFOLD).nonzero().squeeze(1)
        twin[non_manifold] = -1
        corners = faces.reshape(-1)
        ends = torch.stack([corners[non_manifold], corners[next_half_edge(non_manifold)]], 1).long().sort(1).values
        key = ends[:, 0] * (int(ends.max()) + 1 if len(ends) else 1) + ends[:, 1]
        key, order = key.sort(stable=True)
        new = torch.ones_like(key, dtype=torch.bool)
        new[1:] = key[1:] != key[:-1]
        return cls(faces, twin, non_manifold[order], new.cumsum(0) - 1, count, kernels)

    @classmethod
    def manifold(cls, faces: torch.Tensor, twin: torch.Tensor, kernels: bool) -> HalfEdges:
        """Where the twins are known and no edge has more than two faces."""
        none = torch.zeros(0, dtype=torch.int64, device=faces.device)
        count = (len(twin) + int((twin < 0).count_nonzero())) // 2
        return cls(faces.to(torch.int32).contiguous(), twin, none, none, count, kernels)

    @property
    def non_manifold_edges(self) -> int:
        """How many edges have more than two faces."""
        return int(self.edge[-1]) + 1 if len(self.edge) else 0

    def ends(self, half_edge: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where half-edges start and end, int64."""
        corners = self.faces.reshape(-1)
        return corners[half_edge].long(), corners[next_half_edge(half_edge)].long()

    def border(self) -> torch.Tensor:
        """[N] int64 half-edges of the edges of one face."""
        return border(self.twin, self.non_manifold)

    def pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Both half-edges, int32, of the edges of two faces, the lower ones ascending."""
        one = torch.arange(len(self.twin), dtype=torch.int32, device=self.twin.device)
        one = one[self.twin > one]
        return one, self.twin.index_select(0, one)


def _paired_by_sorting(faces: torch.Tensor) -> tuple[torch.Tensor, int]:
    """[3 F] int32 twins, -1 on edges of one face and -2 on those of more than two; how many edges there are."""
    start, end = faces.reshape(-1), faces.roll(-1, 1).reshape(-1)
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    count = int(faces.max()) + 1 if len(faces) else 0
    order = grouped(high, count, False)[0]
    order = order.index_select(0, grouped(low.index_select(0, order), count, False)[0])
    low, high = low.index_select(0, order), high.index_select(0, order)
    new = torch.ones_like(low, dtype=torch.bool)
    new[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    first = new.nonzero().squeeze(1)
    uses = torch.diff(first, append=first.new_tensor([len(order)]))
    twin = torch.full_like(order, _NON_MANIFOLD)
    twin[order[first[uses == 1]].long()] = -1
    first = first[uses == 2]
    a, b = order.index_select(0, first), order.index_select(0, first + 1)
    twin[a.long()], twin[b.long()] = b, a
    return twin, len(uses)


def _paired_by_vertex(faces: torch.Tensor) -> tuple[torch.Tensor, int]:
    """As _paired_by_sorting, which it equals: the half-edges of a lower end are sorted on their own, all at once."""
    from ...warp import launch
    from . import topology_kernels as kernels

    count = int(faces.max()) + 1 if len(faces) else 0
    faces = faces.reshape(-1)
    low, twin = torch.empty_like(faces), torch.empty_like(faces)
    launch.launch_parallel(kernels.low_ends, len(faces), faces, low)
    edges = torch.empty(count, dtype=torch.int32, device=faces.device)
    order, first = grouped(low, count, True)
    launch.launch_parallel(kernels.pair_half_edges, count, faces, first, order, twin, edges)
    return twin, int(edges.sum())


def border(twin: torch.Tensor, non_manifold: torch.Tensor) -> torch.Tensor:
    """[N] int64 half-edges without a twin [3 F] that are not in `non_manifold` [M], on edges of more than two."""
    alone = twin < 0
    alone[non_manifold] = False
    return alone.nonzero().squeeze(1)


def next_half_edge(half_edge: torch.Tensor) -> torch.Tensor:
    """The next half-edge round the same face."""
    return torch.where(half_edge % 3 == 2, half_edge - 2, half_edge + 1)


def previous_half_edge(half_edge: torch.Tensor) -> torch.Tensor:
    """The half-edge before it round the same face."""
    return torch.where(half_edge % 3 == 0, half_edge + 2, half_edge - 1)


@dataclass(frozen=True)
class Sheets:
    """Faces joined across their twins, and how to orient them consistently within each sheet."""

    label: torch.Tensor  # [F] int64, 0 .. S - 1 in the order of their lowest faces
    flip: torch.Tensor  # [F] bool, faces to turn; never the lowest face of a sheet
    orientable: torch.Tensor  # [S] bool; nothing is to be flipped in the others

    @classmethod
    def of(cls, edges: HalfEdges, twin: torch.Tensor | None = None) -> Sheets:
        """Components of the oriented double cover, which has every face once as it is and once flipped: a sheet that
        can be consistently oriented appears in it twice, one that cannot (a Moebius strip) once.

        On a CPU by union-find in the order of the faces, first within a range of them for each core (without Warp large
        sheets by breadth-first search, the rest by scipy's labelling); on CUDA see `hook`.

        twin: [3 F] int32 in place of the edges' own.
        """
        faces = edges.faces
        across = edges.twin if twin is None else twin
        if edges.kernels:
            return cls(*_united(faces, across))
        start = faces.reshape(-1)
        joined = (across >= 0).nonzero().squeeze(1).int()
        joined = joined[across.index_select(0, joined) > joined]
        other = across.index_select(0, joined)
        differ = start.index_select(0, joined) == start.index_select(0, other)
        if across.device.type != "cpu" or len(faces) == 0:
            return cls(*two_colour(joined // 3, other // 3, differ, len(faces)))
        return cls(*_peel(across.numpy(), joined.numpy()[differ.numpy()], len(faces)))


def _united(faces: torch.Tensor, twin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sheets.of on a CPU with Warp: (label, flip, orientable)."""
    from ...warp import launch
    from . import topology_kernels as kernels

    faces = faces.to(torch.int32).contiguous().reshape(-1)
    bounds = _ranges(len(faces) // 3, most=len(faces) // 3)
    parent = 2 * torch.arange(len(faces) // 3, dtype=torch.int32)
    odd = torch.zeros(len(parent), dtype=torch.uint8)
    launch.launch_parallel(kernels.unite_faces, len(bounds) - 1, bounds, faces, twin, parent, odd, chunk=1)
    launch.launch_single_thread(kernels.unite_ranges, bounds, faces, twin, parent, odd)
    root, flip = torch.empty_like(parent), torch.empty(len(parent), dtype=torch.bool)
    launch.launch_parallel(kernels.find_sheets, len(parent), parent, root, flip)
    label, count = _dense(root)
    possible = torch.ones(count, dtype=torch.bool)
    possible[label[odd.nonzero().squeeze(1)]] = False
    if not bool(possible.all()):
        flip &= possible[label]
    return label, flip, possible


def two_colour(
    a: torch.Tensor, b: torch.Tensor, differ: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Components of `count` nodes joined by links a-b [N], and a colour for each node such that the ends of a link
    differ where `differ` [N] says so and are equal elsewhere.

    Returns:
        component [count] int64, numbered by their lowest nodes; colour [count] bool, False at the lowest node of a
        component; [components] bool whether such colours exist (all False otherwise).
    """
    if not bool(differ.any()):
        root = _roots(a, b, count)
        label, total = _dense(root)
        return label, torch.zeros_like(label, dtype=torch.bool), label.new_ones(total, dtype=torch.bool)
    across = differ.to(a.dtype) * count
    root = _roots(torch.cat([a, a + count]), torch.cat([b + across, b + count - across]), 2 * count)
    plain, turned = root[:count], root[count:]
    label, total = _dense(torch.minimum(plain, turned))
    possible = label.new_ones(total, dtype=torch.bool)
    possible[label[plain == turned]] = False
    return label, plain > turned, possible


def components(a: torch.Tensor, b: torch.Tensor, count: int) -> tuple[torch.Tensor, int]:
    """[count] int64 component of each node of the graph with edges a-b, by their lowest nodes; how many."""
    return _dense(_roots(a, b, count))


def _roots(a: torch.Tensor, b: torch.Tensor, count: int) -> torch.Tensor:
    """[count] int64: one node that all nodes of a component agree on, the lowest or in the order of the lowest."""
    if a.device.type != "cpu":
        return hook(a, b, count)
    graph = coo_matrix((np.ones(len(a), np.int8), (a.numpy(), b.numpy())), shape=(count, count))
    return torch.from_numpy(connected_components(graph, directed=False)[1].astype(np.int64))


def hook(a: torch.Tensor, b: torch.Tensor, count: int) -> torch.Tensor:
    """[count] int64 lowest node of each node's component in the graph with edges a-b.

    Hooking and pointer jumping (Shiloach and Vishkin 1982): the higher root of each edge points to the lowest root
    it meets, all nodes are led to their roots, edges within a tree are dropped; about log(count) rounds.
    """
    parent = torch.arange(count, dtype=torch.int32, device=a.device)
    a, b = a.int(), b.int()
    while len(a):
        parent.scatter_reduce_(0, torch.maximum(a, b).long(), torch.minimum(a, b), "amin")
        while True:
            above = parent.index_select(0, parent)
            if torch.equal(above, parent):
                break
            parent = above
        a, b = parent.index_select(0, a), parent.index_select(0, b)
        apart = a != b
        a, b = a[apart], b[apart]
    return parent.long()


def _dense(root: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Roots renumbered from 0 without gaps, and how many there are."""
    used = torch.zeros(int(root.max()) + 1 if len(root) else 0, dtype=torch.bool, device=root.device)
    used.index_fill_(0, root.long(), True)
    number = used.cumsum(0) - 1
    return number.index_select(0, root), int(used.count_nonzero())


def _peel(twin: np.ndarray, differ: np.ndarray, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sheets.of on a CPU: (label, flip, orientable). differ: half-edges whose twin runs the same way."""
    link = np.where(twin < 0, np.arange(len(twin), dtype=np.int32), twin) // 3  # [3 F], a face without a twin: itself
    if len(differ):
        across = np.zeros(len(twin), bool)
        across[differ] = across[twin[differ]] = True
        link = np.concatenate([np.where(across, link + count, link), np.where(across, link, link + count)])
        link = link.astype(np.int32, copy=False)
    nodes = len(link) // 3
    rows = np.arange(nodes + 1, dtype=np.int32) * 3
    graph = csr_matrix((np.ones(len(link)), link, rows), shape=(nodes, nodes))  # float64, or scipy copies it
    label, flip, orientable = np.full(count, -1), np.zeros(count, bool), []
    seed = 0
    for part in range(_PEELS):
        found = breadth_first_order(graph, seed, directed=True, return_predecessors=False)
        face = found % count
        label[face] = part
        non_orientable = len(found) > 1 and bool((found == seed + count).any())
        orientable.append(not non_orientable)
        if not non_orientable:
            flip[face] = found >= count
        left = np.flatnonzero(label[seed:] < 0)
        if len(left) == 0 or len(found) * _LARGE < count:
            break
        seed += int(left[0])
    rest = np.flatnonzero(label < 0)
    if len(rest):
        number = np.empty(count, np.int64)
        number[rest] = np.arange(len(rest))
        half = (3 * rest[:, None] + np.arange(3)).reshape(-1)
        half = half[twin[half] > half]
        turns = np.zeros(len(twin), bool)
        turns[differ] = True
        a, b = torch.from_numpy(number[half // 3]), torch.from_numpy(number[twin[half] // 3])
        more, turn, possible = two_colour(a, b, torch.from_numpy(turns[half]), len(rest))
        label[rest], flip[rest] = more.numpy() + len(orientable), turn.numpy()
        orientable += possible.tolist()
    return torch.from_numpy(label), torch.from_numpy(flip), torch.tensor(orientable, dtype=torch.bool)
