"""Repair of triangle meshes, one defect a function, on the mesh's device; `clean` runs them in the right order.

vertices: [V, 3] float, faces: [F, 3] int32 or int64, wound anticlockwise as seen from outside. The order of
remaining elements is kept.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ...sums import grouped_sums, largest_of, sum_by
from ..topology.columns import chunks, corners, cross, difference, dot
from ..topology.half_edges import components, next_half_edge
from ..topology.manifold import Topology
from ..topology.measures import face_measures
from ..topology.sorting import by_kernels
from ..topology.steady import steady_sum

_FLAT = 1e-9  # twice a face's area over its longest edge squared; below, the face is degenerate in fp32
_SLIT = 1e-6  # a hole's area over its perimeter squared; below, it is a slit
_SHEET = 0.7  # a hole's area over its component's; above, the loop is the rim of an open sheet, not a hole


def weld(vertices: torch.Tensor, faces: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Merge vertices of equal coordinates into the first of them.

    Returns:
        vertices without those merged away, faces (some may have become degenerate), how many were merged away.
    """
    place = (vertices.float() + 0.0).view(torch.int32).long()  # adding 0 makes -0 the same as 0
    x, y, z = place.unbind(1)
    # A 64-bit hash, so that one sort is enough; collisions are ruled out below.
    mixed = x * 0x2545F4914F6CDD1D + y
    mixed = (mixed ^ (mixed >> 31)) * 0x1B03738712FAD5C9 + z
    mixed, order = ((mixed ^ (mixed >> 29)) * 0x27BB2EE687B0B0FD).sort(stable=True)
    same = mixed[1:] == mixed[:-1]
    later = same.nonzero().squeeze(1)
    same[later] = (place[order[later + 1]] == place[order[later]]).all(1)
    merged = int(same.count_nonzero())
    if merged == 0:
        return vertices, faces, 0
    first = torch.arange(len(order), device=order.device)
    first[1:][same] = 0
    target = torch.empty_like(order)
    target[order] = order[first.cummax(0).values]
    kept = target == torch.arange(len(order), device=order.device)
    number = (kept.cumsum(0) - 1)[target].to(faces.dtype)
    return vertices[kept], number.index_select(0, faces.reshape(-1)).reshape(-1, 3), merged


def degenerate(vertices: torch.Tensor, faces: torch.Tensor, kernels: bool | None = None) -> torch.Tensor:
    """[F] bool: faces of no area. kernels: see sorting.by_kernels."""
    if by_kernels(faces, kernels):
        from ...warp import launch
        from ..topology.topology_kernels import mark_flat

        flat = torch.zeros(len(faces), dtype=torch.uint8, device=faces.device)
        corner = faces.to(torch.int32).contiguous().reshape(-1)
        launch.launch_parallel(mark_flat, len(faces), vertices.double(), corner, _FLAT, flat)
        return flat.bool()
    flat = torch.empty(len(faces), dtype=torch.bool, device=faces.device)
    axes = vertices.double().T.contiguous()
    for chunk in chunks(faces):
        a, b, c = corners(axes, faces[chunk])
        u, v, w = difference(b, a), difference(c, a), difference(c, b)
        longest = torch.maximum(torch.maximum(dot(u, u), dot(v, v)), dot(w, w))
        normal = cross(u, v)
        flat[chunk] = dot(normal, normal) <= _FLAT**2 * longest**2
    return flat


def large_components(topology: Topology, area_share: float) -> torch.Tensor:
    """[components] bool: those with at least `area_share` of the mesh's area; the largest always is one. Bodies that
    only touch, in a vertex or an edge of more than two faces, are components of their own (see `match`)."""
    area = topology.area
    keep = area >= area_share * steady_sum(area)
    if len(keep):
        keep[area.argmax()] = True
    return keep


def close_holes(vertices: torch.Tensor, topology: Topology, max_perimeter: float) -> tuple[torch.Tensor, Topology, int]:
    """Close loops of edges of one face that are shorter than max_perimeter (world units) with a fan round their centre.

    Loops and centres as CuMesh: boundary edges join at vertices where exactly two of them meet; a chain is a loop if
    both ends of each edge lead on within it; the centre is the mean of the edges' midpoints. The fan continues the
    winding of the adjacent faces. Left open are slits, which enclose no area and need welding, loops through several
    components or through a non-orientable one against its winding, and the rims of open sheets, whose fans would lie
    on the sheet itself.

    Returns:
        vertices with the centres behind, the topology with the fans behind, the number of holes filled.
    """
    border = topology.border()
    start = topology.faces.reshape(-1)[border].long()
    end = topology.faces.reshape(-1)[next_half_edge(border)].long()
    chosen, loop, centre = _loops(vertices, start, end, max_perimeter, topology.component[border // 3], topology.area)
    if len(centre) == 0:
        return vertices, topology, 0
    border, start, end = border[chosen], start[chosen], end[chosen]
    faces = torch.cat([topology.faces, torch.stack([end, start, len(vertices) + loop], 1).int()])
    fan = len(topology.twin) + 3 * torch.arange(len(border), device=border.device)  # first half-edge of each new face
    # at each vertex of a loop a spoke leads to the centre and, on the face beside it, one back
    there, back = ((loop * len(vertices) + corner).argsort() for corner in (start, end))
    twin = torch.cat([topology.twin, topology.twin.new_full((3 * len(fan),), -1)])
    for one, other in ((border, fan), (fan[there] + 1, fan[back] + 2)):
        twin[one], twin[other] = other.int(), one.int()
    part = topology.component[border // 3]
    vertices = torch.cat([vertices, centre])
    area, volume = face_measures(vertices, faces[len(topology.faces) :], part, len(topology.area), topology.kernels)
    closed = replace(
        topology,
        faces=faces,
        twin=twin,
        component=torch.cat([topology.component, part]),
        area=topology.area + area,
        volume=topology.volume + volume,
    )
    return vertices, closed, len(centre)


def _loops(
    vertices: torch.Tensor,
    start: torch.Tensor,
    end: torch.Tensor,
    max_perimeter: float,
    component: torch.Tensor,
    areas: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Small loops among boundary edges of the components [N], whose areas are [C]: [N] int64 the edges that are in one,
    [N] the number of its loop, and the loops' centres [L, 3]. A loop's edges lead from one to the next within one
    component, which is much larger than the loop's fan."""
    if len(start) == 0:
        return start, start, vertices[:0]
    loop, count = _chains(start, end)
    key = torch.cat([loop, loop]) * len(vertices) + torch.cat([start, end])
    _, place, meetings = torch.unique(key, return_inverse=True, return_counts=True)
    leads_on = (meetings[place] == 2).reshape(2, -1).all(0)
    closed = torch.ones(count, dtype=torch.bool, device=start.device)
    closed[loop[~leads_on]] = False
    begun = torch.bincount(place[: len(start)], minlength=len(meetings))
    closed[loop[begun[place[: len(start)]] != 1]] = False
    own = component[_any_of(loop, count)]
    closed[loop[component != own[loop]]] = False
    a, b = vertices[start].double(), vertices[end].double()
    total = sum_by(torch.cat([(a + b) / 2, (b - a).norm(dim=1, keepdim=True)], 1), loop, count)
    centre, perimeter = total[:, :3] / torch.bincount(loop, minlength=count)[:, None], total[:, 3]
    to_centre = torch.linalg.cross(b - a, centre[loop] - a).norm(dim=1) / 2
    area = sum_by(to_centre, loop, count)
    small = closed & (perimeter < max_perimeter) & (area > _SLIT * perimeter**2) & (area < _SHEET * areas[own])
    chosen = small[loop].nonzero().squeeze(1)
    return chosen, (small.cumsum(0) - 1)[loop[chosen]], centre[small].to(vertices.dtype)


def _any_of(group: torch.Tensor, groups: int) -> torch.Tensor:
    """[groups] int64 one member of each group."""
    member = torch.zeros(groups, dtype=torch.int64, device=group.device)
    member[group] = torch.arange(len(group), device=group.device)
    return member


def _chains(start: torch.Tensor, end: torch.Tensor) -> tuple[torch.Tensor, int]:
    """[N] chain of each boundary edge, and how many there are: edges are joined at vertices where exactly two meet."""
    ends, order = torch.cat([start, end]).sort(stable=True)
    _, meeting = torch.unique_consecutive(ends, return_counts=True)
    pair = (meeting.cumsum(0) - meeting)[meeting == 2]
    return components(order[pair] % len(start), order[pair + 1] % len(start), len(start))


def compact(vertices: torch.Tensor, faces: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Drop vertices that no face uses; the rest keep their order."""
    return drop_unused(vertices, faces)[:2]


def drop_unused(vertices: torch.Tensor, faces: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Drop vertices that no face uses; the rest keep their order."""
    used = torch.bincount(faces.reshape(-1), minlength=len(vertices)) > 0
    dropped = len(vertices) - int(used.count_nonzero())
    if dropped == 0:
        return vertices, faces, 0
    number = (used.cumsum(0) - 1).to(faces.dtype)
    return vertices[used], number.index_select(0, faces.reshape(-1)).reshape(-1, 3), dropped


def vertex_normals(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """[V, 3] float32 unit normals, faces weighted by area; (0, 0, 1) where they cancel."""
    a, b, c = vertices[faces.long()].double().unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    added = grouped_sums(len(vertices), 3 * len(faces), largest_of(normal))
    for corner in range(3):
        added.add(faces[:, corner].long(), normal)
    total = added.total()
    length = total.norm(dim=1, keepdim=True)
    up = total.new_tensor([0.0, 0.0, 1.0])
    return torch.where(length > 1e-30, total / length.clamp_min(1e-30), up).float()
