"""The image encoder, DINOv3: which configurations are taken, and pictures -> condition tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..errors import CheckpointError
from ..schema import Check, flag, nullable, number, one_of, text, whole
from .dinov3 import Embeddings, RotaryPhases, VisionBlock, VisionConfig
from .layers import final_norm

# The entries of a DINOv3 config.json that make the network, with their bounds: fields of VisionConfig.
_NETWORK: dict[str, Check] = {
    "hidden_size": whole(4, 16384),
    "intermediate_size": whole(1, 65536),
    "num_hidden_layers": whole(1, 128),
    "num_attention_heads": whole(1, 256),
    "num_register_tokens": whole(0, 256),
    "num_channels": one_of(3),
    "patch_size": whole(1, 256),
    "hidden_act": one_of("gelu", "silu"),
    "use_gated_mlp": flag,
    "query_bias": flag,
    "key_bias": flag,
    "value_bias": flag,
    "proj_bias": flag,
    "mlp_bias": flag,
    "layer_norm_eps": number(1e-12, 1),
    "layerscale_value": number(-1e6, 1e6),
    "rope_theta": number(1e-3, 1e9),
}
# Entries that must have these values and are not passed on.
_FIXED: dict[str, Check] = {
    "model_type": one_of("dinov3_vit"),
    "attn_implementation": nullable(one_of("eager", "sdpa")),
    "_attn_implementation": nullable(one_of("eager", "sdpa")),
}
# What transformers writes beside them and no network depends on: training, text generation, bookkeeping.
# fmt: off
_UNUSED = frozenset({
    "architectures", "apply_layernorm", "attention_dropout", "chunk_size_feed_forward", "diversity_penalty",
    "drop_path_rate", "dtype", "early_stopping", "id2label", "image_size", "initializer_range", "label2id",
    "length_penalty", "max_length", "min_length", "num_beam_groups", "num_beams", "num_return_sequences",
    "out_features", "out_indices", "pos_embed_jitter", "pos_embed_rescale", "pos_embed_shift", "repetition_penalty",
    "reshape_hidden_states", "return_dict", "stage_names", "temperature", "tie_word_embeddings", "top_k", "top_p",
    "torch_dtype", "transformers_version", "typical_p", "use_cache", "_attn_implementation_autoset", "_name_or_path",
})
# fmt: on


def encoder_arguments(config: Mapping) -> dict:
    """The entries of a DINOv3 config.json that make the network, each checked.

    Raises:
        CheckpointError: an entry is of another type, out of bounds, or asks for what is not built; the text names it.
    """
    where = "The image encoder's config.json"
    args = {}
    for key, value in config.items():
        if key in _NETWORK:
            args[key] = _NETWORK[key](value, f"{where}: {key}")
        elif key in _FIXED:
            _FIXED[key](value, f"{where}: {key}")
        elif key not in _UNUSED and value not in (None, False, 0, "", [], {}):
            raise CheckpointError(
                f"{where} has an entry {text(60)(key, 'key')!r} that is not known. Take the config.json of DINOv3 "
                "(model_type dinov3_vit), or remove the entry."
            )
    made = VisionConfig(**args)
    width, heads = made.hidden_size, made.num_attention_heads
    if width % heads or width // heads % 4:
        raise CheckpointError(f"{where}: hidden_size {width} must be a multiple of 4 for each of {heads} heads.")
    return args


class DinoV3FeatureExtractor(nn.Module):
    """The ViT of `facebook/dinov3-*` up to its last block, then layer norm without affine.

    The state dict has the released checkpoint's own keys. `norm` (the model's own final norm) is part of the checkpoint
    and not used.
    """

    def __init__(self, **config) -> None:
        """config: of its config.json; see encoder_arguments for what is taken from it.

        Raises:
            CheckpointError: the configuration is not DINOv3's.
        """
        super().__init__()
        made = VisionConfig(**encoder_arguments(config))
        self.embeddings = Embeddings(made)
        self.layer = nn.ModuleList(VisionBlock(made) for _ in range(made.num_hidden_layers))
        self.norm = nn.LayerNorm(made.hidden_size, eps=made.layer_norm_eps)
        with torch.device("cpu"):  # its frequencies are no weights, so they must exist even if the rest is on "meta"
            self.rope_embeddings = RotaryPhases(made)
        self.patch_size = made.patch_size

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels: [B, 3, H, W] normalised fp32, H and W multiples of patch_size -> [B, 1 + registers + patches, C]."""
        h = self.embeddings(pixels)
        phases = self.rope_embeddings(pixels)
        for layer in self.layer:
            h = layer(h, phases)
        return final_norm(h)
