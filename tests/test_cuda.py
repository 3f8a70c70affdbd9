"""On a CUDA device: the same answers as on the CPU, in every precision, and the same bytes twice."""

import pytest
import torch

from pipeline import stages
from pipeline.bench.shapes import bench_field, spoil, surface_net
from pipeline.errors import OutOfMemoryError
from pipeline.image import prepare, read_picture
from pipeline.mesh import Mesh
from pipeline.mesh.bake.raster import rasterise
from pipeline.mesh.grid.dual_grid import dual_grid_to_mesh
from pipeline.mesh.repair.clean import CleanSettings, clean
from pipeline.models import build
from pipeline.runtime import Runtime
from pipeline.sparse import SparseTensor, Voxels, subdivide
from pipeline.sparse.reference import attention, submanifold_conv, trilinear
from pipeline.spec import PIPELINE_TYPES
from pipeline.weights import Models, open_checkpoint

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")

# Relative errors ||found - exact|| / ||exact|| against fp64; on an H200 (torch 2.11, 2026-11-21): convolution
# 1.1e-7 / 1.8e-3 / 2.3e-4, attention 6.3e-7 / 2.2e-3 / 2.8e-4 for fp32 / bf16 / fp16.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
DTYPES = tuple(TOLERANCE)


@pytest.fixture
def generator(rng):
    """Another seed at every run: a kernel must be right for any input."""
    return rng


def off(found, exact):
    return ((found.double().cpu() - exact).norm() / exact.norm()).item()


def voxels_of(generator, side=40, share=0.3):
    return Voxels.single((torch.rand(side, side, side, generator=generator) < share).nonzero())


@pytest.mark.parametrize("dtype", DTYPES)
def test_convolution(generator, dtype):
    voxels = voxels_of(generator)
    feats = torch.randn(len(voxels), 48, generator=generator).to(dtype)
    weight = torch.randn(96, 3, 3, 3, 48, generator=generator).to(dtype)
    bias = torch.randn(96, generator=generator).to(dtype)
    exact = submanifold_conv(feats.double(), voxels, weight.double(), bias.double())
    found = submanifold_conv(feats.cuda(), voxels.to("cuda"), weight.cuda(), bias.cuda())
    assert found.dtype == dtype and off(found, exact) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [(1500,), (700, 700), (900, 1, 333)])
def test_attention(generator, dtype, lengths):
    q, k, v = torch.randn(3, sum(lengths), 4, 128, generator=generator).to(dtype)
    exact = attention(q.double(), k.double(), v.double(), lengths, lengths)
    found = attention(q.cuda(), k.cuda(), v.cuda(), lengths, lengths)
    assert off(found, exact) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_trilinear(generator, dtype):
    voxels = voxels_of(generator)
    feats = torch.randn(len(voxels), 6, generator=generator).to(dtype)
    points = torch.rand(20_000, 3, generator=generator) * 42 - 1
    exact = trilinear(feats.double(), voxels, points)
    assert off(trilinear(feats.cuda(), voxels.to("cuda"), points.cuda()), exact) < 1e-6


def test_maps_and_meshes_are_equal(generator):
    """Integer work has one right answer: subdivisions, neighbours, dual grid, cleaning, raster."""
    voxels = voxels_of(generator, 24)
    there = voxels.to("cuda")
    occupied = torch.rand(len(voxels), 8, generator=generator) < 0.5
    children = subdivide(voxels, occupied).children
    assert torch.equal(subdivide(there, occupied.cuda()).children.coords.cpu(), children.coords)
    for one, other in zip(children.neighbours.chunks, Voxels(children.coords.cuda()).neighbours.chunks):
        assert torch.equal(one.sources, other.sources.cpu().long()) and one.offset_starts == other.offset_starts
    offsets, crossed = torch.rand(len(voxels), 3, generator=generator), torch.rand(len(voxels), 3, generator=generator)
    split = torch.rand(len(voxels), 1, generator=generator)
    here = dual_grid_to_mesh(voxels, offsets, crossed > 0.4, 24, split)
    away = dual_grid_to_mesh(there, offsets.cuda(), crossed.cuda() > 0.4, 24, split.cuda())
    assert torch.equal(here[1], away[1].cpu())
    torch.testing.assert_close(here[0], away[0].cpu(), atol=1e-7, rtol=0)
    settings = CleanSettings(max_hole_perimeter=0.15)
    raw = spoil(*surface_net(bench_field, 40))
    done, done_away = (clean(Mesh(*raw).to(device), settings, by_rays=True) for device in ("cpu", "cuda"))
    assert done.changes == done_away.changes and torch.equal(done.faces, done_away.faces.cpu())
    torch.testing.assert_close(done.vertices, done_away.vertices.cpu(), atol=1e-6, rtol=0)
    uvs, triangles = torch.rand(900, 2, generator=generator), torch.arange(900).reshape(-1, 3)
    apart = uvs.reshape(-1, 3, 2) * 0.05 + torch.rand(300, 1, 2, generator=generator) * 0.9
    apart = apart.reshape(-1, 2)
    found, expected = rasterise(apart.cuda(), triangles.cuda(), 256), rasterise(apart, triangles, 256)
    assert torch.equal(found[0].cpu() >= 0, expected[0] >= 0)  # where triangles overlap either may win


@pytest.mark.parametrize("name", ["ss_flow", "slat_flow_shape", "slat_flow_tex"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_golden_flows(golden, name, dtype):
    data = golden(f"{name}_{dtype}")
    model, on_device = data.model().cuda(), {key: value.cuda() for key, value in data.tensors.items()}
    context = model.context(on_device["in.cond"])
    if name == "ss_flow":
        found = model(on_device["in.x"], on_device["in.t"], context)
    else:
        x = SparseTensor(Voxels.single(on_device["in.coords"]), on_device["in.feats"])
        found = model(x, on_device["in.t"], context, on_device.get("in.concat"))
    limit = {"float32": 1e-4, "bfloat16": 2e-2}[dtype]
    assert (found.cpu() - data["out.v"]).abs().max() <= limit


@pytest.mark.parametrize("name", ["shape_dec", "shape_dec_fp16"])
def test_golden_shape_decoder(golden, name):
    data, full = golden(name), golden("shape_dec")
    x = SparseTensor(Voxels.single(full["in.coords"].cuda()), full["in.feats"].cuda())
    fields, _ = data.model(weights=full).cuda()(x)
    found, expected = ({tuple(row) for row in c.tolist()} for c in (fields.voxels.xyz.cpu(), data["out.coords"]))
    assert len(found & expected) >= 0.999 * len(found | expected)


def run(checkpoint, picture, dtype=torch.float32, device="cuda"):
    models = Models(open_checkpoint(checkpoint), build)
    runtime = Runtime(device, stages.table(), dtype)
    image = prepare(read_picture(picture))
    return stages.generate(runtime, models, [image], PIPELINE_TYPES["1024_cascade"], 42), runtime


def test_golden_pipeline(golden, checkpoint, picture):
    """Coordinates nearly all equal, features within TF32 rounding, as the reference's own CUDA kernels are."""
    data, made = golden("pipeline_1024_cascade"), run(checkpoint, picture)[0]
    assert torch.equal(made.structure.coords.cpu(), data["out.structure_coords"])
    assert torch.equal(made.shape.sparse.voxels.coords.cpu(), data["out.shape_slat.coords"])
    for found, name in ((made.shape, "shape_slat"), (made.texture, "tex_slat")):
        assert (found.sparse.feats.cpu() - data[f"out.{name}.feats"]).abs().max() <= 1e-2
    found, expected = (
        {tuple(row) for row in c.tolist()} for c in (made.voxels.sparse.voxels.coords.cpu(), data["out.voxel.coords"])
    )
    assert len(found & expected) >= 0.999 * len(found | expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_run_twice_gives_the_same_bits(checkpoint, picture, dtype):
    one, two = (run(checkpoint, picture, dtype)[0] for _ in range(2))
    assert torch.equal(one.shape.sparse.feats, two.shape.sparse.feats)
    assert torch.equal(one.mesh.vertices, two.mesh.vertices)
    assert torch.equal(one.voxels.sparse.feats, two.voxels.sparse.feats)


def test_memory_is_measured_and_running_out_is_named(checkpoint, picture):
    made, runtime = run(checkpoint, picture)
    assert all(1e6 < record.peak_bytes < 1e9 for record in runtime.records)
    cure = "on cuda in stage 'too much'. Lower your expectations"
    with pytest.raises(OutOfMemoryError, match=cure), runtime.stage("too much", 1, "Lower your expectations."):
        torch.empty(1 << 45, dtype=torch.uint8, device="cuda")
    with runtime.stage("enough", 1, ""):  # and the next stage works
        assert made.mesh.vertices.cuda().isfinite().all()
