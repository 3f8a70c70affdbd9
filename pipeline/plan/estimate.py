"""Peak memory of every stage of a run, before it: from the networks' configurations, tokens and voxels.

The numbers are fits to `benchmarks/history.jsonl` and `benchmarks/memory.jsonl` (full-size networks on one NVIDIA H200,
torch 2.11): networks alone in models.memory, here what a run holds beside them. fit.py fits them again;
tests/test_plan.py compares the estimates with every measured line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..models import working_bytes
from ..spec import (
    IMAGE_ENCODER,
    MAX_TOKENS,
    SHAPE_DECODER,
    STRUCTURE_DECODER,
    STRUCTURE_FLOW,
    TEXTURE_DECODER,
    Pass,
    PipelineType,
)
from ..weights import Models
from .ladder import Rung

BASE = 600_000_000  # bytes beside everything else: workspaces, graphs, conditions; the least that a stage was measured
HELD = 56  # bytes for each fine voxel of what decode shape leaves: mesh, subdivisions
TILED = 130  # bytes for each fine voxel that a decoder in tiles holds beside them: results, subdivisions
TILE_ROOM = 1_000_000_000  # bytes for the tiles themselves, below which they get many
PROCESSED = 215  # bytes for each raw face while the mesh is cleaned and simplified
BAKED = 78, 75  # bytes for each raw face (search tree) and each texel
FACES = 2  # raw faces for each fine voxel: 1.96 measured
GROWTH = 400  # fine voxels for each latent voxel: 256 on a sphere, 180 to 400 in public runs
# Latent voxels of an object for each square of its grid: 4.8 a sphere's; twice its surface is rare.
SURFACE = 9.6


@dataclass(frozen=True)
class Demand:
    """What a run is to make.

    views: pictures of the one object. finish: whether the mesh is processed; texture_size: pixels a side, 0 where
    nothing is baked. tokens: latent voxels of the finest pass, where they are known.
    """

    pipeline_type: PipelineType
    texture: bool = True
    max_tokens: int = MAX_TOKENS
    views: int = 1
    finish: bool = True
    texture_size: int = 2048
    tokens: int | None = None


@dataclass(frozen=True)
class Estimate:
    """Peak bytes of a stage on the device."""

    stage: str
    peak_bytes: int


@dataclass(frozen=True)
class Network:
    """A network without its weights (on "meta"), and what they take."""

    model: nn.Module
    weight_bytes: int
    largest_bytes: int  # of one layer's

    @classmethod
    def of(cls, model: nn.Module) -> Network:
        layers = [
            sum(tensor.numel() * tensor.element_size() for tensor in (*layer.parameters(False), *layer.buffers(False)))
            for layer in model.modules()
        ]
        return cls(model, sum(layers), max(layers))


def networks_of(models: Models, roles: Iterable[str], dtype: torch.dtype | None) -> dict[str, Network]:
    """The networks of a run by role; no weight is read. dtype: torso dtype in place of the checkpoint's."""
    return {role: Network.of(models.outline(role, dtype)) for role in dict.fromkeys(roles)}


def estimate(
    networks: Mapping[str, Network], demand: Demand, rung: Rung, image_size: int, room: int, fused: bool
) -> list[Estimate]:
    """Peak bytes of every stage, in their order.

    Args:
        networks: those of demand.pipeline_type.roles(demand.texture), at least.
        image_size: pixels a side at image scale 1.
        room: bytes that the run may take in all, which tiles adapt to.
        fused: whether the networks' fused kernels run.
    """
    counts = _Counts.of(networks, demand, image_size)
    costs = _Costs(networks, demand.pipeline_type.roles(demand.texture), rung, int(room * rung.share), fused)
    kind = demand.pipeline_type
    found = [
        costs.network("encode", IMAGE_ENCODER, max(counts.patches(scale) for scale in kind.image_scales())),
        costs.network("structure", STRUCTURE_FLOW, counts.dense, counts.seen(1)),
        costs.network("structure", STRUCTURE_DECODER, counts.dense),
    ]
    for number, (one, tokens) in enumerate(zip(kind.shape, counts.tokens)):
        if number:
            found.append(costs.decoder("upsample", SHAPE_DECODER, counts.tokens[number - 1], 0))
        found.append(costs.network("shape", one.model, tokens, counts.seen(one.image_scale)))
    tokens = counts.tokens[-1]
    voxels = tokens * GROWTH
    if demand.texture:
        found.append(costs.network("texture", kind.texture.model, tokens, counts.seen(kind.texture.image_scale)))
    found.append(costs.decoder("decode shape", SHAPE_DECODER, tokens, 0))
    if demand.texture:
        found.append(costs.decoder("decode texture", TEXTURE_DECODER, tokens, HELD * voxels))
    return found + costs.finish(demand, voxels)


@dataclass(frozen=True)
class _Counts:
    """tokens: latent voxels of each shape pass. dense: positions of the structure's latent."""

    tokens: tuple[int, ...]
    dense: int
    views: int
    image_size: int

    @classmethod
    def of(cls, networks: Mapping[str, Network], demand: Demand, image_size: int) -> _Counts:
        passes = demand.pipeline_type.shape
        grids = [_grid(networks[one.model].model, one) for one in passes]
        tokens = [round(SURFACE * grid**2) for grid in grids]
        own = demand.tokens
        if own is None:  # a cascade has fewer than the maximum, if its network's own grid has
            least = round(SURFACE * _grid(networks[passes[-1].model].model, replace(passes[-1], grid_scale=1.0)) ** 2)
            own = min(tokens[-1], max(demand.max_tokens, least)) if passes[-1].grid_scale > 1 else tokens[-1]
        else:
            tokens = [round(own * (grid / grids[-1]) ** 2) for grid in grids]
        resolution: int = networks[STRUCTURE_FLOW].model.resolution  # pyright: ignore[reportAssignmentType]
        return cls((*tokens[:-1], own), resolution**3, demand.views, image_size)

    def patches(self, scale: int) -> int:
        """Image tokens of one view: patches of 16 pixels a side, and five that stand for the whole."""
        return (self.image_size * scale // 16) ** 2 + 5

    def seen(self, scale: int) -> int:
        return self.patches(scale) * self.views


def _grid(model: nn.Module, one_pass: Pass) -> int:
    return round(model.resolution * one_pass.grid_scale)  # pyright: ignore[reportArgumentType, reportOperatorIssue]


@dataclass(frozen=True)
class _Costs:
    """Estimates of stages on one rung."""

    networks: Mapping[str, Network]
    roles: tuple[str, ...]
    rung: Rung
    room: int
    fused: bool

    def weights(self, role: str) -> int:
        """What is on the device of all networks while one runs."""
        if self.rung.stream:  # the rest of the layers is small; the next one comes before the last has gone
            return 2 * self.networks[role].largest_bytes + self.networks[role].weight_bytes // 50
        here = dict.fromkeys(self.roles) if self.rung.keep_models else (role,)
        return sum(self.networks[each].weight_bytes for each in here)

    def network(self, stage: str, role: str, tokens: int, condition: int = 0) -> Estimate:
        work = working_bytes(self.networks[role].model, tokens, condition, fused=self.fused)
        return Estimate(stage, BASE + self.weights(role) + work)

    def decoder(self, stage: str, role: str, tokens: int, held: int) -> Estimate:
        """A sparse decoder: whole, or in tiles that adapt to the room."""
        voxels, rest = tokens * GROWTH, BASE + self.weights(role) + held
        whole = rest + working_bytes(self.networks[role].model, tokens, voxels=voxels, fused=self.fused)
        if not self.rung.tiles:
            return Estimate(stage, whole)
        return Estimate(stage, min(whole, max(rest + TILED * voxels + TILE_ROOM, self.room)))

    def finish(self, demand: Demand, voxels: int) -> list[Estimate]:
        """The post-processing, as far as it runs on the device."""
        if not demand.finish or self.rung.finish_on_cpu:
            return []
        kept = sum(self.networks[role].weight_bytes for role in set(self.roles)) if self.rung.keep_models else 0
        faces, rest = FACES * voxels, BASE + kept + HELD * voxels
        found = [Estimate("process mesh", rest + PROCESSED * faces)]
        if demand.texture and demand.texture_size:
            a_face, a_texel = BAKED
            found.append(Estimate("bake", rest + a_face * faces + a_texel * demand.texture_size**2))
        return found
