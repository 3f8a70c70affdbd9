"""Closest points, rays and inside, against brute force and against what is known of spheres."""

import pytest
import torch
import trimesh
from devices import on_device

pytest.importorskip("warp")
from meshes import original as original_of

from pipeline.mesh.query.surface import Surface

pytestmark = pytest.mark.usefixtures("device")
Surface = on_device(Surface)


def soup(count, seed=0):
    """Random small triangles, each with vertices of its own."""
    random = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 1, 3, generator=random) - 0.5
    return (centre + 0.1 * torch.randn(count, 3, 3, generator=random)).reshape(-1, 3), torch.arange(3 * count).reshape(
        -1, 3
    )


def sphere(radius=0.4, rings=40):
    """A closed ball of latitude rings."""
    theta = torch.linspace(0, torch.pi, rings + 1, dtype=torch.float64)[1:-1, None]
    phi = torch.arange(2 * rings, dtype=torch.float64)[None] * torch.pi / rings
    ring = torch.stack(
        [theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos().expand(-1, 2 * rings)], 2
    ).reshape(-1, 3)
    poles = torch.tensor([[0.0, 0, 1], [0, 0, -1]], dtype=torch.float64)
    index = torch.arange((rings - 1) * 2 * rings).reshape(rings - 1, 2 * rings)
    a, b, c, d = index[:-1], index[1:], index[1:].roll(-1, 1), index[:-1].roll(-1, 1)
    body = torch.cat([torch.stack([a, b, c], 2).reshape(-1, 3), torch.stack([a, c, d], 2).reshape(-1, 3)])
    north, south = len(ring), len(ring) + 1
    top = torch.stack([torch.full((2 * rings,), north), index[0], index[0].roll(-1)], 1)
    bottom = torch.stack([torch.full((2 * rings,), south), index[-1].roll(-1), index[-1]], 1)
    return (radius * torch.cat([ring, poles])).float(), torch.cat([body, top, bottom])


def by_brute_force(points, vertices, faces):
    """Distance of each point to the nearest triangle (Ericson, Real-Time Collision Detection, by regions), fp64."""
    a, b, c = vertices[faces].double().unbind(1)
    p = points.double()[:, None]
    candidates = []
    for start, end in ((a, b), (b, c), (c, a)):
        t = (((p - start) * (end - start)).sum(2) / (end - start).square().sum(1)).clamp(0, 1)[..., None]
        candidates.append((start + t * (end - start) - p).norm(dim=2))
    normal = torch.linalg.cross(b - a, c - a)
    height = ((p - a) * normal).sum(2) / normal.norm(dim=1)
    foot = p - height[..., None] * (normal / normal.norm(dim=1, keepdim=True))
    sides = [
        (torch.linalg.cross((end - start).expand_as(foot), foot - start) * normal).sum(2)
        for start, end in ((a, b), (b, c), (c, a))
    ]
    inside = torch.stack(sides).amin(0) >= 0
    candidates.append(torch.where(inside, height.abs(), torch.inf))
    return torch.stack(candidates).amin(0).amin(1)


def test_closest_points_are_the_closest():
    vertices, faces = soup(300)
    points = torch.rand(5000, 3, generator=torch.Generator().manual_seed(1)) * 1.4 - 0.7
    hits = Surface(vertices, faces).closest(points)
    assert torch.allclose(hits.distance.double(), by_brute_force(points, vertices, faces), atol=2e-6)
    at = hits.points(vertices, faces)
    assert torch.allclose((at - points).norm(dim=1), hits.distance, atol=2e-6)
    assert hits.weights.min() >= -1e-6 and torch.allclose(hits.weights.sum(1), torch.ones(5000), atol=1e-5)


def test_nothing_within_the_limit():
    vertices, faces = sphere()
    points = torch.tensor([[0.0, 0, 0], [0.39, 0, 0], [2.0, 0, 0]])
    hits = Surface(vertices, faces).closest(points, limit=0.05)
    assert (hits.face >= 0).tolist() == [False, True, False]
    assert hits.distance[[0, 2]].isinf().all() and hits.distance[1] < 0.011


def test_rays_meet_the_ball():
    vertices, faces = sphere()
    directions = torch.nn.functional.normalize(torch.randn(500, 3, generator=torch.Generator().manual_seed(2)), dim=1)
    surface = Surface(vertices, faces)
    hits = surface.rays(-directions, directions)
    assert (hits.face >= 0).all() and (hits.distance - 0.6).abs().max() < 2e-3  # the ball is a polyhedron
    assert (surface.rays(-directions, -directions).face < 0).all()
    assert (surface.rays(-directions, directions, limit=0.5).face < 0).all()


def test_no_queries():
    surface = Surface(*sphere(rings=8))
    empty = torch.zeros(0, 3)
    assert len(surface.closest(empty).face) == len(surface.rays(empty, empty).face) == 0


def test_faces_keep_their_numbers_where_they_are_put_in_order(monkeypatch):
    from pipeline.mesh.query import surface

    monkeypatch.setattr(surface, "_MANY", 0)
    ball = trimesh.creation.icosphere(3)
    vertices, faces = torch.tensor(ball.vertices).float(), torch.tensor(ball.faces)
    faces = faces[torch.randperm(len(faces), generator=torch.Generator().manual_seed(0))]
    before, centres = faces.clone(), vertices[faces].mean(1)
    row, original = torch.arange(len(faces)), original_of(vertices, faces)
    hits = original.closest(centres)
    assert torch.equal(hits.face, row) and (hits.points(vertices, faces) - centres).abs().max() < 1e-6
    assert torch.equal(original.rays(centres * 3, -centres / centres.norm(dim=1, keepdim=True)).face, row)
    assert torch.equal(original.closest_point(centres * 1.01)[1].long(), row) and torch.equal(faces, before)
    assert (original.closest(centres * 3, 0.1).face == -1).all()


def test_kernels_have_names_that_can_be_folders():
    """Warp makes folders of them, and inside ComfyUI a module's own name is the pack's path."""
    from pipeline.mesh.bake import bake_kernels, raster_kernels
    from pipeline.mesh.query import query_kernels, winding_kernels
    from pipeline.mesh.remesh import band_kernels, contour_kernels, crossing_kernels, flood_kernels
    from pipeline.mesh.simplify import (
        collapse_kernels,
        fit_kernels,
        flip_kernels,
        link_kernels,
        quadric_kernels,
        relax_kernels,
    )
    from pipeline.mesh.topology import topology_kernels
    from pipeline.mesh.uv import pack_kernels, unwrap_kernels
    from pipeline.render import depth_kernels, preparation_kernels, shade_kernels, visibility_kernels
    from pipeline.sparse import bricks_kernels
    from pipeline.warp.launch import wp

    files = (
        bake_kernels,
        band_kernels,
        bricks_kernels,
        collapse_kernels,
        contour_kernels,
        crossing_kernels,
        flood_kernels,
        winding_kernels,
        topology_kernels,
        pack_kernels,
        raster_kernels,
        depth_kernels,
        preparation_kernels,
        shade_kernels,
        visibility_kernels,
    )
    for file in (
        *files,
        fit_kernels,
        flip_kernels,
        link_kernels,
        relax_kernels,
        quadric_kernels,
        query_kernels,
        unwrap_kernels,
    ):
        found = {each.module.name for each in vars(file).values() if isinstance(each, wp.Kernel)}
        assert found and all(name.isidentifier() and name.startswith("trellis2_") for name in found), file
