"""Networks' Triton kernels compiled ahead: which launches a pass needs, compiled once, by threads, without a launch."""

import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from allocated import KERNELS

from pipeline import stages, triton_launch
from pipeline.backends import Backend, Backends, Operation
from pipeline.models import build, kernels_ahead
from pipeline.models.operations import OPERATIONS as NETWORK_OPERATIONS
from pipeline.sparse import CHILD_CONV, SUBMANIFOLD_CONV, SparseTensor, Voxels
from pipeline.sparse import OPERATIONS as SPARSE_OPERATIONS
from pipeline.spec import RELEASED_MODELS, SHAPE_DECODER, STRUCTURE_FLOW, TEXTURE_DECODER
from pipeline.stages.checks import prepare_networks
from pipeline.weights import SMALL_CHECKPOINT, Models, open_checkpoint


class Kernel:
    """As a triton.JITFunction: parameters x, rows (not specialised) and channels."""

    def __init__(self, fails=False):
        self.params = [SimpleNamespace(do_not_specialize=name == "rows") for name in ("x", "rows", "channels")]
        self.compiled, self.launched, self.fails = [], 0, fails

    def warmup(self, *arguments, grid, **constants):
        if self.fails:
            raise RuntimeError("PTXAS error")
        self.compiled.append((arguments, constants, threading.current_thread().name))
        return SimpleNamespace(run=self)

    def __getitem__(self, grid):
        def run(*arguments, **constants):
            self.launched += 1

        return run


def table(kernel):
    """The whole table, in which layer norms have a row that launches a kernel of ours."""

    def norm(x, weight, bias, silu, over=False):
        triton_launch.launch(kernel, (1,), x, len(x), x.shape[1], SILU=silu)
        return torch.empty_like(x)

    def row(operation):
        if operation.name in (SUBMANIFOLD_CONV, CHILD_CONV):
            return Operation(operation.name, (Backend("triton", KERNELS[operation.name]),), operation.reference)
        if operation.name != "layer_norm":
            return Operation(operation.name, (), operation.reference)
        return Operation("layer_norm", (Backend("triton", norm),), operation.reference)

    return Backends(row(each) for each in (*SPARSE_OPERATIONS, *NETWORK_OPERATIONS))


def outline(role):
    with torch.device("meta"):
        return build(RELEASED_MODELS[role])


def test_a_launch_is_written_down_only_where_it_is_collected():
    kernel = Kernel()
    with triton_launch.collect() as found:
        triton_launch.launch(kernel, (1,), torch.empty(3, 4, device="meta"), 3, 4, SILU=True)
        other = threading.Thread(target=triton_launch.launch, args=(kernel, (1,), torch.empty(1), 1, 2))
        other.start()
        other.join()
    triton_launch.launch(kernel, (1,), torch.empty(3), 3, 4)
    assert kernel.launched == 2 and [each.arguments for each in found] == [(torch.float32, 3, 4)]


def test_launches_are_told_apart_as_triton_does():
    kernel = Kernel()

    def key(rows, channels, dtype=torch.float16, **constants):
        return triton_launch.Launch(kernel, (dtype, rows, channels), constants).key

    assert key(7, 64) == key(9, 128) and key(1, 1) == key(16, 1)
    assert len({key(7, 64), key(7, 65), key(7, 1), key(7, 64, torch.float32), key(7, 64, SILU=True)}) == 5


@pytest.mark.parametrize("role", [STRUCTURE_FLOW, SHAPE_DECODER, TEXTURE_DECODER])
def test_a_pass_on_meta_names_what_a_pass_launches(role):
    kernel, model = Kernel(), outline(role)
    found = kernels_ahead.launches(model, table(kernel))
    assert kernel.launched == 0 and kernel.compiled == []
    kinds = {(each.arguments[0], each.arguments[2] % 16, each.constants["SILU"]) for each in found}
    expected = {(torch.bfloat16, 0, False)} if role == STRUCTURE_FLOW else {(torch.float16, 0, True)}
    assert kinds == expected and len(found) == 1  # widths that Triton does not tell apart are one kind


def test_a_pass_with_numbers_launches_the_same():
    kernel, models = Kernel(), Models(open_checkpoint(SMALL_CHECKPOINT), build)
    ahead = kernels_ahead.launches(models.outline(SHAPE_DECODER, torch.float32), table(kernel))
    decoder = models.get(SHAPE_DECODER, torch.device("cpu"), torch.float32)
    x = SparseTensor(Voxels.single(torch.tensor([[1, 2, 3], [1, 2, 4]])), torch.randn(2, decoder.latent_channels))
    with triton_launch.collect() as seen, torch.no_grad():
        decoder(x, None, kernels_ahead._Kernels(table(kernel)))
    assert {each.key for each in seen} == {each.key for each in ahead} and len(seen) > len(ahead) > 0


def compile_all(monkeypatch, kernel, outlines, workers=3):
    monkeypatch.setattr(triton_launch, "unavailable_reason", lambda: "")
    monkeypatch.setitem(sys.modules, "triton.errors", SimpleNamespace(TritonError=KeyError))
    kernels_ahead._known.cache_clear()
    kernels_ahead._walked.cache_clear()
    device = torch.device("cuda")
    for _ in range(2):
        thread = kernels_ahead.compile_ahead(outlines, table(kernel), device, workers)
        thread.join(60)
        assert not thread.is_alive()


def test_threads_compile_each_kind_once(monkeypatch):
    kernel, models = Kernel(), [outline(role) for role in (STRUCTURE_FLOW, SHAPE_DECODER, TEXTURE_DECODER)]
    compile_all(monkeypatch, kernel, [lambda model=model: model for model in models])
    kinds = {each.key for model in models for each in kernels_ahead.launches(model, table(kernel))}
    assert kernel.launched == 0 and len(kernel.compiled) == len(kinds) == 2


def test_what_cannot_be_compiled_or_opened_is_left_to_the_run(monkeypatch, caplog):
    caplog.set_level("INFO")

    def gone():
        raise RuntimeError("no such file")

    compile_all(monkeypatch, Kernel(fails=True), [gone, lambda: outline(SHAPE_DECODER)])
    assert "not compiled ahead: no such file" in caplog.text and "not compiled ahead: PTXAS error" in caplog.text


def test_nothing_is_started_on_a_cpu_or_downloaded(monkeypatch):
    started = []
    monkeypatch.setattr(stages.checks, "compile_ahead", lambda outlines, *others: started.append(len(outlines)))
    models = Models(open_checkpoint(SMALL_CHECKPOINT), build)
    prepare_networks(models, [SHAPE_DECODER], stages.table(), torch.device("cpu"), None)
    prepare_networks(models, [SHAPE_DECODER, TEXTURE_DECODER], stages.table(), torch.device("cuda"), None)
    models.fetch([SHAPE_DECODER])
    prepare_networks(models, [SHAPE_DECODER, TEXTURE_DECODER], stages.table(), torch.device("cuda"), None)
    assert started == [0, 1]
