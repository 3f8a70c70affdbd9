"""The networks of the small checkpoint: their JSON, and what only training needs (encoders, heads, initial weights)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.models import build
from pipeline.models.flow import FlowTransformer
from pipeline.models.layers import SparseConv3d
from pipeline.models.sparse_unet import (
    SparseConvNeXtBlock3d,
    SparseEncoder,
    SparseResBlockC2S3d,
    SparseResBlockS2C3d,
    SparseUnetVaeDecoder,
)
from pipeline.models.structure_vae import ChannelNorm, ResBlock3d
from pipeline.spec import (
    IMAGE_ENCODER,
    SHAPE_DECODER,
    SHAPE_ENCODER,
    SHAPE_FLOW_512,
    STRUCTURE_DECODER,
    STRUCTURE_FLOW,
    TEXTURE_DECODER,
    TEXTURE_ENCODER,
    TEXTURE_FLOW_512,
)

PBR = 6  # channels of a material voxel: base colour RGB, metallic, roughness, alpha
PIXEL = 10  # the picture head's output for a pixel: mask logit, base colour, position, normal


@dataclass(frozen=True)
class Design:
    """Every size of a checkpoint that is trained here.

    models: role -> {"name", "args"}, what is shipped. samplers: pipeline.json key -> parameters.
    structure_encoder: arguments of StructureEncoder. shape_encoder, texture_encoder: {"name", "args"}.
    head: arguments of PictureHead beside those that follow from the others.
    """

    image_size: int
    models: Mapping[str, dict]
    structure_encoder: Mapping
    shape_encoder: Mapping
    texture_encoder: Mapping
    head: Mapping
    samplers: Mapping[str, dict]

    def config(self, role: str) -> dict:
        """The {"name", "args"} of a network of the checkpoint, those included that only meshes as input need."""
        return {SHAPE_ENCODER: self.shape_encoder, TEXTURE_ENCODER: self.texture_encoder, **self.models}[role]

    def args(self, role: str) -> dict:
        """The arguments of a shipped network."""
        return self.models[role]["args"]

    @property
    def resolution(self) -> int:
        """Output voxels along a side."""
        return self.args(SHAPE_DECODER)["resolution"]

    @property
    def latent(self) -> int:
        """Voxels along a side of the shape and texture latents."""
        return self.args(SHAPE_FLOW_512)["resolution"]

    @property
    def structure(self) -> int:
        """Voxels along a side of the decoded structure."""
        return self.args(STRUCTURE_FLOW)["resolution"] * 2 ** (len(self.args(STRUCTURE_DECODER)["channels"]) - 1)

    def picture_head(self) -> PictureHead:
        encoder = self.args(IMAGE_ENCODER)
        return PictureHead(encoder["hidden_size"], encoder["patch_size"], self.structure, **self.head)


def _flow(
    name: str, resolution: int, channels: int, concat: int, width: int, heads: int, blocks: int, seen: int
) -> dict:
    """concat: channels of the latent that it takes beside the noise. seen: width of the image tokens."""
    args = {
        "resolution": resolution,
        "in_channels": channels + concat,
        "out_channels": channels,
        "model_channels": width,
        "cond_channels": seen,
        "num_blocks": blocks,
        "num_heads": heads,
        "mlp_ratio": 2.5,
        "pe_mode": "rope",
        "share_mod": True,
        "qk_rms_norm": True,
        "qk_rms_norm_cross": True,
        "dtype": "float32",
    }
    return {"name": name, "args": args}


def _unet(name: str, widths: list[int], counts: list[int], channels: int, **more) -> dict:
    resample = {"up_block_type": "SparseResBlockC2S3d"} if "Decoder" in name else {}
    resample = resample or {"down_block_type": "SparseResBlockS2C3d"}
    args = {
        "model_channels": widths,
        "latent_channels": channels,
        "num_blocks": counts,
        "block_type": ["SparseConvNeXtBlock3d"] * len(widths),
        **{key: [value] * (len(widths) - 1) for key, value in resample.items()},
        "block_args": [{}] * len(widths),
        "use_fp16": False,
    }
    return {"name": name, "args": {**args, **more}}


def _structure_decoder(channels: int, widths: list[int]) -> dict:
    args = {
        "out_channels": 1,
        "latent_channels": channels,
        "num_res_blocks": 1,
        "num_res_blocks_middle": 1,
        "channels": widths,
        "use_fp16": False,
    }
    return {"name": "SparseStructureDecoder", "args": args}


def _image_encoder(size: int, patch: int, width: int, heads: int, layers: int) -> dict:
    args = {
        "image_size": size,
        "patch_size": patch,
        "hidden_size": width,
        "intermediate_size": 11 * width // 4,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_register_tokens": 4,
        "hidden_act": "gelu",
        "use_gated_mlp": False,
        "layerscale_value": 1.0,
        "rope_theta": 100.0,
        "pos_embed_rescale": None,  # an augmentation of the full-size encoder's training
        "architectures": ["DINOv3ViTModel"],
        "model_type": "dinov3_vit",
    }
    return {"name": "DinoV3FeatureExtractor", "args": args}


def _sampler(steps: int, guidance: float, rescale: float, interval: tuple[float, float], rescale_t: float) -> dict:
    return {
        "steps": steps,
        "guidance_strength": guidance,
        "guidance_rescale": rescale,
        "guidance_interval": list(interval),
        "rescale_t": rescale_t,
    }


# 12 steps as the released model; a small network that has seen all of its world needs little guidance. The texture's
# takes the median colour error of 64 held-out objects from 0.062 to 0.049 where the mesh is known, and from 0.080 to
# 0.064 from the picture alone.
_SAMPLERS = {
    "sparse_structure_sampler": _sampler(12, 2.0, 0.5, (0.5, 1.0), 3.0),
    "shape_slat_sampler": _sampler(12, 1.5, 0.5, (0.5, 1.0), 3.0),
    "tex_slat_sampler": _sampler(12, 2.0, 0.7, (0.0, 1.0), 3.0),
}

# Output 128^3, structure 32^3 of a latent 8^3, shape and texture latents on 16^3, pictures of 144 pixels (324 tokens).
# The decoders' last blocks are expensive. The shape's is needed: whether an edge is crossed is known from both ends.
SMALL = Design(
    image_size=144,
    models={
        STRUCTURE_FLOW: _flow("SparseStructureFlowModel", 8, 8, 0, 160, 5, 5, 192),
        STRUCTURE_DECODER: _structure_decoder(8, [32, 20, 12]),
        SHAPE_FLOW_512: _flow("SLatFlowModel", 16, 8, 0, 160, 5, 4, 192),
        SHAPE_DECODER: _unet("FlexiDualGridVaeDecoder", [32, 32, 16, 16], [1, 1, 1, 1], 8, resolution=128),
        TEXTURE_FLOW_512: _flow("SLatFlowModel", 16, 8, 8, 128, 4, 3, 192),
        TEXTURE_DECODER: _unet(
            "SparseUnetVaeDecoder", [32, 32, 16, 16], [1, 1, 1, 1], 8, out_channels=PBR, pred_subdiv=False
        ),
        IMAGE_ENCODER: _image_encoder(144, 8, 192, 6, 6),
    },
    structure_encoder={"latent_channels": 8, "widths": [16, 32, 64]},
    shape_encoder=_unet("FlexiDualGridVaeEncoder", [16, 32, 32, 64], [0, 1, 1, 2], 8),
    texture_encoder=_unet("SparseUnetVaeEncoder", [16, 32, 64, 128], [0, 1, 1, 1], 8, in_channels=PBR, straight=True),
    head={"grid": 8, "blocks": 3, "heads": 6},
    samplers=_SAMPLERS,
)

# For tests: the same layout, each network in seconds.
TINY = Design(
    image_size=32,
    models={
        STRUCTURE_FLOW: _flow("SparseStructureFlowModel", 4, 4, 0, 48, 2, 2, 32),
        STRUCTURE_DECODER: _structure_decoder(4, [16, 8, 8]),
        SHAPE_FLOW_512: _flow("SLatFlowModel", 8, 8, 0, 64, 2, 2, 32),
        SHAPE_DECODER: _unet("FlexiDualGridVaeDecoder", [32, 16, 8], [1, 1, 0], 8, resolution=32),
        TEXTURE_FLOW_512: _flow("SLatFlowModel", 8, 4, 8, 48, 2, 2, 32),
        TEXTURE_DECODER: _unet("SparseUnetVaeDecoder", [16, 16, 8], [1, 0, 0], 4, out_channels=PBR, pred_subdiv=False),
        IMAGE_ENCODER: _image_encoder(32, 8, 32, 2, 2),
    },
    structure_encoder={"latent_channels": 4, "widths": [8, 8, 16]},
    shape_encoder=_unet("FlexiDualGridVaeEncoder", [8, 16, 32], [0, 1, 1], 8),
    texture_encoder=_unet("SparseUnetVaeEncoder", [8, 16, 16], [0, 0, 1], 4, in_channels=PBR, straight=True),
    head={"grid": 4, "blocks": 1, "heads": 2},
    samplers=_SAMPLERS,
)
DESIGNS = {"small": SMALL, "tiny": TINY}


def new(config: Mapping) -> nn.Module:
    """A network from its JSON, fp32, initialised for training."""
    module = build(config, torch.float32) if config["name"] != "DinoV3FeatureExtractor" else build(config)
    initialise(module)
    return module


def initialise(module: nn.Module) -> None:
    """Initialise the weights: residual branches begin at or near zero, as the reference project's trainers, but for the
    blocks that change the grid, see _pass_through."""
    if isinstance(module, FlowTransformer):
        _initialise_flow(module)
    for block in module.modules():
        if isinstance(block, SparseConvNeXtBlock3d):
            _zero(block.mlp[-1])
        elif isinstance(block, ResBlock3d):
            _zero(block.conv2)
        elif isinstance(block, SparseConv3d):
            # a surface voxel has about a third of its 27 neighbours
            nn.init.normal_(block.weight, std=1 / math.sqrt(9 * block.weight.shape[-1]))
            nn.init.zeros_(block.bias)
    for block in module.modules():
        if isinstance(block, (SparseResBlockC2S3d, SparseResBlockS2C3d)):
            _pass_through(block)
            if isinstance(block, SparseResBlockC2S3d) and block.to_subdiv is not None:
                nn.init.constant_(block.to_subdiv.bias, _RARE)
        elif isinstance(block, SparseEncoder):
            _almost_certain(block.to_latent)
            if block.straight is not None:
                _mostly_straight(block)
        elif isinstance(block, SparseUnetVaeDecoder):
            _both_signs(block.from_latent)


_NOISE = 0.3  # of the initial weights of blocks that features pass through
_RARE = -2.0  # initial logits of children; training decodes those of the true voxels in any case
_CERTAIN = -5.0  # initial log variance of a latent


@torch.no_grad()
def _pass_through(block: SparseResBlockC2S3d | SparseResBlockS2C3d) -> None:
    """Let a block's features through its convolutions from the beginning.

    Its skip connection hands every child an eighth of its parent's channels, and a parent the mean of several of a
    child's: enough in networks of the released width, but a colour does not get through one of 32 channels, and an
    autoencoder whose branches begin at zero stays at the mean colour for thousands of steps.
    """
    first, second = block.conv1.weight, block.conv2.weight  # [C', 3, 3, 3, C]
    first *= _NOISE
    second *= _NOISE
    if isinstance(block, SparseResBlockC2S3d):  # every child: the parent's channels
        width = len(second)
        row = torch.arange(8 * width)
        first[row, 1, 1, 1, row % width % first.shape[-1]] += 1
        second[:, 1, 1, 1] += torch.eye(width)
    else:  # a parent: the mean of its children, seen from few random sides
        first[:, 1, 1, 1] += 1.5 * torch.linalg.qr(torch.randn(first.shape[-1], len(first)))[0].t()
        second[:, 1, 1, 1] += torch.eye(len(first)).repeat(len(second) // len(first), 8) / 4


@torch.no_grad()
def _almost_certain(to_latent: nn.Linear) -> None:
    """Begin with hardly any noise on the latent: a decoder that sees only noise learns to ignore the latent."""
    half = to_latent.out_features // 2
    to_latent.weight[half:] *= 0.1
    to_latent.bias[half:] = _CERTAIN


def _zero(layer: nn.Module) -> None:
    """Weight and bias."""
    for parameter in layer.parameters(recurse=False):
        nn.init.zeros_(parameter)


@torch.no_grad()
def _mostly_straight(encoder: SparseEncoder) -> None:
    """Begin with the mean material as the posterior's mean, and little of the blocks' output."""
    straight = encoder.straight
    assert straight is not None, "an encoder without a straight way round its blocks"
    encoder.to_latent.weight[: len(straight.weight)] *= 0.1
    straight.weight.copy_(2 * torch.eye(*straight.weight.shape))


@torch.no_grad()
def _both_signs(from_latent: nn.Linear) -> None:
    """Hand a latent on as it is and negated, so that what follows, a norm and a SiLU, lets it through:
    silu(x) - silu(-x) = x."""
    width, channels = from_latent.weight.shape
    if width >= 2 * channels:
        turned = 2 * torch.linalg.qr(torch.randn(width // 2, channels))[0]
        from_latent.weight.copy_(torch.cat([turned, -turned]))
        nn.init.zeros_(from_latent.bias)


def _initialise_flow(flow: FlowTransformer) -> None:
    """The reference's "scaled" initialisation."""
    width, count = flow.input_layer.out_features, len(flow.blocks)
    for layer in flow.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (5 * width)))
            nn.init.zeros_(layer.bias)
    for block in flow.blocks:
        for name in ("self_attn.to_out", "cross_attn.to_out", "mlp.mlp.2"):
            nn.init.normal_(block.get_parameter(f"{name}.weight"), std=1 / math.sqrt(5 * count * width))
    nn.init.normal_(flow.input_layer.weight, std=1 / math.sqrt(flow.in_channels))
    for name in ("t_embedder.mlp.0", "t_embedder.mlp.2"):
        nn.init.normal_(flow.get_parameter(f"{name}.weight"), std=0.02)
    for name in ("adaLN_modulation.1", "out_layer"):
        nn.init.zeros_(flow.get_parameter(f"{name}.weight"))


class StructureEncoder(nn.Module):
    """Occupancy [B, 1, R, R, R] -> the posterior's mean and log variance, each [B, C, r, r, r]: the mirror image of
    pipeline.models' SparseStructureDecoder, which is all that is shipped."""

    def __init__(self, latent_channels: int, widths: list[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv3d(1, widths[0], 3, padding=1)]
        for before, width in zip(widths, [*widths[1:], None]):
            layers.append(ResBlock3d(before))
            if width is not None:
                layers.append(nn.Conv3d(before, width, 2, stride=2))
        head = nn.Conv3d(widths[-1], 2 * latent_channels, 3, padding=1)
        self.layers = nn.Sequential(*layers, ResBlock3d(widths[-1]), ChannelNorm(widths[-1]), nn.SiLU(), head)
        initialise(self)

    def forward(self, occupied: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.layers(occupied - 0.5).chunk(2, 1)


class PictureHead(nn.Module):
    """Makes the image encoder learn: from its tokens, what each pixel shows and what the whole object is like.

    Pixels: mask, base colour, position and normal in the world frame, from each patch's token alone. Object: occupancy
    of the structure grid and the material of each of its 2^3 cells, also where the picture shows nothing, by
    cross-attention from a coarse grid of queries. Thrown away after training.
    """

    def __init__(self, width: int, patch: int, structure: int, grid: int, blocks: int, heads: int) -> None:
        super().__init__()
        self.patch, self.grid, self.cell = patch, grid, structure // grid
        self.pixels = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, patch**2 * PIXEL))
        self.queries = nn.Parameter(torch.randn(1, grid**3, width) * 0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width, heads, 3 * width, dropout=0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.occupancy = nn.Linear(width, self.cell**3)
        self.material = nn.Linear(width, (self.cell // 2) ** 3 * PBR)

    def forward(self, tokens: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """tokens: [B, extra + side^2, C] as the encoder gives them.

        Returns:
            pixels [B, PIXEL, side * patch, side * patch]; occupancy logits [B, 1, S, S, S]; material
            [B, 6, S / 2, S / 2, S / 2].
        """
        patches = self.pixels(tokens[:, -(side**2) :]).unflatten(1, (side, side))
        pixels = patches.unflatten(-1, (PIXEL, self.patch, self.patch)).permute(0, 3, 1, 4, 2, 5)
        h = self.queries.expand(len(tokens), -1, -1)
        for block in self.blocks:
            h = block(h, tokens)
        h = self.norm(h)
        return pixels.flatten(4, 5).flatten(2, 3), self._cells(self.occupancy(h), 1), self._cells(self.material(h), PBR)

    def _cells(self, h: torch.Tensor, channels: int) -> torch.Tensor:
        """[B, grid^3, channels * n^3] -> [B, channels, grid * n, ...]."""
        n = round((h.shape[-1] / channels) ** (1 / 3))
        h = h.unflatten(1, (self.grid,) * 3).unflatten(-1, (channels, n, n, n))
        return h.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def parameters(module: nn.Module) -> int:
    """How many numbers a network holds."""
    return sum(p.numel() for p in module.parameters())


def reparameterise(mean: torch.Tensor, log_variance: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """A sample of the posterior."""
    noise = torch.randn(mean.shape, generator=random, device=mean.device, dtype=mean.dtype)
    return mean + (0.5 * log_variance).exp() * noise
