"""Reads the weights of the next network into the page cache while the present one works, so that loading finds them in
memory: a read through the cache is several times a disk's speed, and the cache gives way wherever memory is needed."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import torch

from ..budget import device_bytes

_PIECE = 8 << 20  # bytes
_SHARE = 2  # of free main memory that weights read ahead may fill is 1 / this


def read_ahead(path: Path, begin: int, end: int) -> threading.Thread | None:
    """Read the bytes begin .. end - 1 of a file in a thread, which it returns; None where memory is too short to keep
    them. A file that cannot be read is left to whoever loads it."""
    if end - begin > device_bytes(torch.device("cpu")) // _SHARE:
        return None
    thread = threading.Thread(target=_read, args=(path, begin, end), name="trellis2 read ahead")
    thread.start()
    return thread


def _read(path: Path, begin: int, end: int) -> None:
    piece = memoryview(bytearray(_PIECE))
    with suppress(OSError), open(path, "rb", buffering=0) as file:
        file.seek(begin)
        # a process that ends does not wait for more than a piece
        while begin < end and threading.main_thread().is_alive():
            count = file.readinto(piece[: end - begin])
            if not count:
                return
            begin += count
