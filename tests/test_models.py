"""The networks against the reference's outputs, and against themselves."""

import pytest
import torch

from pipeline.errors import CheckpointError
from pipeline.image import prepare, read_picture, to_pixels
from pipeline.models import build
from pipeline.sparse import SparseTensor, Voxels, subdivide

# What the reference keeps between machines (golden/README.md). On the 2-core CPU of 2026-11 the largest errors
# were 7e-6 (fp32) and 1e-6 (bf16).
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
DTYPES = tuple(TOLERANCE)


def near(found, expected, tolerance):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance


def sparse_input(data):
    return SparseTensor(Voxels.single(data["in.coords"]), data["in.feats"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_structure_flow(golden, dtype):
    data = golden(f"ss_flow_{dtype}")
    model = data.model()
    condition = model.context(data["in.cond"])
    near(model(data["in.x"], data["in.t"], condition), data["out.v"], TOLERANCE[dtype])
    near(
        model(data["in.x"], data["in.t"], model.zero_context("cpu")),
        data["out.v_zero_cond"],
        TOLERANCE[dtype],
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["shape", "tex"])
def test_latent_flow(golden, kind, dtype):
    data = golden(f"slat_flow_{kind}_{dtype}")
    model, x, concat = data.model(), sparse_input(data), data.get("in.concat")
    near(model(x, data["in.t"], model.context(data["in.cond"]), concat), data["out.v"], TOLERANCE[dtype])
    near(
        model(x, data["in.t"], model.zero_context("cpu"), concat),
        data["out.v_zero_cond"],
        TOLERANCE[dtype],
    )


def test_the_zero_context_is_the_context_of_zeros(golden):
    """No cross-attention is needed for the negative condition: same numbers as computing it in full."""
    data = golden("slat_flow_shape_float32")
    model, x = data.model(), sparse_input(data)
    full = model(x, data["in.t"], model.context(torch.zeros_like(data["in.cond"])))
    near(model(x, data["in.t"], model.zero_context("cpu")), full, 1e-6)


def test_packed_samples_do_not_see_each_other(golden):
    data = golden("slat_flow_shape_float32")
    model, one = data.model(), sparse_input(data)
    few = 60
    coords = torch.cat([one.voxels.coords, one.voxels.coords[:few] + torch.tensor([1, 0, 0, 0], dtype=torch.int32)])
    both = SparseTensor(Voxels(coords), torch.cat([one.feats, one.feats[:few]]))
    conditions = torch.cat([data["in.cond"], data["in.cond"].flip(1) * 2])
    t = torch.tensor([300.0, 800.0])
    together = model(both, t, model.context(conditions))
    first = model(one, t[:1], model.context(conditions[:1]))
    alone = SparseTensor(Voxels.single(one.voxels.xyz[:few]), one.feats[:few])
    second = model(alone, t[1:], model.context(conditions[1:]))
    near(together, torch.cat([first, second]), 1e-5)


def test_structure_decoder(golden):
    data = golden("ss_dec")
    near(data.model()(data["in.z"]), data["out.logits"], TOLERANCE["float32"])


def test_shape_decoder(golden):
    data = golden("shape_dec")
    model = data.model()
    fields, subdivisions = model(sparse_input(data))
    assert torch.equal(fields.voxels.xyz, data["out.coords"])
    near(fields.feats, data["out.h"], TOLERANCE["float32"])
    for level, subdivision in enumerate(subdivisions):
        assert torch.equal(subdivision.parents.xyz, data[f"out.sub{level}.coords"])
        near(subdivision.logits, data[f"out.sub{level}.logits"], TOLERANCE["float32"])
    levels = int(data.facts["upsample_times"])
    assert torch.equal(model.upsample(sparse_input(data), levels).xyz, data["out.upsample_coords"])


def test_shape_decoder_fp16(golden):
    """Voxels whose logit lies within rounding of zero may differ: compare as sets."""
    half, full = golden("shape_dec_fp16"), golden("shape_dec")
    fields, subdivisions = half.model(weights=full)(sparse_input(full))
    found, expected = ({tuple(row) for row in coords.tolist()} for coords in (fields.voxels.xyz, half["out.coords"]))
    assert len(found & expected) >= 0.999 * len(found | expected)
    assert subdivisions[0].logits.dtype == torch.float16
    near(subdivisions[0].logits, half["out.sub0.logits"], 2e-2)


def test_texture_decoder(golden):
    data = golden("tex_dec")
    x = sparse_input(data)
    subdivisions, voxels = [], x.voxels
    for level in range(2):
        subdivisions.append(subdivide(voxels, data[f"in.sub{level}.logits"] > 0))
        voxels = subdivisions[-1].children
    fields, _ = data.model()(x, subdivisions)
    assert torch.equal(fields.voxels.xyz, data["out.coords"])
    near(fields.feats * 0.5 + 0.5, data["out.attrs"], TOLERANCE["float32"])


def test_shape_encoder(golden):
    data = golden("shape_enc")
    mean, log_variance = data.model()(Voxels.single(data["in.coords"]), data["in.local"], data["in.intersected"])
    assert torch.equal(mean.voxels.xyz, data["out.coords"])
    near(mean.feats, data["out.feats"], TOLERANCE["float32"])
    assert log_variance.shape == mean.feats.shape


@pytest.mark.parametrize("size", [64, 96])
def test_image_encoder(golden, picture, size):
    data = golden("image_encoder")
    pixels = to_pixels([prepare(read_picture(picture))], size)
    near(data.model()(pixels), data[f"out.tokens_{size}"], TOLERANCE["float32"])


@pytest.mark.parametrize(
    "name",
    ["ss_flow_float32", "slat_flow_tex_bfloat16", "ss_dec", "shape_dec", "tex_dec", "shape_enc", "image_encoder"],
)
def test_the_state_dict_has_the_checkpoints_keys_shapes_and_dtypes(golden, name):
    data = golden(name)
    state = build(data.config).state_dict()
    stored = data.weights
    assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in stored.items()}
    assert {key: value.dtype for key, value in state.items()} == {key: value.dtype for key, value in stored.items()}


def test_another_torso_dtype(golden):
    """A bf16 model run in fp32 keeps its stored values and only loses the rounding."""
    data = golden("slat_flow_shape_bfloat16")
    model = build(data.config, torch.float32)
    model.load_state_dict(data.weights)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    v = model(sparse_input(data), data["in.t"], model.context(data["in.cond"]))
    near(v.detach(), data["out.v"], 2 * TOLERANCE["bfloat16"])  # all of bf16's error, not that between two machines


def test_working_in_row_blocks_changes_nothing(golden, monkeypatch):
    from pipeline.models import operations
    from pipeline.sparse import reference

    data = golden("shape_dec")
    model = data.model()
    whole = model(sparse_input(data))[0].feats
    monkeypatch.setattr(operations, "_ROWS", 100)
    monkeypatch.setattr(reference, "_PASS_ROWS", 100)
    near(model(sparse_input(data))[0].feats, whole, 1e-5)


def test_the_models_differentiate(golden):
    data = golden("shape_dec")
    model = data.model().requires_grad_(True)
    fields, subdivisions = model(sparse_input(data))
    (fields.feats.square().mean() + sum(one.logits.square().mean() for one in subdivisions)).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "UNet", "args": {}}, "Unknown model 'UNet'"),
        ({"name": "SLatFlowModel", "args": {"resolution": 8}}, "missing arguments cond_channels"),
        ({"name": "SparseStructureDecoder", "args": {"norm_type": "group"}}, "norm_type 'group' is not part"),
        ({"name": "SLatFlowModel", "args": {"pe_mode": "ape"}}, "pe_mode 'ape' is not part"),
        ({"name": "SLatFlowModel", "args": {"dtype": "int8"}}, "unknown dtype 'int8'"),
        ({"name": "SLatFlowModel", "args": {"colour": 1}}, "unknown arguments colour"),
        ({"name": "FlexiDualGridVaeDecoder", "args": {"block_args": [{"x": 1}]}}, "unknown block arguments x"),
    ],
)
def test_what_cannot_be_built_is_named(config, message):
    with pytest.raises(CheckpointError, match=message):
        build(config)
