"""Sums by group: their values, and that their bits do not depend on the order in which a device adds up."""

import ast
import math
from pathlib import Path

import pytest
import torch
from devices import on_device

import pipeline
from pipeline.mesh.bake.bake import vertex_tangents
from pipeline.mesh.examples import ball
from pipeline.mesh.repair.repair import close_holes, vertex_normals
from pipeline.mesh.topology.half_edges import HalfEdges
from pipeline.mesh.topology.manifold import match
from pipeline.sums import (
    PlainSums,
    WholeSums,
    grouped_sums,
    lanes_of,
    largest_of,
    running_sums,
    sum_by,
    whole_running_sums,
    whole_sum_by,
)

pytestmark = pytest.mark.usefixtures("device")


def rows(count, columns, groups, scale=1.0):
    random = torch.Generator().manual_seed(0)
    values = scale * torch.randn(count, columns, generator=random, dtype=torch.float64)
    values *= 10.0 ** torch.randint(-6, 3, (count, 1), generator=random)
    return values, torch.randint(groups, (count,), generator=random)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e15])
@pytest.mark.parametrize("lanes", [1, 7, None])
def test_whole_numbers_add_up_to_the_same_bits_in_any_order(lanes, scale):
    values, group = rows(3000, 3, 5, scale)
    found = []
    for order in (torch.arange(3000), torch.randperm(3000, generator=torch.Generator().manual_seed(1))):
        sums = WholeSums(5, 3000, values.abs().amax(0), lanes)
        for piece in order.split(700):
            sums.add(group[piece], values[piece])
        found.append(sums.total())
    assert torch.equal(*found)
    for number, total in enumerate(found[0]):
        right = [math.fsum(values[group == number, column].tolist()) for column in range(3)]
        assert (total - torch.tensor(right, dtype=torch.float64)).abs().max() < 1e-14 * values.abs().max()


def test_values_alone_and_groups_without_any():
    values, group = rows(50, 1, 3)
    sums = WholeSums(4, 50, values.abs().max())
    sums.add(group, values[:, 0])
    assert sums.total().shape == (4,) and sums.total()[3] == 0
    assert WholeSums(2, 0, torch.zeros(3, dtype=torch.float64)).total().tolist() == [[0.0] * 3] * 2
    assert WholeSums(0, 0, torch.zeros((), dtype=torch.float64)).total().shape == (0,)
    assert lanes_of(1) == 256 and lanes_of(1 << 30) == 1 and lanes_of(0) == 256
    assert isinstance(grouped_sums(1, 1, torch.zeros(1)), PlainSums)


@pytest.mark.parametrize("wrong", [(math.nan,), (math.inf,), (-math.inf,), (math.inf, -math.inf), (math.inf, math.nan)])
def test_what_is_not_finite_stays_in_its_group_and_column_as_on_a_cpu(wrong):
    values, group = rows(60, 2, 3)
    for place, value in zip((7, 41), wrong):
        values[place, 1], group[place] = value, 2
    expected = sum_by(values, group, 4)
    assert (~expected.isfinite()).nonzero().tolist() == [[2, 1]]
    torch.testing.assert_close(whole_sum_by(values, group, 4), expected, equal_nan=True, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(on_device(sum_by)(values, group, 4), expected, equal_nan=True, rtol=1e-12, atol=1e-10)
    pieces = WholeSums(4, 60, largest_of(values))
    for piece in torch.arange(60).split(25):
        pieces.add(group[piece], values[piece])
    torch.testing.assert_close(pieces.total(), expected, equal_nan=True, rtol=1e-12, atol=1e-10)
    line = values[:, 1]
    torch.testing.assert_close(whole_running_sums(line), line.cumsum(0), equal_nan=True, rtol=1e-12, atol=1e-10)
    assert whole_running_sums(line)[:7].isfinite().all()


def test_a_vertex_that_is_not_finite_spoils_the_normals_of_its_own_faces_alone(monkeypatch):
    monkeypatch.setattr("pipeline.mesh.repair.repair.grouped_sums", WholeSums)  # also where there is no GPU
    mesh = ball(torch.device("cpu"), 8)
    spoilt = mesh.vertices.clone()
    spoilt[0] = math.nan
    near = mesh.faces[(mesh.faces == 0).any(1)].long().unique()
    apart = torch.ones(len(spoilt), dtype=torch.bool)
    apart[near] = False
    for normals in (vertex_normals, on_device(vertex_normals)):
        found = normals(spoilt, mesh.faces)
        torch.testing.assert_close(found[apart], normals(mesh.vertices, mesh.faces)[apart], rtol=0, atol=1e-6)


def test_a_cpu_adds_up_in_order_and_a_gpu_to_the_same_value():
    values, group = rows(20_000, 4, 9)
    plain = torch.zeros(9, 4, dtype=torch.float64).index_add_(0, group, values)
    torch.testing.assert_close(on_device(sum_by)(values, group, 9), plain, rtol=1e-12, atol=1e-10)
    assert torch.equal(sum_by(values, group, 9), plain)
    whole = torch.arange(20_000)
    assert on_device(sum_by)(whole, group, 9).dtype == torch.int64
    positive = values[:, 0].abs()
    torch.testing.assert_close(on_device(running_sums)(positive), positive.cumsum(0), rtol=1e-10, atol=1e-8)
    assert on_device(running_sums)(positive[:0]).shape == (0,)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("count", [0, 1, 700])
def test_what_a_gpu_does_has_the_shapes_and_values_of_what_a_cpu_does(count, shape):
    random = torch.Generator().manual_seed(3)
    values, group = torch.randn(count, *shape, generator=random), torch.randint(4, (count,), generator=random)
    found = whole_sum_by(values, group, 5)
    torch.testing.assert_close(found, sum_by(values.double(), group, 5).float(), rtol=0, atol=1e-6)
    if not shape:
        torch.testing.assert_close(whole_running_sums(values), values.double().cumsum(0), rtol=0, atol=1e-9)


def test_steps_that_sum_give_the_same_bytes_again():
    """Hole filling, normals and tangents of a mesh with many faces round its vertices, five times."""
    mesh = ball(torch.device("cpu"), 40)
    kept = torch.rand(len(mesh.faces), generator=torch.Generator().manual_seed(2)) > 0.02
    faces = mesh.faces[kept]
    uvs = mesh.vertices[:, :2].contiguous()

    def filled(vertices, faces):
        return close_holes(vertices, match(vertices, HalfEdges.of(faces))[0], 1.0)[0]

    def once():
        normals = on_device(vertex_normals)(mesh.vertices, faces)
        tangents = on_device(vertex_tangents)(mesh.vertices, faces, uvs, normals)
        return on_device(filled)(mesh.vertices, faces), normals, tangents

    first = once()
    assert len(first[0]) > len(mesh.vertices), "there are holes"
    for _ in range(4):
        assert all(map(torch.equal, first, once()))


# (file, why sums of floating point in any order do no harm there)
PLAIN = {
    "sums.py": "the one place",
    "bench/shapes.py": "makes examples, on the CPU",
    "mesh/query/sight.py": "adds ones",
    "mesh/query/cells.py": "one addition to each place",
    "mesh/remesh/patches.py": "adds ones",
    "mesh/remesh/untangle.py": "on the CPU",
    "mesh/simplify/flaps.py": "whole numbers",
    "mesh/repair/winding.py": "whole numbers",
    "mesh/topology/manifold.py": "on the CPU",
    "mesh/topology/measures.py": "on the CPU",
    "mesh/topology/outward.py": "whole numbers",
    "mesh/uv/charts.py": "whole numbers",
    "mesh/uv/joints.py": "whole numbers",
    "mesh/uv/unwrap.py": "whole numbers",
    "project/blend.py": "one addition to each place",
    "sparse/reference.py": "on MPS, which has no other",
}


def test_no_other_file_adds_up_by_group_on_its_own():
    root = Path(pipeline.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in (
                "index_add",
                "index_add_",
                "scatter_add_",
                "scatter_add",
            ):
                found.add(path.relative_to(root).as_posix())
    assert found == set(PLAIN)
