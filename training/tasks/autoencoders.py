"""The runs that train autoencoders: of the structure, of shapes and of materials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch

from pipeline.models.sparse_unet import FlexiDualGridVaeDecoder, SparseUnetVaeDecoder
from pipeline.sparse import SparseTensor
from pipeline.spec import SHAPE_DECODER, SHAPE_ENCODER, STRUCTURE_DECODER, TEXTURE_DECODER, TEXTURE_ENCODER

from .. import losses, objects, truth
from ..networks import StructureEncoder, new
from .plans import SHAPE_VAE, STRUCTURE_VAE, TEXTURE_VAE
from .task import TOGETHER, GroupedTask, Task

_PALETTE = 512  # objects whose materials the others are painted with


class StructureVAE(Task):
    name, ships, keeps = STRUCTURE_VAE, {"decoder": STRUCTURE_DECODER}, ("encoder",)

    def make(self):
        encoder = StructureEncoder(**self.design.structure_encoder)
        return {"encoder": encoder, "decoder": self.network(STRUCTURE_DECODER)}

    @torch.no_grad()
    def draw(self, count, random):
        grids = (truth.dual_grids(some, self.design.resolution) for some in self.sample(count, random, TOGETHER))
        return torch.cat([truth.occupancy(g.voxels, self.design.resolution, self.design.structure) for g in grids])

    def select(self, held, rows):
        return held[rows.to(self.device)]

    def losses(self, batch, random):
        return losses.structure_vae(self.modules["encoder"], self.modules["decoder"], batch, random)


@dataclass(frozen=True)
class _Grids:
    """Objects and their dual grids."""

    objects: objects.Objects
    grids: truth.DualGrids


class SparseVAE(GroupedTask):
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
        for some in self.sample(count, random, TOGETHER):
            mean, log_variance = self.encode(truth.dual_grids(some, self.design.resolution))
            means.append(mean.feats)
            variances.append(log_variance.exp())
        means, variances = torch.cat(means), torch.cat(variances)
        return {"mean": means.mean(0), "std": (means.var(0) + variances.mean(0)).sqrt()}


class ShapeVAE(SparseVAE):
    name, ships = SHAPE_VAE, {"decoder": SHAPE_DECODER, "encoder": SHAPE_ENCODER}

    def make(self):
        return {"encoder": new(self.design.shape_encoder), "decoder": self.network(SHAPE_DECODER)}

    def encode(self, grids):
        return self.modules["encoder"](grids.voxels, grids.offsets, grids.crossed, self.backends)

    def losses(self, batch, random):
        decoder = cast(FlexiDualGridVaeDecoder, self.modules["decoder"])
        return losses.shape_vae(self.modules["encoder"], decoder, batch.grids, batch.objects, random, self.backends)


class TextureVAE(SparseVAE):
    name, ships = TEXTURE_VAE, {"decoder": TEXTURE_DECODER, "encoder": TEXTURE_ENCODER}

    def make(self):
        return {"encoder": new(self.design.texture_encoder), "decoder": self.network(TEXTURE_DECODER)}

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
class Scale:
    """Normalisation of a latent, as pipeline.json holds it."""

    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def of(cls, weights: Mapping[str, torch.Tensor], device: torch.device) -> Scale:
        return cls(*(weights[f"statistics.{name}"].float().to(device) for name in ("mean", "std")))

    def __call__(self, feats: torch.Tensor) -> torch.Tensor:
        return (feats.float() - self.mean) / self.std
