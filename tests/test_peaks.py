"""Peak memory of full-size networks, counted without a GPU; what is cut to lower it gives the same numbers."""

import pytest
import torch
from allocated import Allocated, Kernels

from pipeline.models import build, flow
from pipeline.models.packed import pack
from pipeline.packing import Int8
from pipeline.sparse import SparseTensor, Voxels
from pipeline.spec import RELEASED_MODELS, SHAPE_FLOW_1024, STRUCTURE_FLOW

MULTIPROCESSORS = 132  # of an H200
OVERHEAD = 70_000_000  # bytes that a device holds beside: workspaces of products, conditions
INT8 = ("to_qkv", "to_q", "to_kv", "to_out", "mlp.mlp.0", "mlp.mlp.2")  # as ComfyUI's files have it


@pytest.fixture(autouse=True)
def as_in_a_stage(monkeypatch):
    monkeypatch.setattr(flow, "block_rows", lambda device, channels: 128 * (4 * MULTIPROCESSORS // -(-channels // 256)))
    with torch.no_grad():
        yield


def forward(tokens, seen, quantised=False, blocks=30):
    """Bytes of the weights of a released latent flow, those of its context, and the peak of the rest in a forward."""
    with torch.device("meta"):
        config = RELEASED_MODELS[SHAPE_FLOW_1024]
        model = build({**config, "args": {**config["args"], "num_blocks": blocks}}).requires_grad_(False)
        if quantised:
            names = [name for name, _ in model.named_modules() if name.startswith("blocks.") and name.endswith(INT8)]
            pack(model, dict.fromkeys(names, Int8(256)))
        weights = sum(each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers()))
        x = SparseTensor(
            Voxels.single(torch.empty(tokens, 3, dtype=torch.int32)), torch.empty(tokens, model.in_channels)
        )
        condition, t = torch.empty(1, seen, 1024), torch.empty(1)
        with Allocated() as found:
            context = model.context(condition, tokens, Kernels())
            kept = found.now
            model(x, t, context, None, Kernels())
    return weights, kept, found.peak - kept


def test_a_forward_holds_five_times_its_tokens():
    """Queries, keys and values beside what they are of; a block of the MLP's hidden channels. It was 29 times."""
    for tokens in (19_256, 43_828):
        _, kept, peak = forward(tokens, 4101, blocks=4)
        assert kept == 4101 * 1024 * 2 and peak < 5.4 * tokens * 1536 * 2


def test_int8_weights_take_60_percent():
    peaks = [sum(forward(19_256, 4101, quantised)) + OVERHEAD for quantised in (True, False)]
    assert peaks[0] < 0.6 * peaks[1]


def test_keys_and_values_are_kept_where_making_them_would_cost_more():
    """Twice the width for each token of the condition and block; nothing else of a product is held with them."""
    _, kept, _ = forward(4912, 1029)
    assert kept <= 1.01 * 30 * 2 * 1029 * 1536 * 2


def small(role, **changes):
    torch.manual_seed(0)
    args = {"model_channels": 96, "cond_channels": 32, "num_blocks": 3, "num_heads": 2, "dtype": "float32", **changes}
    return build({**RELEASED_MODELS[role], "args": {**RELEASED_MODELS[role]["args"], **args}}).eval()


@pytest.mark.parametrize("batch", [1, 2])
def test_keys_and_values_made_at_each_pass_give_the_same_bits(batch):
    model = small(STRUCTURE_FLOW, resolution=6)
    x, t, condition = torch.randn(batch, 8, 6, 6, 6), torch.rand(batch) * 1000, torch.randn(batch, 7, 32)
    kept, made = model.context(condition), model.context(condition, 10**6)
    assert isinstance(kept.blocks[0], tuple) and made.blocks[0] is made.blocks[1]
    assert torch.equal(model(x, t, kept), model(x, t, made))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_an_mlp_in_blocks_of_rows_gives_the_same(monkeypatch, batch, packed):
    """To rounding: some CPUs' libraries choose a product's kernel by its rows; an H200's did not, at full size."""
    model = small(STRUCTURE_FLOW, resolution=8)
    if packed:
        for block in model.blocks:
            for layer in (block.mlp.mlp[0], block.mlp.mlp[2]):
                layer.weight.data = torch.randint(-9, 9, layer.weight.shape).float() / 64
        with_weights = {name: layer for name, layer in model.named_modules() if name.endswith(INT8[-2:])}
        numbers = {name: Int8(16).pack(layer.weight) for name, layer in with_weights.items()}
        pack(model, dict.fromkeys(numbers, Int8(16)))
        for name, (weight, scale) in numbers.items():
            layer = model.get_submodule(name)
            layer.weight.data, layer.weight_scale = weight, scale
    x, t, condition = torch.randn(batch, 8, 8, 8, 8), torch.rand(batch) * 1000, torch.randn(batch, 7, 32)
    context, calls = model.context(condition), []
    whole = model(x, t, context)
    monkeypatch.setattr(flow, "block_rows", lambda device, channels: calls.append(1) or 200)
    torch.testing.assert_close(model(x, t, context), whole, rtol=1e-5, atol=1e-5)
    assert len(calls) == 3
