"""Results depend neither on the number of cores nor on that of torch's threads: equal to the byte on 1 and 7."""

import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("warp")
from pipeline import stages
from pipeline.bench.shapes import bench_field, spoil, surface_net
from pipeline.mesh.topology.measures import face_measures
from pipeline.mesh.topology.sorting import grouped
from pipeline.mesh.topology.steady import steady_angle, steady_sum
from pipeline.mesh.uv.unwrap import unwrap
from pipeline.runtime import Runtime
from pipeline.sparse import SparseTensor, Voxels

SIDE = 48  # enough faces for several ranges and chunks, and for torch to share its loops among threads
MACHINE = (7, 2)  # cores, threads of torch; compared with (1, 1)

ONE_CORE = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.path.insert(0, sys.argv[1])
import torch
from pipeline.mesh import Mesh
from pipeline.mesh.repair.clean import clean
from pipeline.mesh.simplify.collapse import collapse
n = torch.arange(120)
i, j = (each.reshape(-1) for each in torch.meshgrid(n, n, indexing="ij"))
a, b = i * torch.pi / 60, j * torch.pi / 60
vertices = torch.stack([(1 + 0.4 * b.cos()) * a.cos(), (1 + 0.4 * b.cos()) * a.sin(), 0.4 * b.sin()], 1)
at = lambda i, j: i % 120 * 120 + j % 120
p, q, r, s = at(i, j), at(i + 1, j), at(i + 1, j + 1), at(i, j + 1)
faces = torch.cat([torch.stack([p, q, r], 1), torch.stack([p, r, s], 1)]).int()
mesh = clean(Mesh(vertices, faces))
report = collapse(mesh, 2000, lambda: None).report
print(len(mesh.faces), report.faces, report.euler, report.watertight, report.non_manifold_edges)
"""


@pytest.fixture
def machine(monkeypatch):
    """Sets how many cores this process seems to have, and torch's threads."""
    before = torch.get_num_threads()

    def make(cores, threads):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        torch.set_num_threads(threads)

    yield make
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def raw():
    """A mesh with the defects of generated ones, non-manifold edges among them, and voxels coloured by their place."""
    vertices, faces = surface_net(bench_field, SIDE)
    cells = torch.unique(((vertices + 0.5) * SIDE).long(), dim=0)
    place = (cells + 0.5) / SIDE
    voxels = stages.PBRVoxels(SparseTensor(Voxels.single(cells.int()), torch.cat([place, place], 1)), SIDE)
    return stages.Mesh(*spoil(vertices, faces), resolution=SIDE), voxels


def finished(raw) -> dict[str, object]:
    """What every step after sampling makes of a raw mesh."""
    mesh, voxels = raw
    runtime = Runtime("cpu", stages.table())
    found = {}
    for shells, resolution, lods in (("outer", 64, (2500,)), ("solid", 32, ())):
        done = stages.process_mesh(runtime, mesh, 4000, shells=shells, resolution=resolution, lods=lods)
        found |= {f"{shells} facts": done.facts}
        for number, level in enumerate(done.levels):
            found |= {f"{shells} vertices {number}": level.vertices, f"{shells} faces {number}": level.faces}
    original = replace(mesh, resolution=0)  # spoiling gave it more vertices than there are voxels
    textured = stages.bake_texture(runtime, done, voxels, 128, original=original, normal_map=True, occlusion=True)
    for number, level in enumerate(textured.levels):
        found |= {f"{name} {number}": getattr(level, name) for name in ("normals", "uvs", "tangents")}
    found |= {name: getattr(textured, name) for name in ("maps", "normal_map", "occlusion", "facts")}
    found["vertex colours"] = stages.color_vertices(runtime, done, voxels, original=original).attrs
    found["pictures"] = stages.draw(runtime, textured, 1, 96)
    return found


def as_bytes(value) -> bytes:
    return repr(value).encode() if isinstance(value, dict) else np.asarray(value).tobytes()


def test_meshes_maps_and_pictures_are_the_same_on_any_number_of_cores(raw, machine):
    machine(1, 1)
    alone = finished(raw)
    assert alone["outer facts"]["cleaned"]["non_manifold_edges"] > 0
    machine(*MACHINE)
    assert [name for name, value in finished(raw).items() if as_bytes(value) != as_bytes(alone[name])] == []


@pytest.mark.parametrize("cores", [1, 2, 7])
def test_a_counting_sort_in_ranges_is_a_stable_sort(machine, cores):
    machine(cores, 1)
    key = torch.randint(50, (5000,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    order, first = grouped(key, 60)
    assert torch.equal(order.long(), key.argsort(stable=True))
    assert torch.equal(first[1:].long(), torch.bincount(key, minlength=60).cumsum(0)) and first[0] == 0


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_sums_and_angles_are_the_same_on_any_number_of_threads(machine, threads):
    y, x = torch.randn(2, 300_007, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    machine(1, 1)
    alone = steady_sum(y.float()), steady_sum(y), steady_angle(y, x)
    machine(1, threads)
    again = steady_sum(y.float()), steady_sum(y), steady_angle(y, x)
    assert all(torch.equal(one, other) for one, other in zip(alone, again))
    assert torch.allclose(alone[2], torch.atan2(y, x), rtol=0, atol=1e-14)


def test_areas_are_the_same_on_any_number_of_threads(raw, machine):
    mesh, _ = raw
    group = torch.zeros(len(mesh.faces), dtype=torch.int64)
    found = []
    for threads in (1, 3):
        machine(threads, threads)
        found.append(face_measures(mesh.vertices, mesh.faces, group, 1, True))
    assert all(torch.equal(one, other) for one, other in zip(*found))


def test_other_threads_keep_their_number_of_threads_while_a_mesh_is_unwrapped(machine):
    """One that begins meanwhile would have that number for good."""
    machine(2, 3)
    seen = {}

    def tick():
        here = torch.get_num_threads()
        other = threading.Thread(target=lambda: seen.update({here: torch.get_num_threads()}))
        other.start()
        other.join()

    unwrap(*surface_net(bench_field, 16), 128, 1, tick)
    assert seen == {3: 3, 1: 3} and torch.get_num_threads() == 3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot give a process one core")
def test_a_process_that_has_one_core_keeps_a_torus_whole(root):
    done = subprocess.run([sys.executable, "-c", ONE_CORE, str(root)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["28800", "2000", "0", "True", "0"]
