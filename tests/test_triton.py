"""The Triton rows: what happens without Triton, and on a CUDA device the references' answers on random input."""

import logging
from importlib import import_module

import pytest
import torch

from pipeline import stages, triton_launch
from pipeline.backends import Backend, Backends, Operation, lazy
from pipeline.models import operations as network_operations
from pipeline.packing import Int8
from pipeline.replay import Replayed
from pipeline.runtime import Runtime
from pipeline.sparse import (
    ADD_TO_CHILDREN,
    CHILD_CONV,
    SUBMANIFOLD_CONV,
    SparseTensor,
    Voxels,
    reference,
    subdivide,
)

ROWS = (SUBMANIFOLD_CONV, CHILD_CONV, ADD_TO_CHILDREN, *(op.name for op in network_operations.OPERATIONS))
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
# ||found - exact|| / ||exact|| against fp64; on an H200 (torch 2.11, 2026-11-30): 5e-7, 1.7e-3, 2.1e-4
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}


def double(x):
    return 2 * x


def table(function):
    """A table of one operation on any device, whose first row is `function`."""
    row = Backend("triton", function)
    return Backends([Operation("double", (row,), double, lambda device: (torch.ones(3, device=device),), 1e-6)])


def test_without_triton_every_row_says_so_and_the_references_run(monkeypatch):
    monkeypatch.setattr(triton_launch, "find_spec", lambda name: None)
    row = triton_launch.row("pipeline.sparse.conv_kernels", "submanifold_conv", reference.submanifold_conv)
    assert row.function is None and "pip install triton-windows" in row.absent
    backends = stages.table()
    for op in ROWS:
        backends.pick(op, "cpu")
    assert {backends.used[op] for op in ROWS} == {"torch"}


def test_a_broken_triton_costs_one_line_in_the_log(caplog):
    caplog.set_level(logging.WARNING)
    backends = table(lazy(lambda: import_module("no_such_module_of_kernels"), double))
    for _ in range(2):
        assert backends.pick("double", "cpu") is double and backends.used["double"] == "torch"
    assert [record.message for record in caplog.records] == [
        "Backend triton of double is disabled on cpu: it failed: it cannot be imported: No module named "
        "'no_such_module_of_kernels'"
    ]


def test_wrong_numbers_disable_a_row(caplog):
    backends = table(lambda x: 2 * x + 0.01)
    assert backends.pick("double", "cpu") is double and "off by" in caplog.text


def test_a_row_that_does_not_suit_leaves_the_call_to_the_next():
    first = Backend("large", lambda x: x + x, suits=lambda x: len(x) > 3)
    backends = Backends([Operation("double", (first,), double, lambda device: (torch.ones(2),), 0.0)])
    for size, name in ((9, "large"), (3, "torch"), (4, "large")):
        assert torch.equal(backends.pick("double", "cpu")(torch.ones(size)), torch.full((size,), 2.0))
        assert backends.used["double"] == name
    backends.pick("double", "cpu", "large")(torch.ones(1))
    assert backends.used["double"] == "large"


def test_gradients_come_from_the_reference():
    call = lazy(lambda: import_module("no_such_module_of_kernels"), double)
    x = torch.ones(3, requires_grad=True)
    call(x).sum().backward()
    assert torch.equal(x.grad, torch.full((3,), 2.0))


@pytest.fixture
def generator(rng):
    """Another seed at every run: a kernel must be right for any input."""
    return rng


def off(found, exact):
    return ((found.double().cpu() - exact).norm() / exact.norm().clamp_min(1e-30)).item()


def some_voxels(generator, side, share):
    voxels = (torch.rand(side, side, side, generator=generator) < share).nonzero()
    return Voxels.single(voxels if len(voxels) else torch.tensor([[1, 1, 1]]))


# ragged channels and sets; nearly empty neighbourhoods; full ones; one voxel
CASES = [(40, 0.3, 48, 96), (21, 0.01, 64, 64), (30, 0.9, 33, 70), (2, 0.01, 128, 128), (12, 0.4, 80, 320)]


@needs_cuda
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("side", "share", "c_in", "c_out"), CASES)
def test_convolutions(generator, side, share, c_in, c_out, dtype):
    from pipeline.sparse import conv_kernels

    voxels = some_voxels(generator, side, share)
    feats = torch.randn(len(voxels), c_in, generator=generator).to(dtype)
    weight = torch.randn(8 * c_out, 3, 3, 3, c_in, generator=generator).to(dtype)
    bias = torch.randn(8 * c_out, generator=generator).to(dtype)
    subdivision = subdivide(voxels, torch.rand(len(voxels), 8, generator=generator) < 0.5)
    there = subdivision.to("cuda")
    one = weight[:c_out], bias[:c_out]
    exact = reference.submanifold_conv(feats.double(), voxels, *(each.double() for each in one))
    found = conv_kernels.submanifold_conv(feats.cuda(), there.parents, *(each.cuda() for each in one))
    assert found.dtype == dtype and off(found, exact) < TOLERANCE[dtype]
    exact = reference.child_conv(feats.double(), subdivision, weight.double(), bias.double())
    found = conv_kernels.child_conv(feats.cuda(), there, weight.cuda(), bias.cuda())
    assert found.shape == exact.shape and (len(exact) == 0 or off(found, exact) < TOLERANCE[dtype])
    again = conv_kernels.child_conv(feats.cuda(), there, weight.cuda(), bias.cuda())
    assert torch.equal(found, again)


@needs_cuda
def test_neighbours_from_the_parents_are_those_found_by_search(generator):
    from pipeline.sparse import conv_kernels

    voxels = some_voxels(generator, 24, 0.2).to("cuda")
    occupied = torch.rand(len(voxels), 8, generator=generator).cuda() < 0.4
    subdivision = subdivide(voxels, occupied)
    searched = conv_kernels.plan(subdivision.children)
    subdivision.children.release()
    subdivision.children.origin = voxels, subdivision.slots
    derived = conv_kernels.plan(subdivision.children)
    assert torch.equal(searched.table, derived.table) and torch.equal(searched.masks, derived.masks)


@needs_cuda
def test_more_than_a_million_rows(generator):
    from pipeline.sparse import conv_kernels

    count = (1 << 20) + 3
    place = torch.randperm(160**3, generator=generator)[:count].sort().values
    voxels = Voxels.single(torch.stack(torch.unravel_index(place, (160,) * 3), 1)).to("cuda")
    feats = torch.randn(count, 32, generator=generator).half().cuda()
    weight = torch.randn(32, 3, 3, 3, 32, generator=generator).half().cuda()
    found = conv_kernels.submanifold_conv(feats, voxels, weight, None)
    expected = reference.submanifold_conv(feats, voxels, weight, None)
    assert off(found, expected.double().cpu()) < TOLERANCE[torch.float16]


@needs_cuda
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rows", [1, 777])
@pytest.mark.parametrize("channels", [64, 128, 96, 256])
def test_passes_over_activations(generator, rows, channels, dtype):
    """Each against its reference in fp64."""
    from pipeline.models import fused_kernels

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    x, y, h = randn(3, rows, channels).to(dtype)
    scale, shift, gate = randn(3, 1, channels).to(dtype)
    gain, offset = randn(2, channels)
    qkv = randn(rows, 3, 5, 64).to(dtype)
    q, k = qkv.unbind(1)[:2]
    gamma, other = randn(2, 5, 64)
    angles = randn(rows, 32)
    mlp = (
        randn(4 * channels, channels) / channels**0.5,
        randn(4 * channels),
        randn(channels, 4 * channels) / (2 * channels**0.5),
        randn(channels),
    )
    mlp = tuple(each.to(dtype) for each in mlp)
    calls = {
        "layer_norm": [(x, gain, offset, True), (x, None, None, False)],
        "modulated_norm": [(x, scale, shift), (x, y, h)],
        "gated_residual": [(x, y, gate), (x, y, h)],
        "head_norm": [(q, gamma)],
        "qk_rotary": [(q, k, gamma, other, angles.cos(), angles.sin()), (q, k, None, None, angles.cos(), angles.sin())],
        "residual_mlp": [(x, h, gain, offset, *mlp)],
        "norm_linear": [(x, randn(7, channels), randn(7))],
    }
    for name, several in calls.items():
        for arguments in several:
            there = [each.cuda() if isinstance(each, torch.Tensor) else each for each in arguments]
            if name in ("qk_rotary", "head_norm"):  # as the network gives them: views of one product
                there[: 2 if name == "qk_rotary" else 1] = qkv.cuda().unbind(1)[: 2 if name == "qk_rotary" else 1]
            exact = [each.double() if isinstance(each, torch.Tensor) else each for each in arguments]
            with torch.no_grad():
                found, expected = getattr(fused_kernels, name)(*there), in_double(name, exact)
            pairs = zip(found, expected) if isinstance(found, tuple) else [(found, expected)]
            limit = 2 * TOLERANCE[dtype if name != "norm_linear" else torch.float32]  # some round twice
            assert all(off(one, two) < limit for one, two in pairs), name


def in_double(name, arguments):
    """The reference, whose fp32 steps are fp64 here."""
    original = torch.Tensor.float
    torch.Tensor.float = lambda self: self
    try:
        return getattr(network_operations, name)(*arguments)
    finally:
        torch.Tensor.float = original


@needs_cuda
def test_a_recorded_function_gives_the_same_bytes():
    weight = torch.randn(64, 64, device="cuda")
    calls = []

    def function(x, t):
        calls.append(1)
        return torch.tanh(x @ weight) * t

    replayed = Replayed(function)
    for step in range(6):
        x, t = torch.randn(100, 64, device="cuda"), torch.tensor([float(step)], device="cuda")
        assert torch.equal(replayed(x, t), torch.tanh(x @ weight) * t)
    assert len(calls) == 3


@needs_cuda
def test_what_cannot_be_recorded_is_called():
    replayed = Replayed(lambda x: x * float(x.sum().item()))  # asks the device
    for _ in range(5):
        x = torch.rand(10, device="cuda")
        torch.testing.assert_close(replayed(x), x * x.sum())


@needs_cuda
def test_what_a_launch_refuses_while_it_is_recorded_is_called():
    def refused(x):
        if torch.cuda.is_current_stream_capturing():
            raise ValueError("Pointer argument (at 0) cannot be accessed from Triton (cpu tensor?)")
        return 2 * x

    replayed = Replayed(refused)
    for _ in range(5):
        x = torch.rand(10, device="cuda")
        assert torch.equal(replayed(x), 2 * x)


@needs_cuda
def test_every_row_passes_its_check():
    backends = stages.table()
    for op in ROWS:
        backends.pick(op, "cuda")
    others = {"linear_gelu": "cublaslt"}  # torch's own product is the fastest there
    assert {op: backends.used[op] for op in ROWS} == dict.fromkeys(ROWS, "triton") | others


@needs_cuda
@pytest.mark.parametrize("group", [0, 16, 64, 256])
def test_int8_weights_are_unpacked_as_by_the_reference(generator, group):
    from pipeline.models import fused_kernels

    weight, scale = Int8(group).pack(torch.randn(130, 1536, generator=generator))
    exact = Int8(group).unpack(weight, scale, torch.float32)
    found = fused_kernels.unpack_int8(weight.cuda(), scale.cuda(), group, torch.float32)
    assert off(found, exact.double()) < 1e-6
    rounded = fused_kernels.unpack_int8(weight.cuda(), scale.cuda(), group, torch.bfloat16)
    assert off(rounded, exact.double()) < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize(("allocator", "replays"), [("native", True), ("cudaMallocAsync", False)])
def test_nothing_is_recorded_into_memory_that_is_not_there_yet(monkeypatch, allocator, replays):
    """Of ComfyUI's allocator: Triton then failed with "Pointer argument cannot be accessed", and so did the run."""
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: allocator)
    assert Runtime("cuda", stages.default_backends()).replays(torch.nn.Identity(), 100) == replays


@needs_cuda
def test_kernels_compiled_ahead_are_those_that_run(tmp_path, monkeypatch):
    """After the thread has ended, passes of a decoder and a flow add nothing to Triton's cache."""
    from pipeline.models import build, kernels_ahead
    from pipeline.weights import SMALL_CHECKPOINT, Models, open_checkpoint

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    backends, device = stages.table(), torch.device("cuda")
    for op in ROWS:
        backends.pick(op, device)  # whose examples are other kinds
    models = Models(open_checkpoint(SMALL_CHECKPOINT), build)
    roles = ("shape_slat_flow_model_512", "shape_slat_decoder")
    outlines = [lambda role=role: models.outline(role) for role in roles]
    kernels_ahead.compile_ahead(outlines, backends, device, 3).join(300)
    before = set(tmp_path.iterdir())
    flow, decoder = (models.get(role, device) for role in roles)
    x = SparseTensor(Voxels.single(torch.tensor([[1, 2, 3], [1, 2, 4]]).cuda()), torch.randn(2, 32).cuda())
    context = flow.context(torch.randn(1, 9, flow.blocks[0].cross_attn.to_kv.in_features).cuda(), 0, backends)
    with torch.no_grad():
        flow(x.replace(torch.randn(2, flow.in_channels).cuda()), torch.rand(1).cuda(), context, None, backends)
        decoder(x.replace(torch.randn(2, decoder.latent_channels).cuda()), None, backends)
    assert before and set(tmp_path.iterdir()) == before
