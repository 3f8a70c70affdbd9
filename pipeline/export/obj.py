"""Wavefront OBJ with an MTL and PNG textures beside it; faces share places across the seams of UVs.

MTL's metallic, roughness and normal maps are the PBR extension that Blender, Assimp and others read. Vertex colours
stand behind the coordinates, as MeshLab, ZBrush and Blender have them.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .formats import GENERATOR, Contents, Files, Format, joined, unspaced
from .images import encode_images
from .scene import Geometry, Material, Scene

_MAPS = ("base_color", "alpha", "metallic", "roughness", "normal")


def render(scene: Scene, stem: str) -> Files:
    head = f"# {GENERATOR}\no {_line(scene.name)}\n".encode()
    if scene.levels[0].colors is not None:  # a material would hide vertex colours from some readers
        return {f"{stem}.obj": head + _body(scene.levels[0])}
    images = _images(scene.material)
    names = {what: joined(stem, f"{what}.png") for what in images}
    head += f"mtllib {unspaced(stem)}.mtl\nusemtl material\n".encode()
    files = {f"{stem}.obj": head + _body(scene.levels[0])}
    files[f"{unspaced(stem)}.mtl"] = _mtl(scene.material, names).encode()
    return {**files, **{names[what]: data for what, data in images.items()}}


def _line(name: str) -> str:
    return " ".join(name.split())


def _body(level: Geometry) -> bytes:
    places, place = level.welded()
    columns, pattern = [places], "v" + " %.9g" * 3  # nine digits bring a float32 back
    if level.colors is not None:
        colors = np.zeros((len(places), 3))
        colors[place] = level.colors[:, :3] / 255
        columns, pattern = [places, colors], pattern + " %.4f" * 3
    normals = np.asarray(level.normals, np.float64)
    parts = [_lines(pattern, np.concatenate(columns, 1)), _lines("vn" + " %.5f" * 3, normals)]
    if level.uvs is not None:
        uvs = np.asarray(level.uvs, np.float64)
        parts.append(_lines("vt %.8g %.8g", np.stack([uvs[:, 0], 1 - uvs[:, 1]], 1)))  # OBJ's v goes up
    for faces in level.quad_faces:
        own, at = faces + 1, place[faces] + 1
        pattern, corner = (" %d//%d", [at, own]) if level.uvs is None else (" %d/%d/%d", [at, own, own])
        parts.append(
            _lines("f" + pattern * faces.shape[1], np.stack(corner, 2).reshape(len(own), len(corner) * faces.shape[1]))
        )
    return b"".join(parts)


def _lines(pattern: str, rows: np.ndarray) -> bytes:
    return ((pattern + "\n") * len(rows) % tuple(rows.reshape(-1).tolist())).encode()


def _mtl(material: Material, names: dict[str, str]) -> str:
    lines = [f"# {GENERATOR}", "newmtl material", "Ka 0 0 0", "Ks 0.04 0.04 0.04", "d 1", "illum 2"]
    lines.append("Kd 1 1 1" if names else "Kd 0.8 0.8 0.8")
    if names:
        keys = {"base_color": "map_Kd", "alpha": "map_d", "metallic": "map_Pm", "roughness": "map_Pr", "normal": "norm"}
        lines += [f"{keys[what]} {name}" for what, name in names.items()]
    else:
        lines += [f"Pm {material.metallic:.4f}", f"Pr {material.roughness:.4f}"]
    return "\n".join([*lines, ""])


def _images(material: Material) -> dict[str, bytes]:
    if material.base_color is None:
        return {}
    pictures = {"base_color": material.base_color[:, :, :3], "metallic": material.metallic}
    pictures["roughness"] = material.roughness
    if material.translucent:
        pictures["alpha"] = material.base_color[:, :, 3]
    if material.normal is not None:
        pictures["normal"] = material.normal
    return encode_images(pictures, "png")


def read(files: Files) -> Contents:
    """Triangles alone; of others' files, too."""
    text = next(iter(files.values()))
    vertices, faces = [], []
    for line in text.split(b"\n"):
        if line.startswith(b"v "):
            vertices.append(line.split()[1:4])
        elif line.startswith(b"f "):
            corners = [corner.partition(b"/")[0] for corner in line.split()[1:]]
            faces += [[corners[0], *pair] for pair in pairwise(corners[1:])]
    images = {name: data for name, data in files.items() if name.endswith(".png")}
    return Contents([(np.array(vertices, np.float64), np.array(faces, np.int64) - 1)], images)


def _beside(stem: str, image_format: str) -> list[str]:
    return [f"{unspaced(stem)}.mtl", *(joined(stem, f"{what}.png") for what in _MAPS)]


FORMAT = Format("OBJ with MTL and textures beside it", render, read, y_up=True, welded=True, beside=_beside)
