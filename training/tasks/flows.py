"""The runs that train flows: of the structure, of shapes and of materials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch

from pipeline.models.flow import FlowTransformer
from pipeline.sparse import SparseTensor, Voxels
from pipeline.spec import IMAGE_ENCODER, SHAPE_FLOW_512, STRUCTURE_FLOW, TEXTURE_FLOW_512

from .. import losses, pictures, truth
from ..networks import StructureEncoder, new
from .autoencoders import Scale
from .plans import ENCODER, SHAPE, SHAPE_VAE, STRUCTURE, STRUCTURE_VAE, TEXTURE, TEXTURE_VAE
from .task import TOGETHER, Task


@dataclass(frozen=True)
class _Known:
    """Training data of a flow: image tokens [N, L, C], and a dense latent [N, C, R, R, R] or, object by object, latent
    voxels [n, 3], what is sampled [n, C] and what goes beside it [n, C']."""

    tokens: torch.Tensor
    dense: torch.Tensor | None = None
    xyz: tuple[torch.Tensor, ...] = ()
    feats: tuple[torch.Tensor, ...] = ()
    concat: tuple[torch.Tensor, ...] = ()


class Flow(Task):
    def load(self, weights):
        self.encoder = self.frozen(self.network(IMAGE_ENCODER), weights(ENCODER), "encoder")

    @torch.no_grad()
    def draw(self, count, random):
        parts = []
        for some in self.sample(count, random, TOGETHER):
            shown = pictures.render(some, random, self.design.image_size)
            tokens = self.encoder(shown.normalised())
            parts.append(self._know(tokens, truth.dual_grids(some, self.design.resolution)))
        dense = None if parts[0].dense is None else torch.cat([part.dense for part in parts])
        lists = {name: sum((getattr(part, name) for part in parts), ()) for name in ("xyz", "feats", "concat")}
        return _Known(torch.cat([part.tokens for part in parts]), dense, **lists)

    def _know(self, tokens: torch.Tensor, grids: truth.DualGrids) -> _Known:
        raise NotImplementedError


class StructureFlow(Flow):
    name, needs, ships = STRUCTURE, (STRUCTURE_VAE, ENCODER), {"flow": STRUCTURE_FLOW}

    def make(self):
        return {"flow": self.network(STRUCTURE_FLOW)}

    def load(self, weights):
        super().load(weights)
        encoder = StructureEncoder(**self.design.structure_encoder)
        self.vae = self.frozen(encoder, weights(STRUCTURE_VAE), "encoder")

    def _know(self, tokens, grids):
        occupied = truth.occupancy(grids.voxels, self.design.resolution, self.design.structure)
        return _Known(tokens, self.vae(occupied.float())[0].float())

    def select(self, held, rows):
        rows = rows.to(self.device)
        return held.tokens[rows], held.dense[rows]

    def losses(self, batch, random):
        tokens, latent = batch
        return losses.flow(cast(FlowTransformer, self.modules["flow"]), latent, tokens, random, self.backends)


class LatentFlow(Flow):
    def load(self, weights):
        super().load(weights)
        made = weights(SHAPE_VAE)
        self.shape_vae = self.frozen(new(self.design.shape_encoder), made, "encoder")
        self.shape_scale = Scale.of(made, self.device)

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
        concat = torch.cat([held.concat[row] for row in rows]) if held.concat else None
        return held.tokens[torch.tensor(rows, device=self.device)], latent, concat

    def losses(self, batch, random):
        tokens, latent, concat = batch
        return losses.flow(cast(FlowTransformer, self.modules["flow"]), latent, tokens, random, self.backends, concat)


class ShapeFlow(LatentFlow):
    name, needs, ships = SHAPE, (SHAPE_VAE, ENCODER), {"flow": SHAPE_FLOW_512}

    def make(self):
        return {"flow": self.network(SHAPE_FLOW_512)}

    def _know(self, tokens, grids):
        shape = self._shape(grids)
        lengths = shape.voxels.lengths
        return _Known(tokens, xyz=shape.voxels.xyz.split(lengths), feats=shape.feats.split(lengths))


class TextureFlow(LatentFlow):
    name, needs, ships = TEXTURE, (SHAPE_VAE, TEXTURE_VAE, ENCODER), {"flow": TEXTURE_FLOW_512}

    def make(self):
        return {"flow": self.network(TEXTURE_FLOW_512)}

    def load(self, weights):
        super().load(weights)
        made = weights(TEXTURE_VAE)
        self.texture_vae = self.frozen(new(self.design.texture_encoder), made, "encoder")
        self.texture_scale = Scale.of(made, self.device)

    def _know(self, tokens, grids):
        shape = self._shape(grids)
        texture, _ = self.texture_vae(SparseTensor(grids.voxels, 2 * grids.pbr - 1), self.backends)
        feats, lengths = self.texture_scale(texture.feats), shape.voxels.lengths
        xyz = shape.voxels.xyz.split(lengths)
        return _Known(tokens, xyz=xyz, feats=feats.split(lengths), concat=shape.feats.split(lengths))
