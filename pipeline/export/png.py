"""PNG, filtered and deflated in strips on all cores: the same bytes on any number of them.

Pillow writes a picture in one thread, and looks for repeats that textures of decoded voxels hardly have: Paeth's
filter for all rows and runs of equal bytes alone (zlib's strategy RLE) take two thirds of its processor time and 6-10 %
fewer bytes on these. Where a few strips say that looking for repeats pays, as in even slopes, it is done: 19 % fewer.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from ..warp import cores

_STRIP = 1 << 18  # bytes of a picture, about: a core caches these and what filtering them takes
_EVERY = 8  # one strip in so many is compressed in each way to choose one
_WAYS = (6, zlib.Z_RLE), (4, zlib.Z_FILTERED)  # level and strategy of zlib; the first has no levels
_PAETH = 4  # PNG's number of the filter
_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's number for so many channels
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by PNG's number for colours; 3 has a palette
_PIECE = 1 << 20  # bytes that are inflated at once
_FED = 1 << 16  # bytes of which they are made; what is left of these is copied each time
_ADLER = 65521  # Adler-32's modulus
_HEADER, _END = b"\x78\x01", b"\x03\x00"  # of a zlib stream: its window's size, and the last, empty block


def encode_pngs(pictures: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Pictures [H, W] or [H, W, 1 - 4] uint8 (grey, grey and alpha, RGB, RGBA) as files, under the same names.

    Raises:
        ValueError: another shape or dtype, which would be another picture: values are not converted.
    """
    for name, each in pictures.items():
        if each.dtype != np.uint8 or each.size == 0 or each.ndim not in (2, 3) or each.shape[2:] > (4,):
            raise ValueError(
                f"The picture {name} is {list(each.shape)} {each.dtype}; expected [H, W] or [H, W, 1 - 4] uint8."
            )
    with ThreadPoolExecutor(cores()) as pool:  # what takes time releases Python's lock
        sizes = {name: pool.map(partial(_sizes, each), _strips(each)[::_EVERY]) for name, each in pictures.items()}
        ways = {name: _WAYS[int(np.argmin(np.sum(list(each), 0)))] for name, each in sizes.items()}
        made = {name: pool.map(partial(_deflated, each, ways[name]), _strips(each)) for name, each in pictures.items()}
        return {name: _file(pictures[name], list(each)) for name, each in made.items()}


def check_rows(data: bytes) -> None:
    """Inflate the rows of a PNG whose chunks are sound and which is not interlaced, and look at their filters: what a
    decoder could stumble over, in less than half of its time and with little memory.

    Raises:
        ValueError: the rows cannot be inflated, have filters that PNG lacks, or are too few or too many.
    """
    if data[12:16] != b"IHDR":
        raise ValueError("it does not begin with its size")
    width, height, depth, colours = struct.unpack(">IIBB", data[16:26])
    row = 1 + (width * depth * _SAMPLES[colours] + 7) // 8  # bytes, the filter's number among them
    found = 0
    try:
        for piece in _inflated(_data_chunks(data)):
            if max(piece[-found % row :: row], default=0) > _PAETH:
                raise ValueError("a row has a filter that PNG lacks")
            found += len(piece)
            if found > row * height:  # a small file may hold gigabytes of zeros
                raise ValueError(f"it has more than its {row * height:,} bytes of rows")
    except zlib.error as error:
        raise ValueError(f"its rows are damaged: {error}") from error
    if found != row * height:
        raise ValueError(f"it has {found:,} bytes of rows in place of {row * height:,}")


def _inflated(parts: Iterable[memoryview]) -> Iterator[bytes]:
    """What a zlib stream in parts holds, in pieces of bounded size; all of it, with a checksum that is right."""
    stream = zlib.decompressobj()
    for part in parts:
        for at in range(0, len(part), _FED):
            fed: bytes | memoryview = part[at : at + _FED]
            while fed and not stream.eof:
                yield stream.decompress(fed, _PIECE)
                fed = stream.unconsumed_tail
    yield stream.flush()
    if not stream.eof:
        raise zlib.error("the stream has no end")


def _data_chunks(data: bytes) -> Iterator[memoryview]:
    """The contents of the IDAT chunks."""
    whole, at = memoryview(data), 8
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", whole[at : at + 8])
        if kind == b"IDAT":
            yield whole[at + 8 : at + 8 + length]
        at += 12 + length


def _strips(picture: np.ndarray) -> list[slice]:
    """Rows of each."""
    rows = max(1, _STRIP // max(1, picture[:1].size))
    return [slice(begin, begin + rows) for begin in range(0, len(picture), rows)]


def _sizes(picture: np.ndarray, strip: slice) -> list[int]:
    """Bytes of a strip in each of the ways."""
    data = _filtered(picture, strip)
    return [len(_compressed(data, way)) for way in _WAYS]


def _deflated(picture: np.ndarray, way: tuple[int, int], strip: slice) -> tuple[bytes, int, int]:
    """A strip as a part of a deflate stream that ends on a byte; Adler-32 and number of the bytes in it."""
    data = _filtered(picture, strip)
    return _compressed(data, way), zlib.adler32(data), len(data)


def _compressed(data: bytes, way: tuple[int, int]) -> bytes:
    level, strategy = way
    stream = zlib.compressobj(level, wbits=-15, memLevel=9, strategy=strategy)
    return stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)


def _filtered(picture: np.ndarray, strip: slice) -> bytes:
    """The rows of a strip, each behind its filter's number."""
    channels = picture.shape[2] if picture.ndim == 3 else 1
    rows = picture[strip].reshape(len(picture[strip]), -1)
    wide = np.zeros((len(rows) + 1, rows.shape[1] + channels), np.int16)  # 0 before the first row and column
    wide[1:, channels:] = rows
    if strip.start:
        wide[0, channels:] = picture[strip.start - 1].reshape(-1)
    here, left = wide[1:, channels:], wide[1:, :-channels]
    above, corner = wide[:-1, channels:], wide[:-1, :-channels]
    to_left, to_above = above - corner, left - corner
    to_corner = np.abs(to_left + to_above)
    np.abs(to_left, out=to_left)
    np.abs(to_above, out=to_above)
    nearest = np.where(to_above <= to_corner, above, corner)
    nearest = np.where((to_left <= to_above) & (to_left <= to_corner), left, nearest)
    result = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
    result[:, 0] = _PAETH
    np.subtract(here, nearest, out=result[:, 1:], casting="unsafe")  # modulo 256
    return result.tobytes()


def _file(picture: np.ndarray, strips: list[tuple[bytes, int, int]]) -> bytes:
    height, width = picture.shape[:2]
    colours = _COLOURS[picture.shape[2] if picture.ndim == 3 else 1]
    check = 1
    for _, own, length in strips:
        check = _joined(check, own, length)
    data = b"".join([_HEADER, *(part for part, _, _ in strips), _END, struct.pack(">I", check)])
    head = struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join([struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))])


def _joined(one: int, other: int, length: int) -> int:
    """The Adler-32 of two pieces of data in a row, by theirs and the length of the other (adler32_combine of zlib)."""
    low = (one & 0xFFFF) + (other & 0xFFFF) - 1
    high = (one >> 16) + (other >> 16) + length * ((one & 0xFFFF) - 1)
    return (high % _ADLER) << 16 | low % _ADLER
