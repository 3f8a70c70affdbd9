"""The maximum number of faces: what is kept for it, and what is said where it is missed."""

import pytest
import torch

pytest.importorskip("warp")
from finish_meshes import SIDE, ball

from pipeline import stages
from pipeline.backends import Backend, Backends, Operation
from pipeline.bench.shapes import bench_field, surface_net
from pipeline.mesh.query.surface import Surface
from pipeline.runtime import Runtime


def runtime(**options):
    return Runtime("cpu", stages.table(), **options)


@pytest.mark.parametrize("target", [100, 500, 3000])
def test_the_face_count_is_a_ceiling(target):
    """Also where parting what touches needs faces of its own: bodies that share edges and corners."""
    solid = torch.zeros(8, 8, 8, dtype=torch.bool)
    solid[:6, :6, :6] = torch.rand(6, 6, 6, generator=torch.Generator().manual_seed(1)) > 0.5
    mesh = stages.Mesh(*surface_net(lambda p: 0.5 - solid[tuple(((p + 0.5) * 8).long().clamp(0, 7).T)].float(), SIDE))
    result = stages.process_mesh(runtime(), mesh, target, shells="surface")
    assert 0.9 * target <= len(result.faces) <= target
    assert result.facts["mesh"]["non_manifold_edges"] == 0


def test_thin_parts_survive_strong_simplifying():
    """A plate and rods a few cells thin: no point of theirs is far from 2 % of the faces."""
    raw = stages.Mesh(*surface_net(bench_field, 96))
    used = runtime()
    mesh = stages.process_mesh(used, raw, 2000, resolution=96)
    assert used.backends.used["simplify"] == "hybrid" and mesh.facts["mesh"]["non_manifold_edges"] == 0
    corners = raw.vertices[raw.faces[::7].long()].mean(1)
    assert Surface(mesh.vertices, mesh.faces).closest(corners).distance.max() < 0.04


@pytest.fixture(scope="module")
def pierced():
    """A ball with 250 holes, which edge collapse keeps: it gets stuck above 1,000 faces."""
    vertices, faces = surface_net(ball(0.4), SIDE)
    centre = vertices[faces.long()].mean(1)
    holes = torch.nn.functional.normalize(torch.randn(250, 3, generator=torch.Generator().manual_seed(1)), dim=1) * 0.4
    return stages.Mesh(vertices, faces[torch.cdist(centre, holes).amin(1) > 0.012])


@pytest.fixture(scope="module")
def frame():
    """A closed grid of bars with 42 handles."""
    cells = torch.zeros(16, 16, 16, dtype=torch.bool)
    at = torch.arange(1, 15)
    cells[torch.meshgrid(at, at[::4], at[::4], indexing="ij")] = True
    cells[torch.meshgrid(at[::4], at, at[::4], indexing="ij")] = True
    for x, y in ((1, 1), (5, 9), (13, 5)):
        cells[x, y, 1:15] = True
    return stages.Mesh(*surface_net(lambda p: 0.5 - cells[tuple(((p + 0.5) * 16).long().clamp(0, 15).T)].float(), SIDE))


def told(mesh, word):
    return [warning for warning in mesh.facts["warnings"] if word in warning]


@pytest.mark.parametrize("row", ["hybrid", "warp-cpu"])
def test_a_face_count_that_holes_do_not_allow_is_reached_without_some_of_them(pierced, row):
    used = Runtime("cpu", Backends(stages.table().operations.values(), {"simplify": row}))
    mesh = stages.process_mesh(used, pierced, 300, max_hole_perimeter=0, shells="surface")
    facts, (warning,) = mesh.facts, told(mesh, "faces are few")
    assert 250 <= len(mesh.faces) <= 300 and used.backends.used["simplify"] == row
    assert "188 holes and 0 handles need about 948 of them" in warning and "some of these are gone" in warning
    assert facts["faces_asked"] == 300 and facts["mesh"]["faces"] == len(mesh.faces)
    assert facts["mesh"]["non_manifold_edges"] == facts["mesh"]["inconsistent_edges"] == 0
    assert mesh.vertices.norm(dim=1).mean() == pytest.approx(0.4, rel=0.02)  # a ball still
    assert Surface(mesh.vertices, mesh.faces).closest(pierced.vertices).distance.max() < 0.06


def test_a_face_count_that_is_missed_is_said(pierced):
    stuck = Backend("stuck", lambda mesh, target, tick: mesh)
    table = [*stages.table().operations.values(), Operation("simplify", (stuck,))]
    mesh = stages.process_mesh(Runtime("cpu", Backends(table)), pierced, 300, max_hole_perimeter=0, shells="surface")
    assert told(mesh, f"300 faces were asked for, {len(mesh.faces):,} were reached: ")


def test_few_faces_for_many_handles_are_said(frame, pierced):
    enough = stages.process_mesh(runtime(), frame, 4000, shells="surface")
    few = stages.process_mesh(runtime(), frame, 600, shells="surface")
    assert not told(enough, "faces") and len(few.faces) <= 600 and few.facts["mesh"]["watertight"]
    assert told(few, "600 faces are few: 0 holes and 42 handles need about 508 of them")


def test_what_is_closed_is_not_opened_for_a_face_count(frame):
    """It has fewer handles then."""
    mesh = stages.process_mesh(runtime(), frame, 200, shells="solid", resolution=64, lods=(100,))
    for level, most in zip(mesh.levels, (200, 100), strict=True):
        assert level.facts["mesh"]["watertight"] and 0.9 * most < len(level.faces) <= most
    assert told(mesh, "200 faces are few: 0 holes and 42 handles need about 508 of them")
