"""The seven training runs: which networks each one trains, on what, and what it needs of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.backends import Backends
from pipeline.models.flow import Block, FlowTransformer
from pipeline.models.sparse_unet import (
    FlexiDualGridVaeDecoder,
    SparseConvNeXtBlock3d,
    SparseResBlockC2S3d,
    SparseResBlockS2C3d,
    SparseUnetVaeDecoder,
)
from pipeline.models.structure_vae import ResBlock3d, UpsampleBlock3d
from pipeline.sparse import ATTENTION, SUBMANIFOLD_CONV, SparseTensor, Voxels
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

from . import losses, objects, pictures, truth
from .networks import Design, StructureEncoder, new

STRUCTURE_VAE, SHAPE_VAE, TEXTURE_VAE, ENCODER = "structure-vae", "shape-vae", "texture-vae", "encoder"
STRUCTURE, SHAPE, TEXTURE = "structure-flow", "shape-flow", "texture-flow"

_PALETTE = 512  # objects whose materials the others are painted with
_TOGETHER = 64  # objects whose pictures and grids are made at once
_HALF = (Block, SparseConvNeXtBlock3d, SparseResBlockC2S3d, SparseResBlockS2C3d, ResBlock3d, UpsampleBlock3d)


@dataclass(frozen=True)
class Plan:
    """How a run is trained. A cycle draws `objects`, goes through them `repeats` times in batches of `batch`, each time
    in another order, and forgets them.

    minutes: length of the whole run on an H200 that runs of the same phase share. rate: learning rate at its highest,
    after `warmup` steps and before the last quarter, in which it falls to zero. average: decay of the moving average.
    measured: objects that the mean and spread of a latent are taken from.
    """

    minutes: float
    objects: int
    batch: int
    repeats: int
    rate: float
    warmup: int = 300
    average: float = 0.999
    weight_decay: float = 0.01
    measured: int = 256

    def __post_init__(self) -> None:
        if self.objects % self.batch:
            raise ValueError(f"A cycle of {self.objects} objects is no multiple of the batch, {self.batch}.")

    @property
    def steps(self) -> int:
        """Of a cycle."""
        return self.repeats * self.objects // self.batch


# Two phases of 25 minutes: what needs nothing, and the flows, which need the finished autoencoders and encoder.
PLANS = {
    STRUCTURE_VAE: Plan(5, objects=128, batch=64, repeats=4, rate=1e-3),
    SHAPE_VAE: Plan(22, objects=64, batch=16, repeats=4, rate=1e-3),
    TEXTURE_VAE: Plan(8, objects=64, batch=16, repeats=4, rate=2e-3, warmup=100),
    ENCODER: Plan(22, objects=384, batch=64, repeats=6, rate=8e-4, warmup=1000),
    STRUCTURE: Plan(22, objects=512, batch=128, repeats=24, rate=8e-4, warmup=500),
    SHAPE: Plan(22, objects=512, batch=64, repeats=12, rate=8e-4, warmup=500),
    TEXTURE: Plan(20, objects=512, batch=64, repeats=12, rate=8e-4, warmup=500),
}

Weights = Callable[[str], Mapping[str, torch.Tensor]]  # name of a run -> what it has made so far (train.load_weights)


class Task:
    """One run. modules: what is trained; those in `ships` (name -> role) go into the checkpoint, `keeps` are needed by
    other runs or to train on. The modules hold fp32 weights; on CUDA their blocks compute in bf16."""

    name: str
    needs: tuple[str, ...] = ()
    ships: Mapping[str, str] = {}
    keeps: tuple[str, ...] = ()

    def __init__(self, design: Design, device: torch.device, backends: Backends) -> None:
        self.design, self.device, self.backends = design, torch.device(device), backends
        for operation in (SUBMANIFOLD_CONV, ATTENTION):  # now: under autocast a sound row would fail its check
            backends.check(operation, self.device)
        self.modules = nn.ModuleDict(self.make()).to(device)
        _blocks_in_bfloat16(self.modules, self.device)

    def make(self) -> dict[str, nn.Module]:
        """The networks with their first weights."""
        raise NotImplementedError

    def load(self, weights: Weights) -> None:
        """Take what is needed from other runs."""

    def batches(self, plan: Plan, random: torch.Generator) -> Iterator:
        """The batches of one cycle, on training objects. random: a CPU generator."""
        held = self.draw(plan.objects, random)
        for _ in range(plan.repeats):
            for rows in torch.randperm(plan.objects, generator=random).split(plan.batch):
                yield self.select(held, rows)

    def draw(self, count: int, random: torch.Generator):
        """What the batches of a cycle are taken from."""
        raise NotImplementedError

    def select(self, held, rows: torch.Tensor):
        """A batch: some rows of what was drawn."""
        raise NotImplementedError

    def losses(self, batch, random: torch.Generator) -> losses.Terms:
        """random: a generator on the device."""
        raise NotImplementedError

    def statistics(self, count: int) -> dict[str, torch.Tensor]:
        """Numbers that other runs need beside the weights, measured on `count` objects with the weights of now."""
        return {}

    def _sample(self, count: int, random: torch.Generator, together: int) -> list[objects.Objects]:
        """Training objects in groups of `together`."""
        drawn = objects.sample(count, random, self.device)
        return [drawn.select(slice(first, first + together)) for first in range(0, count, together)]

    def _network(self, role: str) -> nn.Module:
        return new(self.design.models[role])

    def _frozen(self, network: nn.Module, weights: Mapping[str, torch.Tensor], name: str) -> nn.Module:
        """A network that another run has made."""
        own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
        network.load_state_dict(own)
        network.to(self.device).requires_grad_(False).eval()
        _blocks_in_bfloat16(network, self.device)
        return network


def _blocks_in_bfloat16(network: nn.Module, device: torch.device) -> None:
    """On CUDA, compute blocks in bf16 where autocast does; what lies between them, ends of networks too, stays fp32."""
    if device.type != "cuda":
        return
    for block in network.modules():
        if isinstance(block, (*_HALF, nn.TransformerDecoderLayer)) or type(block).__name__ == "DINOv3ViTLayer":
            block.forward = torch.autocast("cuda", torch.bfloat16)(block.forward)


class StructureVAE(Task):
    name, ships, keeps = STRUCTURE_VAE, {"decoder": STRUCTURE_DECODER}, ("encoder",)

    def make(self):
        encoder = StructureEncoder(**self.design.structure_encoder)
        return {"encoder": encoder, "decoder": self._network(STRUCTURE_DECODER)}

    @torch.no_grad()
    def draw(self, count, random):
        grids = (truth.dual_grids(some, self.design.resolution) for some in self._sample(count, random, _TOGETHER))
        return torch.cat([truth.occupancy(g.voxels, self.design.resolution, self.design.structure) for g in grids])

    def select(self, held, rows):
        return held[rows.to(self.device)]

    def losses(self, batch, random):
        return losses.structure_vae(self.modules["encoder"], self.modules["decoder"], batch, random)


class _Grouped(Task):
    """Tasks whose batches are drawn as they are used: a batch's pictures are large, its neighbour maps expensive."""

    def batches(self, plan, random):
        groups = [self.group(some, random) for some in self._sample(plan.objects, random, plan.batch)]
        for _ in range(plan.repeats):
            yield from groups

    def group(self, some: objects.Objects, random: torch.Generator):
        """A batch of these objects."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Grids:
    """Objects and their dual grids."""

    objects: objects.Objects
    grids: truth.DualGrids


class _SparseVAE(_Grouped):
    """The autoencoders on dual grids."""

    @torch.no_grad()
    def group(self, some, random):
        return _Grids(some, truth.dual_grids(some, self.design.resolution))

    def encode(self, grids: truth.DualGrids) -> tuple[SparseTensor, torch.Tensor]:
        """The posterior's mean and log variance."""
        raise NotImplementedError

    @torch.no_grad()
    def statistics(self, count):
        """Mean and spread of each latent channel: of samples of the posterior, so that a channel which holds nothing
        is not blown up to hold noise."""
        random = torch.Generator().manual_seed(0)
        means, variances = [], []
        for some in self._sample(count, random, _TOGETHER):
            mean, log_variance = self.encode(truth.dual_grids(some, self.design.resolution))
            means.append(mean.feats)
            variances.append(log_variance.exp())
        means, variances = torch.cat(means), torch.cat(variances)
        return {"mean": means.mean(0), "std": (means.var(0) + variances.mean(0)).sqrt()}


class ShapeVAE(_SparseVAE):
    name, ships = SHAPE_VAE, {"decoder": SHAPE_DECODER, "encoder": SHAPE_ENCODER}

    def make(self):
        return {"encoder": new(self.design.shape_encoder), "decoder": self._network(SHAPE_DECODER)}

    def encode(self, grids):
        return self.modules["encoder"](grids.voxels, grids.offsets, grids.crossed, self.backends)

    def losses(self, batch, random):
        decoder = cast(FlexiDualGridVaeDecoder, self.modules["decoder"])
        return losses.shape_vae(self.modules["encoder"], decoder, batch.grids, batch.objects, random, self.backends)


class TextureVAE(_SparseVAE):
    name, ships = TEXTURE_VAE, {"decoder": TEXTURE_DECODER, "encoder": TEXTURE_ENCODER}

    def make(self):
        return {"encoder": new(self.design.texture_encoder), "decoder": self._network(TEXTURE_DECODER)}

    def batches(self, plan, random):
        drawn = objects.sample(_PALETTE, random)
        palette = drawn.materials[drawn.kinds >= 0]
        for batch in super().batches(plan, random):
            yield replace(batch, grids=truth.repainted(batch.grids, palette, random))

    def encode(self, grids):
        return self.modules["encoder"](SparseTensor(grids.voxels, 2 * grids.pbr - 1), self.backends)

    def losses(self, batch, random):
        decoder = cast(SparseUnetVaeDecoder, self.modules["decoder"])
        return losses.texture_vae(self.modules["encoder"], decoder, batch.grids, random, self.backends)


@dataclass(frozen=True)
class _Views:
    """Pictures and what the objects in them are like, see losses.picture."""

    pictures: pictures.Pictures
    occupied: torch.Tensor
    material: torch.Tensor
    filled: torch.Tensor


class Encoder(_Grouped):
    name, ships, keeps = ENCODER, {"encoder": IMAGE_ENCODER}, ("head",)

    def make(self):
        return {"encoder": self._network(IMAGE_ENCODER), "head": self.design.picture_head()}

    @torch.no_grad()
    def group(self, some, random):
        grids = truth.dual_grids(some, self.design.resolution)
        occupied = truth.occupancy(grids.voxels, self.design.resolution, self.design.structure)
        material, filled = mean_material(grids, self.design.structure // 2)
        return _Views(pictures.render(some, random, self.design.image_size), occupied, material, filled)

    def losses(self, batch, random):
        pair = self.modules["encoder"], self.modules["head"]
        return losses.picture(*pair, batch.pictures, batch.occupied, batch.material, batch.filled)


def mean_material(grids: truth.DualGrids, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean material of the voxels in each cell of a coarser grid.

    Returns:
        [B, 6, side, side, side], 0 in empty cells; [B, 1, side, side, side] bool: cells that are not.
    """
    batch, coords = len(grids.voxels.lengths), grids.voxels.coords.long()
    cell = coords[:, 1:] // (grids.resolution // side)
    row = ((coords[:, 0] * side + cell[:, 0]) * side + cell[:, 1]) * side + cell[:, 2]
    total = grids.pbr.new_zeros(batch * side**3, 7).index_add(0, row, F.pad(grids.pbr, (0, 1), value=1.0))
    dense = (total[:, :6] / total[:, 6:].clamp_min(1)).reshape(batch, side, side, side, 6).permute(0, 4, 1, 2, 3)
    return dense, (total[:, 6] > 0).reshape(batch, 1, side, side, side)


@dataclass(frozen=True)
class _Known:
    """What a flow learns from: image tokens [N, L, C], and a dense latent [N, C, R, R, R] or, object by object, latent
    voxels [n, 3], what is sampled [n, C] and what is told [n, C']."""

    tokens: torch.Tensor
    dense: torch.Tensor | None = None
    xyz: tuple[torch.Tensor, ...] = ()
    feats: tuple[torch.Tensor, ...] = ()
    told: tuple[torch.Tensor, ...] = ()


class _Flow(Task):
    def load(self, weights):
        self.encoder = self._frozen(self._network(IMAGE_ENCODER), weights(ENCODER), "encoder")

    @torch.no_grad()
    def draw(self, count, random):
        parts = []
        for some in self._sample(count, random, _TOGETHER):
            shown = pictures.render(some, random, self.design.image_size)
            tokens = self.encoder(shown.normalised())
            parts.append(self._know(tokens, truth.dual_grids(some, self.design.resolution)))
        dense = None if parts[0].dense is None else torch.cat([part.dense for part in parts])
        lists = {name: sum((getattr(part, name) for part in parts), ()) for name in ("xyz", "feats", "told")}
        return _Known(torch.cat([part.tokens for part in parts]), dense, **lists)

    def _know(self, tokens: torch.Tensor, grids: truth.DualGrids) -> _Known:
        raise NotImplementedError


class StructureFlow(_Flow):
    name, needs, ships = STRUCTURE, (STRUCTURE_VAE, ENCODER), {"flow": STRUCTURE_FLOW}

    def make(self):
        return {"flow": self._network(STRUCTURE_FLOW)}

    def load(self, weights):
        super().load(weights)
        encoder = StructureEncoder(**self.design.structure_encoder)
        self.vae = self._frozen(encoder, weights(STRUCTURE_VAE), "encoder")

    def _know(self, tokens, grids):
        occupied = truth.occupancy(grids.voxels, self.design.resolution, self.design.structure)
        return _Known(tokens, self.vae(occupied.float())[0].float())

    def select(self, held, rows):
        rows = rows.to(self.device)
        return held.tokens[rows], held.dense[rows]

    def losses(self, batch, random):
        tokens, latent = batch
        return losses.flow(cast(FlowTransformer, self.modules["flow"]), latent, tokens, random, self.backends)


class _LatentFlow(_Flow):
    def load(self, weights):
        super().load(weights)
        made = weights(SHAPE_VAE)
        self.shape_vae = self._frozen(new(self.design.shape_encoder), made, "encoder")
        self.shape_scale = _Scale.of(made, self.device)

    def _shape(self, grids) -> SparseTensor:
        mean, _ = self.shape_vae(grids.voxels, grids.offsets, grids.crossed, self.backends)
        return mean.replace(self.shape_scale(mean.feats))

    def select(self, held, rows):
        rows = rows.tolist()
        lengths = tuple(len(held.xyz[row]) for row in rows)
        counts = torch.tensor(lengths, device=self.device)
        sample = torch.arange(len(rows), device=self.device, dtype=torch.int32)
        sample = sample.repeat_interleave(counts, output_size=sum(lengths))
        coords = torch.cat([sample[:, None], torch.cat([held.xyz[row] for row in rows])], 1)
        latent = SparseTensor(Voxels(coords, lengths), torch.cat([held.feats[row] for row in rows]))
        told = torch.cat([held.told[row] for row in rows]) if held.told else None
        return held.tokens[torch.tensor(rows, device=self.device)], latent, told

    def losses(self, batch, random):
        tokens, latent, told = batch
        return losses.flow(cast(FlowTransformer, self.modules["flow"]), latent, tokens, random, self.backends, told)


class ShapeFlow(_LatentFlow):
    name, needs, ships = SHAPE, (SHAPE_VAE, ENCODER), {"flow": SHAPE_FLOW_512}

    def make(self):
        return {"flow": self._network(SHAPE_FLOW_512)}

    def _know(self, tokens, grids):
        shape = self._shape(grids)
        lengths = shape.voxels.lengths
        return _Known(tokens, xyz=shape.voxels.xyz.split(lengths), feats=shape.feats.split(lengths))


class TextureFlow(_LatentFlow):
    name, needs, ships = TEXTURE, (SHAPE_VAE, TEXTURE_VAE, ENCODER), {"flow": TEXTURE_FLOW_512}

    def make(self):
        return {"flow": self._network(TEXTURE_FLOW_512)}

    def load(self, weights):
        super().load(weights)
        made = weights(TEXTURE_VAE)
        self.texture_vae = self._frozen(new(self.design.texture_encoder), made, "encoder")
        self.texture_scale = _Scale.of(made, self.device)

    def _know(self, tokens, grids):
        shape = self._shape(grids)
        texture, _ = self.texture_vae(SparseTensor(grids.voxels, 2 * grids.pbr - 1), self.backends)
        feats, lengths = self.texture_scale(texture.feats), shape.voxels.lengths
        xyz = shape.voxels.xyz.split(lengths)
        return _Known(tokens, xyz=xyz, feats=feats.split(lengths), told=shape.feats.split(lengths))


@dataclass(frozen=True)
class _Scale:
    """Normalisation of a latent, as pipeline.json holds it."""

    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def of(cls, weights: Mapping[str, torch.Tensor], device: torch.device) -> _Scale:
        return cls(*(weights[f"statistics.{name}"].float().to(device) for name in ("mean", "std")))

    def __call__(self, feats: torch.Tensor) -> torch.Tensor:
        return (feats.float() - self.mean) / self.std


TASKS: dict[str, type[Task]] = {
    task.name: task for task in (StructureVAE, ShapeVAE, TextureVAE, Encoder, StructureFlow, ShapeFlow, TextureFlow)
}
