"""Networks' Triton kernels compiled while other work goes on: passes on "meta" tell which, threads compile them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from weakref import WeakSet

import torch
from torch import nn

from .. import triton_launch
from ..backends import Backends
from ..sparse import SparseTensor, Subdivision, Voxels
from ..triton_launch import Launch
from .flow import Context, SLatFlowModel, SparseStructureFlowModel
from .sparse_unet import SparseUnetVaeDecoder

log = logging.getLogger(__name__)

_ROWS = 32  # of the input of such a pass; kernels are the same for any number


class _Kernels(Backends):
    """The Triton rows of a table as it would choose them, untried; references where it has none."""

    def __init__(self, table: Backends) -> None:
        super().__init__(table.operations.values(), table.choices)

    def pick(self, op: str, device: torch.device | str = "cpu", name: str | None = None) -> Callable:
        row = self.operations[op].rows[0]
        if row.name == triton_launch.NAME and not row.reason and self.choices.get(op, row.name) == row.name:
            return row.run
        reference = self.operations[op].reference
        assert reference is not None, f"{op} of the networks has one"
        return reference


def launches(model: nn.Module, table: Backends) -> list[Launch]:
    """What a network launches in a pass, each kind of launch once. model: on "meta"; of other classes than the flows
    and the sparse decoders, which launch nothing, there is none."""
    with triton_launch.collect() as found, torch.device("meta"), torch.no_grad():
        if isinstance(model, (SLatFlowModel, SparseStructureFlowModel)):
            _flow(model, _Kernels(table))
        elif isinstance(model, SparseUnetVaeDecoder):
            _decoder(model, _Kernels(table))
    return list({each.key: each for each in found}.values())


def _flow(model: SLatFlowModel | SparseStructureFlowModel, backends: Backends) -> None:
    """A pass of the first block with a condition; the others launch the same."""
    condition = torch.empty(1, _ROWS, model.blocks[0].cross_attn.to_kv.in_features, dtype=model.dtype)  # pyright: ignore
    context = Context((condition,), (_ROWS,))
    xyz = torch.empty(_ROWS, 3, dtype=torch.int32)
    model.tokens(torch.empty(_ROWS, model.in_channels), torch.empty(1), context, xyz, (_ROWS,), backends)


def _decoder(model: SparseUnetVaeDecoder, backends: Backends) -> None:
    """A pass in which every voxel has one child."""
    voxels = [_voxels() for _ in range(model.levels + 1)]
    slots = torch.empty(_ROWS, dtype=torch.int64)
    subdivisions = [Subdivision(parents, children, slots) for parents, children in pairwise(voxels)]
    model(SparseTensor(voxels[0], torch.empty(_ROWS, model.latent_channels)), subdivisions, backends)


def _voxels() -> Voxels:
    return Voxels(torch.empty(_ROWS, 4, dtype=torch.int32), (_ROWS,))


@cache
def _known(device: torch.device) -> set[tuple]:
    """Kinds of launches that have been seen to on a device in this process."""
    return set()


@cache
def _walked(device: torch.device) -> WeakSet[nn.Module]:
    """Outlines whose launches have been seen to on a device, so that a later run need not pass through them again."""
    return WeakSet()


def compile_ahead(
    outlines: Sequence[Callable[[], nn.Module]], table: Backends, device: torch.device, workers: int
) -> threading.Thread | None:
    """Begin to compile what networks will launch on a device; returns the thread that does, None where there is nothing
    to compile. What fails here fails again when it runs, where it is told.

    Args:
        outlines: give the networks on "meta", in the order in which they are needed.
        workers: threads that compile, that one included.
    """
    if device.type != "cuda" or triton_launch.unavailable_reason():
        return None
    thread = threading.Thread(target=_compile, args=(outlines, table, device, workers), name="trellis2 kernels")
    thread.start()
    return thread


def _compile(outlines: Sequence[Callable], table: Backends, device: torch.device, workers: int) -> None:
    with torch.cuda.device(device) if torch.cuda.is_available() else torch.no_grad():
        for outline in outlines:
            try:
                model = outline()
                if model in _walked(device):
                    continue
                found = [each for each in launches(model, table) if each.key not in _known(device)]
            except RuntimeError as error:
                log.info("A network's kernels are not compiled ahead: %s", str(error).splitlines()[0])
                continue
            _walked(device).add(model)
            _known(device).update(each.key for each in found)
            waiting = deque(found)
            others = [
                threading.Thread(target=_work, args=(waiting, device)) for _ in range(min(workers, len(found)) - 1)
            ]
            for each in others:
                each.start()
            _work(waiting, device)
            for each in others:
                each.join()


def _work(waiting: deque[Launch], device: torch.device) -> None:
    with torch.cuda.device(device) if torch.cuda.is_available() else torch.no_grad():
        while waiting and threading.main_thread().is_alive():  # a process that ends waits for one kernel at most
            try:
                waiting.popleft().compile()
            except IndexError:  # another thread took the last one
                return
            except RuntimeError as error:
                log.info("A kernel is not compiled ahead: %s", str(error).splitlines()[0])
