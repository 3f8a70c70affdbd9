"""The base class of the training runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from pipeline.backends import Backends
from pipeline.models.dinov3 import VisionBlock
from pipeline.models.flow import Block
from pipeline.models.sparse_unet import SparseConvNeXtBlock3d, SparseResBlockC2S3d, SparseResBlockS2C3d
from pipeline.models.structure_vae import ResBlock3d, UpsampleBlock3d
from pipeline.sparse import ATTENTION, SUBMANIFOLD_CONV

from .. import losses, objects
from ..networks import Design, new
from .plans import Plan

TOGETHER = 64  # objects whose pictures and grids are made at once
_HALF = (Block, SparseConvNeXtBlock3d, SparseResBlockC2S3d, SparseResBlockS2C3d, ResBlock3d, UpsampleBlock3d)

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
        blocks_in_bfloat16(self.modules, self.device)

    def make(self) -> dict[str, nn.Module]:
        """The networks with their initial weights."""
        raise NotImplementedError

    def load(self, weights: Weights) -> None:
        """Load the weights of other runs that this one needs."""

    def batches(self, plan: Plan, random: torch.Generator) -> Iterator:
        """The batches of one cycle, on training objects. random: a CPU generator."""
        held = self.draw(plan.objects, random)
        for _ in range(plan.repeats):
            for rows in torch.randperm(plan.objects, generator=random).split(plan.batch):
                yield self.select(held, rows)

    def draw(self, count: int, random: torch.Generator):
        """The data of a cycle, from which its batches are taken."""
        raise NotImplementedError

    def select(self, held, rows: torch.Tensor):
        """A batch: some rows of what was drawn."""
        raise NotImplementedError

    def losses(self, batch, random: torch.Generator) -> losses.Terms:
        """random: a generator on the device."""
        raise NotImplementedError

    def statistics(self, count: int) -> dict[str, torch.Tensor]:
        """Numbers that other runs need beside the weights, measured on `count` objects with the current weights."""
        return {}

    def sample(self, count: int, random: torch.Generator, together: int) -> list[objects.Objects]:
        """Training objects in groups of `together`."""
        drawn = objects.sample(count, random, self.device)
        return [drawn.select(slice(first, first + together)) for first in range(0, count, together)]

    def network(self, role: str) -> nn.Module:
        return new(self.design.models[role])

    def frozen(self, network: nn.Module, weights: Mapping[str, torch.Tensor], name: str) -> nn.Module:
        """A network trained by another run."""
        own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
        network.load_state_dict(own)
        network.to(self.device).requires_grad_(False).eval()
        blocks_in_bfloat16(network, self.device)
        return network


class GroupedTask(Task):
    """Tasks whose batches are drawn as they are used: a batch's pictures are large, its neighbour maps expensive."""

    def batches(self, plan, random):
        groups = [self.group(some, random) for some in self.sample(plan.objects, random, plan.batch)]
        for _ in range(plan.repeats):
            yield from groups

    def group(self, some: objects.Objects, random: torch.Generator):
        """A batch of these objects."""
        raise NotImplementedError


def blocks_in_bfloat16(network: nn.Module, device: torch.device) -> None:
    """On CUDA, compute blocks in bf16 where autocast does; what lies between them, ends of networks too, stays fp32."""
    if device.type != "cuda":
        return
    for block in network.modules():
        if isinstance(block, (*_HALF, nn.TransformerDecoderLayer, VisionBlock)):
            block.forward = torch.autocast("cuda", torch.bfloat16)(block.forward)
