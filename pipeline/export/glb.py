"""GLB writer: one textured or plain triangle mesh, with coarser levels of detail if there are any, glTF 2.0.

Written by hand because it is small and a library leaves no choice of image encoding: lossy WebP
smears metallic and roughness into each other.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import OutputError
from .files import writing

_FLOAT, _UINT = 5126, 5125
_VERTICES, _INDICES = 34962, 34963
_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP = 9729, 9987, 33071


class AlphaMode(str, Enum):
    """How a viewer treats the base colour's alpha."""

    OPAQUE = "OPAQUE"
    MASK = "MASK"
    BLEND = "BLEND"


@dataclass(frozen=True)
class Geometry:
    """A triangle mesh in the world frame (Z up): written as (x, z, -y).

    vertices: [V, 3]. faces: [F, 3]. normals: [V, 3] unit.
    uvs: [V, 2], v downwards as glTF wants it; needed by a material with textures.
    tangents: [V, 4] unit, and the bitangent's sign (-1 or 1); for a normal map.
    colors: [V, 4] uint8 vertex colours with alpha, sRGB; written linear, as glTF wants them.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    uvs: np.ndarray | None = None
    tangents: np.ndarray | None = None
    colors: np.ndarray | None = None


@dataclass(frozen=True)
class Material:
    """A metallic-roughness material.

    base_color: [S, S, 4] uint8 sRGB with alpha, row 0 at v = 0; or None for vertex colours, or a plain grey.
    metallic, roughness: [S, S] uint8, linear, beside a base colour; without one, numbers in 0-1.
    occlusion: [S, S] uint8, linear, 255 where all light arrives; or None.
    normal: [S', S', 3] uint8, tangent space, x right, y up, 128 is 0; or None. The mesh then needs tangents.
    """

    base_color: np.ndarray | None = None
    metallic: np.ndarray | float = 0.0
    roughness: np.ndarray | float = 0.6
    occlusion: np.ndarray | None = None
    normal: np.ndarray | None = None
    alpha_mode: AlphaMode = AlphaMode.OPAQUE
    double_sided: bool = True
    image_format: str = "png"  # "png" or "webp"


@dataclass
class _Document:
    """The JSON under construction and the bytes its buffer views point into."""

    binary: bytearray = field(default_factory=bytearray)
    views: list[dict] = field(default_factory=list)
    accessors: list[dict] = field(default_factory=list)

    def view(self, data: bytes, target: int | None = None) -> int:
        self.binary += b"\0" * (-len(self.binary) % 4)
        view = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data)}
        self.binary += data
        self.views.append(view if target is None else {**view, "target": target})
        return len(self.views) - 1

    def accessor(self, array: np.ndarray, kind: str, target: int, bounds: bool = False) -> int:
        component = _UINT if array.dtype == np.uint32 else _FLOAT
        accessor = {"bufferView": self.view(array.tobytes(), target), "componentType": component}
        accessor |= {"count": len(array), "type": kind}
        if bounds:
            accessor |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def write_glb(
    path: Path, levels: Sequence[Geometry], material: Material = Material(), extras: Mapping | None = None
) -> None:
    """Write a mesh as GLB, whole or not at all.

    Args:
        levels: the mesh; behind it coarser ones, which share its material, by the extension MSFT_lod: viewers without
            it show the first.
        extras: JSON-able facts for asset.extras.

    Raises:
        OutputError: not a mesh that glTF can hold, or the path cannot be written.
    """
    document = _Document()
    meshes = [_mesh(document, level) for level in levels]
    nodes: list[dict] = [{"mesh": number} for number in range(len(levels))]
    materials = _textures(document, material, levels[0].colors is not None)
    if len(levels) > 1:
        nodes[0]["extensions"] = {"MSFT_lod": {"ids": list(range(1, len(levels)))}}
        # a level serves down to half the height on the screen of the one before it, and the last one to nothing
        nodes[0]["extras"] = {"MSFT_screencoverage": [*(0.5 ** (k + 1) for k in range(len(levels) - 1)), 0.0]}
        materials["extensionsUsed"] = [*materials.get("extensionsUsed", ()), "MSFT_lod"]
    root = {
        "asset": {
            "version": "2.0",
            "generator": "ComfyUI-TRELLIS2-Stages",
            **({"extras": dict(extras)} if extras else {}),
        },
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": nodes,
        "meshes": meshes,
        **materials,
        "accessors": document.accessors,
        "bufferViews": document.views,
        "buffers": [{"byteLength": len(document.binary)}],
    }
    text = json.dumps(root, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    binary = bytes(document.binary) + b"\0" * (-len(document.binary) % 4)
    with writing(Path(path)) as temporary, open(temporary, "wb") as file:
        file.write(struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(binary)))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text)
        file.write(struct.pack("<I4s", len(binary), b"BIN\0") + binary)


def _mesh(document: _Document, geometry: Geometry) -> dict:
    """A mesh of one primitive with material 0."""
    if len(geometry.faces) == 0:
        raise OutputError("The mesh has no faces; there is nothing to write.")
    for name in ("vertices", "normals", "uvs", "tangents"):
        array = getattr(geometry, name)
        if array is not None and not np.isfinite(array).all():
            raise OutputError(f"The mesh's {name} hold NaN or infinity.")
    attributes = {
        "POSITION": document.accessor(_y_up(geometry.vertices), "VEC3", _VERTICES, bounds=True),
        "NORMAL": document.accessor(_y_up(geometry.normals), "VEC3", _VERTICES),
    }
    if geometry.uvs is not None:
        uvs = np.ascontiguousarray(geometry.uvs, np.float32)
        attributes["TEXCOORD_0"] = document.accessor(uvs, "VEC2", _VERTICES)
    if geometry.tangents is not None:
        tangents = np.asarray(geometry.tangents, np.float32)
        turned = np.concatenate([_y_up(tangents[:, :3]), tangents[:, 3:]], 1)
        attributes["TANGENT"] = document.accessor(turned, "VEC4", _VERTICES)
    if geometry.colors is not None:
        attributes["COLOR_0"] = document.accessor(_linear(geometry.colors), "VEC4", _VERTICES)
    indices = document.accessor(np.ascontiguousarray(geometry.faces.reshape(-1), np.uint32), "SCALAR", _INDICES)
    return {"primitives": [{"attributes": attributes, "indices": indices, "material": 0, "mode": 4}]}


def _y_up(vectors: np.ndarray) -> np.ndarray:
    x, y, z = np.asarray(vectors, np.float32).T
    return np.ascontiguousarray(np.stack([x, z, -y], 1))


def srgb_to_linear(values: np.ndarray) -> np.ndarray:
    """0-1 -> 0-1 (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _linear(colors: np.ndarray) -> np.ndarray:
    """[V, 4] uint8 sRGB with alpha -> float32 linear."""
    values = colors.astype(np.float32) / 255
    values[:, :3] = srgb_to_linear(values[:, :3])
    return values


def _textures(document: _Document, material: Material, coloured: bool) -> dict:
    """The material and, if it has any, its textures, images and sampler. coloured: the vertices have colours."""
    entry: dict = {"doubleSided": material.double_sided, "alphaMode": material.alpha_mode.value}
    if material.alpha_mode is AlphaMode.MASK:
        entry["alphaCutoff"] = 0.5
    if material.base_color is None:
        entry["pbrMetallicRoughness"] = {
            "baseColorFactor": [1.0, 1.0, 1.0, 1.0] if coloured else [0.8, 0.8, 0.8, 1.0],
            "metallicFactor": material.metallic,
            "roughnessFactor": material.roughness,
        }
        return {"materials": [entry]}
    keep_alpha = material.alpha_mode is not AlphaMode.OPAQUE
    # packed as red occlusion, green roughness, blue metallic, so that occlusion needs no image of its own
    occlusion = np.full_like(material.roughness, 255) if material.occlusion is None else material.occlusion
    packed = np.stack([occlusion, material.roughness, material.metallic], 2)
    pictures = [(material.base_color[:, :, : 4 if keep_alpha else 3], False), (packed, True)]
    entry["pbrMetallicRoughness"] = {"baseColorTexture": {"index": 0}, "metallicRoughnessTexture": {"index": 1}}
    if material.occlusion is not None:
        entry["occlusionTexture"] = {"index": 1}
    if material.normal is not None:
        pictures.append((material.normal, True))
        entry["normalTexture"] = {"index": 2}
    webp = material.image_format == "webp"
    with ThreadPoolExecutor() as pool:  # the encoders release Python's lock
        encoded = list(pool.map(lambda picture: _encode(Image.fromarray(picture[0]), webp, picture[1]), pictures))
    mime = "image/webp" if webp else "image/png"
    images = [{"bufferView": document.view(data), "mimeType": mime} for data in encoded]
    count = range(len(images))
    if webp:
        textures = [{"sampler": 0, "extensions": {"EXT_texture_webp": {"source": i}}} for i in count]
    else:
        textures = [{"sampler": 0, "source": i} for i in count]
    used = {"extensionsUsed": ["EXT_texture_webp"], "extensionsRequired": ["EXT_texture_webp"]} if webp else {}
    sampler = {"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAP_LINEAR, "wrapS": _CLAMP, "wrapT": _CLAMP}
    return {"materials": [entry], "textures": textures, "images": images, "samplers": [sampler], **used}


def _encode(image: Image.Image, webp: bool, lossless: bool) -> bytes:
    """PNG level 4, or WebP of quality 92, lossless where values must not mix: each a third of the time that the next
    few per cent of the size would cost."""
    buffer = io.BytesIO()
    if not webp:
        image.save(buffer, "PNG", compress_level=4)
    elif lossless:
        image.save(buffer, "WEBP", lossless=True, quality=0, method=0)
    else:
        image.save(buffer, "WEBP", quality=92, method=2)
    return buffer.getvalue()
