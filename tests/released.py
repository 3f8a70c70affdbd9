"""Sparse files with the headers, and so the sizes, of the released ones; tensor lists in released_tensors.json."""

import json
import math
import os
import struct
from pathlib import Path

from pipeline.models import build
from pipeline.packing import BLOCKS
from pipeline.spec import IMAGE_ENCODER, RELEASED_FILES, RELEASED_MODELS

_LISTS = json.loads((Path(__file__).parent / "released_tensors.json").read_text(encoding="utf-8"))
_FLOW = "slat_flow_img2shape_dit_1_3B_512_bf16"
_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1}
NOTE = b'{"format":"int8_tensorwise","convrot":true,"convrot_groupsize":256}'
QUANTISED = ("to_qkv", "to_q", "to_kv", "to_out", "mlp.mlp.0", "mlp.mlp.2")  # 210 matrices a network
ROLES = [role for role in RELEASED_FILES if role != IMAGE_ENCODER]
NAMES = {role: RELEASED_FILES[role].rpartition("/")[2] for role in ROLES}
PREFIXES = {
    "model.structure_model.": "sparse_structure_flow_model",
    "model.img2shape_512.": "shape_slat_flow_model_512",
    "model.img2shape.": "shape_slat_flow_model_1024",
    "model.shape2txt.": "tex_slat_flow_model_1024",
}


def tensors(role):
    """{key: (dtype, shape)} of a released file."""
    args = RELEASED_MODELS[role]["args"]
    if role == IMAGE_ENCODER:
        import torch

        with torch.device("meta"):
            return {key: ("F32", list(value.shape)) for key, value in build(RELEASED_MODELS[role]).state_dict().items()}
    found = {}
    for pattern, dtype, shape, *numbers in _LISTS.get(NAMES[role], _LISTS[_FLOW]):
        first, last = map(int, numbers[0].split("-")) if numbers and isinstance(numbers[0], str) else (0, 0)
        indices = range(first, last + 1) if not numbers or isinstance(numbers[0], str) else numbers[0]
        for index in indices:
            found[pattern.replace("#", str(index))] = (dtype, shape)
    if "flow" in role:
        found["input_layer.weight"] = ("BF16", [1536, args["in_channels"]])
        found["out_layer.weight"] = ("BF16", [args["out_channels"], 1536])
        found["out_layer.bias"] = ("BF16", [args["out_channels"]])
    return found


def int8(listed):
    """A flow's tensors as ComfyUI's int8 convrot file has them."""
    made = {}
    for key, (dtype, shape) in listed.items():
        layer = key.removesuffix(".weight")
        if key.startswith("blocks.") and key.endswith(".weight") and layer.endswith(QUANTISED):
            made |= {key: ("I8", shape), f"{layer}.weight_scale": ("F32", [shape[0], 1])}
            made[f"{layer}.comfy_quant"] = ("U8", [len(NOTE)])
        else:
            made[key] = (dtype, shape)
    return made


def write(path, listed):
    """A sparse safetensors file; only what tells a layer's format is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries, here = {}, 0
    for key, (dtype, shape) in listed.items():
        size = _BYTES[dtype] * math.prod(shape)
        entries[key] = {"dtype": dtype, "shape": shape, "data_offsets": [here, here + size]}
        here += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for key, entry in entries.items():
            if key.endswith(".comfy_quant"):
                file.seek(8 + len(text) + entry["data_offsets"][0])
                file.write(NOTE)
    os.truncate(path, 8 + len(text) + here)
    return path


def write_gguf(path, listed, kind, architecture="trellis2"):
    """A sparse GGUF file; matrices whose rows fit are of one kind, the rest F16."""

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    numbers = {"Q8_0": 8, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14}
    infos, here = b"", 0
    for key, (_, shape) in listed.items():
        packed = len(shape) == 2 and BLOCKS[kind].fits(tuple(shape))
        infos += text(key) + struct.pack(
            f"<I{len(shape)}QIQ", len(shape), *shape[::-1], numbers[kind] if packed else 1, here
        )
        size = math.prod(BLOCKS[kind].stored(tuple(shape))) if packed else 2 * math.prod(shape)
        here += -(-size // 32) * 32
    facts = text("general.architecture") + struct.pack("<I", 8) + text(architecture)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(listed), 1) + facts + infos
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head)
    os.truncate(path, -(-len(head) // 32) * 32 + here)
    return path


def config(path, role):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(RELEASED_MODELS[role]))


def pair(folder, role):
    """JSON and weights of a released model."""
    config(folder / f"{NAMES[role]}.json", role)
    write(folder / f"{NAMES[role]}.safetensors", tensors(role))


def description(folder):
    """The released pipeline.json, as far as it is read."""
    from pipeline.spec import RELEASED

    def sampler(one):
        params = {"steps": one.steps, "guidance_strength": one.guidance_scale, "guidance_rescale": one.guidance_rescale}
        params |= {"guidance_interval": list(one.guidance_interval), "rescale_t": one.time_shift}
        return {"name": "FlowEulerGuidanceIntervalSampler", "args": {"sigma_min": 1e-5}, "params": params}

    def normalisation(one):
        return {"mean": list(one.mean), "std": list(one.std)}

    args = {
        "models": {role: RELEASED_FILES[role] for role in ROLES},
        "sparse_structure_sampler": sampler(RELEASED.structure_sampler),
        "shape_slat_sampler": sampler(RELEASED.shape_sampler),
        "tex_slat_sampler": sampler(RELEASED.texture_sampler),
        "shape_slat_normalization": normalisation(RELEASED.shape_normalisation),
        "tex_slat_normalization": normalisation(RELEASED.texture_normalisation),
        "image_cond_model": {"name": "DinoV3FeatureExtractor", "args": {"model_name": RELEASED_FILES[IMAGE_ENCODER]}},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pipeline.json").write_text(json.dumps({"name": "Trellis2ImageTo3DPipeline", "args": args}))
