"""The table of file formats by suffix, and how a scene becomes files: adapted to the format, read back, then moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import OutputError, SettingsError
from ..mesh.used import extent, used_vertices
from ..warp import cores
from ..words import counted
from . import glb, gltf, obj, ply, stl, threemf, usdz
from .files import writing
from .formats import Contents, Files, Format
from .images import decoded_size
from .scene import Scene

WRITERS: dict[str, Format] = {
    ".glb": glb.FORMAT,
    ".gltf": gltf.FORMAT,
    ".obj": obj.FORMAT,
    ".ply": ply.FORMAT,
    ".stl": stl.FORMAT,
    ".3mf": threemf.FORMAT,
    ".usdz": usdz.FORMAT,
}
_TOLERANCE = 1e-5  # of the largest coordinate: float32, or nine digits in text


def writer(path: Path) -> Format:
    """The format of a file by its suffix.

    Raises:
        SettingsError: there is none of that suffix, or it cannot be written here; says which there are.
    """
    found = WRITERS.get(path.suffix.lower())
    if found is None:
        raise SettingsError(f"The output must end in one of {', '.join(WRITERS)}; got {path.name}.")
    if reason := found.unavailable_reason():
        raise SettingsError(f"{path.suffix} cannot be written here: {reason}")
    return found


def level_path(path: Path, number: int) -> Path:
    """Where a level of detail is written whose mesh is written to `path`: itself for 0, NAME_LOD1.glb for 1."""
    return path.with_name(f"{path.stem.rstrip('_')}_LOD{number}{path.suffix}") if number else path


def written_paths(path: Path, image_format: str = "png", levels: int = 1) -> list[Path]:
    """All files that writing a mesh to `path` may touch; levels: how many, each in a file of its own."""
    found = writer(path)
    places = [level_path(path, number) for number in range(levels)]
    kind = _image_format(found, image_format)
    return [each for place in places for each in (place, *map(place.with_name, found.beside(place.stem, kind)))]


def write(path: Path, scene: Scene) -> list[Path]:
    """Write a scene in the format of the path's suffix, whole or not at all; returns all files, the path first.

    The files are read back before they take their places: faces, bounds, finite numbers, pictures that decode.

    Raises:
        SettingsError: see writer. OutputError: not a mesh that a file can hold, or the path cannot be written.
    """
    path, found = Path(path), writer(path)
    for level in scene.levels:
        level.require_writable()
    ready = _adapted(found, replace(scene, name=_name(path, scene.name)))
    files = found.render(ready, path.stem)
    check_files(found, files, ready)
    (_, main), *others = files.items()
    with ExitStack() as stack:  # the main file, which names the others, moves last
        for place, data in [(path, main), *((path.with_name(name), data) for name, data in others)]:
            stack.enter_context(writing(place)).write_bytes(data)
    return [path, *(path.with_name(name) for name, _ in others)]


def write_levels(path: Path, scene: Scene, extras: Sequence[Mapping]) -> list[Path]:
    """Write each level of a scene into a file of its own with the same textures, see level_path; returns those paths.

    extras: for each level, in place of the scene's. Otherwise as write.
    """
    name, paths = _name(path, scene.name), []
    # one material for all levels: its pictures are encoded once
    scene = replace(scene, material=_with_images(writer(path), scene))
    for number, (level, own) in enumerate(zip(scene.levels, extras)):
        place, called = level_path(path, number), f"{name}_LOD{number}" if number else name
        paths.append(write(place, replace(scene, levels=(level,), extras=own, name=called))[0])
    return paths


def _name(path: Path, name: str) -> str:
    """The name, or the file's, as JSON can hold it."""
    stem = Path(path).stem
    return (name or stem.rstrip("_") or stem).encode(errors="replace").decode()


def _image_format(found: Format, asked: str) -> str:
    return asked if asked in found.image_formats else found.image_formats[0]


def _with_images(found: Format, scene: Scene):
    """The material with images of a kind that the format can hold."""
    kind = _image_format(found, scene.material.image_format)
    return scene.material if kind == scene.material.image_format else replace(scene.material, image_format=kind)


def _adapted(found: Format, scene: Scene) -> Scene:
    """Turned, scaled and with images as the format wants them."""
    if len(scene.levels) > 1 and not found.lods:
        raise SettingsError(f"{found.title} holds one level of detail a file; write each into a file of its own.")
    factor = 1.0 if scene.metres is None else scene.metres / found.unit
    levels = tuple(level.scaled(factor) for level in scene.levels)
    levels = tuple(level.y_up() for level in levels) if found.y_up else levels
    return replace(scene, levels=levels, material=_with_images(found, scene))


def check_files(found: Format, files: Files, scene: Scene) -> None:
    """Read files back and compare them with the scene that they were made of.

    Raises:
        OutputError: they differ; this is a mistake of the writer, and nothing should be left of its files.
    """
    contents = found.read(files)
    with ThreadPoolExecutor(cores()) as pool:
        pictures = pool.map(_undecodable, contents.images, contents.images.values())
        problem = _difference(found, contents, scene) or next(filter(None, pictures), "")
    if problem:
        raise OutputError(f"{next(iter(files))} was not written: read back, {problem}. Please report this.")


def _undecodable(name: str, data: bytes) -> str:
    """ "" or why a picture cannot be read."""
    try:
        decoded_size(data)
    except ValueError as error:
        return f"its picture {name} does not decode ({error})"
    return ""


def _difference(found: Format, contents: Contents, scene: Scene) -> str:
    """ "" or what is wrong with what was read back."""
    if len(contents.levels) != len(scene.levels):
        return f"it has {counted(len(contents.levels), 'mesh', 'meshes')} in place of {len(scene.levels)}"
    for (vertices, faces), level in zip(contents.levels, scene.levels):
        if not found.welded and len(faces) != len(level.faces):
            return f"it has {len(faces):,} faces in place of {len(level.faces):,}"
        if not np.isfinite(vertices).all() or faces.min(initial=0) < 0 or faces.max(initial=-1) >= len(vertices):
            return "its vertices are not finite, or its faces name vertices that are absent"
        used = used_vertices(level.vertices, level.faces)
        if len(faces):
            read = used_vertices(vertices, faces)
            most = _TOLERANCE * max(np.abs(used).max(), 1e-30)
            (low, high), (wanted_low, wanted_high) = extent(read), extent(used)
            if np.abs(low - wanted_low).max() > most or np.abs(high - wanted_high).max() > most:
                return f"it reaches from {low} to {high} in place of {wanted_low} to {wanted_high}"
    return ""
