"""PLY: binary, with normals, and colours at the vertices (those of the texture, if there is one); Z up."""

from __future__ import annotations

import numpy as np

from ..errors import OutputError
from .formats import GENERATOR, Contents, Files, Format
from .scene import Scene

_POINT = [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")]
_COLOUR = [(name, "u1") for name in ("red", "green", "blue", "alpha")]
_NAMES = {"<f4": "float", "u1": "uchar"}


def render(scene: Scene, stem: str) -> Files:
    (level,), colors = scene.levels, scene.vertex_colors(scene.levels[0])
    columns = _POINT if colors is None else _POINT + _COLOUR
    vertices = np.empty(len(level.vertices), columns)
    numbers = np.concatenate([level.vertices, level.normals], 1).astype(np.float32)
    for (name, _), column in zip(_POINT, numbers.T):
        vertices[name] = column
    if colors is not None:
        for (name, _), column in zip(_COLOUR, colors.T):
            vertices[name] = column
    quads, rest = level.quad_faces
    corners = level.faces if len(rest) else quads  # of one kind: some readers do not take a mixture
    faces = np.empty(len(corners), _face(corners.shape[1]))
    faces["count"], faces["corners"] = corners.shape[1], corners
    lines = ["ply", "format binary_little_endian 1.0", f"comment {GENERATOR}", f"element vertex {len(vertices)}"]
    lines += [f"property {_NAMES[kind]} {name}" for name, kind in columns]
    lines += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
    return {f"{stem}.ply": "\n".join(lines).encode() + vertices.tobytes() + faces.tobytes()}


def _face(sides: int) -> list:
    return [("count", "u1"), ("corners", "<i4", sides)]


def read(files: Files) -> Contents:
    """Files of this writer alone."""
    (data,) = files.values()
    header, _, body = data.partition(b"end_header\n")
    lines = header.decode().split("\n")
    if "format binary_little_endian 1.0" not in lines or f"comment {GENERATOR}" not in lines:
        raise OutputError("This PLY has another layout than those that are written here.")
    counts = {line.split()[1]: int(line.split()[2]) for line in lines if line.startswith("element")}
    columns = _POINT + _COLOUR if "property uchar red" in lines else _POINT
    vertices = np.frombuffer(body, columns, counts["vertex"])
    sides = body[vertices.nbytes]  # of the first face, as of all
    corners = np.frombuffer(body, _face(sides), counts["face"], vertices.nbytes)["corners"].astype(np.int64)
    faces = corners if sides == 3 else np.stack([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]], 1).reshape(-1, 3)
    return Contents([(np.stack([vertices[name] for name in "xyz"], 1), faces)])


FORMAT = Format("PLY, binary, with vertex colours", render, read, textures=False)
