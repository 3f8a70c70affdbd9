"""GLB writer: one textured or plain triangle mesh, glTF 2.0; coarser levels of detail in files of their own or in one.

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
_PICTURES = ("base_color", "occlusion_roughness_metallic", "normal")
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


def level_path(path: Path, number: int) -> Path:
    """Where a level of detail is written whose mesh is written to `path`: itself for 0, NAME_LOD1.glb for 1."""
    return path.with_name(f"{path.stem.rstrip('_')}_LOD{number}{path.suffix}") if number else path


def write_glb(
    path: Path,
    levels: Sequence[Geometry],
    material: Material = Material(),
    extras: Mapping | None = None,
    name: str = "",
) -> None:
    """Write a mesh as GLB, whole or not at all.

    Args:
        levels: the mesh; behind it coarser ones, which share its material, by the extension MSFT_lod: viewers that know
            it show one of them, three.js and others the first; some (Blender, gltfpack) show all at once.
        extras: JSON-able facts for asset.extras.
        name: of node, mesh, material and images; without one the file's.

    Raises:
        OutputError: not a mesh that glTF can hold, or the path cannot be written.
    """
    _write(path, levels, material, _encoded(material), extras, _name(path, name))


def write_levels(
    path: Path, levels: Sequence[Geometry], material: Material, extras: Sequence[Mapping], name: str = ""
) -> list[Path]:
    """Write a mesh and coarser levels of it, each as a GLB of its own with the same textures; returns their paths, see
    level_path. extras: for each level. name: of the first level's parts. Otherwise as write_glb."""
    encoded, name = _encoded(material), _name(path, name)
    paths = [level_path(path, number) for number in range(len(levels))]
    for number, (place, level) in enumerate(zip(paths, levels)):
        _write(place, [level], material, encoded, extras[number], f"{name}_LOD{number}" if number else name)
    return paths


def _name(path: Path, name: str) -> str:
    """The name, or the file's, as JSON can hold it."""
    stem = Path(path).stem
    return (name or stem.rstrip("_") or stem).encode(errors="replace").decode()


def _write(
    path: Path,
    levels: Sequence[Geometry],
    material: Material,
    encoded: list[bytes],
    extras: Mapping | None,
    name: str,
) -> None:
    """As write_glb; encoded: the material's pictures."""
    document = _Document()
    names = [name, *(f"{name}_LOD{number}" for number in range(1, len(levels)))]
    meshes = [{"name": own, **_mesh(document, level)} for own, level in zip(names, levels)]
    nodes: list[dict] = [{"name": own, "mesh": number} for number, own in enumerate(names)]
    materials = _textures(document, material, encoded, levels[0].colors is not None, name)
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


def _textures(document: _Document, material: Material, encoded: list[bytes], coloured: bool, name: str) -> dict:
    """The material and, if it has any, its textures, images and sampler.

    encoded: as _encoded returns them. coloured: the vertices have colours. name: of the mesh."""
    entry: dict = {"name": f"{name}_material", "doubleSided": material.double_sided}
    entry["alphaMode"] = material.alpha_mode.value
    if material.alpha_mode is AlphaMode.MASK:
        entry["alphaCutoff"] = 0.5
    if material.base_color is None:
        entry["pbrMetallicRoughness"] = {
            "baseColorFactor": [1.0, 1.0, 1.0, 1.0] if coloured else [0.8, 0.8, 0.8, 1.0],
            "metallicFactor": material.metallic,
            "roughnessFactor": material.roughness,
        }
        return {"materials": [entry]}
    entry["pbrMetallicRoughness"] = {"baseColorTexture": {"index": 0}, "metallicRoughnessTexture": {"index": 1}}
    if material.occlusion is not None:
        entry["occlusionTexture"] = {"index": 1}
    if material.normal is not None:
        entry["normalTexture"] = {"index": 2}
    webp = material.image_format == "webp"
    mime = "image/webp" if webp else "image/png"
    images = [
        {"name": f"{name}_{what}", "bufferView": document.view(data), "mimeType": mime}
        for what, data in zip(_PICTURES, encoded)
    ]
    count = range(len(images))
    if webp:
        textures = [{"sampler": 0, "extensions": {"EXT_texture_webp": {"source": i}}} for i in count]
    else:
        textures = [{"sampler": 0, "source": i} for i in count]
    used = {"extensionsUsed": ["EXT_texture_webp"], "extensionsRequired": ["EXT_texture_webp"]} if webp else {}
    sampler = {"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAP_LINEAR, "wrapS": _CLAMP, "wrapT": _CLAMP}
    return {"materials": [entry], "textures": textures, "images": images, "samplers": [sampler], **used}


def _encoded(material: Material) -> list[bytes]:
    """The pictures of a material as files, in the order of _PICTURES; none without a base colour."""
    if material.base_color is None:
        return []
    keep_alpha = material.alpha_mode is not AlphaMode.OPAQUE
    # packed as red occlusion, green roughness, blue metallic, so that occlusion needs no image of its own
    occlusion = np.full_like(material.roughness, 255) if material.occlusion is None else material.occlusion
    packed = np.stack([occlusion, material.roughness, material.metallic], 2)
    pictures = [(material.base_color[:, :, : 4 if keep_alpha else 3], False), (packed, True)]
    if material.normal is not None:
        pictures.append((material.normal, True))
    webp = material.image_format == "webp"
    with ThreadPoolExecutor() as pool:  # the encoders release Python's lock
        return list(pool.map(lambda picture: _encode(Image.fromarray(picture[0]), webp, picture[1]), pictures))


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
