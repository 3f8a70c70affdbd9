"""Bake what the raw mesh and its PBR voxels hold into textures, or vertex colours, of the processed mesh.

Frames: the world frame, Z up, -0.5 .. 0.5; textures have row 0 at v = 0, v downwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ...errors import EmptyResultError, MeshError, NotFiniteError, SettingsError
from ...sparse import Voxels
from ...sums import grouped_sums
from ..checks import check_mesh
from ..mesh import Mesh
from ..query.nearest_voxel import nearest_voxel
from ..query.surface import Surface
from .raster import nearest_covered

LIMIT = 0.05  # world units; how far from the processed mesh its source is looked for
_TILE = 16  # texels
_ROWS = 1 << 19  # texels whose temporaries (about 200 bytes each) are held at once
_BLOCK = 1 << 23  # points looked up in the voxels at once (about 80 bytes each)


class SourceMesh(Surface):
    """The mesh to bake from, usually the raw one, ready for queries.

    Its faces need no common winding. Raises EmptyResultError if it has none.
    """

    def __init__(self, mesh: Mesh) -> None:
        mesh.require_faces()
        super().__init__(mesh.vertices, mesh.faces)
        self.vertices, self.faces = mesh.vertices, mesh.faces

    def closest_point(
        self, points: torch.Tensor, limit: float = LIMIT
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The nearest points of the surface within `limit` world units; fastest where neighbours in the list are near.

        Args:
            points: [N, 3].

        Returns:
            positions [N, 3], the point itself where nothing is near; face [N] int32, -1 there; barycentric weights
            [N, 3], 0 there.
        """
        from .bake_kernels import closest_on_mesh

        points = points.float().contiguous()
        closest, weights = torch.empty_like(points), torch.empty_like(points)
        face = torch.empty(len(points), dtype=torch.int32, device=points.device)
        found = closest, face, weights
        self._launch.launch_parallel(closest_on_mesh, len(points), self._mesh.id, points, limit, *found)
        return closest, self._named(face), weights

    def normals_at(self, face: torch.Tensor, towards: torch.Tensor) -> torch.Tensor:
        """[N, 3] unit normals of faces [N] that closest_point found, turned to the side of `towards` [N, 3]; `towards`
        itself where nothing was found or the face has no area."""
        corners = self.faces[face.clamp_min(0).long()].long()
        a, b, c = self.vertices[corners].double().unbind(1)  # fp64: faces may be tiny
        normal = torch.linalg.cross(b - a, c - a)
        normal = (normal / normal.norm(dim=1, keepdim=True).clamp_min(1e-300)).float()
        turned = (normal * towards).sum(1) < 0
        normal = torch.where(turned[:, None], -normal, normal)
        found = (face >= 0) & (normal.norm(dim=1) > 0.5)
        return torch.where(found[:, None], normal, towards)

    def open_share(
        self, points: torch.Tensor, normals: torch.Tensor, rays: int, limit: float, seed: int
    ) -> torch.Tensor:
        """[N] float32 share of cosine-weighted rays over each point's hemisphere that meet nothing within `limit`.

        Args:
            points: [N, 3], off the surface. normals: [N, 3] unit, the hemispheres' poles.
            rays: for each point, stratified over the squared sine to the pole. seed: of each point's random offsets.
        """
        from . import bake_kernels

        points, normals = (each.float().contiguous() for each in (points, normals))
        share = torch.empty(len(points), device=points.device)
        given = self._mesh.id, points, normals, rays, limit, seed, share
        self._launch.launch_parallel(bake_kernels.open_share, len(points), *given, chunk=_RAY_POINTS)
        return share


_RAY_POINTS = 1 << 12  # points of one launch on a CPU


@dataclass(frozen=True)
class Texels:
    """The N covered texels of an unwrapped mesh, in the order of tiles of 16 x 16 texels: neighbours in the list are
    neighbours on the mesh, which makes queries fast."""

    covered: torch.Tensor  # [S, S] bool
    face: torch.Tensor  # [N] int32
    weights: torch.Tensor  # [N, 3] barycentric
    source: torch.Tensor  # [S * S] int32: for each texel of the texture the place in this list to take its value from

    @classmethod
    def of(
        cls,
        uvs: torch.Tensor,
        faces: torch.Tensor,
        size: int,
        rasterise: Callable,
        nearest: Callable = nearest_covered,
    ) -> Texels:
        """Rasterise a mesh.

        Args:
            uvs: [V, 2], v downwards. faces: [F, 3]. size: texels along a side.
            rasterise, nearest: the backends of raster.rasterise and raster.nearest_covered to use.

        Raises:
            EmptyResultError: no triangle covers the centre of a texel.
        """
        face, weights = rasterise(uvs, faces, size)
        face = face.int()
        covered = face >= 0
        if not covered.any():
            raise EmptyResultError(f"No face covers a texel of a {size} x {size} texture. Ask for a larger one.")
        index = _tiled(size, face.device)
        index = index[covered[index]]
        place = torch.empty_like(face)
        place[index] = torch.arange(len(index), dtype=torch.int32, device=face.device)
        covered = covered.reshape(size, size)
        return cls(covered, face[index], weights[index], place[nearest(covered)])

    def __len__(self) -> int:
        return len(self.face)

    def parts(self) -> Iterator[slice]:
        """Slices of the list that bound temporary memory."""
        return _slices(len(self), _ROWS)

    def at(self, values: torch.Tensor, faces: torch.Tensor, part: slice) -> torch.Tensor:
        """[n, C] values of the vertices [V, C] interpolated at a part of the texels."""
        corners = faces[self.face[part].long()].long()
        return (values[corners] * self.weights[part][:, :, None]).sum(1)

    def points(self, vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        """[N, 3] position of every texel."""
        points = torch.empty(len(self), 3, device=vertices.device)
        for part in self.parts():
            points[part] = self.at(vertices, faces, part)
        return points

    def image(self, values: torch.Tensor) -> torch.Tensor:
        """[N, C] -> [S, S, C], uncovered texels as the nearest covered one."""
        return values[self.source].reshape(*self.covered.shape, -1)


def bake_voxels(
    texels: Texels,
    vertices: torch.Tensor,
    faces: torch.Tensor,
    voxels: Voxels,
    attrs: torch.Tensor,
    resolution: int,
    trilinear: Callable,
    source: SourceMesh | None = None,
    limit: float = LIMIT,
    nearest: Callable = nearest_voxel,
) -> tuple[torch.Tensor, int]:
    """Texel -> point on the mesh -> nearest point of the source -> trilinear look-up in the voxels.

    Args:
        vertices: [V, 3] world frame; faces: [F, 3], those of the texels.
        voxels, attrs: PBR voxels [T] and their values [T, 6] in 0-1, on the mesh's device.
        resolution: voxels along a side of the world cube.
        trilinear: the backend to use.
        source: the mesh that the voxels belong to; without it texels are looked up where they are.
        limit: how far from a texel's point the source is looked for, world units; beyond it stays where it is.
        nearest: the backend of nearest_voxel to use.

    Returns:
        [N, 6] float32 in 0-1 (base colour RGB, metallic, roughness, alpha) for texels.image, and how many of them had
        no voxel within one voxel: they have the nearest voxel's values.

    Raises:
        EmptyResultError: there are no voxels.
        MeshError: vertices are not finite, or a face names one that is not there.
        NotFiniteError: the voxels' values hold NaN or infinity.
        SettingsError: voxels and values are not equally many.
    """
    check_mesh(vertices, faces)
    return sample_voxels(texels.points(vertices, faces), voxels, attrs, resolution, trilinear, source, limit, nearest)


def sample_voxels(
    points: torch.Tensor,
    voxels: Voxels,
    attrs: torch.Tensor,
    resolution: int,
    trilinear: Callable,
    source: SourceMesh | None = None,
    limit: float = LIMIT,
    nearest: Callable = nearest_voxel,
) -> tuple[torch.Tensor, int]:
    """PBR attributes at points [N, 3] of the world, such as vertices that are to have colours.

    Returns:
        [N, 6] float32 in 0-1, and how many points had no voxel within one voxel: they have the nearest voxel's. Other
        arguments and errors as bake_voxels.
    """
    _check_points(points)
    _check_voxels(voxels, attrs)
    values, far = torch.empty(len(points), attrs.shape[1], device=points.device), 0
    for block in _slices(len(points), _BLOCK):
        at = points[block] if source is None else source.closest_point(points[block], limit)[0]
        at = (at + 0.5) * resolution  # voxel units
        found = trilinear(attrs, voxels, at)
        values[block] = found[:, :-1].clamp(0, 1)
        alone = (found[:, -1] <= 0).nonzero().squeeze(1)
        if len(alone):
            row = nearest(at[alone], voxels.xyz[: voxels.lengths[0]])
            values[block.start + alone] = attrs[row].float().clamp(0, 1)
            far += len(alone)
    return values, far


def bake_normals(
    texels: Texels,
    vertices: torch.Tensor,
    faces: torch.Tensor,
    normals: torch.Tensor,
    tangents: torch.Tensor,
    source: SourceMesh,
    limit: float = LIMIT,
) -> torch.Tensor:
    """The source mesh's normals as a tangent-space normal map of glTF: green points up in the texture, towards v = 0.

    The frame of a texel is what a viewer makes of the exported mesh: N and T interpolated and normalised,
    B = cross(N, T) * w. Texels farther than `limit` world units from the source are flat.

    Args:
        vertices, normals: [V, 3] of the unwrapped mesh, world frame; faces: [F, 3].
        tangents: [V, 4] as vertex_tangents makes and the file must carry.

    Returns:
        [S, S, 3] float32 in 0-1, (normal + 1) / 2, linear; margins filled.
    """
    values = torch.empty(len(texels), 3, device=vertices.device)
    for part in texels.parts():
        n = F.normalize(texels.at(normals, faces, part), dim=1)
        tangent = texels.at(tangents, faces, part)
        t = F.normalize(tangent[:, :3], dim=1)
        b = torch.linalg.cross(n, t) * torch.where(tangent[:, 3:] < 0, -1.0, 1.0)
        face = source.closest_point(texels.at(vertices, faces, part), limit)[1]
        normal = source.normals_at(face, n)
        # the solution of x t + y b + z n = normal; t need not be quite square to n
        rows = (torch.linalg.cross(b, n), torch.linalg.cross(n, t), torch.linalg.cross(t, b))
        local = torch.stack([(normal * row).sum(1) for row in rows], 1) * (t * rows[0]).sum(1, keepdim=True).sign()
        values[part] = F.normalize(local, dim=1) / 2 + 0.5
    return texels.image(values)


def bake_occlusion(
    texels: Texels,
    vertices: torch.Tensor,
    faces: torch.Tensor,
    normals: torch.Tensor,
    source: SourceMesh,
    rays: int = 64,
    max_distance: float = 0.1,
    ray_bias: float = 1e-3,
    limit: float = LIMIT,
    seed: int = 0,
) -> torch.Tensor:
    """Ambient occlusion: the share of the sky over each texel that the source leaves free.

    Rays start on the source and are drawn with the cosine to its faces' normals.

    Args:
        vertices, normals: [V, 3] of the unwrapped mesh, world frame; faces: [F, 3].
        rays: for each texel; 64 leave an error of about 0.03.
        max_distance: world units beyond which nothing occludes. ray_bias: what rays start above the surface.
        limit: how far from a texel's point the source is looked for; beyond it rays start at the texel's own point.

    Returns:
        [S, S] float32, 1 where nothing occludes; margins filled. The same for the same seed.
    """
    if rays < 1:
        raise SettingsError(f"Ambient occlusion needs at least 1 ray for each texel, not {rays}.")
    points, poles = (torch.empty(len(texels), 3, device=vertices.device) for _ in range(2))
    for part in texels.parts():
        n = F.normalize(texels.at(normals, faces, part), dim=1)
        at, face, _ = source.closest_point(texels.at(vertices, faces, part), limit)
        pole = source.normals_at(face, n)
        points[part], poles[part] = at + ray_bias * pole, pole
    share = source.open_share(points, poles, rays, max_distance, seed)
    return texels.image(share[:, None])[:, :, 0]


def vertex_tangents(
    vertices: torch.Tensor, faces: torch.Tensor, uvs: torch.Tensor, normals: torch.Tensor
) -> torch.Tensor:
    """Tangents of an unwrapped mesh for glTF.

    As MikkTSpace (Mikkelsen 2008): the direction in which u grows, in the plane of the vertex normal and of length 1,
    summed over the corners at a vertex by their angle in that plane. Vertices are not split: one whose faces disagree
    about the handedness has the more frequent, so charts must not share vertices. glTF's B = cross(N, T) * w points up
    in the texture, where v gets smaller; MikkTSpace fed with glTF's v, which points down, gives the opposite w.

    Args:
        vertices, normals: [V, 3]; faces: [F, 3]; uvs: [V, 2], v downwards.

    Returns:
        [V, 4] float32: a unit vector square to the normal, in the frame of the vertices, and w = 1 or -1. Vertices
        without a face of area in UV space have any.
    """
    largest = torch.full((4,), math.pi, dtype=torch.float64, device=vertices.device)  # unit vectors times angles
    added = grouped_sums(len(vertices), 3 * len(faces), largest)
    for part in _slices(len(faces), _ROWS):
        corners = faces[part].long()
        at, uv = vertices[corners].double(), uvs[corners].double()  # [n, 3, 3], [n, 3, 2]
        edge, step = at[:, 1:] - at[:, :1], uv[:, 1:] - uv[:, :1]
        turn = (step[:, 0, 0] * step[:, 1, 1] - step[:, 0, 1] * step[:, 1, 0]).sign()
        along_u = (edge[:, 0] * step[:, 1, 1:] - edge[:, 1] * step[:, 0, 1:]) * turn[:, None]
        for k in range(3):
            vertex, n = corners[:, k], normals[corners[:, k]].double()
            sides = (_in_plane(at[:, (k + i) % 3] - at[:, k], n) for i in (1, 2))
            angle = torch.where(turn != 0, torch.linalg.vecdot(*sides).clamp(-1, 1).acos(), 0)
            added.add(vertex, torch.cat([_in_plane(along_u, n) * angle[:, None], (-turn * angle)[:, None]], 1))
    total, handed = added.total().split([3, 1], 1)
    normals = normals.double()
    axis = torch.zeros_like(normals).scatter_(1, normals.abs().argmin(1, keepdim=True), 1.0)
    lost = total.norm(dim=1, keepdim=True) < 1e-12
    tangent = _in_plane(torch.where(lost, axis, total), normals)
    return torch.cat([tangent, torch.where(handed < 0, -1.0, 1.0)], 1).float()


def _in_plane(vectors: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
    """[N, 3] vectors without their part along unit normals, of length 1 (or 0)."""
    return F.normalize(vectors - normals * (vectors * normals).sum(1, keepdim=True), dim=1, eps=1e-30)


def _tiled(size: int, device: torch.device) -> torch.Tensor:
    """[S * S] int32 indices of texels, tile by tile where tiles fit."""
    index = torch.arange(size * size, dtype=torch.int32, device=device)
    if size % _TILE:
        return index
    count = size // _TILE
    return index.reshape(count, _TILE, count, _TILE).transpose(1, 2).reshape(-1)


def _slices(count: int, rows: int) -> Iterator[slice]:
    return (slice(start, min(start + rows, count)) for start in range(0, count, rows))


def _check_points(points: torch.Tensor) -> None:
    if not points.isfinite().all():
        raise MeshError("The points to look up hold NaN or infinity. Make or load the mesh again.")


def _check_voxels(voxels: Voxels, attrs: torch.Tensor) -> None:
    if len(voxels) == 0:
        raise EmptyResultError("There are no PBR voxels to bake from. Try another seed.")
    if len(attrs) != len(voxels):
        raise SettingsError(f"There are {len(voxels):,} voxels, but values for {len(attrs):,}. Use those of one run.")
    if not attrs.isfinite().all():
        raise NotFiniteError("The PBR voxels hold NaN or infinity. Try another seed or precision.")
