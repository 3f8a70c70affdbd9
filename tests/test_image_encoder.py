"""The image encoder against transformers' layers for the same weights: the same bits."""

from importlib.util import find_spec

import pytest
import torch

from pipeline.models import build

pytestmark = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers, whose layers are the oracle, is not installed"
)  # imported by what runs: it takes a second, in every process that collects

SMALL = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 3}
RELEASED = {"num_register_tokens": 4, "key_bias": False, "layerscale_value": 1.0}
OTHER = {"use_gated_mlp": True, "hidden_act": "silu", "key_bias": True, "query_bias": False, "value_bias": False}
OTHER |= {"proj_bias": False, "mlp_bias": False, "patch_size": 8, "rope_theta": 30.0, "layer_norm_eps": 1e-3}


@pytest.fixture(scope="module")
def oracle():
    """oracle(arguments): transformers' model, and its tokens of pixels before its last norm."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    def make(arguments):
        torch.manual_seed(0)
        model = DINOv3ViTModel(DINOv3ViTConfig(**arguments)).eval().requires_grad_(False)
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # biases and the like begin as 0 or 1

        def tokens(pixels):
            h, phases = model.embeddings(pixels), model.rope_embeddings(pixels)
            for layer in model.layer if hasattr(model, "layer") else model.model.layer:
                h = layer(h, position_embeddings=phases)
            return torch.nn.functional.layer_norm(h, h.shape[-1:])

        return model, tokens

    return make


@pytest.mark.parametrize("arguments", [RELEASED, OTHER, {}], ids=["released", "other", "defaults"])
@pytest.mark.parametrize("size", [(64, 64), (48, 112)])
def test_the_tokens_are_those_of_transformers(oracle, arguments, size):
    arguments = SMALL | arguments
    model, tokens = oracle(arguments)
    encoder = build({"name": "DinoV3FeatureExtractor", "args": arguments}).eval().requires_grad_(False)
    own = {key.replace("model.layer.", "layer."): value for key, value in model.state_dict().items()}
    encoder.load_state_dict(own)  # strictly: the same names and shapes
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    assert torch.equal(encoder(pixels), tokens(pixels))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder(pixels), tokens(pixels))
