"""DINOv3 under timm's names: which of its tensors are which of the released encoder's."""

from __future__ import annotations

import re
from collections.abc import Mapping

_MARK = "blocks.0.gamma_1"
_SINGLE = {
    "cls_token": "embeddings.cls_token",
    "reg_token": "embeddings.register_tokens",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.bias",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
}
_BLOCK = {
    "gamma_1": "layer_scale1.lambda1",
    "gamma_2": "layer_scale2.lambda1",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.up_proj",
    "mlp.fc2": "mlp.down_proj",
    "norm1": "norm1",
    "norm2": "norm2",
}
_QKV = ("q_proj", "k_proj", "v_proj")


def released_names(keys: Mapping) -> dict[str, tuple[str, int | None]]:
    """The released encoder's key -> timm's, and which third of its rows: queries, keys and values are one matrix there.

    Empty if the keys are not timm's. The mask token, which only training uses, is absent there; the class token, which
    has its shape, takes its place.
    """
    if _MARK not in keys or "reg_token" not in keys:
        return {}
    names: dict[str, tuple[str, int | None]] = {"embeddings.mask_token": ("cls_token", None)}
    for key in keys:
        if key in _SINGLE:
            names[_SINGLE[key]] = key, None
        elif match := re.fullmatch(r"blocks\.(\d+)\.(.+?)(\.weight|\.bias)?", key):
            number, inner, kind = match[1], match[2], match[3] or ""
            if inner == "attn.qkv":
                for third, name in enumerate(_QKV):
                    names[f"layer.{number}.attention.{name}{kind}"] = key, third
            else:
                names[f"layer.{number}.{_BLOCK.get(inner, inner)}{kind}"] = key, None
        else:
            names[key] = key, None
    return names
