"""Submanifold convolution as a masked implicit matrix product, in Triton.

Each row knows by a mask of 27 bits which neighbours exist. Rows are sorted by that mask, read as a Gray code, so that a
block of rows shares most of its neighbours, and a block multiplies only with the offsets that one of its rows has. The
neighbours of a level's voxels follow from those of their parents: a child's neighbour lies in its parent's neighbour.

The idea of sorting by mask is that of FlexGEMM (github.com/JeffreyXiang/FlexGEMM, MIT) and spconv; nothing is tuned at
run time: a table gives the tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl

from ..triton_launch import launch
from .resample import Subdivision
from .tensor import NEIGHBOURS, Voxels

_MASK_BITS = 27  # voxels of a 3 x 3 x 3 kernel
_ROWS = 128  # of a block
_TABLE_ROWS = 256  # of a block that makes neighbour tables
_ELEMENTS = 4096  # of a block that adds to children
_SHARED_INDICES = 4 << 10  # bytes of shared memory for the neighbours that the one loop looks up ahead
_FLAT_CHANNELS = 256  # up to which offsets and depth are one loop


@dataclass(frozen=True)
class Tile:
    """Columns and depth of a block's product, and how it is run: `flat` in one loop, see _conv_kernel."""

    columns: int
    depth: int
    warps: int
    stages: int
    flat: bool


def _tile(c_in: int, c_out: int, dtype: torch.dtype, device: torch.device) -> Tile:
    """Measured on an H200 for fp16 (2026-11-30): as many columns as there are up to 256; one loop where an offset has
    few steps of depth (64 channels: 1.9 ms in place of 3.2, 128: 1.2 / 1.6, 256: 1.08 / 1.23; 512 loses 6 %).

    fp32 moves twice the bytes and keeps no TF32: 64 columns. Stages are dropped until they fit the device's shared
    memory, then columns.
    """
    wide = dtype.itemsize > 2
    columns = _power_of_two(c_out, 16, 64 if wide else 256)
    depth = _power_of_two(c_in, 16, 32 if wide else 64)
    flat = c_in <= _FLAT_CHANNELS and not wide
    limit = _shared_memory(device) - (_SHARED_INDICES if flat else 0)
    while True:
        buffers = limit // ((_ROWS + columns) * depth * dtype.itemsize)
        if buffers >= 2 or columns <= 32:
            buffers = max(1, min(3, buffers))
            # the one loop's rows are known only after a look-up of its own stage, which halves how far ahead it reads
            return Tile(columns, depth, 8 if columns == 256 else 4, 2 * buffers - 1 if flat else buffers, flat)
        columns //= 2


@cache
def _shared_memory(device: torch.device) -> int:
    """Bytes that a block may use; 64 KiB where torch does not tell (ROCm has that much). meta: the current device."""
    if device.type == "meta":
        device = torch.device("cuda", torch.cuda.current_device())
    return getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0) or 64 << 10


def _power_of_two(size: int, least: int, most: int) -> int:
    return min(most, max(least, triton.next_power_of_2(size)))


@dataclass(frozen=True)
class Plan:
    """What convolutions on a set of T voxels share.

    table: [27, T] int32, row of each neighbour (offset k as for NeighbourMap), -1 where there is none.
    masks: [T] int32, bit k set where neighbour k exists.
    order: [T] int32, rows sorted by mask, see _similarity_keys.
    """

    table: torch.Tensor
    masks: torch.Tensor
    order: torch.Tensor


def plan(voxels: Voxels) -> Plan:
    """The plan of a set, made when first asked for and kept with it until Voxels.release."""
    return voxels.kept("conv plan", _make_plan)


def _make_plan(voxels: Voxels) -> Plan:
    count, device = len(voxels), voxels.device
    table = torch.empty(NEIGHBOURS, count, dtype=torch.int32, device=device)
    masks = torch.empty(count, dtype=torch.int32, device=device)
    grid = (triton.cdiv(count, _TABLE_ROWS),)
    if voxels.origin is None:
        voxels.fill_neighbour_table(table)
        launch(_masks_kernel, grid, table, masks, count, BLOCK=_TABLE_ROWS)
    else:
        parents, slots = voxels.origin
        child = torch.full((8 * len(parents),), -1, dtype=torch.int32, device=device)
        child[slots] = torch.arange(count, dtype=torch.int32, device=device)
        launch(
            _from_parents_kernel,
            grid,
            slots,
            plan(parents).table,
            child,
            table,
            masks,
            count,
            len(parents),
            BLOCK=_TABLE_ROWS,
        )
        parents.release()  # the coarser level is done
    return Plan(table, masks, _similarity_keys(masks).sort().indices.int())


@cache
def _centre_outwards(device: torch.device) -> torch.Tensor:
    """[27] int32, the offsets by their distance: centre, faces, edges, corners."""
    distance = (torch.cartesian_prod(*[torch.arange(-1, 2)] * 3)).abs().sum(1)
    return distance.sort(stable=True).indices.int().to(device)


def _similarity_keys(masks: torch.Tensor) -> torch.Tensor:
    """[T] int32 of _MASK_BITS bits: masks in the order of these keys differ from their neighbours in few bits.

    A key is the place of its mask in the sequence of Gray codes, the corners' bits highest. Blocks of sorted rows have
    fewer offsets in all than in the order of the masks themselves (H200, decoder 1536: 2.9 of 203 ms, 2026-11-30).
    """
    keys = torch.empty_like(masks)
    if len(masks):
        grid = (triton.cdiv(len(masks), _TABLE_ROWS),)
        launch(_keys_kernel, grid, masks, keys, _centre_outwards(masks.device), len(masks), BLOCK=_TABLE_ROWS)
    return keys


@triton.jit
def _either(a, b):
    return a | b


@triton.jit(do_not_specialize=["count"])
def _masks_kernel(table, masks, count, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = row < count
    mask = tl.zeros((BLOCK,), tl.int32)
    for k in range(27):
        found = tl.load(table + k * count.to(tl.int64) + row, mask=live, other=-1)
        mask |= (found >= 0).to(tl.int32) << k
    tl.store(masks + row, mask, mask=live)


@triton.jit(do_not_specialize=["count"])
def _keys_kernel(masks, keys, offsets, count, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = tl.load(masks + row, mask=row < count, other=0)
    code = tl.zeros((BLOCK,), tl.int32)
    for place in range(27):
        code |= ((mask >> tl.load(offsets + place)) & 1) << place
    code ^= code >> 16  # from the Gray code to its place: every bit becomes the parity of those from it upwards
    code ^= code >> 8
    code ^= code >> 4
    code ^= code >> 2
    code ^= code >> 1
    tl.store(keys + row, code, mask=row < count)


@triton.jit(do_not_specialize=["count", "parents"])
def _from_parents_kernel(slots, parent_table, child, table, masks, count, parents, BLOCK: tl.constexpr):
    """One look-up in the parent's neighbours and one among that neighbour's children, for each of 27 offsets."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = row < count
    slot = tl.load(slots + row, mask=live, other=0)
    parent, octant = slot >> 3, (slot & 7).to(tl.int32)
    x, y, z = octant & 1, (octant >> 1) & 1, octant >> 2
    mask = tl.zeros((BLOCK,), tl.int32)
    for k in range(27):
        # one more than the neighbour's place along each axis, in children: 1 .. 4; half of it is the parent's offset
        nx, ny, nz = x + (k // 9 + 1), y + ((k // 3) % 3 + 1), z + (k % 3 + 1)
        offset = (nx >> 1) * 9 + (ny >> 1) * 3 + (nz >> 1)
        there = tl.load(parent_table + offset.to(tl.int64) * parents + parent, mask=live, other=-1)
        which = (nx & 1) + 2 * (ny & 1) + 4 * (nz & 1)
        found = tl.load(child + there.to(tl.int64) * 8 + which, mask=live & (there >= 0), other=-1)
        tl.store(table + k * count.to(tl.int64) + row, found, mask=live)
        mask |= (found >= 0).to(tl.int32) << k
    tl.store(masks + row, mask, mask=live)


@triton.jit
def _bits_set(x):
    """How many bits of a whole number of up to 27 bits are set."""
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    return (((x + (x >> 4)) & 0x0F0F0F0F) * 0x01010101) >> 24


@triton.jit
def _product(
    total, x, weights, source, k, c, c_in, depth, real,
    WHOLE_DEPTH: tl.constexpr, WHOLE_COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """total [ROWS, COLUMNS] plus the rows' neighbours at offset k times its weights, DEPTH channels from c on."""
    a_live = (source >= 0)[:, None]
    if not WHOLE_DEPTH:
        a_live &= depth[None, :] < c_in - c
    a = tl.load(x + source.to(tl.int64)[:, None] * c_in + (c + depth)[None, :], mask=a_live, other=0.0)
    b_at = weights + (k * c_in + c + depth)[:, None]
    if WHOLE_DEPTH and WHOLE_COLUMNS:
        b = tl.load(b_at)
    elif WHOLE_DEPTH:
        b = tl.load(b_at, mask=real[None, :], other=0.0)
    else:
        b = tl.load(b_at, mask=real[None, :] & (depth[:, None] < c_in - c), other=0.0)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit(do_not_specialize=["count", "sites"])
def _conv_kernel(
    x, weight, bias, table, masks, order, slots, out,
    count, sites, c_in, c_out,
    CHILDREN: tl.constexpr, BIAS: tl.constexpr, WHOLE_DEPTH: tl.constexpr, WHOLE_COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    """out[row] = sum_k weight[:, k] x[table[k, site]] (+ bias).

    A row's site is itself, or with CHILDREN its parent, whose neighbours it sees with its octant's c_out columns of
    the weights; a block's rows are then of one octant. order holds `count` rows, -1 where a block is padded.

    FLAT: one loop over the block's offsets and their steps of depth, so that an offset's rows are read while the one
    before is multiplied; else a loop in a loop, which looks neighbours up once for all steps. The sums are the same.
    """
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = tl.load(order + place, mask=place < count, other=-1)
    live = row >= 0
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    weight_row = column
    site = row
    if CHILDREN:
        slot = tl.load(slots + row, mask=live, other=0)
        site = (slot >> 3).to(tl.int32)
        weight_row += tl.max(tl.where(live, slot & 7, 0), 0).to(tl.int32) * c_out
    mask = tl.reduce(tl.load(masks + site, mask=live, other=0), 0, _either)
    depth = tl.arange(0, DEPTH)
    real = column < c_out if not WHOLE_COLUMNS else tl.full((COLUMNS,), True, tl.int1)
    weights = weight + weight_row.to(tl.int64)[None, :] * 27 * c_in
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    if FLAT:
        c = 0
        for _ in range(_bits_set(mask) * tl.cdiv(c_in, DEPTH)):
            k = _bits_set((mask & -mask) - 1)  # the lowest bit that is left
            source = tl.load(table + k * sites.to(tl.int64) + site, mask=live, other=-1)
            total = _product(total, x, weights, source, k, c, c_in, depth, real, WHOLE_DEPTH, WHOLE_COLUMNS, PRECISION)
            c += DEPTH
            mask = tl.where(c >= c_in, mask & (mask - 1), mask)
            c = tl.where(c >= c_in, 0, c)
    else:
        for k in range(27):
            if (mask >> k) & 1:
                source = tl.load(table + k * sites.to(tl.int64) + site, mask=live, other=-1)
                for c in range(0, c_in, DEPTH):
                    total = _product(
                        total, x, weights, source, k, c, c_in, depth, real, WHOLE_DEPTH, WHOLE_COLUMNS, PRECISION
                    )
    if BIAS:
        total += tl.load(bias + weight_row, mask=real, other=0.0).to(tl.float32)[None, :]
    at = out + row.to(tl.int64)[:, None] * c_out + column[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=live[:, None] & real[None, :])


def submanifold_conv(
    feats: torch.Tensor, voxels: Voxels, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """As reference.submanifold_conv."""
    made = plan(voxels) if len(voxels) else None
    out = feats.new_empty(len(voxels), weight.shape[0])
    if made is not None:
        _launch(feats, weight, bias, made, made.order, None, out)
    return out


def child_conv(
    feats: torch.Tensor, subdivision: Subdivision, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """As reference.child_conv, one row of products for each child that exists."""
    slots = subdivision.slots
    out = feats.new_empty(len(slots), weight.shape[0] // 8)
    if len(slots):
        made = plan(subdivision.parents)
        _launch(feats, weight, bias, made, _by_octant(slots, made.masks), slots, out)
    return out


def _by_octant(slots: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Children sorted by octant and then as their parents, each octant padded with -1 to whole blocks.

    Args:
        slots: [T'] as for Subdivision.
        masks: [T] of the parents.

    Returns:
        [N] int32, N a bound that needs no answer from the device.
    """
    octant = (slots & 7).int()
    key, row = ((octant << _MASK_BITS) | _similarity_keys(masks)[slots >> 3]).sort()
    first = torch.searchsorted(key, torch.arange(9, dtype=torch.int32, device=slots.device) << _MASK_BITS)
    padded = (first.diff() + _ROWS - 1) // _ROWS * _ROWS
    moved = padded.cumsum(0) - padded - first[:-1]
    place = torch.arange(len(slots), device=slots.device) + moved[key >> _MASK_BITS]
    order = row.new_full(((triton.cdiv(len(slots), _ROWS) + 8) * _ROWS,), -1, dtype=torch.int32)
    order[place] = row.int()
    return order


def _launch(feats, weight, bias, made: Plan, order, slots, out) -> None:
    c_in, c_out = weight.shape[4], out.shape[1]
    tile = _tile(c_in, c_out, feats.dtype, feats.device)
    tf32 = feats.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
    grid = (triton.cdiv(len(order), _ROWS), triton.cdiv(c_out, tile.columns))  # the second axis ends at 65,535
    launch(_conv_kernel, grid,
        feats.contiguous(), weight.contiguous(), bias, made.table, made.masks, order, slots, out,
        len(order), made.table.shape[1], c_in, c_out,
        CHILDREN=slots is not None, BIAS=bias is not None,
        WHOLE_DEPTH=c_in % tile.depth == 0, WHOLE_COLUMNS=c_out % tile.columns == 0,
        PRECISION="tf32" if tf32 else "ieee", ROWS=_ROWS, COLUMNS=tile.columns, DEPTH=tile.depth,
        FLAT=tile.flat, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


@triton.jit(do_not_specialize=["count"])
def _add_to_children_kernel(
    h, feats, slots, count, CHANNELS: tl.constexpr, OWN: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    """h[i, c] += feats[parent, octant * OWN + c // repeat]."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)[None, :]
    live = (row < count)[:, None]
    if CHANNELS != WIDTH:
        live = live & (column < CHANNELS)
    slot = tl.load(slots + row, mask=row < count, other=0)[:, None]
    source = slot * OWN + column // (CHANNELS // OWN)  # a parent has 8 * OWN channels, its octants side by side
    at = h + row.to(tl.int64)[:, None] * CHANNELS + column
    value = tl.load(at, mask=live, other=0.0).to(tl.float32)
    value += tl.load(feats + source, mask=live, other=0.0).to(tl.float32)
    tl.store(at, value.to(h.dtype.element_ty), mask=live)


def add_to_children(h: torch.Tensor, feats: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """As reference.add_to_children."""
    channels = h.shape[1]
    width = triton.next_power_of_2(channels)
    rows = max(1, _ELEMENTS // width)
    if len(h):
        launch(_add_to_children_kernel, (triton.cdiv(len(h), rows),),
            h, feats.contiguous(), slots, len(h),
            CHANNELS=channels, OWN=feats.shape[1] // 8, ROWS=rows, WIDTH=width, num_warps=4,
        )  # fmt: skip
    return h
