"""Headers of GGUF files, read bounded and without a package of their own.

The format: magic, version, counts; metadata (name, type, value); tensors (name, dimensions innermost first, type,
offset); the data from the next multiple of the alignment on (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

from ..errors import CheckpointError
from ..packing import BLOCKS
from .damage import deleted, open_regular
from .headers import Header

MAGIC = b"GGUF"
_LARGEST = 64 << 20  # bytes of a header: a language model's words stand in it
_MOST = 1 << 20  # entries of metadata, tensors, items of a list
_TEXT, _LIST = 8, 9  # the format's numbers of types
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# GGUF's numbers of types -> name; those that are read: plain ones with their bytes, and blocks
_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K"}
_TYPES |= {12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64"}
_TYPES |= {30: "BF16", 39: "MXFP4"}
_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_SHAPE = "comfy.gguf.orig_shape."  # of tensors that have more dimensions than GGUF takes, by city96's converter


class _Reader:
    """Reads numbers and texts one after the other, and no more than _LARGEST bytes."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file, self.here = path, file, 0

    def take(self, size: int) -> bytes:
        self.here += size
        taken = self.file.read(size) if self.here <= _LARGEST else b""
        if len(taken) != size:
            raise self.damaged("cut off in its header, or no header that ends")
        return taken

    def number(self, code: str):
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def count(self, most: int = _MOST) -> int:
        found = self.number("Q")
        if found > most:
            raise self.damaged("it counts more than any such file has")
        return found

    def text(self) -> str:
        return self.take(self.count()).decode(errors="replace")

    def value(self, kind: int, nested: bool = False):
        if kind == _TEXT:
            return self.text()
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind != _LIST or nested:
            raise self.damaged(f"a value of the unknown type {kind}")
        inner, count = self.number("I"), self.count()
        return [self.value(inner, nested=True) for _ in range(count)]

    def damaged(self, why: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is damaged or truncated: {why}. {deleted(self.path)}.")


def read_gguf(path: Path) -> Header:
    """The header of a GGUF file, checked: types, shapes, and that every tensor lies in the file.

    Raises:
        CheckpointError: the file cannot be read, is none, or is damaged; the text names what.
    """
    file, size = open_regular(path)
    with file:
        reader = _Reader(path, file)
        try:
            if reader.take(4) != MAGIC:
                raise CheckpointError(f"{path} ({size:,} bytes) is no GGUF file. {deleted(path)}.")
            if (version := reader.number("I")) not in (2, 3):
                raise CheckpointError(f"{path} is GGUF version {version}; 2 and 3 are read. Convert it again.")
            tensors, entries = reader.count(), reader.count()
            facts = {}
            for _ in range(entries):
                name = reader.text()
                facts[name] = reader.value(reader.number("I"))
            found = [_tensor(reader) for _ in range(tensors)]
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror}). Check the disk, or copy it.") from error
    alignment = facts.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= 1 << 20:
        raise reader.damaged("its alignment makes no sense")
    first = -(-reader.here // alignment) * alignment
    dtypes, shapes, spans = {}, {}, {}
    for key, shape, dtype, offset in found:
        length = _length(shape, dtype)
        if length is None:
            raise reader.damaged(f"the shape of {key[:100]!r} does not go with {dtype}")
        dtypes[key], shapes[key] = dtype, _original(facts.get(_SHAPE + key), shape)
        spans[key] = first + offset, first + offset + length
        if spans[key][1] > size:
            raise reader.damaged(f"{key[:100]!r} would end at byte {spans[key][1]:,} of {size:,}")
    return Header(dtypes, shapes, spans, str(facts.get("general.architecture", "unknown"))[:60])


def _tensor(reader: _Reader) -> tuple[str, tuple[int, ...], str, int]:
    """Name, shape, type and offset of the next tensor."""
    name, rank = reader.text(), reader.number("I")
    if rank > 8:
        raise reader.damaged(f"{name[:100]!r} has {rank} dimensions")
    shape = tuple(reader.count(1 << 48) for _ in range(rank))[::-1]
    kind = reader.number("I")
    return name, shape, _TYPES.get(kind, f"GGUF type {kind}"), reader.count(1 << 48)


def _length(shape: tuple[int, ...], dtype: str) -> int | None:
    """Bytes of a tensor; 0 for types that are not read, None if the shape does not go with the type."""
    if dtype in _BYTES:
        return _BYTES[dtype] * math.prod(shape)
    if dtype not in BLOCKS:
        return 0
    return math.prod(BLOCKS[dtype].stored(shape)) if BLOCKS[dtype].fits(shape) else None


def _original(noted, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that the converter noted, if it has as many values."""
    listed = isinstance(noted, list) and all(type(each) is int for each in noted)
    return tuple(noted) if listed and math.prod(noted) == math.prod(shape) else shape
