"""The sparse convolutional autoencoders of shape and texture latents (16x, four levels in the released sizes).

ConvNeXt blocks at each level; between levels, features move between a voxel's channels and its eight
children. The shape decoder predicts which children exist, the texture decoder is given them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from ..backends import Backends
from ..budget import UNBOUNDED, Budget
from ..sparse import ADD_TO_CHILDREN, SparseTensor, Subdivision, Voxels, space_to_channel, subdivide
from ..sparse.resample import gather_children
from ..sums import sum_by
from . import tiles
from .layers import PLAIN, LayerNorm, NormLinear, ResidualMLP, SparseConv3d, final_norm, to_torso_dtype


class SparseConvNeXtBlock3d(nn.Module):
    def __init__(self, channels: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm = LayerNorm(channels)
        self.conv = SparseConv3d(channels, channels)
        self.mlp = ResidualMLP(channels, int(channels * mlp_ratio))

    def forward(self, x: SparseTensor, backends: Backends) -> SparseTensor:
        h = self.conv(x, backends).feats
        return x.replace(self.mlp(x.feats, h, self.norm, backends))


class SparseResBlockC2S3d(nn.Module):
    """Channel to space: [T, C] -> [T', C'] on the children."""

    def __init__(self, channels: int, out_channels: int, pred_subdiv: bool) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels)
        self.norm2 = LayerNorm(out_channels, affine=False)
        self.conv1 = SparseConv3d(channels, out_channels * 8)
        self.conv2 = SparseConv3d(out_channels, out_channels)
        self.to_subdiv = nn.Linear(channels, 8) if pred_subdiv else None

    def predict(self, x: SparseTensor) -> Subdivision:
        """The children this block wants: those with a logit above 0."""
        if self.to_subdiv is None:
            raise TypeError("This network predicts no subdivisions; hand it those of the shape.")
        logits = self.to_subdiv(x.feats)
        return subdivide(x.voxels, logits > 0, logits)

    def forward(self, x: SparseTensor, subdivision: Subdivision, backends: Backends) -> SparseTensor:
        # the same sets of voxels as objects, so that what a backend knows of the parents serves their children
        subdivision = replace(subdivision, parents=x.voxels)
        subdivision.children.origin = x.voxels, subdivision.slots
        h = self.conv1(x.replace(self.norm1(x.feats, backends, silu=True)), backends, subdivision)
        h = h.replace(self.norm2(h.feats, backends, silu=True, over=True))
        h = self.conv2(h, backends)
        add = backends.pick(ADD_TO_CHILDREN, h.feats.device)
        return h.replace(add(h.feats, x.feats, subdivision.slots))


class SparseResBlockS2C3d(nn.Module):
    """Space to channel: [T', C] -> [T, C'] on the parents."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.norm1 = LayerNorm(channels)
        self.norm2 = LayerNorm(out_channels, affine=False)
        self.conv1 = SparseConv3d(channels, out_channels // 8)
        self.conv2 = SparseConv3d(out_channels, out_channels)

    def forward(self, x: SparseTensor, backends: Backends) -> SparseTensor:
        subdivision = space_to_channel(x.voxels)
        h = self.conv1(x.replace(self.norm1(x.feats, backends, silu=True)), backends)
        h = gather_children(subdivision, h)
        h = self.conv2(h.replace(self.norm2(h.feats, backends, silu=True)), backends)
        skip = gather_children(subdivision, x).feats.unflatten(1, (self.out_channels, -1)).mean(-1)  # [T', C_out]
        return h.replace(h.feats + skip)


def _levels(blocks: nn.ModuleList) -> Iterator[nn.ModuleList]:
    """The blocks of each level."""
    return (cast(nn.ModuleList, each) for each in blocks)


class SparseUnetVaeDecoder(nn.Module):
    """Latent voxels -> fields on voxels 2^levels times finer. Torso in its dtype, first and last layer fp32."""

    def __init__(
        self,
        out_channels: int,
        model_channels: list[int],
        latent_channels: int,
        num_blocks: list[int],
        dtype: torch.dtype = torch.float32,
        pred_subdiv: bool = True,
    ) -> None:
        super().__init__()
        self.latent_channels, self.dtype, self.pred_subdiv = latent_channels, dtype, pred_subdiv
        self.levels, self.widths = len(model_channels) - 1, tuple(model_channels)
        self.from_latent = nn.Linear(latent_channels, model_channels[0])
        self.blocks = nn.ModuleList()
        for level, (width, count) in enumerate(zip(model_channels, num_blocks)):
            blocks: list[nn.Module] = [SparseConvNeXtBlock3d(width) for _ in range(count)]
            if level < self.levels:
                blocks.append(SparseResBlockC2S3d(width, model_channels[level + 1], pred_subdiv))
            self.blocks.append(nn.ModuleList(blocks))
        self.output_layer = NormLinear(model_channels[-1], out_channels)
        to_torso_dtype(self.blocks, dtype)

    def forward(
        self,
        x: SparseTensor,
        subdivisions: Sequence[Subdivision] | None = None,
        backends: Backends = PLAIN,
        on_level: Callable[[int], None] = lambda level: None,
        budget: Budget = UNBOUNDED,
    ) -> tuple[SparseTensor, list[Subdivision]]:
        """Decode.

        Args:
            x: latent, feats [T, C] fp32 (denormalised).
            subdivisions: the children to make at each level, coarse to fine; without them the model's
                own predictions are taken. A texture decoder needs them.
            on_level: called with the number of levels done, the last of them levels + 1.
            budget: levels that do not fit into it are done in tiles (see tiles.py).

        Returns:
            Raw fields [T', out] fp32 on the finest voxels, and the subdivisions that led there.
        """
        h, used = self._enter(x), []
        for level in range(self.levels):
            h = self._through_blocks(h, level, backends, budget)
            subdivision = self._up(level).predict(h) if subdivisions is None else subdivisions[level]
            used.append(subdivision)
            h = self._through_up(h, subdivision, level, backends, budget)
            on_level(level + 1)
        if not self.levels:
            h = self._output(self._through_blocks(h, 0, backends, budget), backends)
        on_level(self.levels + 1)
        h.voxels.release()
        return h, used

    def upsample(
        self,
        x: SparseTensor,
        levels: int,
        backends: Backends = PLAIN,
        on_level: Callable[[int], None] = lambda level: None,
        budget: Budget = UNBOUNDED,
    ) -> Voxels:
        """The voxels after that many predicted subdivisions; other arguments as for forward."""
        h = self._enter(x)
        finest = h.voxels
        for level in range(levels):
            h = self._through_blocks(h, level, backends, budget)
            subdivision = self._up(level).predict(h)
            finest = subdivision.children
            if level + 1 < levels:
                h = self._through_up(h, subdivision, level, backends, budget)
            on_level(level + 1)
        h.voxels.release()
        return finest

    def _level(self, number: int) -> nn.ModuleList:
        return cast(nn.ModuleList, self.blocks[number])

    def _up(self, level: int) -> SparseResBlockC2S3d:
        """The block of a level that makes the children."""
        return cast(SparseResBlockC2S3d, self._level(level)[-1])

    def _enter(self, x: SparseTensor) -> SparseTensor:
        return x.replace(self.from_latent(x.feats).to(self.dtype))

    def _through_blocks(self, h: SparseTensor, level: int, backends: Backends, budget: Budget) -> SparseTensor:
        """The blocks of a level that keep its voxels."""
        blocks = [block for block in self._level(level) if isinstance(block, SparseConvNeXtBlock3d)]

        def call(h: SparseTensor) -> SparseTensor:
            for block in blocks:
                h = block(h, backends)
            return h

        def at_once_or_in(slabs: list[tiles.Slab]) -> SparseTensor:
            return tiles.through_blocks(h, slabs, len(blocks), call) if slabs else call(h)

        name = f"blocks of level {level + 1} of {self.levels + 1}"
        return tiles.run(tiles.blocks_work(name, h, len(blocks)), budget, at_once_or_in) if blocks else h

    def _through_up(
        self, h: SparseTensor, subdivision: Subdivision, level: int, backends: Backends, budget: Budget
    ) -> SparseTensor:
        """To the children; the finest ones go on through the blocks of their level and the output layer, so that tiles
        need not put together the widest tensor of all."""
        up, finest = self._up(level), level + 1 == self.levels
        behind = list(self._level(-1)) if finest else []

        def call(h: SparseTensor, subdivision: Subdivision) -> SparseTensor:
            h = up(h, subdivision, backends)
            for block in behind:
                h = block(h, backends)
            return self._output(h, backends) if finest else h

        def at_once_or_in(slabs: list[tiles.Slab]) -> SparseTensor:
            if slabs:
                return tiles.through_up(h, subdivision, slabs, len(behind), call)
            return call(h, subdivision)

        name = f"level {level + 2} of {self.levels + 1}"
        outputs = self.output_layer.out_features if finest else 0
        work = tiles.up_work(name, h, subdivision, self.widths[level + 1], len(behind), outputs)
        return tiles.run(work, budget, at_once_or_in)

    def _output(self, h: SparseTensor, backends: Backends) -> SparseTensor:
        return h.replace(self.output_layer(h.feats, backends))


class FlexiDualGridVaeDecoder(SparseUnetVaeDecoder):
    """Shape decoder: seven channels on the flexible dual grid."""

    def __init__(self, resolution: int, voxel_margin: float = 0.5, **args) -> None:
        super().__init__(out_channels=7, **args)
        self.resolution, self.voxel_margin = resolution, voxel_margin

    def dual_grid(self, raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Read the raw channels [T, 7].

        Returns:
            Dual vertices [T, 3] in voxel units from the voxel's corner, -margin .. 1 + margin; whether the
            surface crosses the voxel's edge along x, y, z [T, 3] bool; split weights [T, 1] > 0.
        """
        offset = (1 + 2 * self.voxel_margin) * torch.sigmoid(raw[:, :3]) - self.voxel_margin
        return offset, raw[:, 3:6] > 0, F.softplus(raw[:, 6:7])


class SparseEncoder(nn.Module):
    """Fields on voxels -> latent on voxels 2^levels times coarser, sorted by (sample, x, y, z).

    straight: add to the latent's mean a linear map of the mean field of each latent voxel's voxels, past the blocks.
    The released encoders have none. Narrow blocks need it: materials that have only come through them arrive folded,
    neighbours in the latent that are far apart in colour.
    """

    def __init__(
        self,
        in_channels: int,
        model_channels: list[int],
        latent_channels: int,
        num_blocks: list[int],
        dtype: torch.dtype = torch.float32,
        straight: bool = False,
    ) -> None:
        super().__init__()
        self.dtype = dtype
        levels = len(model_channels) - 1
        self.input_layer = nn.Linear(in_channels, model_channels[0])
        self.blocks = nn.ModuleList()
        for level, (width, count) in enumerate(zip(model_channels, num_blocks)):
            blocks: list[nn.Module] = [SparseConvNeXtBlock3d(width) for _ in range(count)]
            if level < levels:
                blocks.append(SparseResBlockS2C3d(width, model_channels[level + 1]))
            self.blocks.append(nn.ModuleList(blocks))
        self.to_latent = nn.Linear(model_channels[-1], 2 * latent_channels)
        self.straight = nn.Linear(in_channels, latent_channels, bias=False) if straight else None
        to_torso_dtype(self.blocks, dtype)

    @property
    def levels(self) -> int:
        """Halvings of the grid."""
        return len(self.blocks) - 1

    def encode(self, x: SparseTensor, backends: Backends = PLAIN) -> tuple[SparseTensor, torch.Tensor]:
        """feats [T, C_in] fp32 -> the posterior's mean and its log variance on the coarse voxels, each [T', C] fp32."""
        h = x.replace(self.input_layer(x.feats).to(self.dtype))
        for blocks in _levels(self.blocks):
            for block in blocks:
                h = block(h, backends)
        mean, log_variance = self.to_latent(final_norm(h.feats.to(x.feats.dtype))).chunk(2, 1)  # each [T', C]
        if self.straight is not None:
            mean = mean + self.straight(_cell_means(x, h.voxels, self.levels))
        return h.replace(mean), log_variance


def _cell_means(x: SparseTensor, cells: Voxels, levels: int) -> torch.Tensor:
    """[T', C]: the mean of the features of the voxels in each cell of a grid 2^levels times coarser."""
    coords = torch.cat([x.voxels.coords[:, :1], x.voxels.xyz >> levels], 1)  # [T, 4]
    row = cells.find(coords)  # [T]
    total = sum_by(x.feats, row, len(cells))
    return total / torch.bincount(row, minlength=len(cells))[:, None]


class SparseUnetVaeEncoder(SparseEncoder):
    """Texture encoder: material voxels -> texture latent."""

    forward = SparseEncoder.encode


class FlexiDualGridVaeEncoder(SparseEncoder):
    """Shape encoder: dual grid -> shape latent."""

    def __init__(self, **args) -> None:
        super().__init__(in_channels=6, **args)

    def forward(
        self, voxels: Voxels, offsets: torch.Tensor, crossed: torch.Tensor, backends: Backends = PLAIN
    ) -> tuple[SparseTensor, torch.Tensor]:
        """Encode a dual grid; returns as `encode`.

        Args:
            voxels: T voxels.
            offsets: [T, 3] dual vertices in voxel units from the voxel's corner.
            crossed: [T, 3] bool, whether the surface crosses the voxel's edge along x, y, z.
        """
        feats = torch.cat([offsets - 0.5, crossed.to(offsets.dtype) - 0.5], 1)  # [T, 6]
        return self.encode(SparseTensor(voxels, feats), backends)
