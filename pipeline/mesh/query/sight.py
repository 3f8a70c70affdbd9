"""Which side of each face is seen from outside: by Warp's rays, or in plain torch by depth buffers."""

from __future__ import annotations

import math

import torch

from ...sums import sum_by
from ..topology.columns import chunks
from .scan import barycentric, doubled_area, scan
from .surface import Surface

_RAYS, _MOST_RAYS = 2, 1 << 20  # lines of sight for each face, and at most
_VIEWS = 32  # directions of depth buffers; fewer leave more faces unseen at the bottom of narrow gaps
_SILHOUETTE = 3  # lines of sight of a depth buffer for each that meets a face: what is asked seldom fills its square

Views = tuple[torch.Tensor, torch.Tensor]


def views_by_rays(vertices: torch.Tensor, faces: torch.Tensor, asked: torch.Tensor) -> Views:
    """Lines of sight from outside, in random directions (the same at every call) and towards random points of the faces
    asked [N] int64: for each of these how many more meet its front than its back first, and how many meet it first;
    float32. Needs Warp."""
    count = min(_RAYS * len(asked), _MOST_RAYS)
    random = torch.Generator().manual_seed(0)
    # in order of the faces, which saves a CPU half of the time
    aim = asked[torch.randint(len(asked), (count,), generator=random).sort().values.to(asked.device)]
    weights = torch.rand(count, 3, generator=random).to(vertices.device)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=random), dim=1).to(vertices.device)
    weights, vertices = weights / weights.sum(1, keepdim=True), vertices.float()
    targets = (vertices[faces[aim].long()] * weights[:, :, None]).sum(1)
    far = 2 * (vertices.amax(0) - vertices.amin(0)).norm()
    hit = Surface(vertices, faces).rays(targets - far * directions, directions).face
    directions, hit = directions[hit >= 0], hit[hit >= 0]
    a, b, c = vertices[faces[hit].long()].unbind(1)
    towards = -(torch.linalg.cross(b - a, c - a) * directions).sum(1).sign()
    front = sum_by(towards, hit, len(faces))
    return front[asked], torch.bincount(hit, minlength=len(faces))[asked].float()


def views_by_depth(vertices: torch.Tensor, faces: torch.Tensor, asked: torch.Tensor) -> Views:
    """As views_by_rays, with parallel lines of sight on a square grid round the faces asked, from each of some
    directions spread evenly over the sphere: the reference implementation."""
    side = math.isqrt(min(_SILHOUETTE * _RAYS * len(asked), _MOST_RAYS) // _VIEWS) + 1
    front = torch.zeros(len(faces), dtype=torch.float64, device=vertices.device)
    seen = torch.zeros_like(front)
    used = torch.unique(faces[asked])
    for axes in _frames(_VIEWS, vertices.device):
        turned = vertices.double() @ axes.T  # [V, 3] across, up, towards the eye
        low, high = torch.aminmax(turned[used.long(), :2], dim=0)
        cell = (high - low).amax().clamp_min(1e-300) / side
        turned = (turned - torch.cat([low, low.new_zeros(1)])) / cell
        turned[:, :2] -= 0.5  # lines of sight through the middles of cells
        face, towards = first_faces(turned, faces, side)
        front.index_add_(0, face, towards)
        seen.index_add_(0, face, torch.ones_like(towards))
    return front[asked].float(), seen[asked].float()


def first_faces(vertices: torch.Tensor, faces: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The highest face over each grid point of a square 0 .. size - 1 in x and y that has one, looking down z.

    Args:
        vertices: [V, 3] float64. faces: [F, 3].

    Returns:
        face [N] int64, of those equally high the lowest; [N] float64, 1 where its front is seen, -1 where its back.
    """
    points, owners, heights = [], [], []
    for chunk in chunks(faces):
        corners = vertices[faces[chunk].long()]  # [f, 3, 3]
        point, owner = scan(corners[:, :, :2], size)
        place = torch.stack([point % size, point // size], 1).double()
        weights = barycentric(corners[owner, :, :2], place)
        points.append(point)
        owners.append(owner + chunk.start)
        heights.append((weights * corners[owner, :, 2]).sum(1))
    point, owner, height = torch.cat(points), torch.cat(owners), torch.cat(heights)
    top = height.new_full((size * size,), -torch.inf).scatter_reduce_(0, point, height, "amax")
    highest = height == top[point]
    first = torch.full_like(top, len(faces), dtype=torch.int64)
    first.scatter_reduce_(0, point[highest], owner[highest], "amin")
    face = first[first < len(faces)]
    return face, doubled_area(vertices[faces[face].long()][:, :, :2]).sign()


def _frames(count: int, device: torch.device):
    """Orthonormal axes [3, 3] as rows, the last towards the eye: a Fibonacci lattice on the sphere."""
    for i in range(count):
        height = 1 - (2 * i + 1) / count
        turn = i * math.pi * (3 - math.sqrt(5))
        radius = math.sqrt(1 - height**2)
        eye = torch.tensor([radius * math.cos(turn), radius * math.sin(turn), height], dtype=torch.float64)
        across = torch.tensor([-math.sin(turn), math.cos(turn), 0.0], dtype=torch.float64)
        yield torch.stack([across, torch.linalg.cross(eye, across), eye]).to(device)
