"""Which texture each face of a scene goes into: by material, UV tile and instance, and none two faces in one place.

UVs that are kept are kept to the bit; only the copy that is rasterised is moved into the unit tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from ...errors import MeshError
from .scene import Frame, Part, Scene

UVS = ("keep", "fill", "new")  # keep all; make new ones where there are none; make new ones for all
_EDGE = 1e-4  # how far over a tile's border a corner may lie
_COARSE = 256  # texels along a side in which overlaps of parts are looked for
_SHARED = 0.02  # of a part's texels that another part of the same texture may have, too
_FLAT = 2e-6  # doubled area of all faces in UV space below which they are no UVs: a texel of a large texture


@dataclass(frozen=True)
class Piece:
    """Some faces of a part in one texture.

    part: number in the scene. rows: [F'] of the part's faces; None is all of them. faces: [F', 3] and uvs: [V', 2] in
    0-1 to rasterise. source: [V'] rows of the part's vertices that new UVs belong to; None where the part's are kept.
    """

    part: int
    faces: np.ndarray
    uvs: np.ndarray
    rows: np.ndarray | None = None
    source: np.ndarray | None = None


@dataclass
class Group:
    """Faces that share a texture. material: number in the document or None. tile: of the kept UVs."""

    material: int | None
    tile: tuple[int, int] = (0, 0)
    pieces: list[Piece] = field(default_factory=list)

    def geometry(self, scene: Scene, frame: Frame) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Vertices [V, 3] fp32 in the unit cube, faces [F, 3] int64 and uvs [V, 2] fp32 of all pieces."""
        vertices, faces, uvs, count = [], [], [], 0
        for piece in self.pieces:
            placed = frame.inward(scene.parts[piece.part].placed()).astype(np.float32)
            vertices.append(placed if piece.source is None else placed[piece.source])
            faces.append(piece.faces + count)
            uvs.append(piece.uvs)
            count += len(piece.uvs)
        place, corner, uv = (
            torch.from_numpy(np.ascontiguousarray(np.concatenate(each))) for each in (vertices, faces, uvs)
        )
        return place, corner, uv


def groups_of(scene: Scene, parts: list[int], rasterise: Callable) -> list[Group]:
    """The textures of parts whose UVs are kept.

    Args:
        parts: numbers in the scene. rasterise: see bake.raster.

    Raises:
        MeshError: a part has no UVs, or a face of it reaches over the border of a tile.
    """
    found: dict[tuple, list[tuple[Group, np.ndarray]]] = {}
    for number in parts:
        part = scene.parts[number]
        for tile, rows in _tiles(part):
            every = len(rows) == len(part.faces)
            uvs = (_uvs(part) - np.array(tile, np.float32)).clip(0, 1)
            piece = Piece(number, part.faces[rows], uvs, None if every else rows)
            face, _ = rasterise(torch.from_numpy(uvs), torch.from_numpy(piece.faces), _COARSE)
            covered = (face >= 0).cpu().numpy()
            same = found.setdefault((part.material, part.instance, tile), [])
            for group, taken in same:
                if (covered & taken).sum() <= _SHARED * covered.sum():
                    group.pieces.append(piece)
                    taken |= covered
                    break
            else:
                same.append((Group(part.material, tile, [piece]), covered))
    return [group for same in found.values() for group, _ in same]


def _tiles(part: Part) -> list[tuple[tuple[int, int], np.ndarray]]:
    """The UV tiles of a part and the rows of the faces in each."""
    corners = _uvs(part)[part.faces].astype(np.float64)  # [F, 3, 2]
    tiles = np.floor(corners.mean(1)).astype(np.int64)  # [F, 2]
    over = ((corners < tiles[:, None] - _EDGE) | (corners > tiles[:, None] + 1 + _EDGE)).any((1, 2))
    if over.any():
        raise MeshError(
            f"{int(over.sum()):,} of {len(over):,} faces of {part.name!r} reach over the border of a UV tile, so their "
            "texture repeats, and one place of it would be several of the mesh. Make new UVs with --uvs new."
        )
    named, which = np.unique(tiles, axis=0, return_inverse=True)
    if len(named) > 100:
        raise MeshError(f"The UVs of {part.name!r} lie in {len(named)} tiles; at most 100 are baked. Take --uvs new.")
    return [((int(u), int(v)), np.flatnonzero(which.reshape(-1) == k)) for k, (u, v) in enumerate(named)]


def _uvs(part: Part) -> np.ndarray:
    """The UVs of a part. Raises MeshError if it has none that can be used."""
    if part.uvs is not None and has_uvs(part):
        return part.uvs
    what = "has no UVs to bake into"
    if part.uvs is not None:
        what = "has UVs that cover nothing" if np.isfinite(part.uvs).all() else "has UVs that are NaN or infinite"
    raise MeshError(f"{part.name!r} {what}. Make new ones with --uvs fill (UVs of others stay) or --uvs new.")


def has_uvs(part: Part) -> bool:
    """Whether a part has UVs that cover anything."""
    if part.uvs is None or not np.isfinite(part.uvs).all():
        return False
    a, b, c = part.uvs[part.faces].astype(np.float64).transpose(1, 0, 2)
    one, two = b - a, c - a
    return bool(np.abs(one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).sum() > _FLAT)


def unwrapped_group(scene: Scene, frame: Frame, parts: list[int], unwrap: Callable) -> Group:
    """One new atlas of some parts.

    Vertices in one place are one vertex for the unwrapper, as many files have three of their own for each face.

    Args:
        unwrap: (vertices [V, 3] fp32, faces [F, 3] int32) -> (source, faces, uvs), see mesh.uv.
    """
    placed = [frame.inward(scene.parts[number].placed()).astype(np.float32) for number in parts]
    # a part is welded for itself: parts that touch stay apart
    welded = [np.unique(each, axis=0, return_inverse=True) for each in placed]
    starts = np.cumsum([0, *(len(places) for places, _ in welded)])
    faces = [place.reshape(-1)[scene.parts[number].faces] for number, (_, place) in zip(parts, welded)]
    joined = np.concatenate([places for places, _ in welded])
    together = np.concatenate([each + start for each, start in zip(faces, starts)])
    _, made, uvs = unwrap(torch.from_numpy(joined), torch.from_numpy(together).int())
    made, uvs = made.cpu().numpy().astype(np.int64), uvs.cpu().numpy()
    group, first = Group(None), 0
    for number in parts:
        own = scene.parts[number].faces
        corners = np.stack([own.reshape(-1), made[first : first + len(own)].reshape(-1)], 1)
        first += len(own)
        pairs, renamed = np.unique(corners, axis=0, return_inverse=True)
        group.pieces.append(Piece(number, renamed.reshape(-1, 3), uvs[pairs[:, 1]], source=pairs[:, 0]))
    return group
