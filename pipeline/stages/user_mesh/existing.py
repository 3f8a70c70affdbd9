"""The materials that a scene has, at points near its surface: textures, factors and vertex colours."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ...errors import BackendError, MeshError
from ...image import without_remarks
from ...mesh import Mesh
from ...mesh.bake.bake import SourceMesh
from ...mesh.io import Frame, Part, Scene
from ...mesh.query.surface import Surface
from ...srgb import tensor_to_linear, tensor_to_srgb
from ...warp import unavailable_reason

VERTEX_COLORS = "COLOR_0"
_LARGEST = 1 << 28  # pixels of a texture
_BLOCK = 1 << 20  # places that are looked at together
_CLAMP, _MIRROR, _REPEAT = 33071, 33648, 10497  # glTF's numbers of a sampler's wrap, which are OpenGL's
_READABLE = "Export it with PNG or JPEG textures."
_DEFAULT = {"baseColorFactor": [1.0, 1.0, 1.0, 1.0], "metallicFactor": 1.0, "roughnessFactor": 1.0}


class Places:
    """The surface of a scene in the unit cube, and where on it points are nearest. source: makes a mesh ready for
    nearest points, as rows for CLOSEST do.

    Raises:
        BackendError: without Warp, which looks for nearest points.
    """

    def __init__(
        self,
        scene: Scene,
        frame: Frame,
        device: torch.device,
        source: Callable[[Mesh], Surface] = SourceMesh,
    ) -> None:
        if reason := unavailable_reason():
            raise BackendError(f"Reading the textures of a mesh needs Warp: {reason}")
        self._scene = scene
        vertices, faces = scene.joined(frame)
        self._surface = source(Mesh.known(torch.from_numpy(vertices).to(device), torch.from_numpy(faces).to(device)))
        counts = [len(part.faces) for part in scene.parts]
        self._corners = [torch.from_numpy(part.faces).to(device) for part in scene.parts]
        self._owner = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(device)
        self._first = np.cumsum([0, *counts[:-1]]).tolist()

    def nearest(self, points: torch.Tensor) -> list[Place]:
        """Where points [N, 3] of the unit cube are nearest, part by part."""
        hits = self._surface.closest(points)
        owner, found = self._owner[hits.face], []
        for number in map(int, owner.unique().tolist()):
            rows = (owner == number).nonzero().squeeze(1)
            corners = self._corners[number][hits.face[rows] - self._first[number]]
            found.append(Place(number, rows, corners, hits.weights[rows].double()))
        return found


@dataclass(frozen=True, eq=False)
class Place:
    """Points on faces of one part. rows: [n] int64 of the points. corners: [n, 3] int64 vertices of the part. weights:
    [n, 3] float64."""

    part: int
    rows: torch.Tensor
    corners: torch.Tensor
    weights: torch.Tensor

    def mixed(self, values: np.ndarray) -> torch.Tensor:
        """[n, C] float64 of values [V, C] at the vertices of the part."""
        own = torch.from_numpy(np.asarray(values, np.float64)).to(self.corners.device)
        return (own[self.corners] * self.weights[:, :, None]).sum(1)

    def split(self, rows: int) -> list[Place]:
        """The same in blocks, of which a large one takes some hundred bytes a row to look at."""
        columns = zip(self.rows.split(rows), self.corners.split(rows), self.weights.split(rows))
        return [Place(self.part, *column) for column in columns]


class Materials:
    """What a scene is made of, at places of its parts. tinted: whether vertex colours are a part of it."""

    def __init__(self, scene: Scene, tinted: bool = True) -> None:
        self._scene, self._tinted, self._images, self._tensors = scene, tinted, {}, {}

    def at(self, place: Place) -> torch.Tensor:
        """[n, 6] float32 in 0-1: base colour RGB (sRGB), metallic, roughness, alpha."""
        found = [self._values(self._scene.parts[place.part], block) for block in place.split(_BLOCK)]
        return torch.cat(found) if found else place.weights.new_zeros(0, 6).float()

    def _values(self, part: Part, place: Place) -> torch.Tensor:
        """[n, 6] at places on faces of a part."""
        material = {} if part.material is None else self._scene.document.list("materials")[part.material]
        parts = {**_DEFAULT, **material.get("pbrMetallicRoughness", {})}
        color = place.weights.new_tensor(parts["baseColorFactor"]).float().repeat(len(place.rows), 1)
        metal, rough = (
            color.new_full((len(color),), float(parts[name])) for name in ("metallicFactor", "roughnessFactor")
        )
        if (texture := parts.get("baseColorTexture")) is not None:
            seen = self._sample(texture, part, place)
            color *= torch.cat([tensor_to_linear(seen[:, :3]), seen[:, 3:]], 1)
        if (texture := parts.get("metallicRoughnessTexture")) is not None:
            seen = self._sample(texture, part, place)
            rough, metal = rough * seen[:, 1], metal * seen[:, 2]
        if self._tinted and (own := attribute(self._scene, part, VERTEX_COLORS)) is not None:
            mixed = place.mixed(own).float()
            color[:, : mixed.shape[1]] *= mixed
        return torch.cat(
            [tensor_to_srgb(color[:, :3].clamp(0, 1)), metal[:, None], rough[:, None], color[:, 3:]], 1
        ).clamp(0, 1)

    def _sample(self, info: dict, part: Part, place: Place) -> torch.Tensor:
        """[n, 4] float32 of a texture, bilinear."""
        moved = info.get("extensions", {}).get("KHR_texture_transform", {})
        name = f"TEXCOORD_{moved.get('texCoord', info.get('texCoord', 0))}"
        uvs = attribute(self._scene, part, name)
        if uvs is None and name != "TEXCOORD_0":
            raise MeshError(
                f"A texture of {self._scene.document.name} lies by the UVs {name}, which {part.name} does not have. "
                "Export it again."
            )
        if uvs is None:
            return torch.ones(len(place.rows), 4, device=place.rows.device)
        uvs = _transformed(uvs, moved) if moved else uvs
        image, key = self.image(info.get("index")), (info.get("index"), place.rows.device)
        if key not in self._tensors:
            self._tensors[key] = torch.tensor(image, device=place.rows.device)
        return bilinear(self._tensors[key], place.mixed(uvs), self._wrap(info.get("index")))

    def _wrap(self, number: object) -> tuple[int, int]:
        """What a texture of the document is beyond 0-1, in u and in v."""
        document = self._scene.document
        textures, samplers = document.list("textures"), document.list("samplers")
        sampler = textures[document.index(number, textures, "a texture")].get("sampler")
        if sampler is None:
            return _REPEAT, _REPEAT
        found = samplers[document.index(sampler, samplers, "a texture's sampler")]
        return found.get("wrapS", _REPEAT), found.get("wrapT", _REPEAT)

    def image(self, number: object) -> np.ndarray:
        """[H, W, 4] float32 in 0-1 of a texture of the document."""
        document = self._scene.document
        textures = document.list("textures")
        texture = textures[document.index(number, textures, "a texture")]
        webp = texture.get("extensions", {}).get("EXT_texture_webp", {})
        source = texture.get("source", webp.get("source"))
        if source is None and "KHR_texture_basisu" in texture.get("extensions", {}):
            raise MeshError(f"The textures of {document.name} are KTX2, which is not read. {_READABLE}")
        source = document.index(source, document.list("images"), f"the image of texture {number}")
        if source not in self._images:
            try:
                with without_remarks():
                    image = Image.open(io.BytesIO(document.image(source)))
                    if image.width * image.height > _LARGEST:
                        raise MeshError(f"Image {source} of {document.name} has {image.width} x {image.height} pixels.")
                    self._images[source] = np.asarray(image.convert("RGBA"), np.float32) / 255
            except UnidentifiedImageError as error:
                raise MeshError(f"Image {source} of {document.name} is no picture that is read. {_READABLE}") from error
            except (OSError, ValueError) as error:
                raise MeshError(f"Image {source} of {document.name} cannot be read ({error}). {_READABLE}") from error
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


def _transformed(uvs: np.ndarray, moved: dict) -> np.ndarray:
    """UVs [V, 2] as KHR_texture_transform moves them: scaled, turned, then moved; v downwards."""
    turn = moved.get("rotation", 0)
    cos, sin = np.cos(turn), np.sin(turn)
    return uvs * moved.get("scale", (1, 1)) @ np.array([[cos, -sin], [sin, cos]]) + moved.get("offset", (0, 0))


def bilinear(image: torch.Tensor, uvs: torch.Tensor, wrap: tuple[int, int] = (_REPEAT, _REPEAT)) -> torch.Tensor:
    """[n, C] of an image [H, W, C] at UVs [n, 2] float64, v downwards. wrap: what is beyond 0-1 in u and in v, glTF's
    numbers."""
    height, width = image.shape[:2]
    x, y = uvs[:, 0] * width - 0.5, uvs[:, 1] * height - 0.5
    left, top = x.floor(), y.floor()
    right, down = (x - left).to(image.dtype)[:, None], (y - top).to(image.dtype)[:, None]
    left, top = left.long(), top.long()

    def texel(row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        return image[_within(row, height, wrap[1]), _within(column, width, wrap[0])]

    one = texel(top, left) * (1 - right) + texel(top, left + 1) * right
    two = texel(top + 1, left) * (1 - right) + texel(top + 1, left + 1) * right
    return one * (1 - down) + two * down


def _within(texel: torch.Tensor, count: int, wrap: int) -> torch.Tensor:
    """The texels 0 .. count - 1 that stand for any number of one."""
    if wrap == _CLAMP:
        return texel.clamp(0, count - 1)
    if wrap == _MIRROR:
        there = texel % (2 * count)
        return torch.minimum(there, 2 * count - 1 - there)
    return texel % count
