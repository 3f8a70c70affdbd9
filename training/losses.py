"""Losses of the three autoencoders, the image encoder and the flows.

As TRELLIS.2 (arXiv 2512.14692 and its trainers) but for the rendering losses of the shape and texture autoencoders:
here the truth is exact, so the fields themselves are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.backends import Backends
from pipeline.models.flow import FlowTransformer
from pipeline.models.sparse_unet import FlexiDualGridVaeDecoder, SparseResBlockC2S3d, SparseUnetVaeDecoder
from pipeline.sparse import SparseTensor, Subdivision, Voxels, space_to_channel, subdivide

from .networks import reparameterise

# The quad of a crossed edge, as pipeline.mesh.grid.dual_grid puts it together.
_QUADS = (
    ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0)),
    ((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)),
    ((0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0)),
)


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms against the one that each loss begins with, whose weight is 1."""

    # Structure: overlap (dice) beside cross-entropy, which alone tends to leave out voxels.
    structure_dice: float = 0.1
    structure_kl: float = 1e-3
    # Shape: a child voxel that is missed, which leaves a hole, against one too many, which stays empty.
    missed_child: float = 3.0
    # The same for a child of the coarsest level, whose hole is one of many voxels.
    missed_coarsest_child: float = 60.0
    # Squared error of the dual vertices, in voxels.
    shape_offsets: float = 5.0
    # Which diagonal a quad is split along.
    shape_diagonals: float = 0.1
    shape_kl: float = 1e-2
    # Texture: squares beside absolute errors, lest small parts be given up as outliers.
    texture_squares: float = 1.0
    texture_kl: float = 1e-4
    # Picture: what each pixel shows, and the object behind it.
    picture_mask: float = 0.3
    picture_colour: float = 1.0
    picture_position: float = 10.0
    picture_normal: float = 0.5
    picture_occupancy: float = 5.0
    picture_material: float = 1.0
    # Flow: noise that is left at time 0; mean and spread of the logit of a time, both as TRELLIS.2's trainers.
    sigma_min: float = 1e-5
    time_mean: float = 1.0
    time_std: float = 1.0
    # Share of samples without condition, which classifier-free guidance needs.
    dropout: float = 0.1


CONFIG = LossConfig()
Terms = dict[str, torch.Tensor]  # "loss" is what is minimised, the rest is for the log


def kl(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Divergence of the posterior from a unit Gaussian, per number."""
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).mean()


def structure_vae(
    encoder: nn.Module,
    decoder: nn.Module,
    occupied: torch.Tensor,
    random: torch.Generator,
    config: LossConfig = CONFIG,
) -> Terms:
    """Cross-entropy and dice of the occupancy [B, 1, R, R, R], and the KL term."""
    occupied = occupied.float()
    mean, log_variance = encoder(occupied)
    logits = decoder(reparameterise(mean, log_variance, random)).float()
    bce = F.binary_cross_entropy_with_logits(logits, occupied)
    shown = logits.sigmoid()
    axes = (1, 2, 3, 4)
    dice = (1 - (2 * (shown * occupied).sum(axes) + 1) / (shown.sum(axes) + occupied.sum(axes) + 1)).mean()
    regular = kl(mean, log_variance)
    with torch.no_grad():
        hit = logits > 0
        both, either = (hit & (occupied > 0)).sum(axes), (hit | (occupied > 0)).sum(axes)
    loss = bce + config.structure_dice * dice + config.structure_kl * regular
    return {"loss": loss, "bce": bce, "dice": dice, "kl": regular, "iou": (both / either.clamp_min(1)).mean()}


def levels(voxels: Voxels, count: int) -> list[Subdivision]:
    """The subdivisions, coarse to fine, that lead to these voxels from a grid 2^count times coarser."""
    found = []
    for _ in range(count):
        found.insert(0, space_to_channel(voxels))
        voxels = found[0].parents
    return found


def decode(
    decoder: SparseUnetVaeDecoder, latent: SparseTensor, truth: list[Subdivision], backends: Backends
) -> tuple[SparseTensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A decoder along the true subdivisions and, if it finds its own, along the children that it makes wrongly: one
    that saw only true voxels would read the surface from which of them are there.

    Returns:
        Raw fields on the finest voxels, which hold the true ones (if the decoder is given them, these, in their order);
        per level the logits of the children [T, 8] and which of them exist, bool (no levels if it is given them).
    """
    h = latent.replace(decoder.from_latent(latent.feats))
    asked = []
    for level, blocks in enumerate(decoder.blocks):
        for block in cast(nn.ModuleList, blocks):
            if isinstance(block, SparseResBlockC2S3d):
                made = truth[level]
                if block.to_subdiv is not None:
                    logits, exists = block.to_subdiv(h.feats).float(), children(made, h.voxels)
                    asked.append((logits, exists))
                    made = subdivide(h.voxels, (logits > 0) | exists)
                h = block(h, made, backends)
            else:
                h = block(h, backends)
    return h.replace(decoder.output_layer(h.feats, backends).float()), asked


def children(subdivision: Subdivision, voxels: Voxels) -> torch.Tensor:
    """[T, 8] bool: which children of each voxel exist. voxels: the subdivision's parents and others."""
    row = voxels.find(subdivision.parents.coords)
    slots = 8 * row[subdivision.slots >> 3] + (subdivision.slots & 7)
    exists = torch.zeros(8 * len(voxels), dtype=torch.bool, device=slots.device)
    return exists.index_fill(0, slots, True).unflatten(0, (-1, 8))


def shape_vae(
    encoder: nn.Module,
    decoder: FlexiDualGridVaeDecoder,
    grids,
    objects,
    random: torch.Generator,
    backends: Backends,
    config: LossConfig = CONFIG,
) -> Terms:
    """Subdivision, crossed edges (one by one, and round faces of the grid), dual vertices, diagonals of quads, KL.

    Args:
        grids: truth.DualGrids. objects: the Objects they belong to; None leaves the diagonals out.
    """
    mean, log_variance = encoder(grids.voxels, grids.offsets, grids.crossed, backends)
    truth = levels(grids.voxels, decoder.levels)
    latent = _like(mean, truth[0].parents, reparameterise(mean.feats, log_variance, random))
    fields, asked = decode(decoder, latent, truth, backends)
    row = fields.voxels.find(grids.voxels.coords)
    raw = fields.feats.index_select(0, row)
    crossed = torch.zeros(len(fields.voxels), 3, device=raw.device).index_copy(0, row, grids.crossed.float())
    margin = decoder.voxel_margin
    offsets = (1 + 2 * margin) * raw[:, :3].sigmoid() - margin
    missed = raw.new_tensor([config.missed_coarsest_child, *[config.missed_child] * (len(asked) - 1)])
    terms = {
        "subdivision": sum(
            F.binary_cross_entropy_with_logits(logits, exists.float(), pos_weight=weight)
            for (logits, exists), weight in zip(asked, missed)
        ),
        "crossed": F.binary_cross_entropy_with_logits(fields.feats[:, 3:6], crossed),
        "odd": odd(fields.voxels, fields.feats[:, 3:6].sigmoid()),
        "offsets": (offsets - grids.offsets).square().mean(),
        "kl": kl(mean.feats, log_variance),
    }
    loss = terms["subdivision"] + terms["crossed"] + terms["odd"]
    loss = loss + config.shape_offsets * terms["offsets"] + config.shape_kl * terms["kl"]
    if objects is not None:
        terms["diagonals"] = diagonals(raw[:, 6], grids, objects)
        loss = loss + config.shape_diagonals * terms["diagonals"]
    return {"loss": loss, **terms}


def odd(voxels: Voxels, crossed: torch.Tensor) -> torch.Tensor:
    """Penalty for grid faces with an odd number of crossed edges: a closed surface crosses the edges of a face an
    even number of times. An odd number leaves a boundary edge in the mesh, between the two voxels that share the face.

    Args:
        crossed: [T, 3] how likely each voxel's edges are crossed, taken one by one.
    """
    sure = 1 - 2 * crossed
    around = torch.cat([sure, sure.new_ones(1, 3)])  # edges of absent voxels are not crossed
    before = []
    for axis in range(3):
        coords = voxels.coords.clone()
        coords[:, 1 + axis] -= 1
        row = voxels.find(coords)
        # the gradient of [] would sort the rows, many of them the same
        before.append(around.index_select(0, torch.where(row < 0, len(voxels), row)))
    even = [sure[:, i] * before[j][:, i] * sure[:, j] * before[i][:, j] for i, j in ((0, 1), (1, 2), (2, 0))]
    return (1 - torch.stack(even)).mean() / 2


def _like(mean: SparseTensor, voxels: Voxels, feats: torch.Tensor) -> SparseTensor:
    """Features of the encoder's voxels on an equal set: both are sorted by (sample, x, y, z)."""
    if len(mean.voxels) != len(voxels):
        raise ValueError(f"The encoder made {len(mean.voxels)} voxels, the truth has {len(voxels)}.")
    return SparseTensor(voxels, feats)


def diagonals(raw: torch.Tensor, grids, objects) -> torch.Tensor:
    """Each quad's diagonal should be the one whose middle lies nearer to the surface; weighted by how much nearer.

    Args:
        raw: [T] the decoder's seventh channel.
    """
    voxels, cell = grids.voxels, 1 / grids.resolution
    steps = torch.tensor(_QUADS, dtype=torch.int32, device=voxels.device)  # [3, 4, 3]
    row, axis = grids.crossed.nonzero().unbind(1)
    coords = voxels.coords[row]
    corners = [voxels.find(torch.cat([coords[:, :1], coords[:, 1:] + steps[axis, i]], 1)) for i in range(4)]
    quads = torch.stack(corners, 1)
    quads = quads[(quads >= 0).all(1)]
    points = (voxels.xyz + grids.offsets) * cell - 0.5
    middles = (points[quads[:, [0, 1]]] + points[quads[:, [2, 3]]]) / 2  # [Q, 2, 3]: of 0-2 and of 1-3
    sample = voxels.coords[quads[:, 0], 0].long()
    counts = torch.bincount(sample, minlength=len(voxels.lengths))
    size = int(counts.max())
    place = sample * size + torch.arange(len(quads), device=quads.device) - (counts.cumsum(0) - counts)[sample]
    dense = middles.new_zeros(len(counts) * size, 2, 3).index_copy(0, place, middles)
    distance, _ = objects.distance(dense.reshape(len(counts), -1, 3))
    distance = distance.abs().reshape(-1, 2)[place] / cell
    gain = distance[:, 1] - distance[:, 0]  # positive: along 0-2
    log_weight = F.softplus(raw).clamp_min(1e-6).log()
    log_weight = log_weight.index_select(0, quads.flatten()).reshape(quads.shape)  # as in odd()
    logits = log_weight[:, 0] + log_weight[:, 2] - log_weight[:, 1] - log_weight[:, 3]
    weight = gain.abs().clamp_max(1)
    losses = F.binary_cross_entropy_with_logits(logits, (gain > 0).float(), reduction="none")
    return (weight * losses).sum() / weight.sum().clamp_min(1e-6)


def texture_vae(
    encoder: nn.Module,
    decoder: SparseUnetVaeDecoder,
    grids,
    random: torch.Generator,
    backends: Backends,
    config: LossConfig = CONFIG,
) -> Terms:
    """L1 of the materials in -1..1, and the KL term; squares beside it, lest small parts be given up as outliers."""
    target = 2 * grids.pbr - 1
    mean, log_variance = encoder(SparseTensor(grids.voxels, target), backends)
    truth = levels(grids.voxels, decoder.levels)
    latent = _like(mean, truth[0].parents, reparameterise(mean.feats, log_variance, random))
    fields, _ = decode(decoder, latent, truth, backends)
    error = (fields.feats - target).abs()
    regular = kl(mean.feats, log_variance)
    loss = error.mean() + config.texture_squares * error.square().mean() + config.texture_kl * regular
    return {"loss": loss, "l1": error.mean(), "colour": error[:, :3].mean() / 2, "kl": regular}


def picture(
    encoder: nn.Module,
    head: nn.Module,
    pictures,
    occupied: torch.Tensor,
    material: torch.Tensor,
    filled: torch.Tensor,
    config: LossConfig = CONFIG,
) -> Terms:
    """What the picture shows, pixel by pixel, and the object behind it.

    Args:
        pictures: pictures.Pictures.
        occupied: [B, 1, S, S, S] bool. material: [B, 6, S / 2, S / 2, S / 2], filled: [B, 1, ...] bool where it counts.
    """
    pixels = pictures.normalised()
    side = pixels.shape[-1] // head.patch
    shown, occupancy, stuff = (x.float() for x in head(encoder(pixels), side))
    mask = pictures.mask
    total = mask.sum().clamp_min(1)

    def within(channels: slice, target: torch.Tensor) -> torch.Tensor:
        return ((shown[:, channels] - target).abs() * mask).sum() / (3 * total)

    both = (occupancy > 0) & occupied
    either = (occupancy > 0) | occupied
    terms = {
        "mask": F.binary_cross_entropy_with_logits(shown[:, :1], mask),
        "colour": within(slice(1, 4), pictures.base_color),
        "position": within(slice(4, 7), pictures.position),
        "normal": within(slice(7, 10), pictures.normal),
        "occupancy": F.binary_cross_entropy_with_logits(occupancy, occupied.float()),
        "material": ((stuff - material).abs() * filled).sum() / (material.shape[1] * filled.sum().clamp_min(1)),
    }
    axes = (1, 2, 3, 4)
    iou = (both.sum(axes) / either.sum(axes).clamp_min(1)).mean()
    weighed = [getattr(config, f"picture_{name}") * term for name, term in terms.items()]
    return {"loss": torch.stack(weighed).sum(), **terms, "iou": iou}


def flow(
    network: FlowTransformer,
    x_0: torch.Tensor | SparseTensor,
    tokens: torch.Tensor,
    random: torch.Generator,
    backends: Backends,
    concat: torch.Tensor | None = None,
    config: LossConfig = CONFIG,
) -> Terms:
    """Flow matching: the squared error of the velocity at logit-normal times, conditions left out now and then.

    Args:
        x_0: normalised latent: [B, C, R, R, R] for the structure, else a SparseTensor.
        tokens: [B, L, Cc] of the pictures.
        concat: [T, C'] normalised shape latent, for the texture.
    """
    batch, device = len(tokens), tokens.device
    kept = torch.rand(batch, 1, 1, generator=random, device=device) >= config.dropout
    context = network.context(tokens * kept)
    t = torch.sigmoid(torch.randn(batch, generator=random, device=device) * config.time_std + config.time_mean)
    if isinstance(x_0, SparseTensor):
        data, at = x_0.feats, t[x_0.voxels.coords[:, 0].long(), None]
    else:
        data, at = x_0, t.reshape(-1, 1, 1, 1, 1)
    noise = torch.randn(data.shape, generator=random, device=device)
    x_t = (1 - at) * data + (config.sigma_min + (1 - config.sigma_min) * at) * noise
    if isinstance(x_0, SparseTensor):
        velocity = network(x_0.replace(x_t), 1000 * t, context, concat, backends)
    else:
        velocity = network(x_t, 1000 * t, context, backends)
    error = (velocity.float() - ((1 - config.sigma_min) * noise - data)).square()
    with torch.no_grad():  # the error at the start (time 1), where only the condition carries information
        early = (at > 0.9).expand_as(error)
        start = (error * early).sum() / early.sum().clamp_min(1)
    return {"loss": error.mean(), "start": start}
