"""Warp kernel of operations.py: gather of rows by index. Torch's own takes ten times as long for short rows."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import torch
import warp as wp

from pipeline.warp.launch import configure, launch_parallel

configure(__name__)


@wp.kernel
def copy_words(
    start: wp.int32,
    width: wp.int32,
    words: wp.array[wp.int64],
    table: wp.array[wp.int32],
    out: wp.array[wp.int64],
):
    i = start + wp.tid()
    out[i] = words[table[i // width] * width + i % width]


def gather(words: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """words [T, W] int64, table [n, k] int32 rows of them -> [n, k W]."""
    width = words.shape[1]
    out = words.new_empty(len(table), table.shape[1] * width)
    launch_parallel(copy_words, out.numel(), width, words.reshape(-1), table.reshape(-1), out.view(-1))
    return out
