"""A textured object that lines of sight can be sent to: which of its faces a camera sees, and their colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import BackendError, EmptyResultError
from ..mesh import Mesh
from ..mesh.bake.bake import SourceMesh
from ..mesh.query.surface import Surface
from ..mesh.repair.repair import vertex_normals
from ..views import PictureCamera
from ..warp import unavailable_reason
from .depth import without_slits

_CREASE = 0.77  # cosine of the angle between a smooth normal and its face's, beyond which the edge is meant to be sharp
_POINTS = 4096  # vertices that stand for the object's outline when it is framed


@dataclass(frozen=True, eq=False)
class Sheet(Mesh):
    """Faces that share one set of maps.

    uvs: [V, 2] in 0-1, v downwards. maps: [S, S, 6] uint8, row 0 at v = 0: base colour RGB (sRGB), metallic, roughness,
    alpha.
    """

    uvs: torch.Tensor
    maps: np.ndarray


@dataclass(frozen=True)
class Seen:
    """What a camera sees, side x side pixels; 0 where it sees nothing.

    mask: [S, S] bool. depth: [S, S] float32 world units along the line of sight, inf where nothing is. normal:
    [S, S, 3] unit, world, to the side that is seen. colour: [S, S, 3] float32 base colour, sRGB 0-1.
    """

    mask: torch.Tensor
    depth: torch.Tensor
    normal: torch.Tensor
    colour: torch.Tensor

    @cached_property
    def opened(self) -> np.ndarray:
        """[S, S] depth without slits in the surface, FAR where nothing is."""
        return without_slits(self.depth.cpu().numpy())


class Painted:
    """Sheets together, on one device. source: makes a mesh ready for rays, as rows for CLOSEST do.

    Raises:
        BackendError: Warp is missing. EmptyResultError: no faces.
    """

    def __init__(
        self,
        sheets: Sequence[Sheet],
        device: torch.device,
        tick: Callable[[], None] = lambda: None,
        source: Callable[[Mesh], Surface] = SourceMesh,
    ) -> None:
        if reason := unavailable_reason():
            raise BackendError(f"Projecting pictures needs Warp: {reason}")
        self.sheets, self.device, self.tick = tuple(sheets), device, tick
        starts = np.cumsum([0, *(len(sheet.vertices) for sheet in sheets)]).tolist()
        self.vertices = torch.cat([sheet.vertices.to(device).float() for sheet in sheets])
        parts = [sheet.faces.to(device).long() + start for sheet, start in zip(sheets, starts)]
        self.faces = torch.cat(parts)  # [F, 3] int64
        if len(self.faces) == 0:
            raise EmptyResultError("The mesh has no faces to project a picture on.")
        self.first_face = np.cumsum([0, *(len(part) for part in parts)]).tolist()  # of each sheet, and the end
        self.surface = source(Mesh.known(self.vertices, self.faces))
        a, b, c = self.vertices[self.faces].double().unbind(1)
        self.normals = F.normalize(torch.linalg.cross(b - a, c - a), dim=1, eps=1e-300).float()  # [F, 3]
        self._uvs = torch.cat([sheet.uvs.to(device).float() for sheet in sheets])
        self._colours = [torch.from_numpy(np.ascontiguousarray(sheet.maps[:, :, :3])).to(device) for sheet in sheets]

    @cached_property
    def outline(self) -> torch.Tensor:
        """[N, 3] vertices spread over the object, the outermost ones among them."""
        used = self.vertices[self.faces.unique()]
        turn = torch.arange(256, device=self.device) * (np.pi * (3 - 5**0.5))
        height = 1 - (2 * torch.arange(256, device=self.device) + 1) / 256
        flat = (1 - height**2).sqrt()
        directions = torch.stack([flat * turn.cos(), flat * turn.sin(), height], 1)
        outermost = (used @ directions.T).argmax(0).unique()
        step = max(1, len(used) // _POINTS)
        return torch.cat([used[outermost], used[::step]])

    @cached_property
    def smooth(self) -> torch.Tensor:
        """[V, 3] unit normals of the vertices; those in one place, which charts may part, share theirs."""
        places, place = self.vertices.unique(dim=0, return_inverse=True)
        return vertex_normals(places, place[self.faces])[place]

    def normals_at(self, face: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """[N, 3] unit normals of points on faces [N] by barycentric weights [N, 3]: smooth but for sharp edges."""
        flat = self.normals[face]
        smooth = F.normalize((self.smooth[self.faces[face]] * weights[:, :, None]).sum(1), dim=1)
        return torch.where((smooth * flat).sum(1, keepdim=True) > _CREASE, smooth, flat)

    @cached_property
    def middle(self) -> tuple[float, float, float]:
        """The centre of the bounding box."""
        low, high = self.outline.aminmax(dim=0)
        x, y, z = ((low + high) / 2).tolist()
        return x, y, z

    @cached_property
    def radius(self) -> float:
        """World units from the middle to the farthest vertex."""
        return float((self.outline - self.outline.new_tensor(self.middle)).norm(dim=1).amax())

    def seen(self, camera: PictureCamera, side: int, colours: bool = True) -> Seen:
        """What a camera sees in side x side pixels, one line of sight through the centre of each."""
        self.tick()
        origins, directions = camera.rays(side, self.device)
        hits = self.surface.rays(origins, directions)
        found = hits.face >= 0
        rows = found.nonzero()[:, 0]  # half of a picture or so
        face = hits.face[rows]
        facing = self.normals[face]
        away = (facing * directions[rows]).sum(1, keepdim=True) > 0
        normal, colour = torch.zeros(2, side * side, 3, device=self.device)
        normal[rows] = torch.where(away, -facing, facing)
        if colours:
            colour[rows] = self.colour_at(face, hits.weights[rows])
        square = (side, side)
        return Seen(
            found.reshape(square),
            hits.distance.reshape(square),
            normal.reshape(*square, 3),
            colour.reshape(*square, 3),
        )

    def colour_at(self, face: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """[N, 3] base colours of points on faces [N], of the nearest texel."""
        uv = (self._uvs[self.faces[face]] * weights[:, :, None]).sum(1)
        if len(self._colours) == 1:
            return _texel(self._colours[0], uv)
        colour = torch.empty(len(face), 3, device=self.device)
        for number, texture in enumerate(self._colours):
            own = (face >= self.first_face[number]) & (face < self.first_face[number + 1])
            colour[own] = _texel(texture, uv[own])
        return colour


def _texel(texture: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    """[N, 3] in 0-1: the texels of [S, S, 3] uint8 that hold points [N, 2]."""
    column, row = (uv * len(texture)).long().clamp(0, len(texture) - 1).unbind(1)
    return texture[row, column].float() / 255
