"""Read a scene: GLB and glTF as they are, OBJ, PLY and STL through trimesh, converted to a glTF document."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ...beginnings import GLB, LONGEST, UNKNOWN, beginning
from ...errors import MeshError, near_path
from .convert import converted
from .gltf import Gltf, node_matrix
from .scene import Part, Scene

_GLTF = (".glb", ".gltf")
_Z_UP = {".stl", ".ply"}  # usual for printing and scanning; OBJ is Y up, as modelling programs write it
_OTHER = (".obj", ".ply", ".stl")
FORMATS = (*_GLTF, *_OTHER)
_INSTANCED = "EXT_mesh_gpu_instancing"
# Extensions that a file may need without another shape: of materials, which are new, or read here.
_UNDERSTOOD = ("KHR_materials_", "KHR_texture_", "EXT_texture_", "KHR_mesh_quantization", "KHR_lights_", _INSTANCED)
_DEEPEST = 256  # levels of a hierarchy
_MOST = 1 << 31  # faces, all parts together
_TRIANGLES, _STRIP, _FAN = 4, 5, 6  # glTF's modes of a primitive


def read_scene(path: Path, up: str = "") -> Scene:
    """The triangles of a file, with the document that they go back into.

    Args:
        up: "y" or "z": which axis of an OBJ, PLY or STL points up; "" is y for OBJ and z for the others. glTF is y.

    Raises:
        MeshError: it cannot be read, is of another format, or holds no triangles; the text says what it holds.
    """
    path, kind = Path(path), Path(path).suffix.lower()
    if kind not in FORMATS:
        raise MeshError(f"{path.name} is none of {', '.join(FORMATS)}. Export it as GLB, which keeps most.")
    if not path.is_file():
        raise MeshError(f"{path} is no file{'. It is a folder.' if path.is_dir() else near_path(path)}")
    try:
        with path.open("rb") as file:
            found = beginning(file.read(LONGEST))
    except OSError as error:
        raise MeshError(f"{path} cannot be read: {error.strerror}.") from error
    if found not in (UNKNOWN, GLB if kind in _GLTF else ""):
        raise MeshError(f"{path.name} is no {kind[1:].upper()}: it is {found}. Export it again.")
    if up not in ("", "y", "z"):
        raise MeshError(f"The up axis is {up!r}; expected y or z.")
    if kind in _GLTF and up == "z":
        raise MeshError("glTF files are Y up by their specification; leave the up axis out.")
    if kind in _GLTF:
        return scene_of(Gltf.open(path))
    document, notes = converted(path, kind, (up or ("z" if kind in _Z_UP else "y")) == "z")
    scene = scene_of(document)
    return replace(scene, notes=(*notes, *scene.notes))


def scene_of(document: Gltf) -> Scene:
    """The parts of a document's scene: that of `scene`, or the first, or all root nodes."""
    document.check_materials()
    nodes = document.list("nodes")
    parts: list[Part] = []
    notes: list[str] = []
    shown: dict[int, int] = {}
    visited: set[int] = set()

    def visit(number: int, above: np.ndarray, depth: int) -> None:
        node = nodes[document.index(number, nodes, "a node")]
        if depth > _DEEPEST or number in visited:
            raise MeshError(
                f"The nodes of {document.name} are no hierarchy: node {number} stands below two, or more than "
                f"{_DEEPEST} deep. Export it again."
            )
        visited.add(number)
        name = str(node.get("name", f"node {number}"))
        with np.errstate(over="ignore", invalid="ignore"):
            world = above @ node_matrix(node, name)
        if not np.isfinite(world).all():
            raise MeshError(f"The transform of node {name!r} leads out of all numbers. Export it again.")
        if "mesh" in node:
            mesh = document.index(node["mesh"], document.list("meshes"), f"the mesh of node {name!r}")
            instance = shown[mesh] = shown.get(mesh, -1) + 1
            parts.extend(
                replace(part, instance=instance) for part in _parts(document, number, mesh, world, name, notes)
            )
        for child in document.held(node, "children", list, f"node {name!r}"):
            visit(child, world, depth + 1)

    for root in _roots(document):
        visit(root, np.eye(4), 0)
    notes += [*_lost(document), *_single_texels(document)]
    if not parts:
        held = [f"{len(document.json[key])} {key}" for key in ("nodes", "meshes", "cameras") if document.json.get(key)]
        raise MeshError(
            f"{document.name} has no triangles in its scene ({', '.join(held) or 'nothing'}). Point clouds, lines and "
            "cameras cannot be textured; export a mesh."
        )
    if sum(len(part.faces) for part in parts) >= _MOST:
        raise MeshError(f"{document.name} has more than {_MOST:,} faces. Reduce it first.")
    return Scene(tuple(parts), document, tuple(dict.fromkeys(notes)))


def _roots(document: Gltf) -> list[int]:
    scenes = document.list("scenes")
    if scenes:
        chosen = scenes[document.index(document.json.get("scene", 0), scenes, "the scene")]
        return list(document.held(chosen, "nodes", list, "the scene"))
    nodes = document.list("nodes")
    children = [child for node in nodes for child in document.held(node, "children", list, "a node")]
    below = {child for child in children if isinstance(child, int)}
    return [number for number in range(len(nodes)) if number not in below]


def _parts(document: Gltf, node: int, mesh: int, world: np.ndarray, name: str, notes: list[str]) -> list[Part]:
    """The triangle primitives of a mesh."""
    found = []
    for number, primitive in enumerate(document.primitives(mesh)):
        mode, attributes = primitive.get("mode", _TRIANGLES), primitive.get("attributes", {})
        if mode not in (_TRIANGLES, _STRIP, _FAN):
            notes.append(f"Points and lines of {name!r} stay as they are.")
            continue
        vertices = document.accessor(attributes.get("POSITION"))
        if vertices.shape[1] != 3 or not np.isfinite(vertices).all():
            raise MeshError(f"The vertices of {name!r} are no finite [V, 3]. Look at what exported them.")
        if "indices" in primitive:
            corners = document.accessor(primitive["indices"])[:, 0].astype(np.int64)
        else:
            corners = np.arange(len(vertices))
        faces = _triangles(corners, mode)
        if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
            raise MeshError(f"Faces of {name!r} name vertex {faces.max():,} of {len(vertices):,}.")
        if len(faces) == 0:
            continue
        uvs = None
        if "TEXCOORD_0" in attributes:
            uvs = document.accessor(attributes["TEXCOORD_0"]).astype(np.float32)
            if uvs.shape != (len(vertices), 2):
                raise MeshError(f"The UVs of {name!r} are {list(uvs.shape)}; expected [{len(vertices)}, 2].")
        material = primitive.get("material")
        if material is not None:
            document.index(material, document.list("materials"), f"the material of {name!r}")
        found.append(Part(name, vertices.astype(np.float32), faces, uvs, world, node, mesh, number, material))
    return found


def _triangles(corners: np.ndarray, mode: int) -> np.ndarray:
    """[F, 3] of a list, strip or fan."""
    if mode == _TRIANGLES:
        return corners[: len(corners) // 3 * 3].reshape(-1, 3)
    if len(corners) < 3:
        return np.zeros((0, 3), np.int64)
    if mode == _FAN:
        return np.stack([np.full(len(corners) - 2, corners[0]), corners[1:-1], corners[2:]], 1)
    faces = np.stack([corners[:-2], corners[1:-1], corners[2:]], 1)
    faces[1::2] = faces[1::2, ::-1]
    return faces


def _lost(document: Gltf) -> list[str]:
    """A warning about animations and skins, which are ignored: the mesh is used in its rest pose."""
    notes = []
    if document.json.get("skins"):
        notes.append("The mesh has a skeleton: it is textured in its rest pose; skeleton and weights stay.")
    if document.json.get("animations"):
        notes.append("The scene is animated: it is textured as it stands at rest; the animation stays.")
    if document.json.get("extensionsUsed") and _INSTANCED in document.json["extensionsUsed"]:
        notes.append(f"Nodes are drawn several times ({_INSTANCED}): they are looked at once, where the node stands.")
    required = [each for each in document.json.get("extensionsRequired", ()) if not str(each).startswith(_UNDERSTOOD)]
    if required:
        notes.append(f"The file needs {', '.join(map(str, required))}, not known here: it stays as it is, unseen.")
    return notes


def _single_texels(document: Gltf) -> list[str]:
    """A warning about textures that a transform shrinks to a texel or a line of texels."""
    notes = []
    for number, material in enumerate(document.list("materials")):
        name = material.get("name", f"material {number}")
        for key, info in [*material.get("pbrMetallicRoughness", {}).items(), *material.items()]:
            extensions = info.get("extensions", {}) if key.endswith("Texture") and info else {}
            scale = extensions.get("KHR_texture_transform", {}).get("scale")
            if isinstance(scale, list) and any(each == 0 for each in scale):
                notes.append(
                    f"{key} of {name!r} is scaled by {scale} (KHR_texture_transform): a scale of 0 shows one texel, or "
                    "one line of them, everywhere. Export it again if that is not meant."
                )
    return notes
