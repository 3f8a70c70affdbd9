"""STL: binary, triangles without colours, for printing; Z up."""

from __future__ import annotations

import struct

import numpy as np

from ..errors import OutputError
from .formats import GENERATOR, Contents, Files, Format
from .scene import Scene

_TRIANGLE = [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")]
_HEADER = 80  # bytes


def render(scene: Scene, stem: str) -> Files:
    (level,) = scene.levels
    triangles = np.zeros(len(level.faces), _TRIANGLE)
    triangles["corners"] = corners = np.asarray(level.vertices, np.float32)[level.faces]
    one, other = (corners[:, k].astype(np.float64) - corners[:, 0] for k in (1, 2))
    normals = np.cross(one, other)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    triangles["normal"] = np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)
    header = f"binary STL, {GENERATOR}".encode().ljust(_HEADER)  # must not begin with "solid", as text files do
    return {f"{stem}.stl": header + struct.pack("<I", len(triangles)) + triangles.tobytes()}


def read(files: Files) -> Contents:
    """Any binary STL."""
    (data,) = files.values()
    count = struct.unpack_from("<I", data, _HEADER)[0] if len(data) >= _HEADER + 4 else -1
    if len(data) != _HEADER + 4 + count * np.dtype(_TRIANGLE).itemsize:
        raise OutputError("This is no binary STL: its length does not fit its number of triangles.")
    corners = np.frombuffer(data, _TRIANGLE, count, _HEADER + 4)["corners"].reshape(-1, 3)
    vertices, corner = np.unique(corners, axis=0, return_inverse=True)
    return Contents([(vertices, corner.reshape(-1, 3))])


FORMAT = Format("STL, binary, triangles alone", render, read, textures=False, welded=True)
