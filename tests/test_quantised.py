"""Quantised weights: the formats, the layers that keep them, and files that cannot be read."""

import shutil

import pytest
import torch
from bundles import PREFIXES, bundle
from quantised import gguf_folder, int8_bundle, int8_folder, note
from safetensors.torch import load_file, save_file
from scipy.spatial import cKDTree

from pipeline.errors import CheckpointError
from pipeline.models import build
from pipeline.packing import Int8
from pipeline.spec import Samplers, SamplerSettings
from pipeline.weights import Models, open_checkpoint

CPU = torch.device("cpu")
FLOWS, DECODERS = list(PREFIXES)[:4], list(PREFIXES)[4:]
ROLE = "shape_slat_flow_model_512"
pytestmark = pytest.mark.usefixtures("one_thread")


def test_int8_is_unpacked_by_the_formula():
    """Weight = ((int8 * scale) in groups of 256 columns) @ H, H = kron(h4, h4, h4, h4) / 16."""
    h4 = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=torch.float32)
    h = torch.kron(torch.kron(torch.kron(h4, h4), h4), h4) / 16
    assert torch.equal(h @ h, torch.eye(256))
    weight = torch.randn(64, 1536)
    weight[:, 7] *= 30  # a column of outliers, which the rotation spreads
    stored, scale = Int8(256).pack(weight)
    expected = ((stored * scale).unflatten(1, (-1, 256)) @ h).flatten(1)
    found = Int8(256).unpack(stored, scale, torch.float32)
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()
    assert (found - weight).norm() / weight.norm() < 0.012
    plain, plain_scale = Int8().pack(weight)
    assert (Int8().unpack(plain, plain_scale, torch.float32) - weight).norm() / weight.norm() > 0.02


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A folder as ComfyUI's template leaves it: int8 flows, both VAEs."""
    from conftest import GOLDEN_CHECKPOINT

    folder = tmp_path_factory.mktemp("int8")
    int8_bundle(GOLDEN_CHECKPOINT, folder / "trellis_2_int8_convrot.safetensors", FLOWS)
    bundle(GOLDEN_CHECKPOINT, folder / "trellis_2_shape_vae_bf16.safetensors", DECODERS[:2], torch.bfloat16)
    bundle(GOLDEN_CHECKPOINT, folder / "trellis_2_texture_vae_bf16.safetensors", DECODERS[2:], torch.bfloat16)
    return folder


def test_int8_layers_stay_int8_and_give_the_weights(packed, checkpoint):
    flow = Models(open_checkpoint(packed), build).get(ROLE, CPU, torch.float32)
    original = Models(open_checkpoint(checkpoint), build).get(ROLE, CPU)
    block, dense = flow.blocks[0], original.blocks[0]
    for name in ("self_attn.to_qkv", "cross_attn.to_kv", "mlp.mlp.0"):
        layer, other = block.get_submodule(name), dense.get_submodule(name)
        assert layer.weight.dtype == torch.int8 and layer.weight.shape == other.weight.shape
        found = layer.unpack(layer.weight)
        assert (found - other.weight).norm() / other.weight.norm() < 0.012
        assert layer.bias.dtype == torch.float32 and torch.equal(layer.bias, other.bias.bfloat16().float())
        x = torch.randn(5, layer.in_features)
        product = torch.nn.functional.linear(x, found, layer.bias)
        gelu = torch.nn.functional.gelu(product, approximate="tanh")
        assert torch.equal(layer(x), gelu if name == "mlp.mlp.0" else product)
    sizes = [sum(p.nbytes for n, p in m.named_parameters() if "qkv.weight" in n) for m in (flow, original)]
    assert sizes[0] * 4 == sizes[1]


def test_layers_are_handed_over_unpacked(packed):
    """For operations that take the weights of several layers at once."""
    from pipeline.models.layers import weights_of

    layer = Models(open_checkpoint(packed), build).get(ROLE, CPU, torch.bfloat16).blocks[0].mlp.mlp[0]
    weight, bias = weights_of(layer, CPU)
    assert weight.dtype == bias.dtype == torch.bfloat16 and torch.equal(weight, layer.unpack(layer.weight))


# format -> what the run may differ by: Chamfer distance by the diagonal, mean of the base colour of 255, and how much
# of the structure's voxels are the same. Measured 2.5e-3, 20, 0.995; 2.6e-3, 29, 0.987; 3.5e-4, 1.2, 1 (EPYC, torch
# 2.13): one voxel more or less in the structure moves the noise of all that come after it, as another kernel does.
LIMITS = {"bf16": (5e-3, 40, 0.98), "int8": (5e-3, 45, 0.96), "gguf": (2e-3, 6, 0.99)}


def test_a_run_of_the_small_checkpoint_repacked(root, tmp_path, capsys):
    """The same rocket as the checkpoint's own, in few steps; the differences are printed."""
    from PIL import Image

    from pipeline import stages
    from pipeline.image import prepare
    from pipeline.runtime import Runtime
    from pipeline.spec import PIPELINE_TYPES

    small = root / "checkpoints" / "small"
    folders = {
        "int8": int8_folder(small, tmp_path / "int8"),
        "gguf": gguf_folder(small, tmp_path / "gguf"),
        "own": small,
    }
    folders["bf16"] = shutil.copytree(small, tmp_path / "bf16")
    for path in (folders["bf16"] / "ckpts").glob("*.safetensors"):
        save_file({key: value.bfloat16() for key, value in load_file(path).items()}, path)
    picture = prepare(Image.open(root / "assets" / "rocket.png"))
    samplers = Samplers(*[SamplerSettings(2, 2.0, 0.5, (0.5, 1.0), 3.0)] * 3)
    made = {}
    for name, folder in folders.items():
        runtime = Runtime(CPU, stages.table(), torch.float32)
        models = Models(open_checkpoint(folder), build)
        made[name] = stages.generate(runtime, models, [picture], PIPELINE_TYPES["512"], 42, samplers=samplers)
    own = made.pop("own")
    occupied = own.structure.coords
    diagonal = (own.mesh.vertices.amax(0) - own.mesh.vertices.amin(0)).norm().item()
    for name, other in made.items():
        one, two = ({tuple(row) for row in coords.tolist()} for coords in (occupied, other.structure.coords))
        there, where = cKDTree(other.mesh.vertices.numpy()).query(own.mesh.vertices.numpy())
        back, _ = cKDTree(own.mesh.vertices.numpy()).query(other.mesh.vertices.numpy())
        chamfer = (there.mean() + back.mean()) / 2 / diagonal
        colours = own.voxels.sparse.feats[:, :3] - other.voxels.sparse.feats[where][:, :3]
        colour, same = 255 * colours.abs().mean().item(), len(one & two) / len(one | two)
        with capsys.disabled():
            print(f"\n{name}: Chamfer {chamfer:.1e} of the diagonal, colour {colour:.1f} / 255, structure {same:.1%}")
        limits = LIMITS[name]
        assert 0 < chamfer < limits[0] and colour < limits[1] and same > limits[2]


def test_kitchen_agrees():
    """ComfyUI's own package reads the format the same way, and its product is a row that has to be asked for."""
    pytest.importorskip("comfy_kitchen")
    from comfy_kitchen.tensor import TensorWiseINT8Layout

    from pipeline.backends import Backends
    from pipeline.models.operations import OPERATIONS, PACKED_LINEAR

    weight, scale = Int8(256).pack(torch.randn(96, 512))
    parameters = TensorWiseINT8Layout.Params(
        scale=scale, orig_dtype=torch.float32, orig_shape=(96, 512), convrot=True, convrot_groupsize=256
    )
    theirs = TensorWiseINT8Layout.dequantize(weight, parameters)
    ours = Int8(256).unpack(weight, scale, torch.float32)
    assert (theirs - ours).abs().max() <= 2e-6 * ours.abs().max()
    x = torch.randn(7, 512)
    table = Backends(OPERATIONS)
    exact = table.pick(PACKED_LINEAR, CPU, "torch")(x, weight, scale, None, 256)
    theirs = table.pick(PACKED_LINEAR, CPU, "comfy_kitchen")(x, weight, scale, None, 256)
    assert 0 < (theirs - exact).norm() / exact.norm() < 0.03


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t, k: t.pop(f"{k}.weight_scale"), r"lacks its factors .*weight_scale: the file was not converted"),
        (lambda t, k: t.pop(f"{k}.comfy_quant"), r"is I8, quantised, and the file lacks .*comfy_quant"),
        (lambda t, k: t.update({f"{k}.weight_scale": torch.ones(3, 1)}), "which do not go together"),
        (lambda t, k: t.update({f"{k}.comfy_quant": note(convrot_groupsize=48)}), "in groups of 48, where powers of 4"),
        (lambda t, k: t.update({f"{k}.comfy_quant": note(format="nvfp4")}), r"is nvfp4 .* not read: .* Use the bf16"),
        (lambda t, k: t.update({f"{k}.comfy_quant": note(format="mxfp8")}), "is mxfp8, which is not read"),
        (lambda t, k: t.update({f"{k}.comfy_quant": note(format="convrot_w4a4")}), "is convrot_w4a4"),
        (lambda t, k: t.update({f"{k}.comfy_quant": note(format="float8_e4m3fn")}), "is scaled fp8"),
        (lambda t, k: t.update({f"{k}.comfy_quant": note(format=[1])}), "format is not known"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_cure(packed, tmp_path, edit, message):
    tensors = load_file(packed / "trellis_2_int8_convrot.safetensors")
    edit(tensors, "model.img2shape_512.blocks.0.self_attn.to_qkv")
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "odd.safetensors")


def test_plain_fp8_is_refused_with_the_reason(checkpoint, tmp_path):
    bundle(checkpoint, tmp_path / "fp8.safetensors", ["img2shape."], torch.float8_e4m3fn)
    with pytest.raises(CheckpointError, match=r"is plain fp8 .* empties structures.*Use the bf16"):
        open_checkpoint(tmp_path / "fp8.safetensors")


def test_a_scalar_factor_counts_for_all_rows(checkpoint, tmp_path):
    int8_bundle(checkpoint, tmp_path / "int8.safetensors", ["img2shape."])
    tensors = load_file(tmp_path / "int8.safetensors")
    key = "model.img2shape.blocks.0.self_attn.to_qkv.weight_scale"
    tensors[key] = tensors[key].mean()
    save_file(tensors, tmp_path / "int8.safetensors")
    flow = Models(open_checkpoint(tmp_path), build).get("shape_slat_flow_model_1024", CPU)
    layer = flow.blocks[0].self_attn.to_qkv
    assert layer.weight_scale.shape == (layer.out_features, 1) and (layer.weight_scale == tensors[key]).all()
