"""Making a mesh manifold without opening it: which faces belong together at edges of many faces, which way all faces
are wound, and the vertices and edges that have to be doubled for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import minimum_spanning_tree

from .columns import chunks, corners, cross, difference, dot
from .half_edges import HalfEdges, Sheets, border, components, following, preceding, two_colour
from .steady import steady_angle

_PAIRS = 1 << 20  # pairs of a face and a point compared at once
_OPEN = 4.0  # radians by which a sheet that is all border counts as bent more
_ROUNDS = 64  # longest walk round a vertex, and deepest nest of faces round an edge, before the slow way
_ENUMERATED = 64  # most faces at an edge for which every pair of them is weighed


@dataclass(frozen=True)
class Topology:
    """Which half-edges of faces are one edge of the surface, after every edge of more than two faces was taken apart
    in pairs. Half-edge h = 3 f + k leads from faces[f, k] to the next corner."""

    faces: torch.Tensor  # [F, 3] int32
    twin: torch.Tensor  # [3 F] int32; -1 where the surface is open
    component: torch.Tensor  # [F] int64, faces joined across twins, numbered from 0
    one_sided: torch.Tensor  # [components] bool, cannot be wound alike
    area: torch.Tensor  # [components] float64
    volume: torch.Tensor  # [components] float64, signed, between the faces and the middle of the bounding box
    crowded: torch.Tensor  # [N] int64 half-edges of the edges that have more than two faces
    crowded_edges: int  # how many edges these are
    kernels: bool  # as of HalfEdges

    def border(self) -> torch.Tensor:
        """[N] int64 half-edges of edges with one face."""
        return border(self.twin, self.crowded)

    def closed(self) -> torch.Tensor:
        """[components] bool: has an inside, as nothing is open and all faces can be wound alike."""
        closed = ~self.one_sided
        closed[self.component[(self.twin < 0).nonzero().squeeze(1) // 3]] = False
        return closed

    def kept(self, keep: torch.Tensor) -> Topology:
        """Only the components [components] bool marked."""
        face = keep[self.component]
        rows = face.nonzero().squeeze(1)
        corner = torch.arange(3, dtype=torch.int32, device=face.device)
        place = (3 * (face.cumsum(0, dtype=torch.int32) - 1)[:, None] + corner).reshape(-1)  # [3 F] new half-edges
        twin = self.twin.reshape(-1, 3).index_select(0, rows).reshape(-1)
        return replace(
            self,
            faces=self.faces.index_select(0, rows),
            twin=torch.where(twin < 0, twin, place.index_select(0, twin.clamp_min(0))),
            component=(keep.cumsum(0) - 1).index_select(0, self.component.index_select(0, rows)),
            one_sided=self.one_sided[keep],
            area=self.area[keep],
            volume=self.volume[keep],
            crowded=place[self.crowded[face[self.crowded // 3]]].long(),
        )

    def turned(self, flip: torch.Tensor) -> Topology:
        """With the faces [F] bool wound the other way: (a, b, c) becomes (c, b, a). Volumes stay."""
        face = flip.nonzero().squeeze(1)
        if len(face) == 0:
            return self
        faces, twin = self.faces.clone(), self.twin.clone()
        faces[face] = faces[face].flip(1)
        half = (3 * face[:, None] + torch.arange(3, device=face.device)).reshape(-1)
        other = twin[half].long()
        other = torch.where(other < 0, other, _turned(other.clamp_min(0), flip))
        half = _turned(half, flip)
        twin[half] = other.int()
        twin[other[other >= 0]] = half[other >= 0].int()
        return replace(self, faces=faces, twin=twin, crowded=_turned(self.crowded, flip))


def _turned(half: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Where a half-edge is once its face is wound the other way: the first and the second change places."""
    corner = half % 3
    return half + torch.where(flip[half // 3] & (corner < 2), 1 - 2 * corner, 0).to(half.dtype)


def middle(vertices: torch.Tensor) -> torch.Tensor:
    """[3] float64 middle of the bounding box; 0 without vertices."""
    if len(vertices) == 0:
        return torch.zeros(3, dtype=torch.float64, device=vertices.device)
    return (vertices.amin(0).double() + vertices.amax(0).double()) / 2


def face_measures(
    vertices: torch.Tensor, faces: torch.Tensor, group: torch.Tensor, groups: int, kernels: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """[groups] float64 area, and [groups] signed volume between the faces and the middle of the mesh's bounding box,
    for groups of faces [F]."""
    area, volume = torch.zeros(2, groups, dtype=torch.float64, device=vertices.device)
    if kernels:
        from ...warp import launch
        from .topology_kernels import measure_faces

        parts = torch.empty(2, len(faces), dtype=torch.float64, device=vertices.device)
        corner, centre = faces.to(torch.int32).reshape(-1), launch.wp.vec3d(*middle(vertices).tolist())
        launch.launch_parallel(measure_faces, len(faces), vertices.double(), centre, corner, *parts)
        return area.index_add_(0, group, parts[0]), volume.index_add_(0, group, parts[1])
    axes = (vertices.double() - middle(vertices)).T.contiguous()
    for chunk in chunks(faces):
        a, b, c = corners(axes, faces[chunk])
        normal = cross(difference(b, a), difference(c, a))
        part = group[chunk]
        area.index_add_(0, part, dot(normal, normal).sqrt_().div_(2))
        volume.index_add_(0, part, dot(a, normal).div_(6))
    return area, volume


def match(vertices: torch.Tensor, edges: HalfEdges) -> tuple[Topology, torch.Tensor]:
    """Pair the half-edges of every edge, and find the faces to turn for all pairs to be wound alike.

    Edges of two faces are pairs. At edges of more the faces are sorted by their angle round the edge, sheets that meet
    there are wound as the majority of such edges asks (neighbours in angle run against each other along the edge),
    outward by volume, and then the two faces round each wedge of material are a pair: bodies that touch in an edge
    part. Where windings do not allow all faces to be paired (an odd number: a fin on a surface), the pairs nearest to
    flat come first, those of sheets with much border last, and the rest stay open.

    Returns:
        the topology of the faces as they are, but with the volumes they have once turned; [F] bool the faces to turn.
    """
    faces, twin = edges.faces, edges.twin.clone() if len(edges.crowded) else edges.twin
    sheets = Sheets.of(edges)
    count = len(sheets.orientable)
    wound = torch.where(sheets.flip[:, None], faces.flip(1), faces)
    area, volume = face_measures(vertices, wound, sheets.label, count, edges.kernels)
    label, turn = sheets.label, torch.zeros(count, dtype=torch.bool, device=faces.device)
    if len(edges.crowded):
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
    one_sided = torch.zeros(total, dtype=torch.bool, device=faces.device)
    one_sided[joined[~sheets.orientable]] = True
    area, volume = (
        torch.zeros(total, dtype=torch.float64, device=faces.device).index_add_(0, joined, each)
        for each in (area, torch.where(turn, -volume, volume))
    )
    component = joined.index_select(0, label)
    topology = Topology(
        faces, twin, component, one_sided, area, volume, edges.crowded, edges.crowded_edges, edges.kernels
    )
    return topology, sheets.flip ^ turn.index_select(0, label)


@dataclass(frozen=True)
class _Around:
    """Half-edges of crowded edges, edge by edge, anticlockwise as seen from the higher vertex."""

    half: torch.Tensor  # [N] int64
    edge: torch.Tensor  # [N] int64 ascending from 0
    angle: torch.Tensor  # [N] float64, ascending within an edge


def _sorted_round_edges(vertices: torch.Tensor, edges: HalfEdges) -> _Around:
    half, edge = edges.crowded, edges.edge
    start, end = edges.ends(half)
    apex, _ = edges.ends(preceding(half))
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
    """[S] bool sheets to turn so that most crowded edges have neighbours run against each other, and sheets that
    hang together by them enclose a positive volume: a maximum spanning forest of the sheets, weighed by votes."""
    following_one, _ = _ring(around.edge)
    gap = (around.angle[following_one] - around.angle) % (2 * torch.pi)
    bend = (gap - torch.pi).abs() + loose + loose[following_one]
    faces_there = torch.bincount(around.edge)
    flattest = bend.new_full((len(faces_there),), torch.inf).scatter_reduce(0, around.edge, bend, "amin")
    counts = (faces_there % 2 == 0)[around.edge] | (bend == flattest[around.edge])
    a, b = sheet, sheet[following_one]
    counts &= a != b
    vote = torch.where(forward != forward[following_one], 1, -1)[counts].cpu().numpy()
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


def outward(vertices: torch.Tensor, topology: Topology) -> torch.Tensor:
    """[F] bool faces to turn, whole components of faces that are already wound alike, so that they face outward.

    Closed components get a positive volume, those inside an odd number of other closed components a negative one, as
    they bound a hollow in the material: normals then point from material to empty space everywhere. Open components
    face away from the middle of the mesh's bounding box. One-sided components stay as they are.
    """
    turn = topology.volume < 0
    closed = topology.closed()
    if int(closed.sum()) > 1:
        turn = turn ^ _enclosed(vertices, topology.faces, topology.component, closed)
    return (turn & ~topology.one_sided).index_select(0, topology.component)


def _enclosed(
    vertices: torch.Tensor, faces: torch.Tensor, component: torch.Tensor, closed: torch.Tensor
) -> torch.Tensor:
    """[components] bool: closed and inside an odd number of other closed components.

    Counts the faces above the middle of one face of each. Whether a face covers a point, looking along z, follows from
    its edges, each evaluated in the same way for both of its faces, so that a line between two faces meets exactly one.
    """
    probe = torch.full((len(closed),), len(faces), device=faces.device)
    probe.scatter_reduce_(0, component, torch.arange(len(faces), device=faces.device), "amin")
    owner = closed.nonzero().squeeze(1)
    points = vertices[faces[probe[owner]].long()].double().mean(1)
    order = points[:, 0].argsort()
    points, owner = points[order], owner[order]
    across = points[:, 0].contiguous()
    above = torch.zeros(len(closed), dtype=torch.int64, device=faces.device)
    x, y = vertices[:, :2].double().T.contiguous()
    for chunk in chunks(faces):
        a, b, c = (x.index_select(0, corner) for corner in faces[chunk].T.contiguous())
        low = torch.searchsorted(across, torch.minimum(torch.minimum(a, b), c))
        high = torch.searchsorted(across, torch.maximum(torch.maximum(a, b), c), right=True)
        near = (high > low).nonzero().squeeze(1)
        near = near[closed[component[chunk][near]]]
        low, pairs = low[near], (high - low)[near].cumsum(0)
        height = y[faces[chunk][near].long()]
        bottom, top = height.amin(1), height.amax(1)
        for begin in range(0, int(pairs[-1]) if len(pairs) else 0, _PAIRS):
            pair = torch.arange(begin, min(begin + _PAIRS, int(pairs[-1])), device=faces.device)
            row = torch.searchsorted(pairs, pair, right=True)
            point = low[row] + pair - torch.where(row > 0, pairs[row - 1], 0)
            level = points[:, 1][point]
            hit = (bottom[row] <= level) & (level <= top[row]) & (component[chunk][near[row]] != owner[point])
            face, point = faces[chunk][near[row[hit]]].long(), point[hit]
            above.index_add_(0, owner[point], _is_above(vertices, face, points[point]).long())
    return above % 2 == 1


def _is_above(vertices: torch.Tensor, face: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    """[N] bool: the face [N, 3] covers the point [N, 3], seen along z, and lies above it."""
    x, y, z = point.unbind(1)
    inside = torch.zeros_like(x, dtype=torch.bool)
    for i in range(3):
        here, there = face[:, i], face[:, (i + 1) % 3]
        p, q = vertices[torch.minimum(here, there)].double(), vertices[torch.maximum(here, there)].double()
        spans = (p[:, 1] <= y) != (q[:, 1] <= y)
        meets = p[:, 0] + (y - p[:, 1]) / torch.where(spans, q[:, 1] - p[:, 1], 1) * (q[:, 0] - p[:, 0])
        inside ^= spans & (meets > x)
    a, b, c = vertices[face].double().unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    slope = ((a - point)[:, :2] * normal[:, :2]).sum(1) / torch.where(normal[:, 2] == 0, 1, normal[:, 2])
    return inside & (a[:, 2] + slope > z)


@dataclass(frozen=True)
class Parted:
    """A mesh whose every edge and vertex is manifold, and what that took."""

    vertices: torch.Tensor  # [V', 3], the copies and the midpoints behind
    faces: torch.Tensor  # [F', 3] int32, halves of divided faces behind
    copies: int  # vertices added as copies of others
    midpoints: int  # vertices added in the middle of edges


def part(vertices: torch.Tensor, topology: Topology) -> Parted:
    """Give every fan of faces round a vertex, joined by twins, a vertex of its own, and every pair of faces its own
    edge: where both ends of two pairs are still the same vertices, one pair is divided at the edge's midpoint, so that
    nothing is opened."""
    faces, copied = _split_fans(topology, len(vertices))
    vertices = torch.cat([vertices, vertices[copied]])
    half, middle, ends = _surplus(faces, topology)
    between = vertices[ends].double().mean(1).to(vertices.dtype)
    faces = _divided(faces, half, len(vertices) + middle)
    return Parted(torch.cat([vertices, between]), faces, len(copied), len(ends))


def _split_fans(topology: Topology, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Faces [F, 3] int32 with new vertices for all fans of a vertex but the first, and [N] int64 the vertex that each
    new one copies."""
    start, twin = topology.faces.reshape(-1), topology.twin
    several = _may_have_several_fans(start, twin, count, topology.kernels)
    corner = several.index_select(0, start).nonzero().squeeze(1)
    if len(corner) == 0:
        return topology.faces, corner
    number = torch.zeros_like(start)
    number[corner] = torch.arange(len(corner), dtype=number.dtype, device=number.device)
    links = []
    for half in (corner, preceding(corner)):  # the corner's two edges
        at = (twin[half] >= 0).nonzero().squeeze(1)
        there = twin[half[at]].long()
        there = torch.where(start[there] == start[corner[at]], there, following(there))  # the corner at this vertex
        links.append(torch.stack([at, number[there].long()]))
    one, other = torch.cat(links, 1)
    fan, fans = components(one, other, len(corner))
    vertex = torch.empty(fans, dtype=torch.int64, device=start.device)
    vertex[fan] = start[corner].long()
    lowest = torch.full((count,), fans, device=start.device).scatter_reduce_(
        0, vertex, torch.arange(fans, device=start.device), "amin"
    )
    extra = lowest[vertex] != torch.arange(fans, device=start.device)
    new = torch.where(extra, count - 1 + extra.cumsum(0), vertex)
    start = start.clone()
    start[corner] = new[fan].int()
    return start.reshape(-1, 3), vertex[extra]


def _may_have_several_fans(start: torch.Tensor, twin: torch.Tensor, count: int, kernels: bool) -> torch.Tensor:
    """[V] bool: the faces round a vertex are not one closed fan, by walking round it from one corner; True also for
    vertices where that walk is not possible or too long."""
    if kernels:
        from ...warp import launch
        from .topology_kernels import mark_fans, one_corner

        corner = torch.zeros(count, dtype=torch.int32, device=start.device)
        launch.launch_parallel(one_corner, len(start), start, corner)
        several = torch.zeros(count, dtype=torch.bool, device=start.device)
        valence = torch.bincount(start, minlength=count)
        launch.launch_parallel(mark_fans, count, start, twin, corner, valence, several)
        return several
    odd = ((twin < 0) | (start.index_select(0, twin.clamp_min(0)) == start)).nonzero().squeeze(1)  # open or one-sided
    several = torch.zeros(count, dtype=torch.bool, device=start.device)
    several[start[odd].long()] = True
    several[start[following(odd)].long()] = True
    valence = torch.bincount(start, minlength=count).int()
    origin = torch.zeros(count, dtype=torch.int32, device=start.device)
    origin[start.long()] = torch.arange(len(start), dtype=torch.int32, device=start.device)  # any corner will do
    vertex = ((valence > 0) & ~several).nonzero().squeeze(1)
    origin, valence = origin.index_select(0, vertex), valence.index_select(0, vertex)
    across = twin.reshape(-1, 3).roll(1, 1).reshape(-1)  # the corner beyond the half-edge before each corner
    at = origin
    for step in range(1, _ROUNDS + 1):
        at = across.index_select(0, at)
        back = at == origin
        several[vertex[back & (valence != step)]] = True
        away = (~back).nonzero().squeeze(1)
        if len(away) == 0:
            return several
        if len(away) < len(at):
            vertex, origin, valence, at = (each.index_select(0, away) for each in (vertex, origin, valence, at))
    several[vertex] = True
    return several


def _surplus(faces: torch.Tensor, topology: Topology) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Half-edges [N] int64 that still lie on an edge with others than their twin and have to leave it, the number
    [N] int64 of the pair (or single half-edge) each belongs to, and the ends [pairs, 2] int64 of these."""
    half = topology.crowded
    start = faces.reshape(-1)
    ends = torch.stack([start[half], start[following(half)]], 1).long().sort(1).values
    other = topology.twin[half].long()
    pair = torch.where(other < 0, half, torch.minimum(half, other))
    edge = torch.unique(ends[:, 0] * (int(start.max()) + 1 if len(start) else 1) + ends[:, 1], return_inverse=True)[1]
    stays = torch.full_like(half, len(start)).scatter_reduce_(0, edge, pair, "amin")
    leaves = stays[edge] != pair
    _, middle = torch.unique(pair[leaves], return_inverse=True)
    pairs = int(middle.max()) + 1 if len(middle) else 0
    at = ends.new_zeros(pairs, 2)
    at[middle] = ends[leaves]
    return half[leaves], middle, at


def _divided(faces: torch.Tensor, half: torch.Tensor, middle: torch.Tensor) -> torch.Tensor:
    """Faces with the vertices `middle` put into their half-edges `half`; the parts of a divided face but one behind."""
    if len(half) == 0:
        return faces
    hit, row = torch.unique(half // 3, return_inverse=True)
    corners = faces[hit]
    cut = torch.full_like(corners, -1)
    cut[row, half % 3] = middle.to(faces.dtype)
    kinds = ((cut >= 0) * cut.new_tensor([1, 2, 4])).sum(1)
    faces, more = faces.clone(), []
    for pattern, (turn, shape) in _PATTERNS.items():
        chosen = (kinds == pattern).nonzero().squeeze(1)
        points = torch.cat([corners[chosen].roll(-turn, 1), cut[chosen].roll(-turn, 1)], 1)
        parts = points[:, shape].reshape(-1, len(shape) // 3, 3)
        faces[hit[chosen]] = parts[:, 0]
        more.append(parts[:, 1:].reshape(-1, 3))
    return torch.cat([faces, *more])


# Corners 0 1 2, midpoints 3 (of 0-1), 4 (of 1-2), 5 (of 2-0).
_ONE = [0, 3, 2, 3, 1, 2]
_TWO = [3, 1, 4, 0, 3, 4, 0, 4, 2]
_ALL = [0, 3, 5, 3, 1, 4, 5, 4, 2, 3, 4, 5]
# which half-edges are cut, as bits: how far the corners are turned for the pattern to fit, and the parts
_PATTERNS = {1: (0, _ONE), 2: (1, _ONE), 4: (2, _ONE), 3: (0, _TWO), 6: (1, _TWO), 5: (2, _TWO), 7: (0, _ALL)}
