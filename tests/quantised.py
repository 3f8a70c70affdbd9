"""Writes checkpoints as ComfyUI's int8 convrot bundles and as GGUF files."""

import json
import shutil

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
