"""New materials for the parts of a scene, written into its own document: all else stays as the source has it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..mesh.io import Gltf, Scene
from ..mesh.io.atlas import Group, Piece
from .files import writing
from .images import encode_images

_KEPT = ("normalTexture", "occlusionTexture")  # of a material whose UVs are kept
_LINEAR, _MIPMAPS, _CLAMP, _REPEAT = 9729, 9987, 33071, 10497  # glTF's numbers, which are OpenGL's
_ALPHA = 5  # channel of the maps
_COLORS = "COLOR_0"


@dataclass(frozen=True)
class BakedGroup:
    """A group and its maps: [S, S, 6] uint8 base colour RGB (sRGB), metallic, roughness, alpha; row 0 at v = 0."""

    group: Group
    maps: np.ndarray


def textured_document(scene: Scene, baked: Sequence[BakedGroup], image_format: str = "png") -> Gltf:
    """The scene's document with the baked materials; the scene is not changed.

    Args:
        image_format: "png", or "webp", which needs EXT_texture_webp.
    """
    document = copy.deepcopy(scene.document)
    document.local_images()
    materials = _materials(document, baked, image_format)
    by_part: dict[int, list[tuple[Piece, int]]] = {}
    for each, material in zip(baked, materials):
        for piece in each.group.pieces:
            by_part.setdefault(piece.part, []).append((piece, material))
    meshes: dict[int, int] = {}  # node -> mesh of its own
    for number, pieces in by_part.items():
        part = scene.parts[number]
        if part.node not in meshes:
            if part.instance:
                document.list("meshes").append(copy.deepcopy(scene.document.list("meshes")[part.mesh]))
                document.list("nodes")[part.node]["mesh"] = len(document.json["meshes"]) - 1
            meshes[part.node] = document.list("nodes")[part.node]["mesh"]
        primitives = document.list("meshes")[meshes[part.node]]["primitives"]
        primitive = copy.deepcopy(primitives[part.primitive])
        primitive.get("extensions", {}).pop("KHR_materials_variants", None)
        first, *rest = [_primitive(document, primitive, piece, material) for piece, material in pieces]
        primitives[part.primitive] = first
        primitives.extend(rest)  # behind the others, whose numbers parts know
    return document


def _primitive(document: Gltf, source: dict, piece: Piece, material: int) -> dict:
    """A primitive of some faces with a material."""
    source = copy.deepcopy(source)
    if _COLORS in source["attributes"]:  # the textures hold them, and viewers would multiply both
        source["attributes"][f"_{_COLORS}"] = source["attributes"].pop(_COLORS)
    made = {**source, "material": material}
    if piece.source is None and piece.rows is None:
        return made  # to the bit
    faces = np.ascontiguousarray(piece.faces, np.uint32).reshape(-1, 1)
    made |= {"indices": document.add_accessor(faces, "SCALAR", 34963), "mode": 4}
    if piece.source is not None:
        kept = {name: at for name, at in source["attributes"].items() if not name.startswith(("TEXCOORD", "TANGENT"))}
        made["attributes"] = {name: _gathered(document, at, piece.source) for name, at in kept.items()}
        uvs = document.add_accessor(np.ascontiguousarray(piece.uvs, np.float32), "VEC2", 34962)
        made["attributes"]["TEXCOORD_0"] = uvs
        if "targets" in source:
            made["targets"] = [
                {name: _gathered(document, at, piece.source) for name, at in target.items() if name != "TANGENT"}
                for target in source["targets"]
            ]
    return made


def _gathered(document: Gltf, number: int, rows: np.ndarray) -> int:
    """An accessor of some rows of another one, in its own type."""
    entry = document.list("accessors")[number]
    more = {"normalized": True} if entry.pop("normalized", False) else {}
    values = document.accessor(number)[rows]  # not scaled
    entry |= more
    return document.add_accessor(values, entry["type"], 34962, **more)


def _materials(document: Gltf, baked: Sequence[BakedGroup], image_format: str) -> list[int]:
    """Adds images, textures and materials; returns the materials' numbers."""
    webp, known = image_format == "webp", document.list("materials")
    sources = [{} if each.group.material is None else known[each.group.material] for each in baked]
    pictures: dict[str, np.ndarray] = {}
    for place, (each, source) in enumerate(zip(baked, sources)):
        opaque = source.get("alphaMode", "OPAQUE") == "OPAQUE"
        pictures[f"base {place}"] = np.ascontiguousarray(each.maps[:, :, [0, 1, 2] if opaque else [0, 1, 2, _ALPHA]])
        red = np.full_like(each.maps[:, :, 0], 255)
        pictures[f"rest {place}"] = np.stack([red, each.maps[:, :, 4], each.maps[:, :, 3]], 2)
    files = encode_images(pictures, image_format, [name for name in pictures if name.startswith("base")])
    numbers = []
    for place, (each, source) in enumerate(zip(baked, sources)):
        textures = [_texture(document, files[f"{what} {place}"], webp, each.group.tile) for what in ("base", "rest")]
        new_uvs = any(piece.source is not None for piece in each.group.pieces)
        kept = {
            key: value for key, value in source.items() if key in ("name", "doubleSided", "alphaMode", "alphaCutoff")
        }
        kept |= {} if new_uvs else {key: source[key] for key in _KEPT if key in source}
        kept.setdefault("name", f"material {len(numbers)}")
        base, rest = ({"index": index} for index in textures)
        kept["pbrMetallicRoughness"] = {"baseColorTexture": base, "metallicRoughnessTexture": rest}
        document.list("materials").append(kept)
        numbers.append(len(document.json["materials"]) - 1)
    if webp:
        for key in ("extensionsUsed", "extensionsRequired"):
            document.json[key] = sorted({*document.json.get(key, ()), "EXT_texture_webp"})
    return numbers


def _texture(document: Gltf, data: bytes, webp: bool, tile: tuple[int, int]) -> int:
    kind = "image/webp" if webp else "image/png"
    document.list("images").append({"bufferView": document.add_view(data), "mimeType": kind})
    wrap = _CLAMP if tile == (0, 0) else _REPEAT
    sampler = {"magFilter": _LINEAR, "minFilter": _MIPMAPS, "wrapS": wrap, "wrapT": wrap}
    samplers = document.list("samplers")
    if sampler not in samplers:
        samplers.append(sampler)
    image = len(document.json["images"]) - 1
    place = {"extensions": {"EXT_texture_webp": {"source": image}}} if webp else {"source": image}
    document.list("textures").append({"sampler": samplers.index(sampler), **place})
    return len(document.json["textures"]) - 1


def write_scene(
    path: Path,
    scene: Scene,
    baked: Sequence[BakedGroup],
    image_format: str = "png",
    extras: Mapping[str, object] | None = None,
) -> None:
    """Write a scene with baked materials as GLB, whole or not at all.

    Args:
        extras: JSON-able facts, beside those that the source's asset has.

    Raises:
        OutputError: it cannot be written.
    """
    document = textured_document(scene, baked, image_format)
    if extras:
        asset = document.json["asset"]
        known = asset.get("extras", {})
        asset["extras"] = {**(known if isinstance(known, dict) else {"extras": known}), **extras}
    data = document.glb()
    with writing(Path(path)) as temporary:
        temporary.write_bytes(data)
