"""Simplifying in parts: what was closed stays closed, nothing shows where the cuts were."""

import numpy as np
import pytest
import torch
import trimesh

pytest.importorskip("fast_simplification", reason="fast-simplification is not installed")

from meshes import fast_simplification, measure

from pipeline.mesh.jobs.processes import run_job, run_jobs
from pipeline.mesh.simplify import parts


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(parts, "_FACES", 6000)


def ring():
    mesh = trimesh.creation.torus(0.35, 0.12, 160, 120)
    return torch.from_numpy(mesh.vertices.astype(np.float32)), torch.from_numpy(mesh.faces.astype(np.int32))


def arrays(mesh):
    return mesh[0].numpy(), mesh[1].numpy()


def test_a_ring_in_parts_is_a_ring():
    vertices, faces = ring()
    points, corners = parts.reduce_in_parts(*arrays((vertices, faces)), 4000, lambda: None)
    assert 4000 < len(corners) < 0.5 * len(faces)
    joined = measure(torch.from_numpy(points), torch.from_numpy(corners))
    assert joined.watertight and joined.euler == 0 and joined.inconsistent_edges == 0
    found = measure(*fast_simplification(vertices, faces, 4000, lambda: None))
    assert found.watertight and found.euler == 0 and abs(found.faces - 4000) <= 2
    assert found.volume == pytest.approx(2 * np.pi**2 * 0.35 * 0.12**2, rel=5e-3)


def test_open_borders_stay():
    vertices, faces = ring()
    faces = faces[vertices[faces.long()].mean(1)[:, 2] > 0]
    points, corners = parts.reduce_in_parts(*arrays((vertices, faces)), 1000, lambda: None)
    before, after = measure(vertices, faces), measure(torch.from_numpy(points), torch.from_numpy(corners))
    assert after.faces < before.faces and after.boundary_edges == before.boundary_edges


def test_it_does_not_depend_on_the_number_of_cores(monkeypatch):
    results = []
    for cores in (1, 3):
        monkeypatch.setattr(parts, "cores", lambda cores=cores: cores)
        results.append(parts.reduce_in_parts(*arrays(ring()), 4000, lambda: None))
    assert all(np.array_equal(one, other) for one, other in zip(*results))


@pytest.mark.parametrize("target", [30_000, 10**6])
def test_a_target_near_the_input_needs_no_parts(target):
    vertices, faces = arrays(ring())
    assert parts.reduce_in_parts(vertices, faces, target, lambda: None)[1] is faces


def test_cuts_that_cannot_be_joined_are_not_made():
    """Two balls that share a vertex, which is on no open edge of either: it could not be told from others."""
    ball = trimesh.creation.icosphere(4, 0.2)
    tip = ball.vertices[:, 0].argmax()
    other = 2 * ball.vertices[tip] - ball.vertices  # mirrored at the tip, which falls on itself
    number = np.arange(len(other)) + len(ball.vertices)
    number[tip] = tip
    vertices = np.concatenate([ball.vertices, other]).astype(np.float32)
    faces = np.concatenate([ball.faces, number[ball.faces[:, ::-1]]]).astype(np.int32)
    assert parts.reduce_in_parts(vertices, faces, 2000, lambda: None)[1] is faces


def test_faces_without_neighbours():
    vertices, faces = ring()
    soup = vertices[faces.long()].reshape(-1, 3).numpy(), np.arange(3 * len(faces), dtype=np.int32).reshape(-1, 3)
    found = parts.reduce_in_parts(*soup, 4000, lambda: None)
    area = measure(*map(torch.from_numpy, found)).area
    assert len(found[1]) == len(faces) and area == pytest.approx(measure(vertices, faces).area)
    same = np.zeros((30_000, 3), np.float32), np.arange(30_000, dtype=np.int32).reshape(-1, 3)
    assert len(parts.reduce_in_parts(*same, 100, lambda: None)[1]) <= 10_000


def test_cancelling_ends_all_processes():
    calls = []

    def tick():
        calls.append(1)
        raise KeyboardInterrupt

    vertices, faces = arrays(ring())
    job = {"vertices": vertices, "faces": faces, "target": np.int64(1000)}
    with pytest.raises(KeyboardInterrupt):
        run_jobs("simplify", tick, [job] * 3)
    assert calls == [1]
    assert len(run_job("simplify", **job)["faces"]) <= 1000
