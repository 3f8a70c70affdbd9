"""Mesh files of any program as one welded mesh: by the readers of our own writers, else by trimesh (optional)."""

from __future__ import annotations

import io
import json
import re
import struct
import warnings
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from ..beginnings import GLB, LONGEST, UNKNOWN, ZIP, beginning, irregular
from ..errors import MeshError, OutputError
from .formats import Contents, Files
from .writers import WRITERS

# What readers raise for files that they do not understand.
_UNREADABLE = (
    *(OutputError, ValueError, KeyError, IndexError, TypeError, AttributeError, OSError, NotImplementedError),
    *(ImportError, struct.error, zipfile.BadZipFile, ArithmeticError, AssertionError, RecursionError),
)
_UNITS = {b"millimeter": 1e-3, b"meter": 1.0, b"centimeter": 1e-2, b"inch": 0.0254, b"micron": 1e-6, b"foot": 0.3048}
_OWN = {".glb": GLB, ".3mf": ZIP, ".usdz": ZIP}  # how files of a suffix do begin
OTHERS = (".off",)  # suffixes beside those of WRITERS that trimesh reads; Y is up
MESHES = (*WRITERS, *OTHERS)


@dataclass(frozen=True)
class MeshFile:
    """A file's mesh, Z up whatever the file's axes, corners at one place welded.

    vertices: [V, 3] float64. faces: [F, 3] int64. metres: of one unit, as the format or the file says.
    levels: meshes in the file; the first is shown if it is one of our own, all of them else.
    images: encoded, by name. reader: "own" or "trimesh".
    """

    vertices: np.ndarray
    faces: np.ndarray
    metres: float
    levels: int
    images: dict[str, bytes]
    reader: str


def is_mesh_file(path: Path) -> bool:
    """Whether a name is that of a mesh file, by its suffix."""
    return path.suffix.lower() in MESHES


def read_mesh(path: Path) -> MeshFile:
    """Read a mesh file.

    Raises:
        MeshError: it cannot be read; says why, and what to install where that may help.
    """
    suffix, found = path.suffix.lower(), WRITERS.get(path.suffix.lower())
    if what := irregular(path):
        raise MeshError(f"{path} is {what}. Give the path of a mesh file.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MeshError(f"{path} cannot be read: {error.strerror or error}.") from error
    y_up = found.y_up if found is not None else suffix in OTHERS
    metres = _unit(data) if suffix == ".3mf" else (found.unit if found else 1e-3)
    contents, reader, reason = None, "own", "no reader of this format is built in"
    if found is not None:
        try:
            contents = found.read(_files(path, data))
            _check(contents)
        except _UNREADABLE as error:
            contents, reason = None, str(error) or type(error).__name__
    levels = len(contents.levels) if contents else 1
    if contents is None and (other := beginning(data[:LONGEST])) not in (UNKNOWN, _OWN.get(suffix)):
        raise MeshError(f"{path} cannot be read as a mesh: it is {other}. Export it again.")
    if contents is None:
        contents, reader = _by_trimesh(path, reason), "trimesh"
    vertices, faces = contents.levels[0]
    vertices = np.asarray(vertices, np.float64)
    if y_up:
        vertices = vertices[:, [0, 2, 1]] * [1, -1, 1]
    return MeshFile(*weld(vertices, faces), metres, levels, contents.images, reader)


def weld(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices at the same place become one: seams of normals and UVs are no holes. Faces keep their number."""
    places, place = np.unique(vertices + 0.0, axis=0, return_inverse=True)
    return places, place.reshape(-1)[np.asarray(faces, np.int64)]


def _files(path: Path, data: bytes) -> Files:
    """A file and, for glTF, those that it names, which must lie below its folder."""
    files = {path.name: data}
    if path.suffix.lower() == ".gltf":
        root = json.loads(data)
        for entry in (*root.get("buffers", ()), *root.get("images", ())):
            name = unquote(entry.get("uri", ""))
            place = path.parent / name
            if name and not name.startswith("data:") and (what := irregular(place)):
                raise MeshError(f"{path} names {name[:80]}, which is {what}. Put the file itself there.")
            if name and not name.startswith("data:") and place.resolve().is_relative_to(path.parent.resolve()):
                files[name] = place.read_bytes()
    return files


def _unit(data: bytes) -> float:
    """Metres of a 3MF's unit; millimetres where it cannot be told."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package, package.open("3D/3dmodel.model") as model:
            match = re.search(rb'unit="(\w+)"', model.read(4096))
    except (KeyError, OSError, ValueError, zipfile.BadZipFile):
        match = None
    return _UNITS.get(match[1], 1e-3) if match else 1e-3


def _check(contents: Contents) -> None:
    """Raises ValueError if a reader took something else for a mesh."""
    vertices, faces = contents.levels[0]
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3 or len(faces) == 0:
        raise ValueError("it has no triangles")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError("its faces name vertices that are absent")


def _by_trimesh(path: Path, reason: str) -> Contents:
    if not find_spec("trimesh"):
        raise MeshError(
            f"{path} is not as the writers here make it ({reason}); to read files of other programs: pip install "
            "trimesh."
        )
    import trimesh

    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy about the numbers of damaged files, which our report names
            mesh: Any = trimesh.load(path, force="mesh", process=False)
            contents = Contents([(np.asarray(mesh.vertices), np.asarray(mesh.faces))])
        _check(contents)
    except _UNREADABLE as error:
        raise MeshError(
            f"{path} cannot be read as a mesh ({str(error) or type(error).__name__}). Export it again."
        ) from error
    return contents
