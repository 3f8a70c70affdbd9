"""GGUF files: the header, the formats of blocks, and networks that keep them."""

import struct

import pytest
import released
import torch
from quantised import gguf_file, gguf_folder, q8_0

from pipeline.errors import CheckpointError
from pipeline.models import build
from pipeline.packing import BLOCKS
from pipeline.weights import Models, open_checkpoint
from pipeline.weights.gguf import read_gguf

CPU = torch.device("cpu")
ROLE = "shape_slat_flow_model_512"
pytestmark = pytest.mark.usefixtures("one_thread")


def random_blocks(kind):
    """Three rows of two blocks of any bytes, with factors that are ordinary numbers."""
    packing = BLOCKS[kind]
    data = (torch.arange(6 * packing.size) * 7919 % 251).to(torch.uint8).reshape(6, -1)
    for place in {"Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}[kind]:
        factor = (torch.arange(6).half()[:, None] + 1) / 8
        data[:, place : place + 2] = factor.view(torch.uint8)
    return data.reshape(3, -1)


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_are_unpacked_as_by_the_gguf_package(kind):
    gguf = pytest.importorskip("gguf")
    data = random_blocks(kind)
    expected = gguf.quants.dequantize(data.numpy(), gguf.GGMLQuantizationType[kind])
    found = BLOCKS[kind].unpack(data, None, torch.float32)
    assert found.shape == (3, 2 * BLOCKS[kind].count)
    assert torch.equal(found, torch.from_numpy(expected))


# of what the gguf package 0.19.0 makes of random_blocks(kind): the sum, that of magnitudes, the value at [1, 37]
PACKAGE = {
    "Q8_0": (-388.0, 5502.25, -11.5),
    "Q4_K": (131258.125, 136772.375, 108.75),
    "Q5_K": (258608.75, 262764.75, 37.5),
    "Q6_K": (-16096.375, 705519.125, -41.625),
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_are_unpacked_as_the_package_did(kind):
    found = BLOCKS[kind].unpack(random_blocks(kind), None, torch.float32).double()
    assert (found.sum().item(), found.abs().sum().item(), found[1, 37].item()) == pytest.approx(PACKAGE[kind], rel=1e-6)


def test_networks_stay_packed(checkpoint, tmp_path):
    """Linear layers of flows keep their blocks; what is no plain linear layer is unpacked as it is read."""
    folder = gguf_folder(checkpoint, tmp_path / "own")
    models, original = (Models(open_checkpoint(path), build) for path in (folder, checkpoint))
    layer = models.get(ROLE, CPU).blocks[0].self_attn.to_qkv
    weight = original.get(ROLE, CPU).blocks[0].self_attn.to_qkv.weight
    assert layer.weight.dtype == torch.uint8 and torch.equal(layer.weight, q8_0(weight))
    assert 0 < (layer.unpack(layer.weight) - weight).norm() / weight.norm() < 0.01
    decoders = [each.get("shape_slat_decoder", CPU, torch.float32) for each in (models, original)]
    conv, other = (decoder.blocks[0][0].conv for decoder in decoders)
    assert conv.weight.shape == other.weight.shape and conv.weight.dtype == torch.float32
    assert (conv.weight - other.weight).norm() / other.weight.norm() < 0.01
    assert models.fingerprint(ROLE) != original.fingerprint(ROLE)


def test_another_networks_file_is_named(checkpoint, tmp_path):
    folder = gguf_folder(checkpoint, tmp_path / "own")
    path = folder / "ckpts" / f"{ROLE}_Q8_0.gguf"
    gguf_file(path, {"blk.0.attn_q.weight": torch.ones(32, 32)}, "llama")
    with pytest.raises(CheckpointError, match=r"a GGUF file of the architecture 'llama' and holds nothing of SLatFlow"):
        Models(open_checkpoint(folder), build).get(ROLE, CPU)


def test_formats_that_are_not_read_are_named(checkpoint, tmp_path):
    folder = gguf_folder(checkpoint, tmp_path / "own")
    path = folder / "ckpts" / f"{ROLE}_Q8_0.gguf"
    content = path.read_bytes()
    key = b"blocks.0.self_attn.to_qkv.weight"
    place = content.index(key) + len(key) + 4 + 16
    path.write_bytes(content[:place] + struct.pack("<I", 10) + content[place + 4 :])
    with pytest.raises(CheckpointError, match=r"to_qkv.weight is Q2_K; read are Q8_0, Q4_K, .* Take the Q8_0 file"):
        Models(open_checkpoint(folder), build).fetch([ROLE])


def damaged(path):
    """Ways in which a file can be cut or wrong."""
    content = path.read_bytes()
    yield "no GGUF", b"GGML" + content[4:]
    yield "version 9", content[:4] + struct.pack("<I", 9) + content[8:]
    yield "counts more", content[:8] + struct.pack("<Q", 1 << 40) + content[16:]
    yield "would end at byte", content[:-5000]
    for length in range(4, 200, 7):
        yield "damaged or truncated", content[:length]


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "x.gguf"
    gguf_file(path, {"blocks.0.a.weight": torch.ones(64, 64), "b": torch.ones(2000)})
    assert read_gguf(path).shapes == {"blocks.0.a.weight": (64, 64), "b": (2000,)}
    for message, content in list(damaged(path)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            read_gguf(path)


def test_no_header_is_read_without_end(tmp_path):
    """A text or a list as long as the file says would fill the memory."""
    for value in (struct.pack("<IQ", 8, 1 << 50), struct.pack("<IIQ", 9, 4, 1 << 50), struct.pack("<IIQ", 9, 9, 5)):
        path = tmp_path / "x.gguf"
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + value + bytes(100))
        with pytest.raises(CheckpointError, match="damaged or truncated"):
            read_gguf(path)


def test_released_sizes(tmp_path):
    """A flow of 1.29 G parameters in Q4_K: 0.74 GB."""
    path = released.write_gguf(tmp_path / "x.gguf", released.tensors("shape_slat_flow_model_1024"), "Q4_K")
    header = read_gguf(path)
    assert header.shapes["blocks.29.mlp.mlp.0.weight"] == (8192, 1536) and header.architecture == "trellis2"
    assert 0.7e9 < path.stat().st_size < 0.8e9
