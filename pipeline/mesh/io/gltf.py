"""A glTF 2.0 document: its unchanged JSON and its buffers, read with bounds checks, extended and written again.

Unknown content is kept, so that a written document differs from the source only where it was changed. Specification:
https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from ...beginnings import irregular
from ...errors import MeshError
from ...schema import strict_json
from ...words import counted
from ..used import extent

_TYPES = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
_COUNTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_COMPRESSION = {
    "KHR_draco_mesh_compression": "Draco",
    "EXT_meshopt_compression": "meshopt",
    "KHR_meshopt_compression": "meshopt",
}
_FACTORS = {"baseColorFactor": 4, "metallicFactor": 1, "roughnessFactor": 1}  # components of each
_LARGEST = 1 << 32  # bytes of a GLB or of a buffer


class Gltf:
    """json: the document. binary: the one buffer that new data go to, the GLB's own; other buffers are read into it.

    Raises:
        MeshError: the file is no glTF 2.0, is cut off, or needs a compression that has to be undone first.
    """

    def __init__(self, document: dict, binary: bytes, folder: Path, name: str) -> None:
        self.json, self.folder, self.name = document, folder, name
        self.binary = bytearray()
        asset = self.held(self._object(document, "the document"), "asset", dict, "the document")
        version = str(asset.get("version", ""))
        if not version.startswith("2."):
            raise MeshError(f"{name} is glTF {version or 'without a version'}; version 2.0 is read. Export it again.")
        used = [self.held(document, key, list, "the document") for key in ("extensionsRequired", "extensionsUsed")]
        for extension in sorted(each for each in _COMPRESSION if each in used[0] or each in used[1]):
            raise MeshError(
                f"{name} is compressed with {_COMPRESSION[extension]} ({extension}), which is not read here. Undo it "
                "first, which loses nothing more: npx @gltf-transform/cli copy IN.glb OUT.glb"
            )
        self._join_buffers(binary)

    @classmethod
    def open(cls, path: Path) -> Gltf:
        """Read a .glb or .gltf file."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise MeshError(f"{path} cannot be read: {error.strerror}.") from error
        document, binary = _chunks(data, path.name) if data[:4] == b"glTF" else (data, b"")
        try:
            parsed = strict_json(document)
        except (ValueError, RecursionError) as error:
            raise MeshError(f"{path.name} is no glTF: its JSON cannot be read ({error}).") from error
        return cls(parsed, binary, path.parent, path.name)

    def _join_buffers(self, binary: bytes) -> None:
        """All buffers in one, each at a multiple of 4."""
        starts = []
        for number, buffer in enumerate(self.list("buffers")):
            data = self._data(buffer.get("uri"), f"buffer {number}") if "uri" in buffer else binary
            length = buffer.get("byteLength", 0)
            if type(length) is not int or not 0 <= length <= min(len(data), _LARGEST):
                raise MeshError(f"Buffer {number} of {self.name} has {len(data):,} bytes of {length}: it is cut off.")
            self.binary += b"\0" * (-len(self.binary) % 4)
            starts.append(len(self.binary))
            self.binary += data[:length]
        for number, view in enumerate(self.list("bufferViews")):
            start = starts[self.index(view.get("buffer"), starts, f"the buffer of view {number}")]
            at, length = view.get("byteOffset", 0), view.get("byteLength", 0)
            if not all(type(value) is int and value >= 0 for value in (at, length)):
                raise MeshError(f"Buffer view {number} of {self.name} has no valid offset and length.")
            view["buffer"], view["byteOffset"] = 0, start + at
            if start + at + length > len(self.binary):
                raise MeshError(f"Buffer view {number} of {self.name} reaches past its buffer.")
        if starts:
            self.json["buffers"] = [{"byteLength": len(self.binary)}]

    def _data(self, uri: object, what: str) -> bytes:
        """The bytes of a data URI or of a file beside the document."""
        if not isinstance(uri, str):
            raise MeshError(f"{what} of {self.name} names no place.")
        if uri.startswith("data:"):
            try:
                return base64.b64decode(uri.partition(",")[2], validate=True)
            except (ValueError, binascii.Error) as error:
                raise MeshError(f"{what} of {self.name} is no base64 ({error}).") from error
        path = (self.folder / unquote(uri)).resolve()
        if self.folder.resolve() not in path.parents:
            raise MeshError(f"{what} of {self.name} lies outside of its folder ({uri[:80]}). Copy it beside the file.")
        if kind := irregular(path):
            raise MeshError(f"{what} of {self.name} names {uri[:80]}, which is {kind}. Put the file itself there.")
        try:
            return path.read_bytes()
        except OSError as error:
            raise MeshError(
                f"{what} of {self.name} cannot be read: {error.strerror} ({uri[:80]}). Put the file beside it, or use "
                "one GLB."
            ) from error

    def _object(self, value: object, what: str) -> dict:
        if not isinstance(value, dict):
            raise MeshError(f"{what} of {self.name} is no JSON object.")
        return value

    def held(self, owner: dict, key: str, kind: type[dict] | type[list], where: str) -> Any:
        """The object or list that `owner`, in words `where`, has by a key; an empty one if it has none."""
        found = owner.get(key, kind())
        if not isinstance(found, kind):
            expected = "an object" if kind is dict else "a list"
            raise MeshError(f"{key} of {where} of {self.name} is {str(found)[:40]}; expected {expected}.")
        return found

    def primitives(self, mesh: int) -> list[dict]:
        """Those of a mesh, whose attributes are objects."""
        found = self.held(self.list("meshes")[mesh], "primitives", list, f"mesh {mesh}")
        for number, primitive in enumerate(found):
            where = f"primitive {number} of mesh {mesh}"
            self.held(self._object(primitive, where), "attributes", dict, where)
        return found

    def list(self, key: str) -> list[dict]:
        """A list of objects of the document, [] if it has none; what is added to the result stays in the document."""
        found = self.json.setdefault(key, []) if isinstance(self.json, dict) else None
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise MeshError(f"{key} of {self.name} is no list of objects.")
        return found

    def _check_transform(self, moved: dict, key: str, where: str) -> None:
        """Raises MeshError for a KHR_texture_transform of a texture that cannot be followed."""
        for name, count in (("offset", 2), ("scale", 2), ("rotation", 1)):
            found = moved.get(name, [1] * count if count > 1 else 1)
            numbers = found if count > 1 else [found]
            if not isinstance(numbers, list) or len(numbers) != count or not all(map(_is_number, numbers)):
                raise MeshError(
                    f"{name} of KHR_texture_transform in {key} of {where} of {self.name} is {str(found)[:40]}; "
                    f"expected {counted(count, 'number')} of at most 1e9. Export it again."
                )

    def check_materials(self) -> None:
        """Raises MeshError for materials and textures that cannot be looked up, as entries are of another type."""
        materials, textures = (self.list(key) if key in self.json else [] for key in ("materials", "textures"))
        for number, material in enumerate(materials):
            where = f"material {number}"
            look = self._object(material.get("pbrMetallicRoughness", {}), f"pbrMetallicRoughness of {where}")
            for key, info in [*look.items(), *material.items()]:
                if key.endswith("Texture") and info is not None:
                    own = self._object(info, f"{key} of {where}").get("extensions", {})
                    moved = self._object(own, f"extensions in {key} of {where}").get("KHR_texture_transform", {})
                    self._check_transform(self._object(moved, f"KHR_texture_transform in {key} of {where}"), key, where)
            for key, count in _FACTORS.items():
                numbers = look[key] if count > 1 and key in look else [look.get(key, 1)] * count
                if not isinstance(numbers, list) or len(numbers) != count or not all(map(_is_number, numbers)):
                    expected = f"{count} numbers" if count > 1 else "a number"
                    raise MeshError(f"{key} of {where} of {self.name} is {str(look[key])[:40]}; expected {expected}.")
        for number, texture in enumerate(textures):
            own = self._object(texture.get("extensions", {}), f"extensions in texture {number}")
            self._object(own.get("EXT_texture_webp", {}), f"EXT_texture_webp in texture {number}")

    def index(self, value: object, of, what: str) -> int:
        """A reference into a list, or MeshError."""
        if type(value) is not int or not 0 <= value < len(of):
            known = f"a number below {len(of)}" if len(of) else "none, as the file has no list of them"
            raise MeshError(f"{what} of {self.name} is {str(value)[:40]}; expected {known}. Export it again.")
        return value

    def view(self, number: object) -> memoryview:
        """The bytes of a buffer view."""
        view = self.list("bufferViews")[self.index(number, self.list("bufferViews"), "a buffer view")]
        return memoryview(self.binary)[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]

    def accessor(self, number: object) -> np.ndarray:
        """[count, components] in the accessor's own type, normalised integers as float32; sparse values filled in."""
        accessors = self.list("accessors")
        entry = accessors[self.index(number, accessors, "an accessor")]
        kind, columns = _known(_TYPES, entry.get("componentType")), _known(_COUNTS, entry.get("type"))
        count = entry.get("count")
        if kind is None or columns is None or type(count) is not int or count < 0:
            raise MeshError(f"Accessor {number} of {self.name} has an unknown type or count.")
        if "bufferView" in entry:
            values = self._strided(entry, kind, columns, count, number)
        else:
            if count * columns > 1 << 28:
                raise MeshError(f"Accessor {number} of {self.name} claims {count:,} values without data.")
            values = np.zeros((count, columns), kind)
        if "sparse" in entry:
            values = self._filled(self._object(entry["sparse"], "sparse"), values, number)
        if entry.get("normalized") and kind != np.float32:
            limits = np.iinfo(kind)
            values = np.maximum(values.astype(np.float32) / limits.max, -1.0)
        return values

    def _strided(self, entry: dict, kind, columns: int, count: int, number: object) -> np.ndarray:
        data = self.view(entry["bufferView"])
        item = np.dtype(kind).itemsize * columns
        stride = self.list("bufferViews")[entry["bufferView"]].get("byteStride") or item
        offset = entry.get("byteOffset", 0)
        sound = all(type(value) is int and value >= 0 for value in (stride, offset)) and stride >= item
        if not sound or (count and offset + stride * (count - 1) + item > len(data)):
            raise MeshError(f"Accessor {number} of {self.name} reaches past its buffer view.")
        if not count:
            return np.zeros((0, columns), kind)
        little = np.dtype(kind).newbyteorder("<")
        found = np.ndarray((count, columns), little, data, offset, (stride, np.dtype(kind).itemsize))
        return found.astype(kind)  # a copy

    def _filled(self, sparse: dict, values: np.ndarray, number: object) -> np.ndarray:
        count, where = sparse.get("count"), f"The sparse values of accessor {number}"
        places, changed = (self._object(sparse.get(key), where) for key in ("indices", "values"))
        kind = _known(_TYPES, places.get("componentType"))
        if type(count) is not int or not 0 <= count <= len(values) or kind is None:
            raise MeshError(f"{where} of {self.name} have no valid count or type.")
        rows = self._strided(places, kind, 1, count, number)[:, 0].astype(np.int64)
        if count and not (rows.min() >= 0 and rows.max() < len(values)):
            raise MeshError(f"{where} of {self.name} lie outside of it.")
        values[rows] = self._strided(changed, values.dtype.type, values.shape[1], count, number)
        return values

    def add_view(self, data: bytes, target: int | None = None) -> int:
        """Append bytes; returns the number of their buffer view."""
        self.binary += b"\0" * (-len(self.binary) % 4)
        view = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data)}
        self.binary += data
        self.list("bufferViews").append(view if target is None else {**view, "target": target})
        self.json["buffers"] = [{"byteLength": len(self.binary)}]
        return len(self.json["bufferViews"]) - 1

    def add_accessor(self, values: np.ndarray, kind: str, target: int, **more) -> int:
        """Append an array [count, components] in its own type; returns its number. more: e.g. normalized."""
        component = next(number for number, each in _TYPES.items() if each == values.dtype.type)
        item = values.dtype.itemsize * values.shape[1]
        stride = item + -item % 4 if target == 34962 else item  # vertex attributes begin at multiples of 4
        rows = np.zeros((len(values), stride), np.uint8)
        rows[:, :item] = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), item)
        entry: dict = {"bufferView": self.add_view(rows.tobytes(), target)}
        if stride != item:
            self.list("bufferViews")[-1]["byteStride"] = stride
        entry |= {"componentType": component, "count": len(values), "type": kind, **more}
        if kind == "VEC3" and component == 5126:
            low, high = extent(values)
            entry |= {"min": low.tolist(), "max": high.tolist()}
        self.list("accessors").append(entry)
        return len(self.json["accessors"]) - 1

    def image(self, number: object) -> bytes:
        """The file of an image of the document."""
        entry = self.list("images")[self.index(number, self.list("images"), "an image")]
        if "bufferView" in entry:
            return bytes(self.view(entry["bufferView"]))
        return self._data(entry.get("uri"), f"image {number}")

    def require_images(self) -> None:
        """Raises MeshError if a referenced image file is missing, so that this is found before any other work."""
        for number, entry in enumerate(self.list("images")):
            if "bufferView" not in entry and not str(entry.get("uri", "")).startswith("data:"):
                self.image(number)

    def local_images(self) -> None:
        """Embed external image files into the document, which may be written elsewhere."""
        for number, entry in enumerate(self.list("images")):
            if "bufferView" not in entry:
                data = self.image(number)
                png = data[:4] == b"\x89PNG"
                kind = "image/png" if png else "image/webp" if data[8:12] == b"WEBP" else "image/jpeg"
                entry |= {"bufferView": self.add_view(data), "mimeType": entry.get("mimeType", kind)}
                entry.pop("uri", None)

    def glb(self) -> bytes:
        """The document as a GLB."""
        lists = {key for key, value in self.json.items() if isinstance(value, list) and not value}
        document = {key: value for key, value in self.json.items() if key not in lists}
        text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        binary = bytes(self.binary) + b"\0" * (-len(self.binary) % 4)
        parts = [struct.pack("<I4s", len(text), b"JSON") + text]
        if binary:
            parts.append(struct.pack("<I4s", len(binary), b"BIN\0") + binary)
        body = b"".join(parts)
        return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def _chunks(data: bytes, name: str) -> tuple[bytes, bytes]:
    """JSON and binary chunk of a GLB."""
    if len(data) < 20 or struct.unpack_from("<I", data, 8)[0] > len(data):
        raise MeshError(f"{name} is cut off: it has {len(data):,} bytes. Copy or download it again.")
    version = struct.unpack_from("<I", data, 4)[0]
    if version != 2:
        raise MeshError(f"{name} is a GLB of version {version}; version 2 is read. Export it again.")
    found: dict[bytes, bytes] = {}
    at = 12
    while at + 8 <= len(data):
        length, kind = struct.unpack_from("<I4s", data, at)
        if at + 8 + length > len(data):
            raise MeshError(f"{name} is cut off in its chunk {kind!r}. Copy or download it again.")
        found.setdefault(kind, data[at + 8 : at + 8 + length])
        at += 8 + length + (-length % 4)
    if b"JSON" not in found:
        raise MeshError(f"{name} has no JSON chunk, so it is no GLB.")
    return found[b"JSON"], found.get(b"BIN\0", b"")


def node_matrix(node: dict, name: str) -> np.ndarray:
    """[4, 4] float64: the local transform of a node (columns are images of the axes, as p' = M p)."""

    def numbers(key: str, count: int, default: list[float]) -> np.ndarray:
        value = node.get(key, default)
        if not isinstance(value, list) or len(value) != count or not all(_is_number(each, 1e100) for each in value):
            raise MeshError(f"The {key} of node {name!r} is no list of {count} numbers of at most 1e100.")
        return np.array(value, np.float64)

    if "matrix" in node:
        return numbers("matrix", 16, []).reshape(4, 4).T
    x, y, z, w = numbers("rotation", 4, [0, 0, 0, 1])
    made = np.eye(4)
    made[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    made[:3, :3] *= numbers("scale", 3, [1, 1, 1])
    made[:3, 3] = numbers("translation", 3, [0, 0, 0])
    return made


def _is_number(value: object, most: float = 1e9) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -most <= value <= most  # NaN is none


def _known(table: dict, key: object):
    """A table's value for a key read from a file, which may be of any type; None if there is none."""
    return table.get(key) if isinstance(key, (int, str)) else None
