"""Simplifying in parts: what was closed stays closed, nothing shows where the cuts were. The processes that do it."""

import subprocess
import sys
import tempfile
import time

import numpy as np
import psutil
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
    """Two balls that share a vertex, which is on no boundary edge of either: it could not be told from others."""
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
    job = {"vertices": vertices, "faces": faces, "target_faces": np.int64(1000)}
    with pytest.raises(KeyboardInterrupt):
        run_jobs("simplify", tick, [job] * 3)
    assert calls == [1]
    assert len(run_job("simplify", **job)["faces"]) <= 1000


LONG_JOB = """
import sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np, trimesh
from pipeline.mesh.jobs.processes import run_jobs
ball = trimesh.creation.icosphere(7, 0.4)
job = {"vertices": ball.vertices.astype(np.float32), "faces": ball.faces.astype(np.int32)}
job["target_faces"] = np.int64(100)
ready = time.monotonic() + 0.5  # in the midst of a library call, which holds Python's lock
run_jobs("simplify", lambda: time.monotonic() > ready and print("working", flush=True), [job] * 2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to end a process with")
def test_no_worker_outlives_its_parent(root):
    """Though that is killed, as systems do that run out of memory: a second later they are gone."""
    command = [sys.executable, "-c", LONG_JOB, str(root)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert parent.stdout.readline() == "working\n"
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers) >= 2
    parent.kill()
    parent.wait(10)
    parent.stdout.close()
    deadline = time.monotonic() + 1
    while any(map(works, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(works, workers))


def works(process):
    """Whether a process runs; one whose new parent does not ask for its end stays in the list for ever."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_jobs_need_no_room_for_temporary_files(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))  # as a full disk: nothing can be made in it
    vertices, faces = arrays(ring())
    assert len(run_job("simplify", vertices=vertices, faces=faces, target_faces=np.int64(1000))["faces"]) <= 1000


def test_arrays_of_every_shape_arrive():
    job = {"vertices": np.zeros((4, 3)), "faces": np.zeros((0, 3), np.int32), "target_faces": np.int64(4)}
    found = run_job("simplify", **job)
    assert found["faces"].shape == (0, 3) and found["vertices"].shape == (4, 3)
    assert (found["vertices"].dtype, found["faces"].dtype) == (np.float32, np.int32)


def test_pairs_of_opposite_faces_go_and_repeated_ones_stay():
    from pipeline.mesh.simplify.flaps import without_flaps

    faces = torch.tensor([[0, 1, 2], [3, 4, 5], [2, 1, 0], [4, 5, 3], [6, 7, 8]], dtype=torch.int32)
    assert without_flaps(faces, False).tolist() == [[3, 4, 5], [4, 5, 3], [6, 7, 8]]
    assert torch.equal(without_flaps(faces[3:], False), faces[3:])
