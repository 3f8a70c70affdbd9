"""Voxels of a cube as bits: Warp functions that mark and find them, and the kernels that give them rows."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from ...warp.launch import configure

configure(__name__)

UINT = wp.uint32  # how words of bits, int32 in torch, are seen


@wp.struct
class Voxels:
    """Which cells of a cube are voxels: a bit each, 32 along z to a word; ends counts those up to a word's last."""

    bits: wp.array[wp.uint32]
    ends: wp.array[wp.int32]
    side: wp.int32
    words: wp.int32  # of a column


@wp.func
def bits_of(word: wp.uint32):
    pairs = word - ((word >> wp.uint32(1)) & wp.uint32(0x55555555))
    fours = (pairs & wp.uint32(0x33333333)) + ((pairs >> wp.uint32(2)) & wp.uint32(0x33333333))
    bytes_ = (fours + (fours >> wp.uint32(4))) & wp.uint32(0x0F0F0F0F)
    return wp.int32((bytes_ * wp.uint32(0x01010101)) >> wp.uint32(24))


@wp.func
def word_of(grid: Voxels, x: wp.int32, y: wp.int32, z: wp.int32):
    return (x * grid.side + y) * grid.words + (z >> 5)


@wp.func
def row_of(grid: Voxels, x: wp.int32, y: wp.int32, z: wp.int32):
    """The row of a voxel, -1 for a cell that is none."""
    word = word_of(grid, x, y, z)
    rest = grid.bits[word] >> wp.uint32(z & 31)
    if (rest & wp.uint32(1)) == wp.uint32(0):
        return wp.int32(-1)
    return grid.ends[word] - bits_of(rest)


@wp.kernel
def counts(start: wp.int32, bits: wp.array[wp.uint32], found: wp.array[wp.int32]):
    """How many bits of a word are set."""
    i = start + wp.tid()
    found[i] = bits_of(bits[i])


@wp.kernel
def place(start: wp.int32, grid: Voxels, coords: wp.array2d[wp.int32]):
    """The cells of a word's voxels, in their rows."""
    word = start + wp.tid()
    rest = grid.bits[word]
    if rest == wp.uint32(0):
        return
    column = word // grid.words
    row = grid.ends[word] - bits_of(rest)
    for bit in range(32):
        if ((rest >> wp.uint32(bit)) & wp.uint32(1)) == wp.uint32(1):
            coords[row, 0] = column // grid.side
            coords[row, 1] = column % grid.side
            coords[row, 2] = (word % grid.words) * 32 + bit
            row += 1
