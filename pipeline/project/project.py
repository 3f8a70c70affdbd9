"""Pictures of known cameras onto the maps of a textured object."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..mesh.bake.bake import Texels
from ..views import PictureCamera
from .blend import blended
from .lit import LIT, light_in
from .paint import Look, look, texels_a_unit
from .painted import Painted
from .picture import Picture
from .settings import Projection
from .shading import Shading, estimated, explained

_SHARP = 1.5  # texels for each pixel of a picture; with fewer the second sampling blurs it
_SAMPLES = 200_000  # texels from which light is estimated
# Of a picture's differences from the texture (linear light, squares), below which smooth light does not explain it. Of
# 21 held-out objects four have less, -0.04 to 0.05, all of metal or glass: not dividing leaves less error on two (by
# 0.54 and 0.28 of what was generated) and more on two (0.31 and 0.05). The others have 0.09 to 0.85.
_EXPLAINED = 0.07

Posed = Sequence[tuple[Picture, PictureCamera]]


@dataclass(frozen=True)
class Projected:
    """colours: [N, 3] uint8 base colours of the texels. shown: the share of the texels that each picture shows."""

    colours: torch.Tensor
    shown: tuple[float, ...]


def fitting_size(texels: float, posed: Posed, size: int, largest: int) -> int:
    """Texels along a side with which maps hold what pictures show.

    Args:
        texels: that a world unit of the surface takes now (paint.texels_a_unit). size: of the maps now; the result is
            it times a power of 2, at most `largest`.
    """
    wanted = _SHARP * max((camera.scale * picture.side for picture, camera in posed), default=0.0) / texels
    doublings = max(0, math.ceil(math.log2(max(1.0, wanted))))
    while doublings and size << doublings > largest:
        doublings -= 1
    return size << doublings


def decided(painted: Painted, posed: Posed, settings: Projection) -> Projection:
    """Settings whose colours are not "auto": pictures in light give the texture no tone, even if light is removed: what
    is left of it, hard shadows and highlights, makes more colours worse than the picture's tone mends."""
    if settings.colours != "auto":
        return settings
    lit = any(light_in(painted, *each) > LIT for each in posed)
    return replace(settings, colours="texture" if lit else "picture")


def enlarged(maps: np.ndarray, size: int) -> np.ndarray:
    """[s, s, C] or [s, s] uint8 -> [size, size, ...] bilinear, a channel at a time to save memory."""
    if len(maps) == size:
        return maps
    flat = maps if maps.ndim == 3 else maps[:, :, None]
    result = np.empty((size, size, flat.shape[2]), np.uint8)
    for channel in range(flat.shape[2]):
        one = torch.from_numpy(np.ascontiguousarray(flat[:, :, channel])).float()[None, None]
        grown = torch.nn.functional.interpolate(one, (size, size), mode="bilinear", align_corners=False)
        result[:, :, channel] = grown[0, 0].round().byte().numpy()
    return result.reshape(size, size, *maps.shape[2:])


def texel_values(texels: Texels, maps: np.ndarray) -> torch.Tensor:
    """[N, C] uint8: what maps [S, S, C] hold at the texels, in their order."""
    covered = texels.covered.reshape(-1).nonzero()[:, 0]
    flat = torch.from_numpy(maps).reshape(-1, maps.shape[2]).to(texels.face.device)
    values = torch.empty(len(texels), maps.shape[2], dtype=torch.uint8, device=texels.face.device)
    values[texels.source[covered].long()] = flat[covered]
    return values


def project(
    painted: Painted,
    sheet: int,
    texels: Texels,
    maps: np.ndarray,
    posed: Posed,
    settings: Projection,
    tick: Callable[[], None] = lambda: None,
) -> Projected:
    """The colours of a sheet's texels with pictures projected on them.

    Args:
        painted: what stands in the way; the sheet is number `sheet` of it. texels: of the sheet. maps: [S, S, 6] of it.
        settings: of which "auto" colours are decided (see decided).
        tick: called between steps.
    """
    own, device = painted.sheets[sheet], painted.device
    vertices, faces = own.vertices.to(device).float(), own.faces.to(device)
    baked = texel_values(texels, maps[:, :, :3]).float() / 255
    density = texels_a_unit(texels, vertices, faces)
    looks = []
    for picture, camera in posed:
        tick()
        one = look(painted, sheet, texels, picture, camera, settings.feather, density)
        lit = settings.remove_light and len(one.rows) and light_in(painted, picture, camera) > LIT
        light = _light(one, baked, settings.colours) if lit else None
        looks.append(one if light is None else one.without(light))
    tick()
    shown = tuple(float(one.share.sum()) / max(1, len(texels)) for one in looks)
    looks = [one for one in looks if len(one.rows)]
    if not looks:
        return Projected((baked * 255).round().byte(), shown)
    points = texels.points(vertices, faces)
    normals = painted.normals[texels.face.long() + painted.first_face[sheet]]
    colours = blended(points, normals, baked, looks, settings.colours)
    return Projected((colours * 255).round().byte(), shown)


def _light(one: Look, baked: torch.Tensor, colours: str) -> Shading | None:
    """The light to be divided out of what a picture shows; None if it explains too little of it, unless the picture's
    own colours are used, from which even a poor estimate takes more light than it adds."""
    some = slice(None, None, max(1, len(one.rows) // _SAMPLES))
    given = one.colour[some], baked[one.rows[some]], one.normal[some]
    found = estimated(*given)
    return found if colours == "picture" or explained(found, *given) >= _EXPLAINED else None
