"""Headers of safetensors files: read bounded, checked completely, without touching the tensors.

The format: 8 bytes with the header's length, the header (JSON: key -> dtype, shape, data_offsets), the data,
which the tensors must cover without gap or overlap (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from .damage import HEAD, deleted, diagnosis, open_regular
from .text import parse

LARGEST_HEADER = 16 << 20  # bytes; the largest of TRELLIS.2 has below 1 MB

_LARGEST_RANK, _LARGEST = 8, 1 << 48  # dimensions of a tensor; its length along one, and bytes of a file

_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32}
_BITS |= {"I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
_BITS |= dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)


@dataclass(frozen=True)
class Header:
    """What a file of tensors holds: dtype (the format's name, e.g. "BF16"), shape, and begin and end in the file in
    bytes, by key. architecture: what a GGUF file says that it is."""

    dtypes: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    spans: Mapping[str, tuple[int, int]]
    architecture: str = ""


def header_text(path: Path) -> tuple[bytes, int]:
    """The header as it stands, and the size of the whole file in bytes.

    Raises:
        CheckpointError: the file cannot be read or is no safetensors file; the text names what it is.
    """
    file, size = open_regular(path)
    with file:
        try:
            head = file.read(HEAD)
            length = int.from_bytes(head[:8], "little")
            whole = 2 <= length <= size - 8 and head[8:9] == b"{"
            if whole and length <= LARGEST_HEADER:
                return (head + file.read(max(8 + length - len(head), 0)))[8 : 8 + length], size
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror}). Check the disk, or copy it.") from error
    if problem := diagnosis(path, head, size, "safetensors"):
        raise CheckpointError(problem)
    if head[:1] == b"{":
        begins = head[:80].decode(errors="replace")
        raise CheckpointError(f"{path} is JSON ({begins!r} ...) instead of safetensors. Name the checkpoint's folder.")
    if head[8:9] == b"{" and 2 <= length <= LARGEST_HEADER:
        raise CheckpointError(
            f"{path} ({size:,} bytes) is damaged or truncated: cut off in its header. {deleted(path)}."
        )
    if whole:
        raise CheckpointError(
            f"{path} has a header of {length:,} bytes; up to {LARGEST_HEADER:,} are read. It is no file of TRELLIS.2."
        )
    raise CheckpointError(f"{path} ({size:,} bytes) is no safetensors file, or damaged beyond that. {deleted(path)}.")


def read_header(path: Path) -> Header:
    """The header, checked: types, shapes, and that the tensors fill the file exactly.

    Raises:
        CheckpointError: as header_text; the header makes no sense; the file is cut off or has too much.
    """
    text, size = header_text(path)
    entries = parse(path, text)
    entries.pop("__metadata__", None)
    spans, dtypes, shapes = {}, {}, {}
    first = 8 + len(text)
    for key, entry in entries.items():
        try:
            dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            numbers = (*shape, begin, end)
            sound = isinstance(dtype, str) and len(shape) <= _LARGEST_RANK
            sound = sound and all(type(each) is int and 0 <= each < _LARGEST for each in numbers)
            if not sound or (dtype in _BITS and math.prod(shape) * _BITS[dtype] != 8 * (end - begin)):
                raise ValueError
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is damaged: its entry {key[:100]!r} makes no sense. {deleted(path)}."
            ) from error
        spans[key] = first + begin, first + end
        dtypes[key], shapes[key] = dtype, shape
    reached = first
    for begin, end in sorted(spans.values()):
        if begin != reached:
            raise CheckpointError(f"{path} is damaged: its tensors overlap or leave gaps. {deleted(path)}.")
        reached = end
    if size != reached:
        kind = "truncated" if size < reached else "too long"
        raise CheckpointError(
            f"{path} is damaged or truncated: it is {kind}, {size:,} of {reached:,} bytes. {deleted(path)}."
        )
    return Header(dtypes, shapes, spans)
