"""A scene of triangle meshes in one frame, tied to the glTF document that it is written back into.

Frames: a part's own vertices are as the file has them; `world` takes them to the scene (Y up, the file's units); a
Frame takes the scene to the unit cube in which the networks work (Z up, -0.5 .. 0.5, slightly within) and back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...errors import MeshError
from ..used import extent, used_vertices
from .gltf import Gltf

SIDE = 0.99999  # of the unit cube that the longest side of a scene fills
_LEAST, _MOST = 1e-12, 1e12  # lengths of a scene that fp64 and the file's fp32 still tell apart


@dataclass(frozen=True)
class Frame:
    """The similarity between a scene and the unit cube. centre: [3] of the scene's box; longest: its longest side."""

    centre: tuple[float, float, float]
    longest: float

    @classmethod
    def of(cls, points: np.ndarray) -> Frame:
        """The frame of points [V, 3].

        Raises:
            MeshError: there are none, or they have no usable extent.
        """
        if len(points) == 0:
            raise MeshError("The scene has no vertices. Export the mesh again.")
        low, high = extent(points)
        longest = float((high - low).max())
        if not _LEAST <= longest <= _MOST:
            raise MeshError(
                f"The scene is {longest:.3g} units large; {_LEAST:g} to {_MOST:g} can be worked on. Scale it first."
            )
        return cls(tuple(((low + high) / 2).tolist()), longest)

    def inward(self, points: np.ndarray) -> np.ndarray:
        """Scene (Y up) -> unit cube (Z up): [N, 3] float64."""
        x, y, z = ((points - np.array(self.centre)) * (SIDE / self.longest)).T
        return np.stack([x, -z, y], 1)

    def outward(self, points: np.ndarray) -> np.ndarray:
        """Unit cube (Z up) -> scene (Y up): the inverse of inward."""
        x, y, z = np.asarray(points, np.float64).T
        return np.stack([x, z, -y], 1) * (self.longest / SIDE) + np.array(self.centre)


@dataclass(frozen=True)
class Part:
    """The triangles of one primitive of one mesh node.

    vertices: [V, 3] float32, as in the file. faces: [F, 3] int64, degenerate ones included. uvs: [V, 2] float32,
    v downwards, of the first set; None without. world: [4, 4] float64, own -> scene. name: of the node, for messages.
    node, mesh, primitive: numbers in the document. material: number in the document or None.
    instance: how many nodes before this one show the same mesh.
    """

    name: str
    vertices: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray | None
    world: np.ndarray
    node: int
    mesh: int
    primitive: int
    material: int | None
    instance: int = 0

    def placed(self) -> np.ndarray:
        """[V, 3] float64 in the scene."""
        return self.vertices.astype(np.float64) @ self.world[:3, :3].T + self.world[:3, 3]


@dataclass(frozen=True)
class Scene:
    """parts: all that has triangles. document: what they stand in. notes: what is worth telling of the file."""

    parts: tuple[Part, ...]
    document: Gltf = field(repr=False)
    notes: tuple[str, ...] = ()

    def frame(self) -> Frame:
        """The frame of all vertices that a face uses."""
        return Frame.of(np.concatenate([used_vertices(part.placed(), part.faces) for part in self.parts]))

    def joined(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        """All parts in the unit cube: vertices [V, 3] float32, faces [F, 3] int64, part by part."""
        vertices, faces, count = [], [], 0
        for part in self.parts:
            vertices.append(frame.inward(part.placed()).astype(np.float32))
            faces.append(part.faces + count)
            count += len(part.vertices)
        return np.concatenate(vertices), np.concatenate(faces)
