"""What a picture says of each texel: whether it sees it, how well, and its colour there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.ndimage import maximum_filter

from ..mesh.bake.bake import Texels
from ..views import PictureCamera
from .bleed import Unbled, depth_of
from .depth import step_of
from .painted import Painted
from .picture import Picture, sampled, smooth_step, trust_side
from .shading import Shading
from .spill import kept

_GRAZING, _SQUARE = 0.05, 0.2  # cosines to the normal below which a view counts nothing, and above which fully
_SHARP = 3.0  # power of the cosine by which one view counts more than another
_BEHIND = 2e-3  # world units behind the first face met that a texel may lie and still be seen
_ROUGH = 0.015  # picture sides behind it, if both have one colour: a surface is rough
_ALIKE = 0.15  # difference of colours (sRGB, 0-1, Euclidean) of one part
_COARSER = 1.5  # pixels for each texel along a side from which the picture is reduced first


@dataclass(frozen=True)
class Look:
    """What one picture shows of a sheet's texels.

    rows: [n] int64, of the texels that it shows. colour: [n, 3] float32 sRGB 0-1. share: [n] float32 0-1, how far it is
    to be believed against what is there already. weight: [n] float32, against other pictures. normal: [n, 3].
    """

    rows: torch.Tensor
    colour: torch.Tensor
    share: torch.Tensor
    weight: torch.Tensor
    normal: torch.Tensor

    def without(self, shading: Shading) -> Look:
        """In the mean light everywhere."""
        colour = shading.removed(self.colour, self.normal)
        return Look(self.rows, colour, self.share, self.weight, self.normal)


def look(
    painted: Painted,
    sheet: int,
    texels: Texels,
    picture: Picture,
    camera: PictureCamera,
    feather: float,
    texel_density: float,
) -> Look:
    """What a picture shows of a sheet's texels.

    A texel is seen if the first face on the line of sight to it is its own, or lies at the same depth and looks the
    same way; what has the same colour may lie a little in front. What is seen through a slit in a part is not, as the
    picture shows the part, but for the part's inside.

    Args:
        painted: everything that can stand in the way, the sheet among it. texels: of the sheet, in the order of its
            faces.
        feather: picture sides over which the picture fades in from outlines.
        texel_density: texels that a world unit takes, by which a picture with more pixels is reduced first.
    """
    ratio = camera.scale * picture.side / texel_density
    if ratio > _COARSER:
        picture = picture.reduced(max(1, math.ceil(picture.side / ratio)))
    device = painted.device
    seen = painted.seen(camera, trust_side(picture))
    deepest = maximum_filter(seen.opened, 3) + step_of(camera, len(seen.mask))
    deepest = torch.from_numpy(deepest)[None].to(device)
    trust = picture.trust(seen, feather)[None].to(device)
    colours = Unbled.of(picture, camera, seen, feather)
    unspilt = kept(painted, picture, camera)[None]
    own, first = painted.sheets[sheet], painted.first_face[sheet]
    vertices, faces = own.vertices.to(device).float(), own.faces.to(device)
    found = []
    for part in texels.parts():
        painted.tick()
        points = texels.at(vertices, faces, part)
        face = texels.face[part].long() + first
        place, size = camera.project(points)
        towards = camera.towards(points)
        normal = painted.normals[face]
        cosine = (normal * towards).sum(1)
        inside = (size > 0) & (place > 0).all(1) & (place < 1).all(1) & (cosine.abs() > _GRAZING)
        rows = inside.nonzero()[:, 0]
        believed = (sampled(trust, place[rows], "bilinear") * sampled(unspilt, place[rows], "bilinear"))[:, 0]
        depth = depth_of(camera, points[rows])
        open_ = (depth <= sampled(deepest, place[rows], "nearest")[:, 0]) | (cosine[rows] < 0)
        open_ &= believed > 0
        rows, believed, depth = rows[open_], believed[open_], depth[open_]
        weights = texels.weights[part]
        shown = _seen(painted, points[rows], towards[rows], face[rows], weights[rows], _ROUGH / camera.scale)
        rows, believed, depth = rows[shown], believed[shown], depth[shown]
        smooth = painted.normals_at(face[rows], weights[rows])
        turned = torch.where(cosine[rows, None] < 0, -smooth, smooth)
        facing = (turned * towards[rows]).sum(1).clamp_min(0)  # smooth, or the picture would end with whole faces
        colour, clean = colours.at(place[rows], depth)
        believed = believed * clean
        share = believed * smooth_step((facing - _GRAZING) / (_SQUARE - _GRAZING))
        found.append((rows + part.start, colour, share, believed * facing**_SHARP, turned))
    return Look(*(torch.cat(each) for each in zip(*found)))


def _seen(
    painted: Painted,
    points: torch.Tensor,
    towards: torch.Tensor,
    face: torch.Tensor,
    weights: torch.Tensor,
    rough: float,
) -> torch.Tensor:
    """[n] bool: whether nothing stands between points [n, 3] on faces [n] by barycentric weights [n, 3] and an eye in
    directions [n, 3], but what has their colour and is up to `rough` world units in front of them."""
    away = 4 * painted.radius  # from outside of the object: an eye inside of it makes no picture of an object
    hits = painted.surface.rays(points + away * towards, -towards)
    met = hits.face.clamp_min(0)
    alike = ((painted.normals[met] * towards).sum(1) > 0) == ((painted.normals[face] * towards).sum(1) > 0)
    alike &= hits.face >= 0
    behind = away - hits.distance
    seen = (hits.face == face) | (alike & (behind < _BEHIND))
    rows = (alike & ~seen & (behind < rough)).nonzero()[:, 0]
    own, other = painted.colour_at(face[rows], weights[rows]), painted.colour_at(met[rows], hits.weights[rows])
    seen[rows] = (own - other).norm(dim=1) < _ALIKE
    return seen


def texels_a_unit(texels: Texels, vertices: torch.Tensor, faces: torch.Tensor) -> float:
    """Texels that a world unit of the surface takes along a side, on average."""
    a, b, c = vertices[faces.long()].double().unbind(1)
    area = float(torch.linalg.cross(b - a, c - a).norm(dim=1).sum() / 2)
    return math.sqrt(len(texels) / max(area, 1e-12))
