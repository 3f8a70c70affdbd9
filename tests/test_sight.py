"""Which side of faces is seen from outside: depth buffers against rays (test_clean.py winds surfaces by either)."""

import pytest
import torch
import trimesh
from devices import on_device
from meshes import needs_warp

from pipeline.mesh.query.sight import first_faces, views_by_depth, views_by_rays
from pipeline.mesh.query.surface import Surface

pytestmark = pytest.mark.usefixtures("device")
Surface = on_device(Surface)
first_faces = on_device(first_faces)
views_by_depth = on_device(views_by_depth)
views_by_rays = on_device(views_by_rays)


def ball(subdivisions=3, radius=1.0):
    made = trimesh.creation.icosphere(subdivisions, radius)
    return torch.from_numpy(made.vertices).float(), torch.from_numpy(made.faces).int()


@needs_warp
@pytest.mark.parametrize("seed", range(3))
def test_depth_buffers_find_what_rays_find(seed):
    random = torch.Generator().manual_seed(seed)
    size = 24
    corners = torch.rand(200, 1, 3, generator=random) * size + 3 * torch.randn(200, 3, 3, generator=random)
    faces = torch.arange(600).reshape(-1, 3)
    vertices = corners.reshape(-1, 3)
    face, towards = first_faces(vertices.double(), faces, size)
    places = torch.arange(size, dtype=torch.float32)
    y, x = torch.meshgrid(places, places, indexing="ij")
    above = torch.stack([x, y, torch.full_like(x, 1000.0)], 2).reshape(-1, 3)
    hits = Surface(vertices, faces).rays(above, torch.tensor([0.0, 0.0, -1.0]).expand(len(above), 3))
    met = hits.face[hits.face >= 0]
    assert len(met) == len(face) > 100 and (met == face).float().mean() > 0.99  # two faces at equal height, to fp32
    a, b, c = vertices[faces[face]].unbind(1)
    assert torch.equal(torch.linalg.cross(b - a, c - a)[:, 2].sign(), towards.float())


@pytest.mark.parametrize(
    "views", [pytest.param(views_by_rays, marks=needs_warp, id="rays"), pytest.param(views_by_depth, id="depth")]
)
def test_a_ball_is_seen_from_its_front_and_what_is_inside_not_at_all(views):
    vertices, faces = ball()
    inner = len(vertices) + faces
    both = torch.cat([faces, inner])
    random = torch.Generator().manual_seed(1)
    turned = torch.rand(len(both), generator=random) < 0.4
    both[turned] = both[turned].flip(1)
    front, seen = views(torch.cat([vertices, vertices / 2]), both, torch.arange(len(both)))
    outer = torch.arange(len(both)) < len(faces)
    assert (seen[outer] > 0).float().mean() > 0.8 and not seen[~outer].any()
    assert torch.equal(front[outer], torch.where(turned[outer], -1, 1) * seen[outer])
