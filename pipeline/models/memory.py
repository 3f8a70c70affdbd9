"""How much memory a network's activations will take: for memory plans, and for hosts that share a device between many
models.

The factors are least-squares fits to peaks on an H200 less the weights: of decoders and encoders alone
(`python -m pipeline bench --full-size`, benchmarks/history.jsonl), of flows within runs (benchmarks/memory.jsonl).
plan/fit.py makes them again.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .flow import FlowTransformer
from .image_encoder import DinoV3FeatureExtractor
from .sparse_unet import SparseEncoder, SparseUnetVaeDecoder
from .structure_vae import SparseStructureDecoder


@dataclass(frozen=True)
class Factors:
    """flow: values of the width for each token, and for each token of a block of rows. seen: for each token of the
    condition and block whose keys and values are kept. decoder: values of the finest width for each fine voxel. extra:
    bytes of a decoder beside them. coarse: bytes of a decoder's coarsest level, and for each fine voxel."""

    flow: tuple[float, float]
    seen: float
    decoder: float
    extra: int
    coarse: tuple[int, int]


FUSED = Factors(flow=(5.0, 2.0), seen=2.0, decoder=3.7, extra=72_000_000, coarse=(150_000_000, 40))
# Without the fused kernels: an H200 of 2026-11-22, decoders 3.4, 6.9 and 12.9 GB at 1.29, 5.14 and 10.9 M voxels, of
# which a sparse convolution may take 1 GiB for its products at once. Flows were rounded up to 15.
PLAIN = Factors(flow=(15.0, 0.0), seen=3.0, decoder=9.0, extra=1 << 30, coarse=(1 << 30, 0))
ENCODER, STRUCTURE = 12.0, 6.0  # values of the width for each token, of the last width for each voxel
EXTRA = 90_000_000  # bytes of the other networks beside that: workspaces of matrix products, recorded graphs
BLOCK_ROWS = 9632  # tokens whose MLP is one block of rows on an H200, see flow.block_rows
GROWTH = 4.5  # children of a voxel at most: 4.0 on usual surfaces, 4.5 in runs that ran away


def working_bytes(
    model: nn.Module,
    tokens: int,
    condition: int = 0,
    voxels: int | None = None,
    available: int | None = None,
    fused: bool = False,
) -> int:
    """Bytes beside the weights while a model runs once.

    Args:
        model: one of a checkpoint's networks, on any device, "meta" too.
        tokens: positions of its input: latent voxels, voxels of the dense latent, or image patches.
        condition: image tokens, all views together, that a flow network attends to.
        voxels: fine voxels that a sparse decoder will make, where its subdivisions are known, or that an encoder is
            given; None: not known.
        available: bytes that there can be at most beside the weights, which a sparse decoder's tiles adapt to.
        fused: whether the fused kernels of its operations run.
    """
    factors = FUSED if fused else PLAIN
    if isinstance(model, FlowTransformer):
        unit = model.input_layer.out_features * model.dtype.itemsize
        a_token, a_row = factors.flow
        kept = 1 if model.makes_context_again(tokens, condition) else len(model.blocks)
        values = a_token * tokens + a_row * min(tokens, BLOCK_ROWS) + factors.seen * kept * condition
        return round(EXTRA + unit * values)
    if isinstance(model, SparseUnetVaeDecoder):
        voxels = round(tokens * GROWTH**model.levels) if voxels is None else voxels
        width = model.output_layer.in_features
        whole = round(factors.extra + model.dtype.itemsize * width * factors.decoder * voxels)
        return whole if available is None else min(whole, max(0, available))
    if isinstance(model, SparseEncoder):  # a decoder's blocks the other way round; not measured alone
        voxels = round(tokens * GROWTH**model.levels) if voxels is None else voxels
        return round(factors.extra + model.dtype.itemsize * model.input_layer.out_features * factors.decoder * voxels)
    if isinstance(model, SparseStructureDecoder):
        return round(4 * STRUCTURE * model.last_channels * tokens * model.upscale**3)
    if isinstance(model, DinoV3FeatureExtractor):
        return round(EXTRA + 4 * ENCODER * model.norm.normalized_shape[0] * tokens)
    raise TypeError(f"Nothing is known of the memory that {type(model).__name__} takes.")


def coarse_bytes(voxels: int, fused: bool = False) -> int:
    """Bytes beside the weights while the coarsest level of a sparse decoder runs, which still needs all weights."""
    least, a_voxel = (FUSED if fused else PLAIN).coarse
    return least + a_voxel * voxels
