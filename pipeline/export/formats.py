"""What a file format is to the rest: two functions between a scene and bytes, and what it expects of the scene."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .scene import Scene

GENERATOR = "ComfyUI-TRELLIS2-Stages"
Files = dict[str, bytes]  # name -> contents; the first is the file that was asked for, the others lie beside it


@dataclass(frozen=True)
class Contents:
    """What a reader found: for the check of a written file, and for `inspect`.

    levels: (vertices [V, 3] float, faces [F, 3] int), in the file's own axes and unit. images: encoded, by name.
    """

    levels: list[tuple[np.ndarray, np.ndarray]]
    images: dict[str, bytes] = field(default_factory=dict)


def _always() -> str:
    return ""


def _nothing(stem: str, image_format: str) -> list[str]:
    return []


@dataclass(frozen=True)
class Format:
    """One row of the table of writers.

    title: for people.
    render: (scene, stem of the file) -> files. The scene has one level unless `lods`, a name, and is turned and scaled
        as the other fields say.
    read: files -> contents. welded: `read` finds vertices merged that differ in nothing but normals or UVs.
    y_up: whether the format's up-axis is Y rather than Z.
    unit: metres of one unit where the size in reality is known.
    image_formats: what `Material.image_format` may be; another one becomes the first.
    textures: whether a file can hold them; without, vertices have their colours if at all.
    lods: whether a file can hold several levels of detail.
    beside: (stem, image format) -> names of the other files that there may be.
    unavailable_reason: "" or why it cannot be written here.
    """

    title: str
    render: Callable[[Scene, str], Files]
    read: Callable[[Files], Contents]
    y_up: bool = False
    unit: float = 1e-3
    image_formats: tuple[str, ...] = ("png",)
    lods: bool = False
    textures: bool = True
    welded: bool = False
    beside: Callable[[str, str], list[str]] = _nothing
    unavailable_reason: Callable[[], str] = _always


def unspaced(stem: str) -> str:
    """A stem for the names of files beside: without blanks, which end a name in MTL and which some readers of glTF do
    not decode."""
    return "_".join(stem.split())


def joined(stem: str, part: str) -> str:
    """The name of a file beside that of a stem: "chair", "normal.png" -> "chair_normal.png"."""
    return f"{unspaced(stem.rstrip('_') or stem)}_{part}"
