"""Peak memory of every stage of a run, before it: from the networks' configurations, tokens and voxels.

The numbers are fits to `benchmarks/history.jsonl` and `benchmarks/memory.jsonl` (full-size networks on one NVIDIA H200,
torch 2.11): networks alone in models.memory, here what a run holds beside them. fit.py fits them again;
tests/test_plan.py compares the estimates with every measured line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..models import coarse_bytes, working_bytes
from ..spec import IMAGE_ENCODER, SHAPE_DECODER, SHAPE_ENCODER, STRUCTURE_DECODER, STRUCTURE_FLOW, TEXTURE_DECODER
from ..weights import Models
from .demand import GENERATE, REFINE, STATE, Demand
from .ladder import Rung

# Bytes beside a network and its work: conditions, what earlier stages left, and workspaces of matrix products, 32 MiB
# for each of the three threads that compile kernels, which bench has beside single networks, too.
BASE = 100_000_000
PLAIN_BASE = 600_000_000  # the same without the fused kernels, which was measured before networks alone were
FINISHING = 340_000_000  # bytes beside everything else while a mesh is processed or baked: those workspaces, too
HELD = 56  # bytes for each fine voxel of what decode shape leaves: mesh, subdivisions
TILED = 130  # bytes for each fine voxel that a decoder in tiles holds beside them: results, subdivisions
TILE_ROOM = 1_000_000_000  # bytes for the tiles themselves, below which they get many
LEAST_ROOM = 500_000_000  # the same where tiles only keep a run below its peak so far (runtime.below_the_peak)
UPSAMPLED = 0.03  # of a decoder's work that is done up to the coordinates of its last level alone
PROCESSED = 130  # bytes for each raw face while the mesh is cleaned and simplified
BAKED = 25, 75  # bytes for each raw face and each texel
FACES = 2  # raw faces for each fine voxel: 1.96 measured
GROWTH = 4.47  # children of a voxel: 4.0 on a surface; 400 fine voxels for each latent one, the most of public runs
# Latent voxels of an object for each square of its grid: 4.8 a sphere's; twice its surface is rare.
SURFACE = 9.6
SMALL = 50  # 1 / this of a network's weights is in layers too small to be streamed, or of a decoder's finest level


@dataclass(frozen=True)
class Estimate:
    """Peak bytes of a stage on the device."""

    stage: str
    peak_bytes: int


FINE_SHAPE = "shape fine"
TILED_STAGES = ("upsample", "decode shape", "decode texture")


def estimated_as(stage: str) -> str:
    """The name under which a stage is estimated: that of passes behind the first says their resolution."""
    if stage.startswith("shape "):
        return FINE_SHAPE
    return {"unwrap": "bake", "read UVs": "bake", "color vertices": "bake"}.get(stage, stage)


_MEASURED: WeakKeyDictionary[nn.Module, tuple[int, int]] = WeakKeyDictionary()  # bytes of all layers, of the largest


@dataclass(frozen=True)
class Network:
    """A network without its weights (on "meta"), and what they take."""

    model: Any  # its class is the role's
    weight_bytes: int
    largest_bytes: int  # of one layer's

    @classmethod
    def of(cls, model: nn.Module) -> Network:
        """model: on "meta", where it does not change: it is measured once, though plans are chosen for every job."""
        if model not in _MEASURED:
            layers = [
                sum(
                    tensor.numel() * tensor.element_size()
                    for tensor in (*layer.parameters(False), *layer.buffers(False))
                )
                for layer in model.modules()
            ]
            _MEASURED[model] = sum(layers), max(layers)
        return cls(model, *_MEASURED[model])


def networks_of(models: Models, roles: Iterable[str], dtype: torch.dtype | None) -> dict[str, Network]:
    """The networks of a run by role; no weight is read. dtype: torso dtype in place of the checkpoint's."""
    return {role: Network.of(models.outline(role, dtype)) for role in dict.fromkeys(roles)}


def estimate(
    networks: Mapping[str, Network], demand: Demand, rung: Rung, image_size: int, room: int, fused: bool
) -> list[Estimate]:
    """Peak bytes of every stage, in their order.

    Args:
        networks: those of demand.roles, at least.
        image_size: pixels a side at image scale 1.
        room: bytes that the run may take in all, which tiles adapt to.
        fused: whether the networks' fused kernels run.
    """
    costs = _Costs(networks, demand, rung, int(room * rung.share), fused, image_size)
    if demand.source == STATE:
        return costs.finish((demand.raw_faces or 0) // FACES)
    tokens = costs.tokens()
    kind, voxels = demand.pipeline_type, demand.voxels or costs.voxels(tokens[-1])
    found = [costs.network("encode", IMAGE_ENCODER, max(costs.patches(scale) for scale in demand.image_scales))]
    if demand.source == GENERATE:
        dense: int = networks[STRUCTURE_FLOW].model.resolution ** 3
        flow = costs.network("structure", STRUCTURE_FLOW, dense, costs.seen(1))
        decoder = costs.network("structure", STRUCTURE_DECODER, dense)
        found.append(max(flow, decoder, key=lambda each: each.peak_bytes))
        passes = list(zip(kind.shape, tokens))
    else:
        found.append(costs.network("encode mesh", SHAPE_ENCODER, tokens[-1], voxels=voxels))
        passes = [(kind.shape[-1], tokens[-1])] if demand.source == REFINE else []
    for number, (one, count) in enumerate(passes):
        if number:
            found.append(costs.upsampling(costs.voxels(tokens[number - 1])))
        name = FINE_SHAPE if number or demand.source == REFINE else "shape"
        found.append(costs.network(name, one.model, count, costs.seen(one.image_scale)))
    if demand.texture:
        found.append(costs.network("texture", kind.texture.model, tokens[-1], costs.seen(kind.texture.image_scale)))
    before = max(each.peak_bytes for each in found)
    if passes:
        found.append(costs.decoder("decode shape", SHAPE_DECODER, voxels, 0, before))
    if demand.texture:
        found.append(costs.decoder("decode texture", TEXTURE_DECODER, voxels, HELD * voxels, before))
    return found + costs.finish(voxels)


@dataclass(frozen=True)
class _Costs:
    """Estimates of stages on one rung."""

    networks: Mapping[str, Network]
    demand: Demand
    rung: Rung
    room: int
    fused: bool
    image_size: int

    def tokens(self) -> list[int]:
        """Latent voxels of each shape pass; of the last one the number that is known, or as many as there may be."""
        passes, known = self.demand.pipeline_type.shape, self.demand.tokens
        own = [self.networks[one.model].model.resolution if one.model in self.networks else 0 for one in passes]
        own[-1] = own[-1] or self.networks[self.demand.pipeline_type.texture.model].model.resolution
        grids = [grid * one.grid_scale for grid, one in zip(own, passes)]
        usual = [round(SURFACE * grid**2) for grid in grids]
        if known is not None:
            return [*(round(known * (grid / grids[-1]) ** 2) for grid in grids[:-1]), known]
        if grids[-1] > own[-1]:  # such a pass has fewer than the maximum, if its network's own grid has
            usual[-1] = min(usual[-1], max(self.demand.max_tokens, round(SURFACE * own[-1] ** 2)))
        return usual

    def voxels(self, tokens: int) -> int:
        """Fine voxels that so many latent ones are divided into."""
        decoder = self.networks.get(SHAPE_DECODER) or self.networks[TEXTURE_DECODER]
        return round(tokens * GROWTH**decoder.model.levels)

    def patches(self, scale: int) -> int:
        """Image tokens of one view: patches of 16 pixels a side, and five that stand for the whole."""
        return (self.image_size * scale // 16) ** 2 + 5

    def seen(self, scale: int) -> int:
        return self.patches(scale) * self.demand.views

    def weights(self, role: str) -> int:
        """What is on the device of all networks while one runs."""
        network = self.networks[role]
        if self.rung.stream:  # the next layer comes before the last has gone
            return min(network.weight_bytes, 2 * network.largest_bytes + network.weight_bytes // SMALL)
        return self.kept() if self.rung.keep_models else network.weight_bytes

    def kept(self) -> int:
        return sum(self.networks[role].weight_bytes for role in set(self.demand.roles)) if self.rung.keep_models else 0

    @property
    def base(self) -> int:
        return BASE if self.fused else PLAIN_BASE

    def network(self, stage: str, role: str, tokens: int, condition: int = 0, voxels: int | None = None) -> Estimate:
        work = working_bytes(self.networks[role].model, tokens, condition, voxels, fused=self.fused)
        return Estimate(stage, self.base + self.weights(role) + work)

    def upsampling(self, voxels: int) -> Estimate:
        """The coordinates of the shape decoder's last level: most of its work is on the voxels of that."""
        work = working_bytes(self.networks[SHAPE_DECODER].model, 1, voxels=voxels, fused=self.fused)
        coarse = coarse_bytes(voxels, self.fused)
        return Estimate("upsample", self.base + self.weights(SHAPE_DECODER) + coarse + round(UPSAMPLED * work))

    def decoder(self, stage: str, role: str, voxels: int, held: int, before: int) -> Estimate:
        """A sparse decoder: whole, or in tiles that adapt to the room.

        before: peak of the stages before it. Where networks do not stay, a decoder lets its levels' weights go one by
        one, and takes no more than that if tiles can help it.
        """
        network, keep = self.networks[role], self.rung.keep_models
        coarse = self.base + held + self.weights(role) + coarse_bytes(voxels, self.fused)
        # a level's weights go when it is done, and a streamed network's largest layers are those of coarse levels
        rest = self.base + held + (self.weights(role) if keep else network.weight_bytes // SMALL)
        fine = rest + working_bytes(network.model, 1, voxels=voxels, fused=self.fused)
        if not keep and self.fused:  # without the fused kernels products alone take more than such tiles
            fine = min(fine, max(before, rest + TILED * voxels + LEAST_ROOM))
        if self.rung.tiles:
            fine = min(fine, max(self.room, rest + TILED * voxels + TILE_ROOM))
        return Estimate(stage, max(coarse, fine))

    def finish(self, voxels: int) -> list[Estimate]:
        """The post-processing, as far as it runs on the device."""
        if self.rung.finish_on_cpu:
            return []
        faces, rest, found = FACES * voxels, FINISHING + self.kept() + HELD * voxels, []
        if self.demand.process:
            found.append(Estimate("process mesh", rest + PROCESSED * faces))
        if self.demand.texture and self.demand.texture_size:
            a_face, a_texel = BAKED
            found.append(Estimate("bake", rest + a_face * faces + a_texel * self.demand.texture_size**2))
        return found
