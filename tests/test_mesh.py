"""A mesh as a value: checked once, its topology found once; what a cleaning hands on is what would be found again."""

import pytest
import torch
from meshes import needs_warp

from pipeline import stages
from pipeline.bench.shapes import bench_field, spoil, surface_net
from pipeline.errors import EmptyResultError, MeshError
from pipeline.mesh import Mesh, mesh
from pipeline.mesh.examples import ball, check_clean, cube, together
from pipeline.mesh.operations import clean_by_kernels, clean_in_torch
from pipeline.mesh.remesh import own_resolution
from pipeline.mesh.repair.clean import AFTER_SIMPLIFYING, CleanSettings, clean
from pipeline.mesh.topology.half_edges import HalfEdges, Sheets
from pipeline.render import Subject
from pipeline.runtime import Runtime

CPU = torch.device("cpu")


def soup(seed):
    random = torch.Generator().manual_seed(seed)
    return Mesh(torch.rand(12, 3, generator=random), torch.randint(12, (150, 3), generator=random))


@pytest.mark.parametrize(
    "given, settings",
    [
        (lambda: Mesh(*spoil(*surface_net(bench_field, 32))), CleanSettings(max_hole_perimeter=0.15)),
        (lambda: Mesh(*spoil(*surface_net(bench_field, 32))), AFTER_SIMPLIFYING),
        (lambda: together(cube(CPU), ball(CPU)), None),
        *((lambda seed=seed: soup(seed), AFTER_SIMPLIFYING) for seed in range(5)),
        (lambda: Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int32)), None),
    ],
)
@needs_warp
def test_the_half_edges_that_a_cleaning_hands_on_are_those_of_its_faces(given, settings):
    for kernels in (True, False):
        done = (clean_by_kernels if kernels else clean_in_torch)(given(), settings or CleanSettings())
        assert done.kernels == kernels and ("edges" in vars(done)) == (done.changes["midpoints"] == 0)
        again = HalfEdges.of(done.faces, kernels)
        assert done.edges.count == again.count and len(again.non_manifold) == len(done.edges.non_manifold) == 0
        assert torch.equal(done.edges.twin, again.twin) and torch.equal(done.edges.faces, again.faces)


@needs_warp
def test_each_mesh_of_a_run_is_checked_and_its_edges_are_found_once(monkeypatch):
    """Half-edges: of the welded raw mesh, its shell, and the simplified one; what cleanings make of these is known."""
    counts = {"check": 0, "edges": 0, "sheets": 0}

    def counted(name, function):
        def call(*given, **more):
            counts[name] += 1
            return function(*given, **more)

        return call

    inner = ball(CPU, 20)
    raw = together(ball(CPU, 40), Mesh(inner.vertices / 2, inner.faces))
    runtime = Runtime("cpu", stages.table())

    def run():
        return stages.process_mesh(runtime, stages.Mesh(raw.vertices, raw.faces), 3000, resolution=64)

    run()  # the rows of the table are tried on meshes of their own
    monkeypatch.setattr(mesh, "check_mesh", counted("check", mesh.check_mesh))
    for name, kind in (("edges", HalfEdges), ("sheets", Sheets)):
        monkeypatch.setattr(kind, "of", counted(name, kind.of))
    done = run()
    assert done.facts["shells"]["faces_removed"] == len(inner.faces) and len(done.faces) <= 3000
    assert counts == {"check": 1, "edges": 2, "sheets": 2}  # of what is cleaned, twice; what is left of it is known
    assert {"clean": "warp", "outer_shell": "warp", "simplify": "hybrid"}.items() <= runtime.backends.used.items()


@pytest.mark.parametrize("side", [48, 92])
def test_a_mesh_tells_the_grid_that_it_comes_from(side):
    vertices, faces = surface_net(bench_field, side)
    longest = (vertices.amax(0) - vertices.amin(0)).max().item()
    assert own_resolution(Mesh(vertices, faces)) == pytest.approx(longest * side, rel=0.15)


@needs_warp
def test_solid_looks_no_finer_than_the_mesh_is():
    """512 cells, the default, cost a minute for a mesh of 100,000 faces from elsewhere, and show no more."""
    one = ball(CPU)
    assert own_resolution(one) == 8  # 7.5 cells of a sphere have 528 faces
    done = stages.process_mesh(
        Runtime("cpu", stages.table()), stages.Mesh(one.vertices, one.faces), 500, shells="solid"
    )
    assert done.facts["shells"]["resolution"] == 128 and done.facts["mesh"]["watertight"]
    assert done.facts["mesh"]["volume"] == pytest.approx(one.report.volume, rel=0.01)


def test_a_mesh_is_a_good_one():
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    with pytest.raises(MeshError, match="vertices 0 to 3, but the mesh has 3"):
        Mesh(corners, torch.tensor([[0, 1, 3]]))
    one = Mesh(corners, torch.tensor([[0, 1, 2]]))
    assert one.report is one.report and one.edges is one.edges and one.to("cpu") is one
    with pytest.raises(AttributeError):
        one.faces = one.faces
    with pytest.raises(EmptyResultError, match="no faces"):
        Mesh(corners, one.faces[:0]).require_faces()


def test_examples_are_what_they_say():
    assert cube(CPU).report.volume == pytest.approx(1) and ball(CPU).report.volume == pytest.approx(4.1, abs=0.1)
    assert len(ball(CPU).faces) == 528 and ball(CPU).report.euler == cube(CPU).report.euler == 2
    assert check_clean(lambda given, settings: clean(given, settings), CPU) == ""


def test_a_mesh_of_the_stages_keeps_what_is_known_of_its_topology():
    """One value: another field is no other mesh; on another device its report is the same."""
    one = ball(CPU)
    mesh = stages.Mesh(one.vertices, one.faces, resolution=8)
    edges, report = mesh.edges, mesh.report
    level = mesh.replace(uvs=torch.zeros(len(one.vertices), 2), lods=(mesh,))
    assert level.edges is edges and level.report is report and level.resolution == 8 and mesh.uvs is None
    moved = level.to("meta")
    assert moved.report is report and "edges" not in vars(moved) and moved.levels[1].faces.device.type == "meta"
    assert moved.uvs.device.type == "meta" and moved.resolution == 8
    assert "edges" not in vars(level.surface("cpu")) and level.to("cpu").edges is edges


@pytest.mark.parametrize("kind", [stages.Mesh, Subject])
def test_whatever_is_a_mesh_is_checked_when_it_is_made(kind):
    one = ball(CPU)
    with pytest.raises(MeshError, match="name vertices"):
        kind(one.vertices[:5], one.faces)
    with pytest.raises(MeshError, match="NaN or infinite"):
        kind(one.vertices * float("nan"), one.faces)
