"""For printing: the true size of an object, and a base on which it stands."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from ..errors import OutputError, SettingsError
from ..mesh.used import used_vertices
from .scene import Geometry, Scene

_UNITS = {"mm": 1e-3, "cm": 1e-2, "m": 1.0, "in": 0.0254}
_LENGTH = re.compile(r"([-+.\deE]+|nan|inf)\s*(mm|cm|m|in)", re.IGNORECASE)
_ALONG = re.compile(r"(longest|height)=", re.IGNORECASE)
SIZES = (1e-4, 1e3)  # metres: what a nozzle can lay down, and what float32 can place to 0.1 mm
MOST_CUT = 0.5  # of the height, that a flat base may take


def true_length(text: str) -> float | None:
    """Metres, of a number and a unit; None if it is something else."""
    match = _LENGTH.fullmatch(text.strip())
    with suppress(ValueError):
        return None if match is None else float(match[1]) * _UNITS[match[2].lower()]
    return None


@dataclass(frozen=True)
class TrueSize:
    """How large an object is in reality: its longest side, or its height, in metres."""

    metres: float
    along: str = "longest"  # or "height"

    def __post_init__(self) -> None:
        least, most = SIZES
        if not least <= self.metres <= most:  # NaN too
            raise SettingsError(
                f"A size must lie in {least * 1e3:g} mm to {most:g} m, got {self.metres * 1e3:g} mm. Give it as "
                "80mm or height=80mm."
            )

    @classmethod
    def parse(cls, text: str) -> TrueSize:
        """Read "80mm", "height=8cm" or "longest=3.5in".

        Raises:
            SettingsError: it is something else.
        """
        along = _ALONG.match(text.strip())
        metres = true_length(text.strip()[along.end() if along else 0 :])
        if metres is None:
            raise SettingsError(
                f"A size is a number and mm, cm, m or in, for example 80mm or height=80mm; got {text!r}."
            )
        return cls(metres, along[1].lower() if along else "longest")

    def metres_a_unit(self, vertices: np.ndarray, faces: np.ndarray) -> float:
        """How long a unit of vertices [V, 3], Z up, is if the faces [F, 3], at least one, have this size.

        Raises:
            OutputError: it has no extent in that direction.
        """
        sides = np.ptp(used_vertices(vertices, faces).astype(np.float64), axis=0)
        side = sides[2] if self.along == "height" else sides.max()
        if not side > 0:
            raise OutputError(
                f"The mesh has no {'height' if self.along == 'height' else 'extent'} that could be scaled to "
                f"{self.metres * 1e3:g} mm."
            )
        return self.metres / side


def check_flat_base(share: float) -> None:
    """Raises SettingsError unless a share of the height can be cut off."""
    if not 0 <= share <= MOST_CUT:  # NaN too
        raise SettingsError(f"A flat base can take 0 to {MOST_CUT:g} of the height, got {share:g}.")


def for_print(scene: Scene, size: TrueSize | None, flat_base: float) -> Scene:
    """A scene (Z up) with a true size and, where flat_base is a share above 0 of its height, a base."""
    first = scene.levels[0]
    if size is None and not flat_base:
        return scene
    first.require_writable()
    if flat_base:
        heights = used_vertices(first.vertices, first.faces)[:, 2].astype(np.float64)
        base = float(heights.min() + flat_base * np.ptp(heights))
        scene = replace(scene, levels=tuple(flattened(level, base) for level in scene.levels))
    if size is not None:
        scene.levels[0].require_writable()  # the base may have taken all faces
        scene = replace(scene, metres=size.metres_a_unit(scene.levels[0].vertices, scene.levels[0].faces))
    return scene


def flattened(level: Geometry, base: float) -> Geometry:
    """Whatever lies below a height, moved up to it: a closed mesh stays closed, and UVs stay as they are.

    Faces two corners of which fall together are dropped; their edges fall together, too, so that no hole opens.
    """
    vertices = np.array(level.vertices)
    below = vertices[:, 2] < base
    vertices[below, 2] = base
    normals = np.array(level.normals)
    normals[below] = (0, 0, -1)
    tangents = level.tangents
    if tangents is not None:
        tangents = np.array(tangents)
        tangents[below, 2] = 0  # in the plane of the base, as its normal is upright
        length = np.linalg.norm(tangents[below, :3], axis=1, keepdims=True)
        flat = np.divide(tangents[below, :3], length, out=np.zeros_like(tangents[below, :3]), where=length > 0)
        flat[length[:, 0] == 0] = (1, 0, 0)
        tangents[below, :3] = flat
    moved = replace(level, vertices=vertices, normals=normals, tangents=tangents)
    _, place = moved.welded()
    corners = place[level.faces]
    faces = level.faces[(corners != np.roll(corners, 1, axis=1)).all(1)]
    return replace(moved, faces=faces, quads=level.quads and len(faces) == len(level.faces))
