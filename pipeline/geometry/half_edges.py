"""Which faces meet in which edge: half-edges sorted by edge, their twins, and the parts and windings that follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components

_PEELS = 8  # large parts that are searched one by one on a CPU before the rest is labelled together
_LARGE = 16  # a part is large if it has at least one face in so many


def stable_order(key: torch.Tensor, count: int) -> torch.Tensor:
    """[N] int32: the stable order of keys [N] int32 in 0 .. count - 1.

    On a CPU a counting sort (the transposition of a sparse matrix with one entry a row), 5-10 times faster than a
    comparison sort; on CUDA torch's radix sort.
    """
    if key.device.type != "cpu":
        return key.sort(stable=True).indices.int()
    size = len(key)
    rows = np.arange(size + 1, dtype=np.int32)
    matrix = csr_matrix((np.zeros(size, np.int8), key.numpy(), rows), shape=(size, count))
    return torch.from_numpy(matrix.tocsc().indices.astype(np.int32, copy=False))


@dataclass(frozen=True)
class HalfEdges:
    """Directed edges of faces, grouped by the undirected edge they lie on.

    Half-edge h = 3 f + k leads from faces[f, k] to the next corner of that face; order lists half-edges so that those
    of one edge follow each other, by rising h.
    """

    faces: torch.Tensor  # [F, 3] int32
    order: torch.Tensor  # [3 F] int32
    first: torch.Tensor  # [E] int64, where each edge begins in order
    uses: torch.Tensor  # [E] int64, how many faces an edge has

    @classmethod
    def of(cls, faces: torch.Tensor) -> HalfEdges:
        """faces: [F, 3]."""
        faces = faces.to(torch.int32).contiguous()
        start, end = faces.reshape(-1), faces.roll(-1, 1).reshape(-1)
        low, high = torch.minimum(start, end), torch.maximum(start, end)
        count = int(faces.max()) + 1 if len(faces) else 0
        order = stable_order(high, count)
        order = order.index_select(0, stable_order(low.index_select(0, order), count))
        low, high = low.index_select(0, order), high.index_select(0, order)
        new = torch.ones_like(low, dtype=torch.bool)
        new[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
        first = new.nonzero().squeeze(1)
        uses = torch.diff(first, append=first.new_tensor([len(order)]))
        return cls(faces, order, first, uses)

    def kept(self, face: torch.Tensor) -> HalfEdges:
        """As `of` the faces [F] bool marked, without sorting again."""
        stays = face.index_select(0, self.order // 3)
        missing = (3 * (~face).cumsum(0)).int()  # half-edges left out up to each face
        order = self.order[stays]
        last = stays.cumsum(0).index_select(0, self.first + self.uses - 1)
        uses = torch.diff(last, prepend=last.new_zeros(1))
        uses = uses[uses > 0]
        return HalfEdges(self.faces[face], order - missing.index_select(0, order // 3), uses.cumsum(0) - uses, uses)

    def ends(self, half_edge: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where half-edges start and end, int64."""
        corners = self.faces.reshape(-1)
        return corners[half_edge].long(), corners[following(half_edge)].long()

    def with_uses(self, count: int) -> torch.Tensor:
        """[E', count] int64 half-edges of the edges that have exactly `count` faces."""
        first = self.first[self.uses == count]
        return torch.stack([self.order.index_select(0, first + i) for i in range(count)], 1).long()

    def crowded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Half-edges [N] int64 of the edges with more than two faces, and which of these edges each lies on, [N] int64
        ascending from 0."""
        many = self.uses > 2
        uses = self.uses[many]
        edge = torch.repeat_interleave(torch.arange(len(uses), device=uses.device), uses)
        place = torch.arange(len(edge), device=uses.device) - (uses.cumsum(0) - uses)[edge]
        return self.order.index_select(0, self.first[many][edge] + place).long(), edge

    def twins(self) -> torch.Tensor:
        """[3 F] int32: the other half-edge of every edge of two faces; -1 on other edges."""
        twin = torch.full_like(self.order, -1)
        a, b = self.with_uses(2).unbind(1)
        twin[a], twin[b] = b.int(), a.int()
        return twin


def following(half_edge: torch.Tensor) -> torch.Tensor:
    """The next half-edge round the same face."""
    return torch.where(half_edge % 3 == 2, half_edge - 2, half_edge + 1)


def preceding(half_edge: torch.Tensor) -> torch.Tensor:
    """The half-edge before it round the same face."""
    return torch.where(half_edge % 3 == 0, half_edge + 2, half_edge - 1)


@dataclass(frozen=True)
class Sheets:
    """Faces joined across their twins, and how to wind them alike within each sheet."""

    label: torch.Tensor  # [F] int64, 0 .. S - 1 in the order of their lowest faces
    flip: torch.Tensor  # [F] bool, faces to turn; never the lowest face of a sheet
    orientable: torch.Tensor  # [S] bool; nothing is to be flipped in the others

    @classmethod
    def of(cls, faces: torch.Tensor, twin: torch.Tensor) -> Sheets:
        """Components of the oriented double cover, which has every face once as it is and once flipped: a sheet that
        can be wound alike appears in it twice, one that cannot (a Moebius strip) once.

        On a CPU large sheets are found by breadth-first search, the rest by scipy's labelling; on CUDA see `hook`.
        """
        start = faces.reshape(-1)
        joined = (twin >= 0).nonzero().squeeze(1).int()
        joined = joined[twin.index_select(0, joined) > joined]
        other = twin.index_select(0, joined)
        differ = start.index_select(0, joined) == start.index_select(0, other)
        if twin.device.type != "cpu" or len(faces) == 0:
            return cls(*two_colour(joined // 3, other // 3, differ, len(faces)))
        return cls(*_peel(twin.numpy(), joined.numpy()[differ.numpy()], len(faces)))


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
    used[root] = True
    number = used.cumsum(0) - 1
    return number.index_select(0, root), int(used.sum())


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
        one_sided = len(found) > 1 and bool((found == seed + count).any())
        orientable.append(not one_sided)
        if not one_sided:
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
