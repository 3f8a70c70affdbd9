"""What of a scene's materials stays: whole mesh nodes, or places that a mask in its UVs or its vertex colours mark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...errors import SettingsError, did_you_mean
from ...image import on_black, read_picture
from ...mesh.bake.bake import Texels
from ...mesh.io import Frame, Part, Scene
from ...mesh.io.atlas import Group, has_uvs
from ...runtime import Runtime
from ...sums import sum_by
from ..checks import geometry_device
from ..finishing.source_mesh import surface_by_row
from ..networks.encode_mesh import Encoded
from ..types import Subdivisions
from .existing import VERTEX_COLORS, Materials, Place, Places, attribute, bilinear


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
        """Of a file; what is transparent counts as black.

        Raises:
            ImageError: it cannot be read. SettingsError: it is in colour, as a texture is: its brightness says nothing.
        """
        picture = on_black(read_picture(path).convert("RGBA"))
        if (coloured := _in_colour(np.asarray(picture, np.int16), 255)) > _FEW:
            raise SettingsError(
                f"The mask {path.name} is in colour ({coloured:.0%} of it); expected white for what stays, black for "
                "what is new, grey between. Is it the texture, or a picture whose transparency is the mask?"
            )
        return cls.of(picture.convert("L"), materials)

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
            near = did_you_mean(min(unknown), names) or "."
            raise SettingsError(f"No mesh node is called {_listed(unknown)}; there are {_listed(names)}{near}")
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
        if all(self._whole(scene, part) for part in changed):
            raise SettingsError(
                "What is to be kept is white all over, so nothing would change. Black marks what is new; invert it?"
            )
        return parts

    def _whole(self, scene: Scene, part: Part) -> bool:
        """Whether masks or vertex colours are white on all of a part."""
        colors = attribute(scene, part, VERTEX_COLORS) if self.vertex_colors else None
        masks = [mask.values for mask in self.masks if self._applies(mask, scene, part)]
        masks += [] if colors is None else [_grey(colors, part)]
        return any(values.min(initial=1) > _WHOLE for values in masks)

    def share(self, scene: Scene, place: Place) -> torch.Tensor:
        """How far places of a part stay: [n] float64 in 0-1."""
        part = scene.parts[place.part]
        if part.name in self.nodes:
            return torch.ones_like(place.weights[:, 0])
        found = torch.zeros_like(place.weights[:, 0])
        for mask in self.masks:
            if self._applies(mask, scene, part) and part.uvs is not None:
                values = torch.tensor(mask.values, dtype=torch.float64, device=found.device)[:, :, None]
                found = torch.maximum(found, bilinear(values, place.mixed(part.uvs))[:, 0])
        if self.vertex_colors and (colors := attribute(scene, part, VERTEX_COLORS)) is not None:
            found = torch.maximum(found, place.mixed(_grey(colors, part))[:, 0])
        return torch.where(found > _WHOLE, 1.0, found.clamp(0, 1))

    @staticmethod
    def _applies(mask: Mask, scene: Scene, part: Part) -> bool:
        return has_uvs(part) and (not mask.materials or _material(scene, part) in mask.materials)


def _in_colour(values: np.ndarray, white: int) -> float:
    """The share of values [..., 3] in 0 - white whose channels differ by more than noise."""
    return float((np.ptp(values, axis=-1) > _COLOURED * white / 255).mean()) if values.size else 0.0


def _grey(colors: np.ndarray, part: Part) -> np.ndarray:
    """[V, 1] the brightness of vertex colours [V, C]. Raises SettingsError if they are colours, as an object's are."""
    if (coloured := _in_colour(colors[:, :3], 1)) > _FEW:
        raise SettingsError(
            f"The vertex colours of {part.name} are no mask: {coloured:.0%} of them are in colour; expected white for "
            "what stays, black for what is new, grey between."
        )
    return colors[:, :3].mean(1, keepdims=True)


NOTHING = Keep()
_COLOURED, _FEW = 48, 0.02  # difference of a pixel's channels that is no JPEG's noise, and the share that may have it
_WHOLE = 254.5 / 255  # of white, above which rounding alone is to blame


def places_of(scene: Scene, frame: Frame, encoded: Encoded, runtime: Runtime) -> list[Place]:
    """Where on a scene the middles of an encoded mesh's fine voxels are nearest."""
    fine = encoded.subdivisions[-1].children
    device = geometry_device(runtime.device)
    places = Places(scene, frame, device, surface_by_row(runtime, device))
    return places.nearest(((fine.xyz.float() + 0.5) / encoded.shape.resolution - 0.5).to(device))


def kept_tokens(scene: Scene, keep: Keep, places: Sequence[Place], subdivisions: Subdivisions) -> torch.Tensor:
    """[T] bool: the latent voxels of a scene that stay, as more than half of their fine voxels do (see places_of)."""
    kept = torch.zeros(len(subdivisions[-1].children), device=places[0].rows.device)
    for place in places:
        kept[place.rows] = keep.share(scene, place).float()
    kept = kept.to(subdivisions[-1].slots.device)
    count = torch.ones_like(kept)
    for level in reversed(subdivisions):
        parent = level.slots >> 3
        kept, count = (sum_by(each, parent, len(level.parents)) for each in (kept, count))
    return kept / count > 0.5


def put_back(values: torch.Tensor, texels: Texels, group: Group, scene: Scene, keep: Keep, materials: Materials) -> int:
    """Old materials over new ones [N, 6] of a group's texels, as far as they are kept; returns how many stay whole."""
    face, weights = texels.face.long(), texels.weights.double()
    first = whole = 0
    for piece in group.pieces:
        rows = ((face >= first) & (face < first + len(piece.faces))).nonzero().squeeze(1)
        corners = piece.faces if piece.source is None else piece.source[piece.faces]
        corners = torch.from_numpy(corners).long().to(face.device)[face[rows] - first]
        first += len(piece.faces)
        share = keep.share(scene, Place(piece.part, rows, corners, weights[rows]))
        kept = share > 0
        if not bool(kept.any()):
            continue
        place = Place(piece.part, rows[kept], corners[kept], weights[rows[kept]])
        part, before = share[kept, None].float(), materials.at(place).to(values.dtype)
        values[place.rows] = torch.where(part == 1, before, part * before + (1 - part) * values[place.rows])
        whole += int((share == 1).sum())
    return whole


def _material(scene: Scene, part: Part) -> str:
    """The name of a part's material, empty without."""
    return "" if part.material is None else str(scene.document.list("materials")[part.material].get("name", ""))


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))
