"""Writes checkpoints as ComfyUI's int8 convrot bundles and as GGUF files."""

import json
import shutil
import struct

import torch
from bundles import PREFIXES
from safetensors.torch import load_file, save_file

from pipeline.packing import Int8

LAYERS = ("to_qkv", "to_q", "to_kv", "to_out", "mlp.mlp.0", "mlp.mlp.2")


def note(**changes):
    """The text that stands beside a quantised layer."""
    told = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 16} | changes
    return torch.frombuffer(bytearray(json.dumps(told).encode()), dtype=torch.uint8)


def packed(tensors, outer="", group=16, dtype=None):
    """A network's tensors with the linear layers of its blocks in int8, rotated in groups, and the rest in dtype."""
    made = {}
    for key, value in tensors.items():
        layer = key.removesuffix(".weight")
        if key.startswith("blocks.") and layer.endswith(LAYERS) and Int8(group).fits(tuple(value.shape)):
            made[f"{outer}{key}"], made[f"{outer}{layer}.weight_scale"] = Int8(group).pack(value)
            made[f"{outer}{layer}.comfy_quant"] = note(convrot_groupsize=group)
        elif value.dtype != torch.complex64:
            made[outer + key] = value.to(dtype or value.dtype)
    return made


def int8_bundle(checkpoint, path, prefixes, outer="model."):
    """ComfyUI's bundle of flows in int8, and bf16 beside it."""
    tensors = {}
    for prefix in prefixes:
        weights = load_file(checkpoint / "ckpts" / f"{PREFIXES[prefix]}.safetensors")
        tensors |= packed(weights, outer + prefix, dtype=torch.bfloat16)
    save_file(tensors, path)


def int8_folder(checkpoint, folder):
    """A copy of a checkpoint in the released layout whose flows are in int8."""
    shutil.copytree(checkpoint, folder)
    for path in (folder / "ckpts").glob("*flow*.safetensors"):
        save_file(packed(load_file(path)), path)
    return folder


def q8_0(weight):
    """A weight [out, in] in GGUF's Q8_0: uint8 [out, in / 32 * 34]."""
    blocks = weight.float().unflatten(1, (-1, 32))
    scale = (blocks.abs().amax(2, keepdim=True) / 127).half()
    whole = (blocks / scale.float().clamp(min=1e-8)).round().to(torch.int8)
    return torch.cat([scale.view(torch.uint8), whole.view(torch.uint8)], 2).flatten(1)


def gguf_file(path, tensors, architecture="trellis2"):
    """A GGUF file: matrices of blocks as Q8_0 where rows fit, the rest F32; shapes of more than four dimensions are
    flattened and noted, as city96's converter does."""

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    facts = [text("general.architecture") + struct.pack("<I", 8) + text(architecture)]
    infos, data = b"", b""
    for key, value in tensors.items():
        shape = tuple(value.shape)
        if len(shape) > 4:
            numbers = struct.pack(f"<IIQ{len(shape)}i", 9, 5, len(shape), *shape)
            facts.append(text(f"comfy.gguf.orig_shape.{key}") + numbers)
            shape = (shape[0], value[0].numel())
        packed = key.startswith("blocks.") and len(shape) == 2 and shape[1] % 32 == 0
        stored = q8_0(value.reshape(shape)) if packed else value.float()
        infos += text(key) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], 8 if packed else 0, len(data))
        data += stored.contiguous().numpy().tobytes()
        data += b"\0" * (-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts)) + b"".join(facts) + infos
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)


def gguf_folder(checkpoint, folder):
    """A copy of a checkpoint in the released layout whose flows and sparse decoders are GGUF files."""
    shutil.copytree(checkpoint, folder)
    for path in (folder / "ckpts").glob("*slat*.safetensors"):
        tensors = {key: value for key, value in load_file(path).items() if value.dtype != torch.complex64}
        gguf_file(path.with_name(f"{path.stem}_Q8_0.gguf"), tensors)
        path.unlink()
    return folder
