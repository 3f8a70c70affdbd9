"""The materials that a scene has, at points near its surface: textures, factors and vertex colours."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ...errors import BackendError, MeshError
from ...export import srgb_to_linear
from ...mesh.io import Frame, Part, Scene
from ...mesh.query.surface import Surface
from ...warp import unavailable_reason
from ..types import ALPHA

VERTEX_COLORS = "COLOR_0"
_LARGEST = 1 << 28  # pixels of a texture
_DEFAULT = {"baseColorFactor": [1.0, 1.0, 1.0, 1.0], "metallicFactor": 1.0, "roughnessFactor": 1.0}


class Places:
    """The surface of a scene in the unit cube, and where on it points are nearest.

    Raises:
        BackendError: without Warp, which looks for nearest points.
    """

    def __init__(self, scene: Scene, frame: Frame, device: torch.device) -> None:
        if reason := unavailable_reason():
            raise BackendError(f"Reading the textures of a mesh needs Warp: {reason}")
        self._scene = scene
        vertices, faces = scene.joined(frame)
        self._surface = Surface(torch.from_numpy(vertices).to(device), torch.from_numpy(faces).to(device))
        counts = [len(part.faces) for part in scene.parts]
        self._owner = np.repeat(np.arange(len(counts)), counts)
        self._first = np.cumsum([0, *counts[:-1]])

    def nearest(self, points: torch.Tensor) -> list[Place]:
        """Where points [N, 3] of the unit cube are nearest, part by part."""
        hits = self._surface.closest(points)
        face, weights = hits.face.cpu().numpy(), hits.weights.cpu().numpy().astype(np.float64)
        owner, found = self._owner[face], []
        for number in map(int, np.unique(owner)):
            rows = np.flatnonzero(owner == number)
            corners = self._scene.parts[number].faces[face[rows] - self._first[number]]
            found.append(Place(number, rows, corners, weights[rows]))
        return found


@dataclass(frozen=True, eq=False)
class Place:
    """Points on faces of one part. rows: [n] of the points. corners: [n, 3] vertices of the part. weights: [n, 3]."""

    part: int
    rows: np.ndarray
    corners: np.ndarray
    weights: np.ndarray


class Materials:
    """What a scene is made of, at places of its parts. tinted: whether vertex colours are a part of it."""

    def __init__(self, scene: Scene, tinted: bool = True) -> None:
        self._scene, self._tinted, self._images = scene, tinted, {}

    def at(self, place: Place) -> np.ndarray:
        """[n, 6] float32 in 0-1: base colour RGB (sRGB), metallic, roughness, alpha."""
        return self._values(self._scene.parts[place.part], place.corners, place.weights)

    def _values(self, part: Part, corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """[n, 6] at places on faces of a part: corners [n, 3], weights [n, 3]."""
        material = {} if part.material is None else self._scene.document.list("materials")[part.material]
        parts = {**_DEFAULT, **material.get("pbrMetallicRoughness", {})}
        color = np.ones((len(corners), 4)) * np.array(parts["baseColorFactor"], np.float64)
        metal = np.full(len(corners), float(parts["metallicFactor"]))
        rough = np.full(len(corners), float(parts["roughnessFactor"]))
        if (texture := parts.get("baseColorTexture")) is not None:
            seen = self._sample(texture, part, corners, weights)
            seen[:, :3] = srgb_to_linear(seen[:, :3])
            color = color * seen
        if (texture := parts.get("metallicRoughnessTexture")) is not None:
            seen = self._sample(texture, part, corners, weights)
            rough, metal = rough * seen[:, 1], metal * seen[:, 2]
        if self._tinted and (own := attribute(self._scene, part, VERTEX_COLORS)) is not None:
            mixed = (own[corners] * weights[:, :, None]).sum(1)
            color[:, : mixed.shape[1]] *= mixed
        found = np.empty((len(corners), 6), np.float32)
        found[:, :3] = linear_to_srgb(color[:, :3])
        found[:, 3], found[:, 4], found[:, ALPHA] = metal, rough, color[:, 3]
        return found.clip(0, 1)

    def _sample(self, info: dict, part: Part, corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """[n, 4] of a texture, bilinear, repeated."""
        uvs = attribute(self._scene, part, f"TEXCOORD_{info.get('texCoord', 0)}")
        if uvs is None:
            return np.ones((len(corners), 4))
        at = (uvs[corners] * weights[:, :, None]).sum(1)
        return bilinear(self.image(info.get("index")), at)

    def image(self, number: object) -> np.ndarray:
        """[H, W, 4] float32 in 0-1 of a texture of the document."""
        document = self._scene.document
        textures = document.list("textures")
        texture = textures[document.index(number, textures, "a texture")]
        webp = texture.get("extensions", {}).get("EXT_texture_webp", {})
        source = texture.get("source", webp.get("source"))
        if source not in self._images:
            try:
                image = Image.open(io.BytesIO(document.image(source)))
                if image.width * image.height > _LARGEST:
                    raise MeshError(f"Image {source} of {document.name} has {image.width} x {image.height} pixels.")
                self._images[source] = np.asarray(image.convert("RGBA"), np.float32) / 255
            except (OSError, UnidentifiedImageError, ValueError) as error:
                raise MeshError(
                    f"Image {source} of {document.name} cannot be read ({error}). Export it with PNG or JPEG textures."
                ) from error
        return self._images[source]


def base_color_image(scene: Scene) -> np.ndarray | None:
    """[H, W, 4] float32 in 0-1, the base colour texture of the first part that has one; None without."""
    for part in scene.parts:
        if part.material is not None:
            material = scene.document.list("materials")[part.material].get("pbrMetallicRoughness", {})
            if (texture := material.get("baseColorTexture")) is not None:
                return Materials(scene).image(texture.get("index"))
    return None


def attribute(scene: Scene, part: Part, name: str) -> np.ndarray | None:
    """[V, C] float64, an attribute of a part's vertices as the document has it; None without."""
    document = scene.document
    attributes = document.list("meshes")[part.mesh]["primitives"][part.primitive]["attributes"]
    return document.accessor(attributes[name]).astype(np.float64) if name in attributes else None


def bilinear(image: np.ndarray, uvs: np.ndarray) -> np.ndarray:
    """[n, C] of an image [H, W, C] at UVs [n, 2], v downwards, repeated beyond 0-1."""
    height, width = image.shape[:2]
    x, y = uvs[:, 0] * width - 0.5, uvs[:, 1] * height - 0.5
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, down = (x - left)[:, None], (y - top)[:, None]
    one = image[top % height, left % width] * (1 - right) + image[top % height, (left + 1) % width] * right
    two = image[(top + 1) % height, left % width] * (1 - right) + image[(top + 1) % height, (left + 1) % width] * right
    return one * (1 - down) + two * down


def linear_to_srgb(values: np.ndarray) -> np.ndarray:
    """0-1 -> 0-1 (IEC 61966-2-1)."""
    values = values.clip(0, 1)
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)
