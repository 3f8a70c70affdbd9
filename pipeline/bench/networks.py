"""The networks that `bench` measures: random weights, inputs on synthetic surfaces, and one call of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from ..budget import Budget
from ..models import build
from ..runtime import Runtime
from ..sparse import SparseTensor, Subdivision, Voxels, subdivide
from ..spec import (
    IMAGE_ENCODER,
    RELEASED,
    RELEASED_MODELS,
    SHAPE_DECODER,
    SHAPE_FLOW_512,
    SHAPE_FLOW_1024,
    STRUCTURE_DECODER,
    STRUCTURE_FLOW,
    TEXTURE_DECODER,
)
from ..weights import Checkpoint, Models

_RADIUS = 0.47  # of the sphere, in world units


@dataclass(frozen=True)
class Size:
    """What is measured: configurations by role, and (latent grid, latent voxels, image scale) per resolution."""

    models: dict[str, dict]
    surfaces: tuple[tuple[int, int, int], ...]
    faces: int
    texture_size: int
    dense: tuple[tuple[int, int, int], ...] = ()  # as surfaces, for the decoders alone


def full_size() -> Size:
    """The released networks and the token counts of the reference's measurements."""
    return Size(RELEASED_MODELS, ((32, 4912, 1), (64, 19256, 2), (96, 43828, 2)), 100_000, 2048, ((96, 69_900, 2),))


def small_size() -> Size:
    """The same classes at a size that a CPU runs in seconds."""
    flow = {"model_channels": 128, "cond_channels": 64, "num_blocks": 2, "num_heads": 2}
    unet = {"model_channels": [64, 32, 16], "num_blocks": [1, 1, 0], "block_type": ["SparseConvNeXtBlock3d"] * 3}
    unet |= {"up_block_type": ["SparseResBlockC2S3d"] * 2, "block_args": [{}] * 3}
    changes = {
        "SparseStructureFlowModel": flow,
        "SLatFlowModel": flow,
        "SparseStructureDecoder": {"channels": [32, 16, 8]},
        "FlexiDualGridVaeDecoder": unet,
        "SparseUnetVaeDecoder": unet,
        "DinoV3FeatureExtractor": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
    }
    models = {
        role: {"name": config["name"], "args": config["args"] | changes[config["name"]]}
        for role, config in RELEASED_MODELS.items()
    }
    return Size(models, ((32, 1200, 1), (64, 4800, 2)), 20_000, 512)


class RandomModels(Models):
    """Networks of given configurations with random weights, made on the device when first used."""

    def __init__(self, configs: dict[str, dict]) -> None:
        super().__init__(Checkpoint("random", RELEASED, dict.fromkeys(configs)), build)  # pyright: ignore[reportArgumentType]
        self._configs, self._made, self._drawn = configs, {}, {}

    def config(self, role: str) -> dict:
        return self._configs[role]

    def fingerprint(self, role: str) -> str:
        return f"random {role}"

    def is_fetched(self, role: str) -> bool:
        return role in self._configs

    def outline(self, role: str, dtype: torch.dtype | None = None) -> nn.Module:
        if (role, dtype) not in self._drawn:
            with torch.device("meta"):
                self._drawn[role, dtype] = build(self._configs[role], dtype)
        return self._drawn[role, dtype]

    def get(self, role: str, device: torch.device, dtype: torch.dtype | None = None) -> nn.Module:
        if role not in self._made:
            torch.manual_seed(0)
            self._made[role] = _random(self._configs[role], device, dtype).requires_grad_(False).eval()
        return self._made[role]

    def release(self, role: str | None = None) -> None:
        self._made.pop(role, None) if role else self._made.clear()


def _random(config: dict, device: torch.device, dtype: torch.dtype | None) -> nn.Module:
    """A network with random weights of a trained one's size, in its own precision from the start."""
    if config["name"] == RELEASED_MODELS[IMAGE_ENCODER]["name"]:  # its layers fill themselves; phases are no weights
        with torch.device(device):
            return build(config).to(device)
    with torch.device("meta"):
        model = build(config, dtype)
    model.to_empty(device=device)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim == 1 or name.endswith("gamma"):
            nn.init.ones_(parameter)
        else:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    # Let the decoders decide as for a surface: a voxel has four children, those of one side; every edge is crossed.
    for name, layer in model.named_modules():
        if name.endswith("to_subdiv") and isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.weight)
            layer.bias.data[:4], layer.bias.data[4:] = 1, -1
    parameters = dict(model.named_parameters())
    if hasattr(model, "dual_grid"):
        parameters["output_layer.bias"].data[3:6] = 10
    if hasattr(model, "upscale"):
        parameters["out_layer.2.bias"].data += 10  # a structure is never empty
    return model


def sphere(resolution: int, count: int, device: torch.device) -> Voxels:
    """The `count` voxels nearest to a sphere, sorted by (x, y, z)."""
    axis = (torch.arange(resolution, device=device) + 0.5) / resolution - 0.5
    distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt() - _RADIUS
    nearest = distance.abs().reshape(-1).topk(count, largest=False).indices.sort().values
    return Voxels.single(torch.stack(torch.unravel_index(nearest, (resolution,) * 3), 1))


def refine(voxels: Voxels, resolution: int, levels: int) -> list[Subdivision]:
    """Subdivisions that keep the four times as many children nearest to the sphere."""
    subdivisions = []
    for _ in range(levels):
        resolution *= 2
        every = subdivide(voxels, torch.ones(len(voxels), 8, dtype=torch.bool, device=voxels.device))
        centre = (every.children.xyz + 0.5) / resolution - 0.5
        distance = (centre.norm(dim=1) - _RADIUS).abs()
        keep = torch.zeros(len(distance), dtype=torch.bool, device=voxels.device)
        keep[distance.topk(4 * len(voxels), largest=False).indices] = True
        subdivisions.append(subdivide(voxels, keep.reshape(-1, 8)))
        voxels = subdivisions[-1].children
    return subdivisions


@dataclass(frozen=True)
class Inputs:
    """What a call of a network needs.

    Args:
        x: pixels [1, 3, H, W], a dense latent [1, C, R, R, R], or the features [T, C] of `voxels`.
        tokens: [1, M, D] image tokens, for flows.
        voxels: where x is, for latent flows and sparse decoders.
        subdivisions: the children to make at each level, for sparse decoders.
    """

    x: torch.Tensor
    tokens: torch.Tensor | None = None
    voxels: Voxels | None = None
    subdivisions: tuple[Subdivision, ...] = ()

    @property
    def positions(self) -> int:
        """Tokens of a flow's pass."""
        return self.x[0, 0].numel() if self.voxels is None else len(self.x)

    @property
    def time(self) -> torch.Tensor:
        """[1] the time at which flows are called, in thousandths."""
        return torch.tensor([500.0], device=self.x.device)


@dataclass(frozen=True)
class Case:
    """One network to measure at one size. `inputs` makes its inputs when they are needed."""

    name: str
    size: str
    role: str
    inputs: Callable[[], Inputs]


def cases(size: Size, device: torch.device) -> Iterator[Case]:
    """Every network at every size."""
    for scale in (1, 2):
        side = RELEASED.image_size * scale
        pixels = partial(_dense, device, 3, side, side)
        yield Case("image encoder", f"{side} px", IMAGE_ENCODER, pixels)
    tokens = {scale: _tokens(size, scale, device) for scale in (1, 2)}
    args = size.models[STRUCTURE_FLOW]["args"]
    grid = args["resolution"]
    structure = partial(_dense, device, args["in_channels"], grid, grid, grid, tokens=tokens[1])
    yield Case("structure flow, one forward", f"{grid**3:,} tokens", STRUCTURE_FLOW, structure)
    channels = size.models[STRUCTURE_DECODER]["args"]["latent_channels"]
    yield Case("structure decoder", f"{grid}^3", STRUCTURE_DECODER, partial(_dense, device, channels, grid, grid, grid))
    for grid, count, scale in size.surfaces:
        role = SHAPE_FLOW_512 if scale == 1 else SHAPE_FLOW_1024
        channels = size.models[role]["args"]["in_channels"]
        latent = partial(_on_sphere, device, channels, grid, count, tokens[scale])
        yield Case("latent flow, one forward", f"{count:,} tokens", role, latent)
    for role, name in ((SHAPE_DECODER, "shape decoder"), (TEXTURE_DECODER, "texture decoder")):
        args = size.models[role]["args"]
        levels = len(args["model_channels"]) - 1
        for grid, count, _ in (*size.surfaces, *size.dense):
            what = f"{grid << levels}^3, {count * 4**levels:,} voxels"
            latent = partial(_on_sphere, device, args["latent_channels"], grid, count, levels=levels)
            yield Case(name, what, role, latent)


def call(model: Any, inputs: Inputs, runtime: Runtime) -> Callable[[], torch.Tensor]:
    """The call to time; it returns the network's output: dense, or features [T', C]."""
    x, voxels, backends = inputs.x, inputs.voxels, runtime.backends
    if inputs.tokens is not None:
        context, t = model.context(inputs.tokens, inputs.positions), inputs.time
        if voxels is None:
            return lambda: model(x, t, context, backends)
        return lambda: model(SparseTensor(voxels, x), t, context, None, backends)

    if voxels is None:  # the image encoder and the structure decoder
        return lambda: model(x)

    coords, lengths = voxels.coords, voxels.lengths

    def decode() -> torch.Tensor:  # making the neighbour maps is part of the work: give every call voxels without them
        fresh = Voxels(coords, lengths)
        subdivisions = [_uncached(one) for one in inputs.subdivisions]
        budget = Budget(runtime.free_bytes, runtime.note)  # as alone: not within what the networks before took
        return model(SparseTensor(fresh, x), subdivisions, backends, budget=budget)[0].feats

    return decode


def _tokens(size: Size, scale: int, device: torch.device) -> torch.Tensor:
    args = size.models[IMAGE_ENCODER]["args"]
    count = (RELEASED.image_size * scale // args["patch_size"]) ** 2 + 1 + args["num_register_tokens"]
    return torch.randn(1, count, args["hidden_size"], device=device)


def _dense(device: torch.device, *shape: int, tokens: torch.Tensor | None = None) -> Inputs:
    return Inputs(torch.randn(1, *shape, device=device), tokens)


def _on_sphere(
    device: torch.device, channels: int, grid: int, count: int, tokens: torch.Tensor | None = None, levels: int = 0
) -> Inputs:
    voxels = sphere(grid, count, device)
    return Inputs(torch.randn(count, channels, device=device), tokens, voxels, tuple(refine(voxels, grid, levels)))


def _uncached(subdivision: Subdivision) -> Subdivision:
    children = Voxels(subdivision.children.coords, subdivision.children.lengths)
    return replace(subdivision, children=children)
