"""ComfyUI core's bundles: several models in one safetensors file, told apart by prefix, without configurations.

The configuration of each model is read off the shapes of its tensors, so any width and depth works; what
shapes do not show (latent grids, samplers, normalisation) is that of the released checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import CheckpointError
from ..spec import (
    IMAGE_ENCODER,
    RELEASED_MODELS,
    SHAPE_DECODER,
    SHAPE_FLOW_512,
    SHAPE_FLOW_1024,
    STRUCTURE_DECODER,
    STRUCTURE_FLOW,
    TEXTURE_DECODER,
    TEXTURE_FLOW_1024,
)
from .contents import read_contents
from .files import ModelFiles
from .headers import header_text

_PREFIXES = {
    "structure_model.": STRUCTURE_FLOW,
    "img2shape_512.": SHAPE_FLOW_512,
    "img2shape.": SHAPE_FLOW_1024,
    "shape2txt.": TEXTURE_FLOW_1024,
    "struct_dec.": STRUCTURE_DECODER,
    "shape_dec.": SHAPE_DECODER,
    "txt_dec.": TEXTURE_DECODER,
}
# Prefixes of ComfyUI's own files, and of checkpoints saved by a workflow.
_OUTER = ("", "model.diffusion_model.", "model.", "diffusion_model.", "vae.", "first_stage_model.")
_FULL = {outer + prefix: role for prefix, role in _PREFIXES.items() for outer in _OUTER}
# A key of Pixal3D, another model with the same names for its flows.
PIXAL3D = b".cross_attn.proj_linear."
_ENCODER_KEY = "embeddings.register_tokens"
_MOST_LEVELS = 64
_DECODER_ROLES = frozenset({STRUCTURE_DECODER, SHAPE_DECODER, TEXTURE_DECODER})
# role -> possible beginnings of its keys in a header's text
_KEYS = {role: [f'"{outer}{prefix}'.encode() for outer in _OUTER] for prefix, role in _PREFIXES.items()}
_KEYS[IMAGE_ENCODER] = [f'"{_ENCODER_KEY}"'.encode(), b'"blocks.0.gamma_1"']  # as released, timm's
# role -> a text in the header of every file that has it and of few others, to exclude most files by one search
_MARKS = {
    role: prefix.encode() if role in _DECODER_ROLES else b".blocks.0.cross_attn.to_kv.weight"
    for prefix, role in _PREFIXES.items()
}
_MARKS[IMAGE_ENCODER] = b"_token"

Shapes = Mapping[str, tuple[int, ...]]


def bundled_roles(path: Path) -> frozenset[str]:
    """The roles of the models whose keys a safetensors file has; quick, as the header is searched and not parsed.

    Raises:
        CheckpointError: the file cannot be read or is no safetensors file.
    """
    return roles_in(header_text(path)[0])


def roles_in(text: bytes, any_of: Iterable[str] = ()) -> frozenset[str]:
    """The roles of the models whose keys stand in a header's text.

    Args:
        any_of: roles without one of which the file is of no interest; the others are then not looked for.
    """
    if not any(mark in text for mark in {_MARKS[role] for role in any_of or _MARKS}):
        return frozenset()
    found = {role for role, keys in _KEYS.items() if _MARKS[role] in text and any(key in text for key in keys)}
    return frozenset(found & _DECODER_ROLES if PIXAL3D in text else found)


def bundled_models(path: Path) -> dict[str, ModelFiles]:
    """The models in one safetensors file, by role; empty if it holds none of ours.

    Raises:
        CheckpointError: the file is damaged, quantised, or lacks tensors that determine a model's size.
    """
    if not bundled_roles(path):
        return {}
    header = read_contents(path)
    groups: dict[str, str] = {}  # full prefix -> role
    foreign = any(PIXAL3D.decode() in key for key in header.shapes)
    for key in header.shapes:
        for full, role in _FULL.items():
            if key.startswith(full) and not (foreign and role not in _DECODER_ROLES):
                groups[full] = role
    if _ENCODER_KEY in header.shapes:
        groups[""] = IMAGE_ENCODER
    models = {}
    for prefix, role in groups.items():
        own = {key.removeprefix(prefix): shape for key, shape in header.shapes.items() if key.startswith(prefix)}
        if reasons := [f"{key} {why}" for key, why in header.refused.items() if key.startswith(prefix)]:
            raise CheckpointError(f"{path} cannot be used for {role}: {reasons[0]}.")
        if role in models:
            raise CheckpointError(
                f"{path} holds {role} twice, under different prefixes. Use a file that holds it once."
            )
        models[role] = ModelFiles(configured(role, path, own), path, prefix)
    return models


def configured(role: str, path: Path, shapes: Shapes) -> dict:
    """The configuration of a model, read off the shapes of its tensors.

    Raises:
        CheckpointError: tensors that determine its size are missing.
    """
    try:
        return _configuration(role, shapes)
    except (KeyError, ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: the {role} in it is incomplete or damaged: {error!r}.") from error


def _configuration(role: str, shapes: Shapes) -> dict:
    if role == IMAGE_ENCODER:
        args = _encoder(shapes)
    elif role == STRUCTURE_DECODER:
        args = _structure_decoder(shapes)
    elif role in (SHAPE_DECODER, TEXTURE_DECODER):
        args = _unet(role, shapes)
    else:
        args = _flow(shapes)
    released = RELEASED_MODELS[role]
    return {"name": released["name"], "args": {**released["args"], **args}}


def _count(shapes: Shapes, pattern: str) -> int:
    """1 + the largest number that the pattern's group matches; 0 without a match."""
    return max((int(m.group(1)) + 1 for m in map(re.compile(pattern).match, shapes) if m), default=0)


def _flow(shapes: Shapes) -> dict:
    width, in_channels = shapes["input_layer.weight"]
    hidden = shapes["blocks.0.mlp.mlp.0.weight"][0]
    heads = shapes.get("blocks.0.self_attn.q_rms_norm.gamma", (None,))[0]
    return {
        "in_channels": in_channels,
        "out_channels": shapes["out_layer.weight"][0],
        "model_channels": width,
        "cond_channels": shapes["blocks.0.cross_attn.to_kv.weight"][1],
        "num_blocks": _count(shapes, r"blocks\.(\d+)\."),
        "num_heads": heads or RELEASED_MODELS[STRUCTURE_FLOW]["args"]["num_heads"],
        "mlp_ratio": (hidden + 0.5) / width,  # half a unit is added because the model rounds down
        "share_mod": "adaLN_modulation.1.weight" in shapes,
        "qk_rms_norm": heads is not None,
        "qk_rms_norm_cross": "blocks.0.cross_attn.q_rms_norm.gamma" in shapes,
    }


def _structure_decoder(shapes: Shapes) -> dict:
    total = _count(shapes, r"blocks\.(\d+)\.")
    ups = [i for i in range(total) if f"blocks.{i}.conv.weight" in shapes]
    first, latent = shapes["input_layer.weight"][:2]
    return {
        "out_channels": shapes["out_layer.2.weight"][0],
        "latent_channels": latent,
        "channels": [first, *(shapes[f"blocks.{i}.conv.weight"][0] // 8 for i in ups)],
        "num_res_blocks": (total - len(ups)) // (len(ups) + 1),
        "num_res_blocks_middle": _count(shapes, r"middle_block\.(\d+)\."),
    }


def _unet(role: str, shapes: Shapes) -> dict:
    widths, counts = [shapes["from_latent.weight"][0]], []
    while (
        len(counts) < _MOST_LEVELS
    ):  # a level ends with a block that leads to the next one; the last level may be empty
        counts.append(_count(shapes, rf"blocks\.{len(counts)}\.(\d+)\.conv\."))
        leads_on = f"blocks.{len(counts) - 1}.{counts[-1]}.conv2.weight"
        if leads_on not in shapes:
            break
        widths.append(shapes[leads_on][0])
    args = {
        "model_channels": widths,
        "latent_channels": shapes["from_latent.weight"][1],
        "num_blocks": counts,
        "block_type": "SparseConvNeXtBlock3d",
        "up_block_type": "SparseResBlockC2S3d",
        "block_args": [],
    }
    if role == TEXTURE_DECODER:
        args["out_channels"] = shapes["output_layer.weight"][0]
    return args


def _encoder(shapes: Shapes) -> dict:
    width = shapes["embeddings.cls_token"][2]
    released = RELEASED_MODELS[IMAGE_ENCODER]["args"]
    head = released["hidden_size"] // released["num_attention_heads"]  # 64 in every released DINOv3
    gated = "layer.0.mlp.gate_proj.weight" in shapes
    return {
        "hidden_size": width,
        "intermediate_size": shapes["layer.0.mlp.up_proj.weight"][0],
        "num_hidden_layers": _count(shapes, r"layer\.(\d+)\."),
        "num_attention_heads": max(1, width // head),
        "num_register_tokens": shapes["embeddings.register_tokens"][1],
        "patch_size": shapes["embeddings.patch_embeddings.weight"][2],
        **{f"{part}_bias": f"layer.0.attention.{part[0]}_proj.bias" in shapes for part in ("query", "key", "value")},
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else "gelu",  # as in every released DINOv3
    }
