"""What of a scene's materials stays: whole mesh nodes, or places that a mask in its UVs or its vertex colours mark."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...errors import SettingsError
from ...image import on_black, read_picture
from ...mesh.bake.bake import Texels
from ...mesh.io import Part, Scene
from ...mesh.io.atlas import Group, has_uvs
from .existing import VERTEX_COLORS, Materials, Place, attribute, bilinear


@dataclass(frozen=True, eq=False)
class Mask:
    """A picture in the UVs of meshes: what is white stays, what is grey is mixed.

    values: [H, W] float32 in 0-1, row 0 at v = 0. materials: the names of those that it is for; empty: all.
    """

    values: np.ndarray = field(repr=False)
    materials: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or not self.values.size or not np.isfinite(self.values).all():
            raise SettingsError(f"A mask is a finite grey picture [H, W], got {list(self.values.shape)}.")
        if self.values.max() < 0.5:
            raise SettingsError("The mask of what is to be kept is black all over. White marks what stays; invert it.")

    @classmethod
    def read(cls, path: Path, materials: tuple[str, ...] = ()) -> Mask:
        """Of a file; what is transparent counts as black. Raises ImageError if it cannot be read."""
        grey = on_black(read_picture(path).convert("RGBA")).convert("L")
        return cls.of(grey, materials)

    @classmethod
    def of(cls, grey: Image.Image, materials: tuple[str, ...] = ()) -> Mask:
        """Of a grey picture of 8 bits."""
        return cls(np.asarray(grey, np.float32) / 255, materials)


@dataclass(frozen=True)
class Keep:
    """nodes: names of mesh nodes that stay as they are. masks: places that stay. vertex_colors: places stay whose
    vertex colour (linear, as glTF has it) is white; it is then a mask, and no colour of the mesh."""

    nodes: tuple[str, ...] = ()
    masks: tuple[Mask, ...] = ()
    vertex_colors: bool = False

    def __bool__(self) -> bool:
        return bool(self.nodes) or self.partly

    @property
    def partly(self) -> bool:
        """Whether places of meshes stay whose other places change."""
        return bool(self.masks) or self.vertex_colors

    def changed_parts(self, scene: Scene) -> list[int]:
        """The numbers of the parts that are not kept as a whole.

        Raises:
            SettingsError: there is none, or something that is named is not in the scene.
        """
        names = {part.name for part in scene.parts}
        if unknown := set(self.nodes) - names:
            raise SettingsError(f"No mesh node is called {_listed(unknown)}; there are {_listed(names)}.")
        parts = [number for number, part in enumerate(scene.parts) if part.name not in self.nodes]
        if not parts:
            raise SettingsError("Every mesh node is to be kept, so there is nothing to texture.")
        changed = [scene.parts[number] for number in parts]
        materials = {name for part in changed if (name := _material(scene, part))}
        for mask in self.masks:
            if unknown := set(mask.materials) - materials:
                raise SettingsError(
                    f"No mesh that changes has a material called {_listed(unknown)}; there are "
                    f"{_listed(materials) or 'none with a name'}."
                )
            if not any(self._applies(mask, scene, part) for part in changed):
                raise SettingsError(
                    "A mask is looked up in UVs, and no mesh that it is for has UVs. Keep nodes instead."
                )
        if self.vertex_colors and not any(attribute(scene, part, VERTEX_COLORS) is not None for part in changed):
            raise SettingsError(
                "No mesh that changes has vertex colours that could say what to keep. Paint them and export them, or "
                "give a mask."
            )
        return parts

    def share(self, scene: Scene, number: int, corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """How far places of a part stay: [n] in 0-1. corners: [n, 3] vertices of the part. weights: [n, 3] of them."""
        part = scene.parts[number]
        if part.name in self.nodes:
            return np.ones(len(corners))
        found = np.zeros(len(corners))
        for mask in self.masks:
            if self._applies(mask, scene, part) and part.uvs is not None:
                at = (part.uvs[corners].astype(np.float64) * weights[:, :, None]).sum(1)
                found = np.maximum(found, bilinear(mask.values[:, :, None], at)[:, 0])
        if self.vertex_colors and (colors := attribute(scene, part, VERTEX_COLORS)) is not None:
            found = np.maximum(found, (colors[corners, :3].mean(2) * weights).sum(1))
        return np.where(found > _WHOLE, 1.0, found.clip(0, 1))

    @staticmethod
    def _applies(mask: Mask, scene: Scene, part: Part) -> bool:
        return has_uvs(part) and (not mask.materials or _material(scene, part) in mask.materials)


NOTHING = Keep()
_WHOLE = 254.5 / 255  # of white, above which rounding alone is to blame


def put_back(values: torch.Tensor, texels: Texels, group: Group, scene: Scene, keep: Keep, materials: Materials) -> int:
    """Old materials over new ones [N, 6] of a group's texels, as far as they are kept; returns how many stay whole."""
    face, weights = texels.face.cpu().numpy(), texels.weights.cpu().numpy().astype(np.float64)
    first = whole = 0
    for piece in group.pieces:
        rows = np.flatnonzero((face >= first) & (face < first + len(piece.faces)))
        corners = piece.faces[face[rows] - first]
        first += len(piece.faces)
        corners = corners if piece.source is None else piece.source[corners]
        share = keep.share(scene, piece.part, corners, weights[rows])
        kept = share > 0
        if not kept.any():
            continue
        place = Place(piece.part, rows[kept], corners[kept], weights[rows][kept])
        part = torch.from_numpy(share[kept, None].astype(np.float32)).to(values.device)
        before = torch.from_numpy(materials.at(place)).to(values.device)
        at = torch.from_numpy(place.rows).to(values.device)
        values[at] = torch.where(part == 1, before, part * before + (1 - part) * values[at])
        whole += int((share == 1).sum())
    return whole


def _material(scene: Scene, part: Part) -> str:
    """The name of a part's material, empty without."""
    return "" if part.material is None else str(scene.document.list("materials")[part.material].get("name", ""))


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))
