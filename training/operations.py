"""Rows of the pipeline's backend table that make training fast: few launches, no loop over samples, exact gradients.

They compute what the references of pipeline.sparse compute, and are checked against them on first use, as every row.
The references differentiate too; a convolution takes them some 90 launches and a sort, ragged attention one call a
sample.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F

from pipeline import sparse
from pipeline.backends import Backend, Backends
from pipeline.models import operations as network_operations
from pipeline.sparse import ATTENTION, CHILD_CONV, SUBMANIFOLD_CONV, Subdivision, Voxels
from pipeline.sparse import reference as plain
from pipeline.warp import unavailable_reason

_ROWS = 1 << 19  # rows whose neighbours are gathered at once
_PAD = 64  # ragged samples are padded to a multiple of this


def table(choices: dict[str, str] | None = None) -> Backends:
    """The backend table of a training run; choices: as for Backends."""
    conv = GatheredConvolution()
    rows = {
        SUBMANIFOLD_CONV: (Backend("gathered", conv),),
        CHILD_CONV: (Backend("gathered", conv.of_children),),
        ATTENTION: (Backend("padded", padded_attention),),
    }
    operations = (*sparse.OPERATIONS, *network_operations.OPERATIONS)
    return Backends((replace(op, rows=(*rows.get(op.name, ()), *op.rows)) for op in operations), choices)


class GatheredConvolution:
    """submanifold_conv as one gather of all 27 neighbours and one matrix product, forwards and backwards.

    Absent neighbours are read from a row of zeros: three times the products of the reference on a surface, but some
    thirty times fewer launches. Neighbour tables are kept as long as their voxels.
    """

    def __init__(self) -> None:
        self._tables: WeakKeyDictionary[Voxels, torch.Tensor] = WeakKeyDictionary()

    def __call__(
        self, feats: torch.Tensor, voxels: Voxels, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if voxels not in self._tables:
            self._tables[voxels] = neighbour_table(voxels)
        if torch.is_autocast_enabled(feats.device.type):
            dtype = torch.get_autocast_dtype(feats.device.type)
            feats, weight, bias = feats.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        return _Gathered.apply(feats, weight, bias, self._tables[voxels])

    def of_children(
        self, feats: torch.Tensor, subdivision: Subdivision, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """child_conv of pipeline.sparse: the products of all eight children, of which those that exist are taken."""
        return subdivision.channel_to_space(self(feats, subdivision.parents, weight, bias))


def neighbour_table(voxels: Voxels) -> torch.Tensor:
    """[T, 27] int32: the row of each neighbour, T where there is none. Offset k as in pipeline.sparse.NeighbourMap."""
    coords = voxels.coords
    found = torch.empty(len(coords), 27, dtype=torch.int32, device=coords.device)
    for column in range(9):
        corner = coords + torch.stack(
            [torch.full_like(coords[:, 0], step) for step in (0, column // 3 - 1, column % 3 - 1, -1)], 1
        )
        for kz, rows in enumerate(voxels.find_columns(corner, 3)):
            found[:, 3 * column + kz] = rows
    return torch.where(found < 0, len(coords), found)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, feats, weight, bias, neighbours):
        ctx.save_for_backward(feats, weight, neighbours)
        ctx.with_bias = bias is not None
        return _product(feats, neighbours, weight.reshape(len(weight), -1).t(), bias)

    @staticmethod
    def backward(ctx, *grads):
        feats, weight, neighbours = ctx.saved_tensors
        grad = grads[0].contiguous()
        need_feats, need_weight = ctx.needs_input_grad[:2]
        # i is k of j where j is 26 - k of i: the gradient is a convolution with the turned kernel
        turned = weight.flatten(1, 3).flip(1).permute(1, 0, 2).flatten(0, 1)  # [27 Co, Ci]
        to_feats = _product(grad, neighbours, turned, None) if need_feats else None
        to_weight = None
        if need_weight:
            zero = _with_zero(feats)
            to_weight = weight.new_zeros(len(weight), weight[0].numel())
            for rows, table in zip(grad.split(_ROWS), neighbours.split(_ROWS)):
                to_weight += rows.t() @ _rows(zero, table)
            to_weight = to_weight.reshape(weight.shape)
        return to_feats, to_weight, grad.sum(0) if ctx.with_bias else None, None


def _product(feats, neighbours, matrix, bias) -> torch.Tensor:
    """feats [T, C] of the neighbours [T, 27], side by side, times matrix [27 C, C']."""
    zero = _with_zero(feats)
    blocks = []
    for table in neighbours.split(_ROWS):
        gathered = _rows(zero, table)
        blocks.append(gathered @ matrix if bias is None else torch.addmm(bias, gathered, matrix))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def _rows(feats: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """feats [T, C], table [n, 27] -> [n, 27 C]."""
    if feats[0].nbytes % 8 or unavailable_reason():
        return feats[table].flatten(1)
    from .gather_kernels import gather

    return gather(feats.view(torch.int64), table).view(feats.dtype)


def _with_zero(feats: torch.Tensor) -> torch.Tensor:
    return F.pad(feats, (0, 0, 0, 1))


def padded_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, q_lengths: tuple[int, ...], k_lengths: tuple[int, ...]
) -> torch.Tensor:
    """attention of pipeline.sparse as one call for samples of different lengths, padded and masked."""
    if len(set(q_lengths)) == 1 and len(set(k_lengths)) == 1:
        return plain.attention(q, k, v, q_lengths, k_lengths)
    q_rows, q_size, _ = _places(q_lengths, q.device)
    k_rows, k_size, mask = _places(k_lengths, q.device)
    dense = [
        _padded(x, rows, len(q_lengths), size)
        for x, rows, size in ((q, q_rows, q_size), (k, k_rows, k_size), (v, k_rows, k_size))
    ]
    out = F.scaled_dot_product_attention(*dense, attn_mask=mask)  # [B, H, L, D]
    return out.transpose(1, 2).flatten(0, 1).index_select(0, q_rows)


def _padded(x: torch.Tensor, rows: torch.Tensor, batch: int, size: int) -> torch.Tensor:
    """[T, H, D] -> [B, H, size, D]."""
    dense = x.new_zeros(batch * size, *x.shape[1:]).index_copy(0, rows, x)
    return dense.unflatten(0, (batch, size)).transpose(1, 2)


@lru_cache(maxsize=16)  # the blocks of a network use the same result
def _places(lengths: tuple[int, ...], device: torch.device) -> tuple[torch.Tensor, int, torch.Tensor | None]:
    """Where the rows of a pack lie when each sample is padded, the padded length, and which places are taken
    [B, 1, 1, size]; None if all are."""
    longest = max(lengths)
    size = longest if len(set(lengths)) == 1 else -(-longest // _PAD) * _PAD
    taken = torch.arange(size)[None] < torch.tensor(lengths)[:, None]
    rows = taken.flatten().nonzero().squeeze(1).to(device)
    return rows, size, None if bool(taken.all()) else taken[:, None, None].to(device)
