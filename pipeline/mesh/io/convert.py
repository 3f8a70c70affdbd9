"""OBJ, PLY and STL, which trimesh reads, as a glTF document: nodes, meshes, UVs, base colours.

https://paulbourke.net/dataformats/mtl/ describes OBJ's materials.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np

from ...errors import MeshError
from ...srgb import srgb_to_linear
from .gltf import Gltf

_TURN = [-(0.5**0.5), 0.0, 0.0, 0.5**0.5]  # a quarter about x: Z up -> Y up
_STL_HEAD, _STL_FACE = 84, 50  # bytes of a binary STL
_ATTRIBUTES, _INDICES = 34962, 34963  # glTF's targets of buffer views
_LIBRARY, _TEXTURE = rb"^[ \t]*mtllib[ \t]+(.+?)[ \t\r]*$", rb"^[ \t]*map_Kd[ \t]+(?:-.*[ \t])?(.+?)[ \t\r]*$"


def converted(path: Path, kind: str, z_up: bool) -> tuple[Gltf, list[str]]:
    """A document of what trimesh reads, and what is worth telling of it. kind: the suffix, in small letters.

    Raises:
        MeshError: trimesh is not installed, or cannot read the file.
    """
    try:
        import trimesh
    except ImportError as error:
        raise MeshError(
            f"{kind} files are read with trimesh, which is not installed: pip install -r requirements-meshes.txt. GLB "
            "and glTF need no package."
        ) from error
    if kind == ".stl":
        _check_stl(path)
    try:
        loaded = trimesh.load_scene(path, process=False, resolver=_resolver(path))
    except (ValueError, IndexError, KeyError, TypeError, OSError, AttributeError, ImportError) as error:
        raise MeshError(f"{path.name} cannot be read as {kind[1:].upper()}: {error}. Export it again.") from error
    document = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"name": path.stem}]}
    made = Gltf(document, b"", path.parent, path.name)
    root = document["nodes"][0]
    if z_up:
        root["rotation"] = _TURN
    for name in loaded.graph.nodes_geometry:
        matrix, geometry = loaded.graph.get(name)
        shape = loaded.geometry[geometry]
        if not isinstance(shape, trimesh.Trimesh) or len(shape.faces) == 0:
            continue
        node = {"name": str(name), "mesh": _add_mesh(made, shape, str(geometry))}
        if not np.array_equal(matrix, np.eye(4)):
            node["matrix"] = np.asarray(matrix, np.float64).T.reshape(-1).tolist()
        made.list("nodes").append(node)
        root.setdefault("children", []).append(len(document["nodes"]) - 1)
    return made, _missing(path) if kind == ".obj" else []


def _resolver(path: Path):
    """What trimesh reads materials and textures through: files of the mesh's own folder alone."""
    from trimesh.resolvers import FilePathResolver

    class Beside(FilePathResolver):
        def get(self, name: str) -> bytes:
            if (found := _beside(path.parent, name)) is None:
                raise FileNotFoundError(name)
            return found.read_bytes()

    return Beside(str(path))


def _beside(folder: Path, name: str) -> Path | None:
    """A file that another one names, perhaps as it lay on another machine; None if it is not in this folder."""
    inner, name = folder.resolve(), name.strip().replace("\\", "/")
    for candidate in (name, name.rpartition("/")[2], name.rpartition(" ")[2]):  # MTL has options before the name
        found = (inner / candidate).resolve()
        if inner in found.parents and found.is_file():
            return found
    return None


def _check_stl(path: Path) -> None:
    """Raises MeshError for a binary STL that is shorter than it says, of which trimesh says that it is text."""
    with path.open("rb") as file:
        head = file.read(_STL_HEAD)
    size = path.stat().st_size
    if head[:5].lower() == b"solid" or b"\0" not in head:
        return
    faces = int.from_bytes(head[80:84], "little")
    if size < _STL_HEAD + _STL_FACE * faces:
        raise MeshError(
            f"{path.name} is cut off: it has {size:,} bytes of the {_STL_HEAD + _STL_FACE * faces:,} that its "
            f"{faces:,} faces take. Copy or export it again."
        )


def _add_mesh(document: Gltf, shape, name: str) -> int:
    vertices = np.asarray(shape.vertices, np.float32)
    attributes = {"POSITION": document.add_accessor(vertices, "VEC3", _ATTRIBUTES)}
    visual = shape.visual
    uvs = getattr(visual, "uv", None)
    if uvs is not None and len(uvs) == len(vertices):
        turned = np.array(uvs, np.float64)
        turned[:, 1] = 1 - turned[:, 1]  # OBJ counts v upwards
        attributes["TEXCOORD_0"] = document.add_accessor(turned.astype(np.float32), "VEC2", _ATTRIBUTES)
    if visual.kind == "vertex":
        colors = np.asarray(visual.vertex_colors, np.float32) / 255
        colors[:, :3] = srgb_to_linear(colors[:, :3])  # as glTF has them
        attributes["COLOR_0"] = document.add_accessor(colors, "VEC4", _ATTRIBUTES)
    faces = np.asarray(shape.faces, np.uint32).reshape(-1, 1)
    primitive = {"attributes": attributes, "indices": document.add_accessor(faces, "SCALAR", _INDICES), "mode": 4}
    primitive["material"] = _add_material(document, getattr(visual, "material", None), name)
    document.list("meshes").append({"name": name, "primitives": [primitive]})
    return len(document.json["meshes"]) - 1


def _add_material(document: Gltf, source, name: str) -> int:
    """The name and base colour of a material of trimesh, which may be None; a texture counts in place of a colour."""
    look: dict = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    image, color = getattr(source, "image", None), getattr(source, "kwargs", {}).get("kd")
    if image is not None:
        document.list("images").append({"bufferView": document.add_view(_png(image)), "mimeType": "image/png"})
        document.list("textures").append({"source": len(document.json["images"]) - 1})
        look["baseColorTexture"] = {"index": len(document.json["textures"]) - 1}
    elif isinstance(color, list) and len(color) == 3:
        look["baseColorFactor"] = [*srgb_to_linear(np.clip(color, 0, 1)).astype(np.float32).tolist(), 1.0]
    named = str(getattr(source, "name", None) or name)
    document.list("materials").append({"name": named, "doubleSided": True, "pbrMetallicRoughness": look})
    return len(document.json["materials"]) - 1


def _png(image) -> bytes:
    data = io.BytesIO()
    image.convert("RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB").save(
        data, "PNG", compress_level=1
    )
    return data.getvalue()


def _missing(path: Path) -> list[str]:
    """Which files of materials and textures an OBJ names that are not there; trimesh goes on without a word."""
    absent: list[str] = []
    for library in dict.fromkeys(re.findall(_LIBRARY, path.read_bytes(), re.MULTILINE)):
        named = library.decode("utf-8", "replace")
        if (found := _beside(path.parent, named)) is None:
            absent.append(named)
            continue
        textures = re.findall(_TEXTURE, found.read_bytes(), re.MULTILINE | re.IGNORECASE)
        names = [texture.decode("utf-8", "replace") for texture in textures]
        absent += [each for each in names if _beside(path.parent, each) is None]
    if not absent:
        return []
    listed = ", ".join(dict.fromkeys(absent))[:200]
    return [f"{path.name} names {listed}, which is not in its folder: the mesh is read without its old colours."]
