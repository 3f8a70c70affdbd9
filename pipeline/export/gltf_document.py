"""glTF 2.0 as JSON and a binary buffer, for the writers of .glb and .gltf: one mesh, its levels of detail by MSFT_lod.

Viewers that know MSFT_lod show one of the levels, three.js and others the first; some (Blender, gltfpack) show all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..errors import OutputError
from ..mesh.used import extent
from ..srgb import srgb_to_linear
from .formats import GENERATOR, Contents
from .scene import AlphaMode, Geometry, Material, Scene

_FLOAT, _UINT = 5126, 5125  # glTF's numbers, which are OpenGL's; those below too
_VERTICES, _INDICES = 34962, 34963
_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP = 9729, 9987, 33071
_TYPES = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
_COLUMNS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


@dataclass
class Buffer:
    """The bytes, and the JSON that points into them."""

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
            low, high = extent(array)
            accessor |= {"min": low.tolist(), "max": high.tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def document(scene: Scene, place_image: Callable[[Buffer, str, bytes], dict]) -> tuple[dict, Buffer]:
    """The JSON, whose only buffer is returned beside it and has no URI.

    Args:
        scene: Y up, with a name.
        place_image: (buffer, what the image is, its bytes) -> the entries of its JSON that say where it is.
    """
    buffer, name, levels = Buffer(), scene.name, scene.levels
    names = [name, *(f"{name}_LOD{number}" for number in range(1, len(levels)))]
    meshes = [{"name": own, **_mesh(buffer, level)} for own, level in zip(names, levels)]
    nodes: list[dict] = [{"name": own, "mesh": number} for number, own in enumerate(names)]
    images = {what: place_image(buffer, what, data) for what, data in scene.material.images.items()}
    materials = _materials(scene.material, images, levels[0].colors is not None, name)
    if len(levels) > 1:
        nodes[0]["extensions"] = {"MSFT_lod": {"ids": list(range(1, len(levels)))}}
        # a level serves down to half the height on the screen of the one before it, and the last one to nothing
        nodes[0]["extras"] = {"MSFT_screencoverage": [*(0.5 ** (k + 1) for k in range(len(levels) - 1)), 0.0]}
        materials["extensionsUsed"] = [*materials.get("extensionsUsed", ()), "MSFT_lod"]
    root = {
        "asset": {
            "version": "2.0",
            "generator": GENERATOR,
            **({"extras": dict(scene.extras)} if scene.extras else {}),
        },
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": nodes,
        "meshes": meshes,
        **materials,
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.binary)}],
    }
    return root, buffer


def _mesh(buffer: Buffer, geometry: Geometry) -> dict:
    """A mesh of one primitive with material 0."""
    attributes = {
        "POSITION": buffer.accessor(np.ascontiguousarray(geometry.vertices, np.float32), "VEC3", _VERTICES, True),
        "NORMAL": buffer.accessor(np.ascontiguousarray(geometry.normals, np.float32), "VEC3", _VERTICES),
    }
    if geometry.uvs is not None:
        uvs = np.ascontiguousarray(geometry.uvs, np.float32)
        attributes["TEXCOORD_0"] = buffer.accessor(uvs, "VEC2", _VERTICES)
    if geometry.tangents is not None:
        tangents = np.ascontiguousarray(geometry.tangents, np.float32)
        attributes["TANGENT"] = buffer.accessor(tangents, "VEC4", _VERTICES)
    if geometry.colors is not None:
        attributes["COLOR_0"] = buffer.accessor(_linear(geometry.colors), "VEC4", _VERTICES)
    indices = buffer.accessor(np.ascontiguousarray(geometry.faces.reshape(-1), np.uint32), "SCALAR", _INDICES)
    return {"primitives": [{"attributes": attributes, "indices": indices, "material": 0, "mode": 4}]}


def _linear(colors: np.ndarray) -> np.ndarray:
    """[V, 4] uint8 sRGB with alpha -> float32 linear, as glTF wants vertex colours."""
    values = colors.astype(np.float32) / 255
    values[:, :3] = srgb_to_linear(values[:, :3])
    return values


def _materials(material: Material, placed: dict[str, dict], coloured: bool, name: str) -> dict:
    """The material and, if it has any, its textures, images and sampler.

    placed: where its images are. coloured: the vertices have colours. name: of the mesh."""
    entry: dict = {"name": f"{name}_material", "doubleSided": material.double_sided}
    entry["alphaMode"] = material.alpha_mode.value
    if material.alpha_mode is AlphaMode.MASK:
        entry["alphaCutoff"] = 0.5
    if not placed:
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
    images = [{"name": f"{name}_{what}", **where, "mimeType": mime} for what, where in placed.items()]
    count = range(len(images))
    if webp:
        textures = [{"sampler": 0, "extensions": {"EXT_texture_webp": {"source": i}}} for i in count]
    else:
        textures = [{"sampler": 0, "source": i} for i in count]
    used = {"extensionsUsed": ["EXT_texture_webp"], "extensionsRequired": ["EXT_texture_webp"]} if webp else {}
    sampler = {"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAP_LINEAR, "wrapS": _CLAMP, "wrapT": _CLAMP}
    return {"materials": [entry], "textures": textures, "images": images, "samplers": [sampler], **used}


def contents(root: dict, binary: bytes, image: Callable[[dict], bytes]) -> Contents:
    """What a document of ours holds; of others' what is as simple: triangles with indices, without compression, nodes
    without transformations.

    Args:
        image: an entry of "images" without a bufferView -> its bytes.

    Raises:
        OutputError: it is more complicated, or inconsistent.
    """
    if {"skins", "animations"} & root.keys() or set(root.get("extensionsRequired", ())) - {"EXT_texture_webp"}:
        raise OutputError("This glTF has skins, animations or required extensions that are not read here.")
    if any({"matrix", "rotation", "scale", "translation"} & node.keys() for node in root.get("nodes", ())):
        raise OutputError("This glTF places its meshes by transformations, which are not applied here.")
    levels = []
    for mesh in root["meshes"]:
        for primitive in mesh["primitives"]:
            if primitive.get("mode", 4) != 4 or "indices" not in primitive:
                raise OutputError("This glTF has primitives other than triangles with indices.")
            vertices = _array(root, binary, primitive["attributes"]["POSITION"])
            levels.append((vertices, _array(root, binary, primitive["indices"]).reshape(-1, 3).astype(np.int64)))
    views = root.get("bufferViews", [])
    images = {}
    for number, entry in enumerate(root.get("images", ())):
        data = _bytes(views[entry["bufferView"]], binary) if "bufferView" in entry else image(entry)
        images[entry.get("name", str(number))] = data
    return Contents(levels, images)


def _array(root: dict, binary: bytes, number: int) -> np.ndarray:
    """An accessor's values [count, columns]."""
    accessor = root["accessors"][number]
    view = root["bufferViews"][accessor["bufferView"]]
    if "sparse" in accessor or "byteStride" in view:
        raise OutputError("This glTF has sparse or interleaved accessors, which are not read here.")
    columns, kind = _COLUMNS[accessor["type"]], _TYPES[accessor["componentType"]]
    start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    return np.frombuffer(binary, kind, accessor["count"] * columns, start).reshape(-1, columns)


def _bytes(view: dict, binary: bytes) -> bytes:
    start = view.get("byteOffset", 0)
    return binary[start : start + view["byteLength"]]
