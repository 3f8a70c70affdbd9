"""Peak memory of a raw mesh's processing on a GPU, counted without one; what is cut to lower it gives the same bits."""

import pytest
import torch
from allocated import Allocated
from manifolds import moebius, without_warp

from pipeline import stages
from pipeline.bench.shapes import STEEPEST, bench_field, spoil, surface_net
from pipeline.mesh import CLEAN, OUTER_SHELL, SIMPLIFY, WINDING
from pipeline.mesh.query import winding_number
from pipeline.mesh.remesh import closedness
from pipeline.mesh.repair.clean import CleanSettings
from pipeline.mesh.simplify import collapse
from pipeline.mesh.topology import columns, half_edges, sorting
from pipeline.mesh.topology.half_edges import HalfEdges, Sheets
from pipeline.runtime import Runtime
from pipeline.stages import default_backends
from pipeline.warp import unavailable_reason

FACES = 9_876_232  # of a measured full-size object


class OnCuda(Allocated):
    """With what CUDA's operations take for their time beside their results, which no dispatch shows."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.peak = max(self.peak, self.now + _within(func, args, kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)


def _within(func, args, kwargs):
    name = func.name().partition("::")[2].partition(".")[0]
    given = args[0] if args and isinstance(args[0], torch.Tensor) else None
    if given is None:
        return 0
    count, size = given.numel(), given.element_size()
    if name == "sort" and given.dim() == 1 and count > 4096:  # results, int64 numbers, and both doubled
        return count * (size + 8 + 8 + size + 8) + (0 if given.is_contiguous() else count * size)
    if name in ("index", "index_put", "index_put_"):  # masks and int32 become int64 numbers
        found = [each for each in args[1] if each is not None]
        masks = sum(int(each.count_nonzero()) for each in found if each.dtype in (torch.bool, torch.uint8))
        return 8 * (masks + sum(each.numel() for each in found if each.dtype == torch.int32))
    if name == "cumsum":
        kind = kwargs.get("dtype") or (given.dtype if given.is_floating_point() else torch.int64)
        return 2 * count * kind.itemsize if kind != given.dtype else 0
    return 0


@pytest.fixture
def as_on_cuda(monkeypatch):
    """torch's ways on the CPU, and how much is worked on at once in proportion to a mesh of so many faces."""

    def scaled(faces):
        without_warp(monkeypatch)
        for module in (sorting, half_edges):
            monkeypatch.setattr(module, "on_cpu", lambda tensor: False)
        share = faces / FACES
        monkeypatch.setattr(sorting, "_AT_ONCE", int(sorting._AT_ONCE * share))
        monkeypatch.setattr(columns, "_CACHED", 8 * int(columns._LARGE * share / 8))
        monkeypatch.setattr(collapse, "_SAMPLES", int(collapse._SAMPLES * share))

    return scaled


def damaged(side):
    """As `spoil`, with as few defects for a face as that makes on a full-size mesh; holes too long to be filled."""
    vertices, faces = surface_net(bench_field, side, steepest=STEEPEST)
    faces = faces[torch.randperm(len(faces), generator=torch.Generator().manual_seed(1))]
    faces[::999] = faces[::999].flip(1)
    x, y, z = vertices[faces.long()].mean(1).unbind(1)
    return vertices, torch.cat([faces[(x.abs() > 0.05) | (y.abs() > 0.05) | (z < 0)], faces[:9]])


@pytest.mark.skipif(bool(unavailable_reason()), reason=unavailable_reason())
def test_a_raw_mesh_is_processed_in_115_bytes_a_face(as_on_cuda):
    """Beside itself. It was 223 where "auto" looks whether the mesh is meant to be closed, and 182 elsewhere."""
    side = 56
    raw = stages.Mesh(*damaged(side))
    backends = default_backends({CLEAN: "torch", SIMPLIFY: "warp-cpu"})
    for op in (CLEAN, SIMPLIFY, OUTER_SHELL, WINDING):  # each is tried at its first use
        backends.pick(op)
    as_on_cuda(len(raw.faces))
    with OnCuda() as found:
        mesh = backends.pick(CLEAN)(raw, CleanSettings())
        assert closedness.closedness(mesh, backends.pick(WINDING)).agreement > 0.5 and len(mesh.edges.border())
        del mesh
        looked_at, found.peak = found.peak, 0
        stages.process_mesh(Runtime("cpu", backends), raw, len(raw.faces) // 100, resolution=side // 2)
    assert looked_at < 115 * len(raw.faces)
    assert found.peak < 115 * len(raw.faces)


def test_keys_in_ranges_and_links_in_parts_give_the_same(as_on_cuda):
    """Fins, repeated faces and sheets that cannot be consistently oriented among them."""
    vertices, faces = surface_net(bench_field, 40, steepest=STEEPEST)
    strip = moebius()[1]
    faces = torch.cat([spoil(vertices, faces)[1], strip.int() + int(faces.max()) + 300])
    key = faces[:, 0].contiguous()

    def all_of_it():
        edges = HalfEdges.of(faces, False)
        sheets = Sheets.of(edges)
        return [
            *sorting.grouped(key, int(key.max()) + 9, False), *sorting.by_corners(faces, False), edges.twin,
            edges.non_manifold, torch.tensor(edges.count), sheets.label, sheets.flip, sheets.orientable,
        ]  # fmt: skip

    expected = all_of_it()
    as_on_cuda(len(faces))
    assert not expected[-1].all() and len(faces) > sorting._AT_ONCE
    for one, other in zip(all_of_it(), expected):
        assert one.dtype == other.dtype and torch.equal(one, other)


def test_a_field_and_closedness_in_parts_are_the_same(monkeypatch):
    vertices, faces = spoil(*surface_net(bench_field, 40, steepest=STEEPEST))
    mesh, points = stages.Mesh(vertices, faces), vertices[::50] + 0.01

    def all_of_it():
        tree = winding_number.WindingField(vertices, faces)
        asked = []
        closedness.closedness(mesh, lambda vertices, faces, points: asked.append(points) or points[:, 0])
        return tree._corners, tree._centres, tree._moments, tree._radii, tree._first, *asked, points

    monkeypatch.setattr(columns, "_CACHED", 1 << 30)
    expected = all_of_it()
    monkeypatch.setattr(columns, "_CACHED", 1 << 9)
    assert all(torch.equal(one, other) for one, other in zip(all_of_it(), expected))
