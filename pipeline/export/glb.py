"""GLB: glTF 2.0 in one binary file, with PNG or WebP textures and levels of detail by MSFT_lod."""

from __future__ import annotations

import json
import struct

from ..errors import OutputError
from .formats import Contents, Files, Format
from .gltf_document import Buffer, contents, document
from .scene import Scene


def render(scene: Scene, stem: str) -> Files:
    root, buffer = document(scene, _inside)
    text = json.dumps(root, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    binary = bytes(buffer.binary) + b"\0" * (-len(buffer.binary) % 4)
    header = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(binary))
    chunks = (header, struct.pack("<I4s", len(text), b"JSON"), text, struct.pack("<I4s", len(binary), b"BIN\0"), binary)
    return {f"{stem}.glb": b"".join(chunks)}


def _inside(buffer: Buffer, what: str, data: bytes) -> dict:
    return {"bufferView": buffer.view(data)}


def read(files: Files) -> Contents:
    (data,) = files.values()
    magic, version, total = struct.unpack_from("<4sII", data)
    if (magic, version, total) != (b"glTF", 2, len(data)):
        raise OutputError(f"This is no whole GLB of version 2: {total:,} bytes were meant, {len(data):,} are there.")
    length = struct.unpack_from("<I", data, 12)[0]

    def outside(entry: dict) -> bytes:
        raise OutputError("This GLB has images outside of it, which are not read here.")

    return contents(json.loads(data[20 : 20 + length]), data[28 + length :], outside)


FORMAT = Format("GLB", render, read, y_up=True, unit=1.0, image_formats=("png", "webp"), lods=True)
