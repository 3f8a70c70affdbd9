"""What a file holds, in no format's terms: geometry, material and scene; and the one place that turns the up-axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property

import numpy as np

from ..errors import OutputError
from .images import encode_images


class AlphaMode(str, Enum):
    """How a viewer treats the base colour's alpha."""

    OPAQUE = "OPAQUE"
    MASK = "MASK"
    BLEND = "BLEND"


@dataclass(frozen=True)
class Geometry:
    """A triangle mesh; Z up until a writer's `Format` asks for Y up, when it becomes (x, z, -y).

    vertices: [V, 3]. faces: [F, 3]. normals: [V, 3] unit.
    uvs: [V, 2], v downwards as glTF wants it; needed by a material with textures.
    tangents: [V, 4] unit, and the bitangent's sign (-1 or 1); for a normal map.
    colors: [V, 4] uint8 vertex colours with alpha, sRGB.
    quads: whether faces 2 i and 2 i + 1 are a quad, for all i, for formats that hold quads.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    uvs: np.ndarray | None = None
    tangents: np.ndarray | None = None
    colors: np.ndarray | None = None
    quads: bool = False

    @property
    def quad_faces(self) -> tuple[np.ndarray, np.ndarray]:
        """[Q, 4] faces of four corners, and [T, 3] the rest: all faces unless they are quads; those among quads that a
        seam parts."""
        if not self.quads:
            return np.zeros((0, 4), self.faces.dtype), self.faces
        one, other = self.faces[0::2], self.faces[1::2]
        # cut as a b c, a c d
        whole = (one[:, 0] == other[:, 0]) & (one[:, 2] == other[:, 1])
        parted = np.stack([one[~whole], other[~whole]], 1).reshape(-1, 3)
        return np.concatenate([one[whole], other[whole, 2:]], 1), parted

    def require_writable(self) -> None:
        """Raises OutputError for what no format can hold: no faces, NaN or infinity, faces of absent vertices."""
        if len(self.faces) == 0:
            raise OutputError("The mesh has no faces; there is nothing to write.")
        for name in ("vertices", "normals", "uvs", "tangents"):
            array = getattr(self, name)
            if array is not None and not np.isfinite(array).all():
                raise OutputError(f"The mesh's {name} hold NaN or infinity.")
        low, high = self.faces.min(), self.faces.max()
        if low < 0 or high >= len(self.vertices):
            raise OutputError(
                f"The mesh's faces name vertices {low}..{high}, but there are {len(self.vertices)}; look at the step "
                "before."
            )

    def scaled(self, factor: float) -> Geometry:
        """Larger by a factor, about the origin."""
        return self if factor == 1 else replace(self, vertices=np.asarray(self.vertices, np.float64) * factor)

    def y_up(self) -> Geometry:
        """Turned from Z up to Y up; float32."""
        tangents = self.tangents
        if tangents is not None:
            tangents = np.concatenate([_y_up(tangents[:, :3]), np.asarray(tangents[:, 3:], np.float32)], 1)
        return replace(self, vertices=_y_up(self.vertices), normals=_y_up(self.normals), tangents=tangents)

    def welded(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct places [W, 3] float32, and the place of each vertex [V]: without the seams of UVs and normals, for
        formats in which faces are connected by their vertices alone."""
        places = np.ascontiguousarray(self.vertices, np.float32) + np.float32(0)  # -0 is 0
        keys = places.view(np.dtype((np.void, 12))).reshape(-1)
        _, first, place = np.unique(keys, return_index=True, return_inverse=True)
        order = np.argsort(first)  # in the order of the vertices, so that a mesh without seams stays as it is
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return places[first[order]], rank[place.reshape(-1)]


@dataclass(frozen=True)
class Material:
    """A metallic-roughness material.

    base_color: [S, S, 4] uint8 sRGB with alpha, row 0 at v = 0; or None for vertex colours, or a plain grey.
    metallic, roughness: [S, S] uint8, linear, beside a base colour; without one, numbers in 0-1.
    occlusion: [S, S] uint8, linear, 255 where all light arrives; or None.
    normal: [S', S', 3] uint8, tangent space, x right, y up, 128 is 0; or None. The mesh then needs tangents.
    """

    base_color: np.ndarray | None = None
    metallic: np.ndarray | float = 0.0
    roughness: np.ndarray | float = 0.6
    occlusion: np.ndarray | None = None
    normal: np.ndarray | None = None
    alpha_mode: AlphaMode = AlphaMode.OPAQUE
    double_sided: bool = True
    image_format: str = "png"  # "png" or "webp"

    @property
    def translucent(self) -> bool:
        """Whether alpha is to be kept."""
        return self.alpha_mode is not AlphaMode.OPAQUE

    @cached_property
    def images(self) -> dict[str, bytes]:
        """Encoded once, however many levels of detail share them: "base_color" (with alpha where it counts),
        "occlusion_roughness_metallic" (red, green, blue: no image of its own for each) and, if there is one, "normal";
        empty without a base colour."""
        if self.base_color is None:
            return {}
        occlusion = np.full_like(self.roughness, 255) if self.occlusion is None else self.occlusion
        packed = np.stack([occlusion, self.roughness, self.metallic], 2)
        pictures = {"base_color": self.base_color[:, :, : 4 if self.translucent else 3]}
        pictures["occlusion_roughness_metallic"] = packed
        if self.normal is not None:
            pictures["normal"] = self.normal
        return encode_images(pictures, self.image_format, lossy=("base_color",))


@dataclass(frozen=True)
class Scene:
    """What goes into a file.

    levels: the mesh; behind it coarser levels of detail, which share its material.
    extras: JSON-able facts, for formats that have a place for them.
    name: of the parts; without one the file's.
    metres: how long a unit of the vertices is in reality; None: nobody said, and vertices are written as they are.
    """

    levels: tuple[Geometry, ...]
    material: Material = Material()
    extras: Mapping | None = None
    name: str = ""
    metres: float | None = None

    def vertex_colors(self, level: Geometry) -> np.ndarray | None:
        """[V, 4] uint8 sRGB with alpha: a level's own, or those of the texture at its vertices, for formats without
        textures; None for a plain mesh."""
        if level.colors is not None or self.material.base_color is None or level.uvs is None:
            return level.colors
        return _sampled(self.material.base_color, np.asarray(level.uvs, np.float64))


def _sampled(picture: np.ndarray, uvs: np.ndarray) -> np.ndarray:
    """A picture [H, W, C] uint8 at uvs [V, 2], bilinear between the centres of its pixels: [V, C] uint8."""
    size = np.array(picture.shape[1::-1])
    at = np.clip(uvs * size - 0.5, 0, size - 1)
    low = np.minimum(at.astype(int), np.maximum(size - 2, 0))
    (x, y), (u, v) = low.T, (at - low).T[:, :, None]
    right, down = np.minimum(x + 1, size[0] - 1), np.minimum(y + 1, size[1] - 1)
    upper = picture[y, x] * (1 - u) + picture[y, right] * u
    lower = picture[down, x] * (1 - u) + picture[down, right] * u
    return np.rint(upper * (1 - v) + lower * v).astype(np.uint8)


def _y_up(vectors: np.ndarray) -> np.ndarray:
    x, y, z = np.asarray(vectors, np.float32).T
    return np.ascontiguousarray(np.stack([x, z, -y], 1))
