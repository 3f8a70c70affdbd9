"""From a model's JSON to its module."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import nn

from ..errors import CheckpointError
from .flow import SLatFlowModel, SparseStructureFlowModel
from .image_encoder import DinoV3FeatureExtractor
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


def build(config: Mapping, dtype: torch.dtype | None = None) -> nn.Module:
    """Build any model of a checkpoint from its JSON.

    Args:
        config: {"name": ..., "args": {...}} as in `ckpts/<name>.json`; for the image encoder
            {"name": "DinoV3FeatureExtractor", "args": <its config.json>}.
        dtype: torso dtype in place of the one that the JSON names (the image encoder has none).

    Returns:
        The module with random weights; its state dict has the checkpoint's own keys and shapes.

    Raises:
        CheckpointError: unknown name, argument or variant.
    """
    name, args = config.get("name"), dict(config.get("args", {}))
    if name not in MODELS:
        raise CheckpointError(f"Unknown model {name!r}; this version builds {', '.join(MODELS)}.")
    model = MODELS[name]
    if model is DinoV3FeatureExtractor:
        return model(**args)
    for key, only in _ONLY.items():
        found = args.pop(key, only)
        if set(found if isinstance(found, list) else [found]) - {only}:
            raise CheckpointError(f"{name}: {key} {found!r} is not part of TRELLIS.2; only {only!r} is built.")
    for block_args in args.pop("block_args", []):
        if unknown := set(block_args) - _IGNORED:
            raise CheckpointError(f"{name}: unknown block arguments {', '.join(sorted(unknown))}.")
    for key in _IGNORED:
        args.pop(key, None)
    torso = args.pop("dtype", "float16" if args.pop("use_fp16", False) else "float32")
    if torso not in _DTYPES:
        raise CheckpointError(f"{name}: unknown dtype {torso!r}; expected one of {', '.join(_DTYPES)}.")
    args["dtype"] = dtype or _DTYPES[torso]
    _check_arguments(name, model, args)
    return model(**args)


def _check_arguments(name: str, model: type[nn.Module], args: Mapping) -> None:
    parameters: dict[str, inspect.Parameter] = {}
    for base in reversed(model.__mro__):  # subclasses pass what they do not name on to their base
        if "__init__" in vars(base) and issubclass(base, nn.Module) and base is not nn.Module:
            parameters |= inspect.signature(base.__init__).parameters
    fixed = {"FlexiDualGridVaeDecoder": {"out_channels"}, "FlexiDualGridVaeEncoder": {"in_channels"}}.get(name, set())
    accepted = {key for key in parameters if key not in {"self", "args"}} - fixed
    required = {key for key in accepted if parameters[key].default is inspect.Parameter.empty}
    if unknown := set(args) - accepted:
        raise CheckpointError(f"{name}: unknown arguments {', '.join(sorted(unknown))}.")
    if missing := required - set(args):
        raise CheckpointError(f"{name}: missing arguments {', '.join(sorted(missing))}.")
