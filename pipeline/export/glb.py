"""GLB writer: one textured or plain triangle mesh, glTF 2.0.

Written by hand because it is small and a library leaves no choice of image encoding: lossy WebP
smears metallic and roughness into each other.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
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
class Material:
    """A metallic-roughness material.

    base_color: [S, S, 4] uint8 sRGB with alpha, row 0 at v = 0; or None for a plain grey.
    metallic, roughness: [S, S] uint8, linear; both given or both None.
    """

    base_color: np.ndarray | None = None
    metallic: np.ndarray | None = None
    roughness: np.ndarray | None = None
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
    path: Path,
    vertices: np.ndarray,
    faces: np.ndarray,
    normals: np.ndarray,
    uvs: np.ndarray | None = None,
    material: Material = Material(),
    extras: Mapping | None = None,
) -> None:
    """Write a mesh as GLB, whole or not at all.

    Args:
        vertices: [V, 3] world frame (Z up): written as (x, z, -y).
        faces: [F, 3].
        normals: [V, 3] unit, world frame.
        uvs: [V, 2], v downwards as glTF wants it; needed by a material with textures.
        extras: JSON-able facts for asset.extras.

    Raises:
        OutputError: not a mesh that glTF can hold, or the path cannot be written.
    """
    if len(faces) == 0:
        raise OutputError("The mesh has no faces; there is nothing to write.")
    for name, array in (("vertices", vertices), ("normals", normals), ("uvs", uvs)):
        if array is not None and not np.isfinite(array).all():
            raise OutputError(f"The mesh's {name} hold NaN or infinity.")
    document = _Document()
    attributes = {
        "POSITION": document.accessor(_y_up(vertices), "VEC3", _VERTICES, bounds=True),
        "NORMAL": document.accessor(_y_up(normals), "VEC3", _VERTICES),
    }
    if uvs is not None:
        attributes["TEXCOORD_0"] = document.accessor(np.ascontiguousarray(uvs, np.float32), "VEC2", _VERTICES)
    indices = document.accessor(np.ascontiguousarray(faces.reshape(-1), np.uint32), "SCALAR", _INDICES)
    textures = _textures(document, material)
    root = {
        "asset": {
            "version": "2.0",
            "generator": "ComfyUI-TRELLIS2-Stages",
            **({"extras": dict(extras)} if extras else {}),
        },
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": indices, "material": 0, "mode": 4}]}],
        **textures,
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


def _y_up(vectors: np.ndarray) -> np.ndarray:
    x, y, z = np.asarray(vectors, np.float32).T
    return np.ascontiguousarray(np.stack([x, z, -y], 1))


def _textures(document: _Document, material: Material) -> dict:
    """The material and, if it has any, its textures, images and sampler."""
    entry: dict = {"doubleSided": material.double_sided, "alphaMode": material.alpha_mode.value}
    if material.alpha_mode is AlphaMode.MASK:
        entry["alphaCutoff"] = 0.5
    if material.base_color is None:
        entry["pbrMetallicRoughness"] = {
            "baseColorFactor": [0.8, 0.8, 0.8, 1.0],
            "metallicFactor": 0.0,
            "roughnessFactor": 0.6,
        }
        return {"materials": [entry]}
    keep_alpha = material.alpha_mode is not AlphaMode.OPAQUE
    base = Image.fromarray(material.base_color[:, :, : 4 if keep_alpha else 3])
    unused = np.full_like(material.roughness, 255)  # where packed maps have ambient occlusion
    packed = Image.fromarray(np.stack([unused, material.roughness, material.metallic], 2))
    webp = material.image_format == "webp"
    images = []
    for image, lossless in ((base, False), (packed, True)):
        mime = "image/webp" if webp else "image/png"
        images.append({"bufferView": document.view(_encode(image, webp, lossless)), "mimeType": mime})
    if webp:
        textures = [{"sampler": 0, "extensions": {"EXT_texture_webp": {"source": i}}} for i in range(2)]
    else:
        textures = [{"sampler": 0, "source": i} for i in range(2)]
    entry["pbrMetallicRoughness"] = {"baseColorTexture": {"index": 0}, "metallicRoughnessTexture": {"index": 1}}
    used = {"extensionsUsed": ["EXT_texture_webp"], "extensionsRequired": ["EXT_texture_webp"]} if webp else {}
    sampler = {"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAP_LINEAR, "wrapS": _CLAMP, "wrapT": _CLAMP}
    return {"materials": [entry], "textures": textures, "images": images, "samplers": [sampler], **used}


def _encode(image: Image.Image, webp: bool, lossless: bool) -> bytes:
    """PNG level 6; WebP quality 92, or its fastest lossless method where values must not mix."""
    buffer = io.BytesIO()
    if not webp:
        image.save(buffer, "PNG", compress_level=6)
    elif lossless:
        image.save(buffer, "WEBP", lossless=True, method=0)
    else:
        image.save(buffer, "WEBP", quality=92)
    return buffer.getvalue()
