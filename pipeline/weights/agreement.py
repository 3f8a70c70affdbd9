"""Whether the models of a checkpoint go together: widths of condition and latents, levels, picture and patch size."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import CheckpointError
from ..schema import one_of
from ..spec import (
    IMAGE_ENCODER,
    SHAPE_DECODER,
    SHAPE_ENCODER,
    SHAPE_FLOW_512,
    SHAPE_FLOW_1024,
    STRUCTURE_DECODER,
    STRUCTURE_FLOW,
    TEXTURE_DECODER,
    TEXTURE_ENCODER,
    TEXTURE_FLOW_512,
    TEXTURE_FLOW_1024,
    CheckpointSpec,
)

_FLOWS = frozenset({"SLatFlowModel", "ElasticSLatFlowModel"})
# role -> the networks that can play it
_NETWORKS = {
    STRUCTURE_FLOW: {"SparseStructureFlowModel"},
    STRUCTURE_DECODER: {"SparseStructureDecoder"},
    **dict.fromkeys((SHAPE_FLOW_512, SHAPE_FLOW_1024, TEXTURE_FLOW_512, TEXTURE_FLOW_1024), _FLOWS),
    SHAPE_DECODER: {"FlexiDualGridVaeDecoder"},
    TEXTURE_DECODER: {"SparseUnetVaeDecoder"},
    SHAPE_ENCODER: {"FlexiDualGridVaeEncoder"},
    TEXTURE_ENCODER: {"SparseUnetVaeEncoder"},
    IMAGE_ENCODER: {"DinoV3FeatureExtractor"},
}
_SHAPE_FLOWS, _TEXTURE_FLOWS = (SHAPE_FLOW_512, SHAPE_FLOW_1024), (TEXTURE_FLOW_512, TEXTURE_FLOW_1024)


def check_role(role: str, config: Mapping) -> None:
    """Raises CheckpointError if a configuration is not that of a network for the role."""
    if role in _NETWORKS:
        one_of(*sorted(_NETWORKS[role]))(config.get("name"), f"The name in the JSON of {role}")


def check_together(name: str, spec: CheckpointSpec, configs: Mapping[str, Mapping]) -> None:
    """Compare the models of a checkpoint that are known so far.

    Args:
        name: of the checkpoint.
        configs: {"name", "args"} by role, each built once already.

    Raises:
        CheckpointError: two of them, or one and pipeline.json, do not go together; the text names both numbers.
    """
    args = {role: config["args"] for role, config in configs.items()}
    for what, left, right in _pairs(spec, args):
        if left[1] is not None and right[1] is not None and left[1] != right[1]:
            raise CheckpointError(
                f"The models of {name} do not go together: {what}, {left[1]} in {left[0]} and {right[1]} in "
                f"{right[0]}. They are parts of different checkpoints; take all files of one."
            )
    patch = args.get(IMAGE_ENCODER, {}).get("patch_size", 1)
    if spec.image_size % patch:
        raise CheckpointError(
            f"pipeline.json of {name} has the image_size {spec.image_size}, which is no multiple of the image "
            f"encoder's patch_size {patch}. Take both from one checkpoint."
        )
    _check_grids(name, args)


def _check_grids(name: str, args: Mapping[str, Mapping]) -> None:
    """The structure's voxels are pooled to the grid of the shape flow that sees them first."""
    if {STRUCTURE_FLOW, STRUCTURE_DECODER, SHAPE_FLOW_512} <= set(args):
        fine = args[STRUCTURE_FLOW]["resolution"] * 2 ** (len(args[STRUCTURE_DECODER]["channels"]) - 1)
        coarse = args[SHAPE_FLOW_512]["resolution"]
        if fine % coarse:
            raise CheckpointError(
                f"The models of {name} do not go together: a structure of {fine} voxels a side cannot be pooled to the "
                f"{coarse} of {SHAPE_FLOW_512}. They are parts of different checkpoints; take all files of one."
            )


def _pairs(spec: CheckpointSpec, args: Mapping[str, Mapping]):
    """(what, (where, number), (where, number)) of everything that must be equal; None where a number is not known."""

    def of(role: str, key: str) -> tuple[str, int | None]:
        return role, args.get(role, {}).get(key)

    def levels(role: str) -> tuple[str, int | None]:
        widths = args.get(role, {}).get("model_channels")
        return role, None if widths is None else len(widths)

    shape = "shape_slat_normalization", len(spec.shape_normalisation.mean)
    texture = "tex_slat_normalization", len(spec.texture_normalisation.mean)
    encoder = of(IMAGE_ENCODER, "hidden_size")
    for flow in (STRUCTURE_FLOW, *_SHAPE_FLOWS, *_TEXTURE_FLOWS):
        yield "the width of the condition", encoder, of(flow, "cond_channels")
    for key in ("in_channels", "out_channels"):
        yield "the channels of the structure latent", of(STRUCTURE_DECODER, "latent_channels"), of(STRUCTURE_FLOW, key)
    for key in ("in_channels", "out_channels"):
        for flow in _SHAPE_FLOWS:
            yield "the channels of the shape latent", of(flow, key), shape
    for flow in _TEXTURE_FLOWS:
        yield "the channels of the texture latent", of(flow, "out_channels"), texture
        both = "both normalizations", shape[1] + texture[1]
        yield "the channels of texture and shape latent", of(flow, "in_channels"), both
    yield "the channels of the shape latent", of(SHAPE_DECODER, "latent_channels"), shape
    yield "the channels of the texture latent", of(TEXTURE_DECODER, "latent_channels"), texture
    yield "the levels of the decoders", levels(SHAPE_DECODER), levels(TEXTURE_DECODER)
    for encoder, decoder in ((SHAPE_ENCODER, SHAPE_DECODER), (TEXTURE_ENCODER, TEXTURE_DECODER)):
        yield "the levels of encoder and decoder", levels(encoder), levels(decoder)
        yield "the channels of the latent", of(encoder, "latent_channels"), of(decoder, "latent_channels")
