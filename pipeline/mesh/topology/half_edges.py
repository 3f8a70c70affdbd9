"""Which faces meet in which edge: half-edges sorted by edge, their twins, and the parts and windings that follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components

from .columns import chunks
from .sorting import by_kernels, even_ranges, grouped, in_ranges, on_cpu, ordered, slices

_PEELS = 8  # large parts that are searched one by one on a CPU before the rest is labelled together
_LARGE = 16  # a part is large if it has at least one face in so many
_Links = Callable[[], Iterable[tuple[torch.Tensor, ...]]]  # both ends of edges, in parts, as often as asked for
_NON_MANIFOLD = -2  # for the time being, twin of the half-edges on edges of more than two faces


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
    low = torch.minimum(faces, faces.roll(-1, 1)).reshape(-1)
    count = int(faces.max()) + 1 if len(faces) else 0
    twin = torch.full_like(low, _NON_MANIFOLD)
    return twin, sum(_pair(faces.reshape(-1), low, rows, count, twin) for rows in in_ranges(low, count))


def _pair(corners: torch.Tensor, low: torch.Tensor, rows: torch.Tensor, count: int, twin: torch.Tensor) -> int:
    """Write the twins of the half-edges `rows` [N] int32, which are all of some lower ends, and return how many edges
    these are. corners, low, twin: [3 F] int32, where half-edges start, their lower ends, and the result."""
    low = low.index_select(0, rows)
    high = torch.maximum(corners.index_select(0, rows), corners.index_select(0, next_half_edge(rows)))
    order = ordered(high, count)
    order = order.index_select(0, ordered(low.index_select(0, order), count))
    low, high, rows = (each.index_select(0, order) for each in (low, high, rows))
    new = torch.ones_like(low, dtype=torch.bool)
    new[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    first = new.nonzero().squeeze(1)
    uses = torch.diff(first, append=first.new_tensor([len(rows)]))
    twin[rows[first[uses == 1]].long()] = -1
    first = first[uses == 2]
    a, b = rows.index_select(0, first), rows.index_select(0, first + 1)
    twin[a.long()], twin[b.long()] = b, a
    return len(uses)


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


def kept_twins(twin: torch.Tensor, keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Some faces [F] bool with all that they are joined to: [F'] int64 their rows, [3 F] int32 where their half-edges
    come to lie, [3 F'] int32 their twins there. twin: [3 F] int32."""
    rows = keep.nonzero().squeeze(1)
    corner = torch.arange(3, dtype=torch.int32, device=keep.device)
    place = (3 * (keep.cumsum(0, dtype=torch.int32) - 1)[:, None] + corner).reshape(-1)
    kept = torch.empty(len(rows), 3, dtype=torch.int32, device=keep.device)
    for chunk in chunks(rows):
        here = twin.reshape(-1, 3).index_select(0, rows[chunk])
        kept[chunk] = torch.where(here < 0, here, place[here.clamp_min(0)])
    return rows, place, kept.reshape(-1)


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
        if not on_cpu(across) or len(faces) == 0:
            return cls(*_hooked_sheets(faces.reshape(-1), across))
        differ = np.concatenate([one[differ].numpy() for one, _, differ in _links(faces.reshape(-1), across)])
        return cls(*_peel(across.numpy(), differ, len(faces)))


def _united(faces: torch.Tensor, twin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sheets.of on a CPU with Warp: (label, flip, orientable)."""
    from ...warp import launch
    from . import topology_kernels as kernels

    faces = faces.to(torch.int32).contiguous().reshape(-1)
    bounds = even_ranges(len(faces) // 3, most=len(faces) // 3)
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


def _links(start: torch.Tensor, twin: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """In parts, both half-edges [N] int32 of the edges of two faces, the lower ones ascending, and [N] bool whether
    they run the same way. start, twin: [3 F] int32."""
    for rows in slices(len(twin)):
        one = torch.arange(rows.start, rows.stop, dtype=torch.int32, device=twin.device)
        one = one[twin[rows] > one]
        other = twin.index_select(0, one)
        yield one, other, start.index_select(0, one) == start.index_select(0, other)


def _hooked_sheets(start: torch.Tensor, twin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sheets.of by hooking: (label, flip, orientable). No list of links is made: there are 1.5 a face, and twice as
    many in the double cover."""
    count = len(twin) // 3
    double = any(bool(differ.any()) for _, _, differ in _links(start, twin))

    def links() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for one, other, differ in _links(start, twin):
            one, other = one // 3, other // 3
            yield from _lifted(one, other, differ, count) if double else [(one, other)]

    return _colours(_hooked(links, 2 * count if double else count, twin.device), count)


def _lifted(
    a: torch.Tensor, b: torch.Tensor, differ: torch.Tensor, count: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Links of the double cover, in which a node of the other colour is `count` higher."""
    across = differ.to(a.dtype) * count
    return [(a, b + across), (a + count, b + count - across)]


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
        return _colours(_roots(a, b, count), count)
    one, other = (torch.cat(each) for each in zip(*_lifted(a, b, differ, count)))
    return _colours(_roots(one, other, 2 * count), count)


def _colours(root: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As two_colour, by the roots of `count` nodes where no link is of two colours, else of the double cover."""
    if len(root) == count:
        label, total = _dense(root)
        return label, torch.zeros_like(label, dtype=torch.bool), label.new_ones(total, dtype=torch.bool)
    plain, turned = root[:count], root[count:]
    label, total = _dense(torch.minimum(plain, turned))
    possible = label.new_ones(total, dtype=torch.bool)
    possible[label[plain == turned]] = False
    return label, plain > turned, possible


def components(a: torch.Tensor, b: torch.Tensor, count: int) -> tuple[torch.Tensor, int]:
    """[count] int64 component of each node of the graph with edges a-b, by their lowest nodes; how many."""
    return _dense(_roots(a, b, count))


def _roots(a: torch.Tensor, b: torch.Tensor, count: int) -> torch.Tensor:
    """[count] int32: one node that all nodes of a component agree on, the lowest or in the order of the lowest."""
    if not on_cpu(a):
        return hook(a, b, count)
    graph = coo_matrix((np.ones(len(a), np.int8), (a.numpy(), b.numpy())), shape=(count, count))
    return torch.from_numpy(connected_components(graph, directed=False)[1])


def hook(a: torch.Tensor, b: torch.Tensor, count: int) -> torch.Tensor:
    """[count] int32 lowest node of each node's component in the graph with edges a-b, [N] int32 or int64."""
    return _hooked(partial(_in_slices, a.int(), b.int()), count, a.device)


def _in_slices(*columns: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    return (tuple(each[rows] for each in columns) for rows in slices(len(columns[0])))


def _hooked(links: _Links, count: int, device: torch.device) -> torch.Tensor:
    """`hook` for edges that come in parts, int32, and are not kept.

    Hooking and pointer jumping (Shiloach and Vishkin 1982): the higher root of each edge points to the lowest root
    it meets, all nodes are led to their roots, edges within a tree are dropped; about log(count) rounds.
    """
    parent = torch.arange(count, dtype=torch.int32, device=device)
    while True:
        for a, b in links():
            parent.scatter_reduce_(0, torch.maximum(a, b).long(), torch.minimum(a, b), "amin")
        while True:
            above = parent.index_select(0, parent)
            if torch.equal(above, parent):
                break
            parent = above
        left = [_apart(parent, a, b) for a, b in links()]
        if not any(len(a) for a, _ in left):
            return parent
        links = partial(_in_slices, *(torch.cat(each) for each in zip(*left)))
        del left


def _apart(parent: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The roots at the ends of edges that do not lie within a tree."""
    a, b = parent.index_select(0, a), parent.index_select(0, b)
    apart = (a != b).nonzero().squeeze(1)
    return a.index_select(0, apart), b.index_select(0, apart)


def _dense(root: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Roots renumbered from 0 without gaps, and how many there are."""
    used = torch.zeros(int(root.max()) + 1 if len(root) else 0, dtype=torch.bool, device=root.device)
    used.index_fill_(0, root.long(), True)
    number = used.cumsum(0, dtype=torch.int32) - 1
    return number.index_select(0, root).long(), int(used.count_nonzero())


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
