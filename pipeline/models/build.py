"""From a model's JSON to its module."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import nn

from ..errors import CheckpointError, unknown
from ..packing import Packing
from ..schema import Check, flag, items, nullable, number, record, table, text, whole
from .flow import SLatFlowModel, SparseStructureFlowModel
from .image_encoder import DinoV3FeatureExtractor
from .packed import pack
from .sparse_unet import (
    FlexiDualGridVaeDecoder,
    FlexiDualGridVaeEncoder,
    SparseUnetVaeDecoder,
    SparseUnetVaeEncoder,
)
from .structure_vae import SparseStructureDecoder

MODELS: dict[str, type[nn.Module]] = {
    "SparseStructureFlowModel": SparseStructureFlowModel,
    "SLatFlowModel": SLatFlowModel,
    "ElasticSLatFlowModel": SLatFlowModel,  # the training-time name of the same network
    "SparseStructureDecoder": SparseStructureDecoder,
    "FlexiDualGridVaeDecoder": FlexiDualGridVaeDecoder,
    "FlexiDualGridVaeEncoder": FlexiDualGridVaeEncoder,
    "SparseUnetVaeDecoder": SparseUnetVaeDecoder,
    "SparseUnetVaeEncoder": SparseUnetVaeEncoder,
    "DinoV3FeatureExtractor": DinoV3FeatureExtractor,
}

# Arguments that only concern training, and those that name the one variant TRELLIS.2 uses.
_IGNORED = {"initialization", "use_checkpoint"}
_ONLY = {
    "pe_mode": "rope",
    "norm_type": "layer",
    "block_type": "SparseConvNeXtBlock3d",
    "up_block_type": "SparseResBlockC2S3d",
    "down_block_type": "SparseResBlockS2C3d",
}
_DTYPES = {
    **dict.fromkeys(("float32", "fp32", "f32"), torch.float32),
    **dict.fromkeys(("bfloat16", "bf16"), torch.bfloat16),
    **dict.fromkeys(("float16", "fp16", "f16"), torch.float16),
}


_ENTRY = record({"name": text(64)}, {"args": table(lambda value, where: value, 64)})

# Types and bounds of every argument, so that a hostile or damaged JSON is refused before anything is built from it.
_CHANNELS = whole(1, 16384)
_FLOW_CHECKS: dict[str, Check] = {
    "resolution": whole(1, 1024),
    "in_channels": _CHANNELS,
    "model_channels": _CHANNELS,
    "cond_channels": _CHANNELS,
    "out_channels": _CHANNELS,
    "num_blocks": whole(1, 256),
    "num_heads": nullable(whole(1, 256)),
    "num_head_channels": whole(1, 1024),
    "mlp_ratio": number(0.01, 64),
    "rope_freq": items(number(1e-6, 1e9), 2, 2),
    "share_mod": flag,
    "qk_rms_norm": flag,
    "qk_rms_norm_cross": flag,
}
_STRUCTURE_CHECKS: dict[str, Check] = {
    "out_channels": _CHANNELS,
    "latent_channels": _CHANNELS,
    "num_res_blocks": whole(0, 64),
    "num_res_blocks_middle": whole(0, 64),
    "channels": items(_CHANNELS, 1, 8),
}
_UNET_CHECKS: dict[str, Check] = {
    "resolution": whole(1, 8192),
    "voxel_margin": number(0, 4),
    "in_channels": _CHANNELS,
    "out_channels": _CHANNELS,
    "model_channels": items(_CHANNELS, 1, 8),
    "latent_channels": _CHANNELS,
    "num_blocks": items(whole(0, 64), 1, 8),
    "pred_subdiv": flag,
    "straight": flag,
}
_BLOCK_ARGUMENTS = items(table(lambda value, where: value, 16), 0, 16)


def build(
    config: Mapping, dtype: torch.dtype | None = None, packings: Mapping[str, Packing] | None = None
) -> nn.Module:
    """Build any model of a checkpoint from its JSON.

    Args:
        config: {"name": ..., "args": {...}} as in `ckpts/<name>.json`; for the image encoder
            {"name": "DinoV3FeatureExtractor", "args": <its config.json>}.
        dtype: torso dtype in place of the one that the JSON names (the image encoder has none).
        packings: by name, the linear layers whose weights stay quantised (see packed.py).

    Returns:
        The module with random weights; its state dict has the checkpoint's own keys and shapes.

    Raises:
        CheckpointError: unknown name, argument or variant; a value of another type, out of bounds, or that does
            not go with the others.
    """
    if config.get("name") == "DinoV3FeatureExtractor":
        return pack(DinoV3FeatureExtractor(**config.get("args", {})), packings or {})
    config = _ENTRY(config, "The model's JSON")
    name, args = config["name"], config.get("args", {})
    if name not in MODELS:
        raise CheckpointError(unknown("model", name, MODELS))
    model = MODELS[name]
    for key, only in _ONLY.items():
        found = args.pop(key, only)
        if any(each != only for each in (found if isinstance(found, list) else [found])):
            raise CheckpointError(f"{name}: {key} {found!r:.60} is not part of TRELLIS.2; only {only!r} is built.")
    for block_args in _BLOCK_ARGUMENTS(args.pop("block_args", []), f"{name}: block_args"):
        if strange := set(block_args) - _IGNORED:
            raise CheckpointError(f"{name}: unknown block arguments {_listed(strange)}.")
    for key in _IGNORED:
        args.pop(key, None)
    half = flag(args.pop("use_fp16", False), f"{name}: use_fp16")
    torso = args.pop("dtype", "float16" if half else "float32")
    if not isinstance(torso, str) or torso not in _DTYPES:
        raise CheckpointError(f"{name}: unknown dtype {torso!r:.60}; expected one of {', '.join(_DTYPES)}.")
    args = _checked(name, model, args)
    return pack(model(**args, dtype=dtype or _DTYPES[torso]), packings or {})


def _checked(name: str, model: type[nn.Module], args: Mapping) -> dict:
    """The arguments of a model, each known, of the right type and size, and going with the others."""
    parameters: dict[str, inspect.Parameter] = {}
    for base in reversed(model.__mro__):  # subclasses pass what they do not name on to their base
        if "__init__" in vars(base) and issubclass(base, nn.Module) and base is not nn.Module:
            parameters |= inspect.signature(base.__init__).parameters
    fixed = {"FlexiDualGridVaeDecoder": {"out_channels"}, "FlexiDualGridVaeEncoder": {"in_channels"}}.get(name, set())
    accepted = {key for key in parameters if key not in {"self", "args", "dtype"}} - fixed
    required = {key for key in accepted if parameters[key].default is inspect.Parameter.empty}
    if strange := set(args) - accepted:
        raise CheckpointError(f"{name}: unknown arguments {_listed(strange)}.")
    if missing := required - set(args):
        raise CheckpointError(f"{name}: missing arguments {_listed(missing)}.")
    checks, agree = _FAMILIES[model]
    args = {key: checks[key](value, f"{name}: {key}") for key, value in args.items()}
    if problem := agree(args):
        raise CheckpointError(f"{name}: {problem}.")
    return args


def _heads_divide(args: Mapping) -> str:
    width = args["model_channels"]
    heads = args.get("num_heads") or width // args.get("num_head_channels", 64)
    if not heads or width % heads or width // heads % 2:
        return f"model_channels {width} must be an even number for each of {heads} heads"
    if int(width * args.get("mlp_ratio", 4.0)) < 1:
        return f"mlp_ratio {args['mlp_ratio']} leaves no channel"
    return ""


def _levels_match(args: Mapping) -> str:
    widths, counts = args["model_channels"], args["num_blocks"]
    if len(widths) != len(counts):
        return f"model_channels has {len(widths)} levels and num_blocks {len(counts)}"
    for coarse, fine in pairwise(widths):
        wide, narrow = max(coarse, fine), min(coarse, fine)
        if coarse % 8 or fine % 8 or 8 * narrow % wide:
            return f"model_channels {coarse} and {fine} are neighbours: multiples of 8 at most 8 times as many fit"
    return ""


# what a model's arguments must be, one by one and together
_FAMILIES: dict[type[nn.Module], tuple[dict[str, Check], Callable[[Mapping], str]]] = {
    **dict.fromkeys((SparseStructureFlowModel, SLatFlowModel), (_FLOW_CHECKS, _heads_divide)),
    SparseStructureDecoder: (_STRUCTURE_CHECKS, lambda args: ""),
    **dict.fromkeys(
        (FlexiDualGridVaeDecoder, FlexiDualGridVaeEncoder, SparseUnetVaeDecoder, SparseUnetVaeEncoder),
        (_UNET_CHECKS, _levels_match),
    ),
}


def _listed(names: set[str]) -> str:
    shown = sorted(name[:60] for name in names)[:8]
    return ", ".join(shown) + (", ..." if len(names) > 8 else "")
