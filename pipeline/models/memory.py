"""How much memory a network's activations will take, for hosts that share a device between many models.

The factors are peaks of `python -m pipeline bench --full-size` on an H200 less the weights, rounded up.
"""

from __future__ import annotations

from torch import nn

from .flow import FlowTransformer
from .image_encoder import DinoV3FeatureExtractor
from .sparse_unet import SparseEncoder, SparseUnetVaeDecoder
from .structure_vae import SparseStructureDecoder

_CONVOLUTION = 1 << 30  # what a sparse convolution may take for its products at once
_GROWTH = 4.5  # children of a voxel at most: 4.0 on usual surfaces, 4.5 in runs that ran away
# activations of the finest width that a sparse decoder or encoder holds for each fine voxel; with fused kernels less
# than half
_HELD = 9


def working_bytes(
    model: nn.Module, tokens: int, condition: int = 0, voxels: int | None = None, available: int | None = None
) -> int:
    """Bytes beside the weights while a model runs once.

    Args:
        model: one of a checkpoint's networks.
        tokens: positions of its input: latent voxels, voxels of the dense latent, or image patches.
        condition: image tokens, all views together, that a flow network attends to.
        voxels: fine voxels that a sparse decoder will make, where its subdivisions are known, or that an encoder is
            given; None: not known.
        available: bytes that there can be at most beside the weights, which a sparse decoder's tiles adapt to.
    """
    if isinstance(model, FlowTransformer):
        width, size = model.input_layer.out_features, model.dtype.itemsize
        return size * width * (15 * tokens + 2 * len(model.blocks) * condition)
    if isinstance(model, SparseUnetVaeDecoder):
        voxels = round(tokens * _GROWTH**model.levels) if voxels is None else voxels
        whole = model.dtype.itemsize * model.output_layer.in_features * _HELD * voxels + _CONVOLUTION
        return whole if available is None else min(whole, max(0, available))
    if isinstance(model, SparseEncoder):  # a decoder's mirror image, but not tiled; assumed to hold as much
        voxels = round(tokens * _GROWTH**model.levels) if voxels is None else voxels
        return model.dtype.itemsize * model.input_layer.out_features * _HELD * voxels + _CONVOLUTION
    if isinstance(model, SparseStructureDecoder):
        return 24 * model.last_channels * tokens * model.upscale**3
    if isinstance(model, DinoV3FeatureExtractor):
        return 64 * model.norm.normalized_shape[0] * tokens
    raise TypeError(f"Nothing is known of the memory that {type(model).__name__} takes.")
