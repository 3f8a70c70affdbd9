"""What a step knows of the topology of its result is what would be found anew."""

import pytest
import torch
from devices import DEVICES
from manifolds import KEEP_ALL, moebius

from pipeline.bench.shapes import STEEPEST, bench_field, spoil, surface_net
from pipeline.mesh import Mesh
from pipeline.mesh.examples import ball, cube, together
from pipeline.mesh.repair.clean import CleanSettings, clean
from pipeline.mesh.topology.half_edges import HalfEdges, Sheets
from pipeline.warp import unavailable_reason

CPU = torch.device("cpu")
# with kernels, which only a CPU takes, and without
WAYS = [(device, False) for device in DEVICES] + ([] if unavailable_reason() else [("cpu", True)])
BODY = ball(CPU)


def moved(mesh, size, right=0.0):
    return Mesh(mesh.vertices * size + torch.tensor([right, 0.0, 0.0]), mesh.faces)


def soup():
    random = torch.Generator().manual_seed(3)
    return Mesh(torch.rand(12, 3, generator=random), torch.randint(12, (40, 3), generator=random))


def spoiled():
    return Mesh(*spoil(*surface_net(bench_field, 36, "cpu", STEEPEST)))


def strip_and_body():
    return together(Mesh(*moebius()), moved(BODY, 1, 4))


def nested():
    return together(BODY, moved(BODY, 0.5), moved(BODY, 0.4, 2))


def assert_found_anew(mesh):
    assert {"edges", "sheets"} <= mesh.__dict__.keys()  # known, before it is asked for
    edges = HalfEdges.of(mesh.faces, mesh.edges.kernels)
    for name in ("faces", "twin", "non_manifold", "edge"):
        assert torch.equal(getattr(mesh.edges, name), getattr(edges, name)), name
    sheets = Sheets.of(edges)
    for name in ("label", "flip", "orientable"):
        assert torch.equal(getattr(mesh.sheets, name), getattr(sheets, name)), name
    assert mesh.edges.count == edges.count and mesh.sheets.label.dtype == sheets.label.dtype


@pytest.mark.parametrize(("device", "kernels"), WAYS)
@pytest.mark.parametrize("settings", [KEEP_ALL, CleanSettings()], ids=["keeps", "usual"])
@pytest.mark.parametrize("made", [soup, spoiled, strip_and_body, nested])
def test_of_a_clean_mesh(made, settings, device, kernels):
    mesh = made()
    found = clean(Mesh.known(mesh.vertices.to(device), mesh.faces.to(device), kernels=kernels), settings)
    if found.changes["midpoints"]:
        assert not {"edges", "sheets"} & found.__dict__.keys()  # faces were divided
    else:
        assert_found_anew(found)


@pytest.mark.skipif(bool(unavailable_reason()), reason="Warp is absent")
@pytest.mark.parametrize(("device", "kernels"), WAYS)
def test_of_an_outer_shell(device, kernels):
    from pipeline.mesh.remesh.outer_shell import outer_shell

    mesh = nested()
    shell, report = outer_shell(Mesh.known(mesh.vertices.to(device), mesh.faces.to(device), kernels=kernels), 32)
    assert report["patches_removed"] == 1
    assert_found_anew(shell)


@pytest.mark.skipif(bool(unavailable_reason()), reason="Warp is absent")
def test_faces_of_edges_of_more_than_two_may_lose_neighbours():
    from pipeline.mesh.remesh.outer_shell import outer_shell

    one, inside = cube(CPU), torch.tensor([[0.0, 0.0, 0.1], [0.1, 0.0, 0.0]])
    a, b, _ = one.faces[0].tolist()
    flap = torch.tensor([[a, b, 8], [b, a, 9]], dtype=torch.int32)  # two faces more at an edge, one on either side
    shell, report = outer_shell(Mesh(torch.cat([one.vertices, inside]), torch.cat([one.faces, flap])), 32)
    assert report["faces_removed"] == 2 and not {"edges", "sheets"} & shell.__dict__.keys()
    assert shell.report.watertight
