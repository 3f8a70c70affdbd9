"""Plain-torch references of the sparse operations: correct on every device, bounded in memory."""

from __future__ import annotations

from itertools import accumulate

import torch
import torch.nn.functional as F

from .resample import Subdivision
from .tensor import COORD_LIMIT, TILE, PairChunk, Voxels

# Bytes of temporary memory a blocked operation may use: a GPU wants few launches, a CPU's caches small blocks.
_BLOCK_BYTES = {"cpu": 32 << 20}
_DEFAULT_BLOCK_BYTES = 1 << 30
# Rows that a product has at least, zeros if need be: with fewer, BLAS may add in another order, and a row's bits would
# depend on how many rows are beside it. Intel's MKL (torch 2.13, 1 and 2 threads) does so below 4 rows a thread.
_LEAST_ROWS = 64
_PASS_ROWS = 1 << 18  # of an elementwise pass, which bounds what it makes on the way


def _block_rows(device: torch.device, bytes_per_row: int) -> int:
    budget = _BLOCK_BYTES.get(device.type, _DEFAULT_BLOCK_BYTES)
    return max(1, budget // bytes_per_row // TILE) * TILE


def submanifold_conv(
    feats: torch.Tensor, voxels: Voxels, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """3 x 3 x 3 convolution whose output lives on the input's voxels; absent neighbours count as zero.

    Over existing pairs only: gather the neighbours of a block of rows, one matrix product for each kernel
    offset, then sum each row's products in a fixed order (fp32 sums for 16-bit inputs).

    Args:
        feats: [T, Ci].
        voxels: their coordinates.
        weight: [Co, 3, 3, 3, Ci], kernel axes x, y, z, the dtype of feats.
        bias: [Co] or None.

    Returns:
        [T, Co], the dtype of feats. out(p) = sum_k weight[:, k] feats(p + k - 1), as torch's conv3d.
    """
    c_out, c_in = weight.shape[0], weight.shape[4]
    kernel = weight.reshape(c_out, 27, c_in)
    out = feats.new_empty(len(feats), c_out)
    for chunk in voxels.neighbours.chunks:
        pairs_per_row = len(chunk.sources) / (chunk.last - chunk.first)
        rows = _block_rows(feats.device, int(pairs_per_row * (c_in + c_out) * feats.element_size()))
        first, count = 0, chunk.last - chunk.first
        while first < count:
            last = min(first + rows, count)
            try:
                out[chunk.first + first : chunk.first + last] = _conv_rows(feats, kernel, chunk, first, last)
                first = last
            except torch.cuda.OutOfMemoryError:
                if rows <= TILE:
                    raise
                rows = max(1, rows // 4 // TILE) * TILE  # smaller blocks are slower, but may fit
    if bias is not None:
        out += bias
    return out


def child_conv(
    feats: torch.Tensor, subdivision: Subdivision, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """The submanifold convolution to 8 C channels, of which each child that exists takes its eighth.

    Args:
        feats: [T, Ci] on the parents.
        subdivision: which of their children exist, T' in all.
        weight: [8 C, 3, 3, 3, Ci]; child c of a voxel takes the channels c C .. (c + 1) C - 1.
        bias: [8 C] or None.

    Returns:
        [T', C] on the children.
    """
    return subdivision.channel_to_space(submanifold_conv(feats, subdivision.parents, weight, bias))


def add_to_children(h: torch.Tensor, feats: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """h plus what each child takes of its parent's channels, each of them repeated to fill h's.

    Args:
        h: [T', C'], overwritten where no gradient is asked for.
        feats: [T, 8 C] on the parents, C a divisor of C'; child c takes the channels c C .. (c + 1) C - 1.
        slots: [T'] as for Subdivision.

    Returns:
        [T', C'].
    """
    own = feats.unflatten(1, (8, -1)).flatten(0, 1)  # [8 T, C]
    repeat = h.shape[1] // own.shape[1]
    if torch.is_grad_enabled():
        return h + own.index_select(0, slots).repeat_interleave(repeat, 1)
    for first in range(0, len(h), _PASS_ROWS):
        rows = slice(first, first + _PASS_ROWS)
        h[rows] += own.index_select(0, slots[rows]).repeat_interleave(repeat, 1)
    return h


def _conv_rows(feats: torch.Tensor, kernel: torch.Tensor, chunk: PairChunk, first: int, last: int) -> torch.Tensor:
    """Rows first .. last - 1 of a chunk (first a multiple of TILE) of the convolution without bias."""
    tile, end = first // TILE, -(-last // TILE)
    bounds = [(starts[tile], starts[end]) for starts in chunk.offset_starts]
    gathered = feats.index_select(0, torch.cat([chunk.sources[a:b] for a, b in bounds]))
    inputs = gathered.split([b - a for a, b in bounds])
    if torch.is_grad_enabled():
        products = torch.cat([_product(x, kernel[:, k]) for k, x in enumerate(inputs)])
    else:
        products = feats.new_empty(len(gathered), kernel.shape[0])
        for k, (x, product) in enumerate(zip(inputs, products.split([len(x) for x in inputs]))):
            _product(x, kernel[:, k], product)
    # a pair's place among these products: its place among all sources, less what its offset's slice was moved by
    moved = [a - before for (a, _), before in zip(bounds, accumulate((b - a for a, b in bounds), initial=0))]
    moved = torch.tensor(moved, dtype=chunk.position.dtype).to(feats.device)
    pairs = slice(chunk.tile_starts[tile], chunk.tile_starts[end])
    order = chunk.position[pairs] - moved[chunk.offset[pairs].long()]
    return _sum_runs(products, order, chunk.row_starts[first:last] - pairs.start)


def _product(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """x weight^T, whose rows have the same bits however many there are. x: [N, Ci], weight: [Co, Ci]."""
    if 0 < len(x) < _LEAST_ROWS:
        product = (F.pad(x, (0, 0, 0, _LEAST_ROWS - len(x))) @ weight.t())[: len(x)]
        return product if out is None else out.copy_(product)
    return torch.mm(x, weight.t(), out=out)


def _sum_runs(rows: torch.Tensor, order: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """sum of rows[order[starts[i] : starts[i + 1]]] for each i."""
    if rows.device.type != "mps":
        return F.embedding_bag(order, rows, starts, mode="sum")  # adds 16-bit rows in fp32
    counts = torch.diff(starts, append=starts.new_tensor([len(order)]))  # MPS has no embedding_bag in older torch
    owner = torch.repeat_interleave(counts.long(), output_size=len(order))
    total = torch.zeros(len(starts), rows.shape[1], device=rows.device)
    return total.index_add_(0, owner, rows[order].float()).to(rows.dtype)


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    q_lengths: tuple[int, ...],
    k_lengths: tuple[int, ...],
) -> torch.Tensor:
    """softmax(q k^T / sqrt(D)) v for each sample of a pack: no padding, no mask.

    Args:
        q: [Tq, H, D]; sample i has q_lengths[i] rows.
        k, v: [Tk, H, D]; sample i has k_lengths[i] rows.

    Returns:
        [Tq, H, D].
    """
    if len(set(q_lengths)) == 1 and len(set(k_lengths)) == 1:  # equal samples make one dense batch
        batch = len(q_lengths)
        q, k, v = (x.unflatten(0, (batch, -1)).transpose(1, 2) for x in (q, k, v))  # [B, H, L, D]
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)
    samples = zip(q.split(q_lengths), k.split(k_lengths), v.split(k_lengths))
    return torch.cat([attention(*one, (len(one[0]),), (len(one[1]),)) for one in samples])


def trilinear(feats: torch.Tensor, voxels: Voxels, points: torch.Tensor) -> torch.Tensor:
    """Trilinear look-up in the first sample of a sparse grid.

    Args:
        feats: [T, C].
        voxels: their coordinates; voxel i has its centre at i + 0.5.
        points: [N, 3] in voxel units.

    Returns:
        [N, C + 1] in the dtype of feats (at least fp32): the values, weights of absent voxels dropped and the
        rest renormalised, and the sum of the weights found in 0-1. Both are 0 where no voxel is near.
    """
    feats = feats if feats.dtype == torch.float64 else feats.float()
    channels = feats.shape[1]
    out = feats.new_empty(len(points), channels + 1)
    rows = _block_rows(points.device, 8 * (4 * channels + 64))
    for first in range(0, len(points), rows):
        p = points[first : first + rows].to(feats.dtype) - 0.5
        corner = p.floor()
        frac = p - corner
        base = F.pad(corner.clamp(-2, COORD_LIMIT).to(torch.int32), (1, 0))  # far outside is as absent as just outside
        value, total = p.new_zeros(len(p), channels), p.new_zeros(len(p))
        for dx in (0, 1):
            for dy in (0, 1):
                columns = voxels.find_columns(base + base.new_tensor([0, dx, dy, 0]), 2)
                for dz, found in enumerate(columns):
                    sides = (frac if d else 1 - frac for d in (dx, dy, dz))
                    weight = torch.stack([side[:, axis] for axis, side in enumerate(sides)]).prod(0)
                    weight = torch.where(found >= 0, weight, 0)
                    value = value + weight[:, None] * feats[found.clamp_min(0)]
                    total = total + weight
        out[first : first + rows, :channels] = value / total.clamp_min(1e-12)[:, None]
        out[first : first + rows, channels] = total
    return out
