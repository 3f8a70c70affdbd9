"""What the stages hand on: conditions, latents, meshes, voxels, and the settings of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch

from ..errors import SettingsError, unknown
from ..export import AlphaMode, TrueSize, check_flat_base
from ..export.images import MAX_WEBP
from ..mesh import Mesh as TriangleMesh
from ..mesh.bake.raster import MAX_SIZE
from ..sparse import SparseTensor, Subdivision, Voxels
from ..views import UNNAMED, Mixing, View
from .hollowing import Hollowing
from .length import CUBE, Length

# PBR channels of a voxel
BASE_COLOR, METALLIC, ROUGHNESS, ALPHA = slice(0, 3), 3, 4, 5
LOWER = "Choose a lower type, or fewer max tokens."  # what to try where memory does not suffice
SEAMS = ("usual", "fewer")  # how far charts may be stretched so that there are fewer
SHELLS = ("surface", "outer", "solid", "auto")  # what process_mesh can make of inner and open surfaces
# Pixels along a side of a baked texture, of the command line and of the nodes too. In less than 64 the charts of a
# generated object hardly ever find a place; more than MAX_SIZE no step can do (and few viewers can show).
TEXTURE_SIZES = (64, MAX_SIZE)
MIN_QUADS = 24  # a cube's, each cut in four, as the package does
MAX_QUADS = 2_000_000  # beyond it the package divides the mesh until neither memory nor patience suffices
MIN_FACES = 4  # of a mesh and of each level: the least that a closed surface has
MAX_LEVELS = 16  # of detail: halved each time, the faces of any mesh are used up by then


@dataclass(frozen=True)
class Origin:
    """What made a value. Empty strings are unknown, as for values from elsewhere, and fit everything.

    role, network: the network that defines what the value's numbers mean (the encoder of a condition, the decoder of a
        latent or structure), and the fingerprint of its files (Models.fingerprint).
    checkpoint: the name of the checkpoint that this network is from.
    recipe: fingerprint of the inputs and settings that led to the condition, the structure or the shape. Texture,
        subdivisions, meshes and voxels have that of their shape. It does not depend on device, precision or backends:
        the same graph, run again, has the same recipe even where its numbers differ in the last bits.
    description: what was made how, in words, for error messages.
    notes: what a user must know of how it was made, a line each: what was made in place of what was asked for, how it
        was made to fit into the memory. They go along to the mesh, its report and its file.
    """

    role: str = ""
    network: str = ""
    checkpoint: str = ""
    recipe: str = ""
    description: str = ""
    notes: str = ""

    @property
    def of_shape(self) -> Origin:
        """Of what is decoded: the same shape, in the terms of no network any more."""
        return Origin(recipe=self.recipe, description=self.description, notes=self.notes)

    def noted(self, text: str) -> Origin:
        """With a line more, if it is not there."""
        return replace(self, notes="\n".join(dict.fromkeys(filter(None, (*self.notes.splitlines(), text)))))


UNKNOWN = Origin()


@dataclass(frozen=True)
class Condition:
    """Image tokens by image scale: {1: [views, L, C], 2: [views, L', C]}. The negative condition is all zeros.

    views: the direction of each picture, empty where not known. masks: [H, W] cut-out of each, for carving. mixing: how
        the stages mix the views.
    """

    tokens: dict[int, torch.Tensor]
    origin: Origin = UNKNOWN
    views: tuple[View, ...] = ()
    masks: tuple[torch.Tensor, ...] = ()
    mixing: Mixing = UNNAMED

    def count(self, scale: int) -> int:
        """Tokens at an image scale, all views together. Raises SettingsError if there are none."""
        if scale not in self.tokens:
            have = ", ".join(map(str, self.tokens))
            raise SettingsError(f"The condition holds the image scales {have}; this pass needs {scale}.")
        return self.tokens[scale][..., 0].numel()

    def to(self, device: torch.device | str) -> Condition:
        return replace(self, tokens={scale: tokens.to(device) for scale, tokens in self.tokens.items()})


@dataclass(frozen=True)
class Structure:
    """Which voxels of the coarse grid are occupied: [R, R, R] bool.

    random is the state of the run's random stream after this stage; the next stage continues it.
    """

    occupied: torch.Tensor
    random: torch.Tensor
    origin: Origin = UNKNOWN

    def to(self, device: torch.device | str) -> Structure:
        return replace(self, occupied=self.occupied.to(device))

    def voxels(self, resolution: int) -> Voxels:
        """The occupied voxels of a coarser (or the same) grid, sorted by (x, y, z)."""
        ratio, rest = divmod(self.occupied.shape[0], resolution)
        if rest or ratio == 0:
            raise SettingsError(
                f"A structure of {self.occupied.shape[0]} voxels a side cannot be pooled to {resolution}."
            )
        pooled = torch.nn.functional.max_pool3d(self.occupied[None, None].float(), ratio)[0, 0] > 0.5
        return Voxels.single(pooled.nonzero())


@dataclass(frozen=True)
class Latent:
    """A structured latent (denormalised, fp32) on voxels, and the resolution it decodes to. random as in Structure."""

    sparse: SparseTensor
    resolution: int
    random: torch.Tensor
    origin: Origin = UNKNOWN

    def to(self, device: torch.device | str) -> Latent:
        return replace(self, sparse=self.sparse.to(device))


@dataclass(frozen=True)
class LatentStart:
    """A latent to begin from in place of noise alone, on the voxels that are sampled.

    strength: how much may change: 1 all, as from noise alone; 0 nothing. keep: [T] bool voxels that stay as they are.
    """

    latent: Latent
    strength: float = 1.0
    keep: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> LatentStart:
        return replace(self, latent=self.latent.to(device), keep=None if self.keep is None else self.keep.to(device))


@dataclass(frozen=True, eq=False)
class Subdivisions(Sequence):
    """How a shape's latent voxels were divided into its fine ones, level by level, coarse to fine."""

    levels: tuple[Subdivision, ...]
    origin: Origin = UNKNOWN

    def __getitem__(self, level):
        return self.levels[level]

    def __len__(self) -> int:
        return len(self.levels)

    def to(self, device: torch.device | str) -> Subdivisions:
        return replace(self, levels=tuple(level.to(device) for level in self.levels))


@dataclass(frozen=True, eq=False)
class Mesh(TriangleMesh):
    """A triangle mesh in the world frame, with what the stages know of it: vertices [V, 3] fp32, faces [F, 3] int32.

    facts: what process_mesh changed and measured; empty for a raw mesh.
    attrs: [V, 6] fp32, 0-1, as PBRVoxels: vertex colours; None if it has none.
    uvs: [V, 2] fp32, v downwards: those of a mesh that comes from elsewhere; None if it has none.
    lods: the same, coarser and coarser.
    quads: whether faces 2 i and 2 i + 1 are a quad, for all i.
    resolution: voxels along a side of the grid of which it is the raw mesh; 0 for any other mesh.
    origin: of the shape that it shows; unknown for a mesh from elsewhere.

    Raises:
        MeshError: see mesh.check_mesh.
    """

    facts: dict = field(default_factory=dict)
    attrs: torch.Tensor | None = None
    uvs: torch.Tensor | None = None
    lods: tuple[Mesh, ...] = ()
    quads: bool = False
    resolution: int = 0
    origin: Origin = UNKNOWN

    @classmethod
    def known(cls, vertices: torch.Tensor, faces: torch.Tensor, **more) -> Mesh:
        return super().known(vertices, faces, **{"facts": {}, **more})

    @property
    def levels(self) -> tuple[Mesh, ...]:
        """The mesh and its coarser levels."""
        return (self, *self.lods)

    def replace(self, **more) -> Mesh:
        """With other fields, but the same vertices and faces, whose topology it keeps."""
        return Mesh.known(**{**self.__dict__, **more})

    def surface(self, device: torch.device | str) -> TriangleMesh:
        """Vertices and faces alone on a device, for a step whose topology of them must not live as long as the mesh:
        that of a raw mesh takes more memory than the mesh."""
        return TriangleMesh.known(self.vertices.to(device), self.faces.to(device))

    def to(self, device: torch.device | str) -> Mesh:
        """On a device, its levels too. Topology stays behind where the mesh moves; the report does not."""
        tensors = {name: getattr(self, name) for name in ("vertices", "faces", "attrs", "uvs")}
        moved: dict = {name: each.to(device) for name, each in tensors.items() if each is not None}
        moved["lods"] = tuple(level.to(device) for level in self.lods)
        if moved["vertices"] is self.vertices:
            return self.replace(**moved)
        kept = ("facts", "quads", "resolution", "origin", "report")
        return Mesh.known(**{name: self.__dict__[name] for name in kept if name in self.__dict__}, **moved)


@dataclass(frozen=True)
class PBRVoxels:
    """Material voxels: feats [T, 6] fp32 = base colour RGB, metallic, roughness, alpha, meant for 0-1, not clamped."""

    sparse: SparseTensor
    resolution: int
    origin: Origin = UNKNOWN

    def to(self, device: torch.device | str) -> PBRVoxels:
        return replace(self, sparse=self.sparse.to(device))


@dataclass(frozen=True)
class Unwrapped:
    """A mesh whose vertices have normals [V, 3] unit, uvs [V, 2] in 0-1, v downwards, and, where there is a normal map,
    tangents [V, 4] (see mesh.bake.bake). quads: as of Mesh."""

    mesh: TriangleMesh
    normals: torch.Tensor
    uvs: torch.Tensor
    tangents: torch.Tensor | None = None
    quads: bool = False


@dataclass(frozen=True)
class TexturedMesh:
    """An unwrapped mesh, and coarser levels of it if there are any, with the maps that they share; all on the CPU.

    maps: [S, S, 6] uint8, row 0 at v = 0: base colour RGB (sRGB), metallic, roughness, alpha.
    normal_map: [S, S, 3] uint8, in the tangent space of the tangents; None if not asked for.
    occlusion: [S, S] uint8, 255 where all light arrives; None if not asked for.
    facts: the mesh's, charts, utilisation (share of the atlas that charts cover), stretch where the unwrapper tells,
    texels_far (texels without a voxel within one voxel: they have the nearest voxel's values), translucent (share of
    covered texels with an alpha below 0.9).
    """

    levels: tuple[Unwrapped, ...]
    maps: np.ndarray
    facts: dict
    normal_map: np.ndarray | None = None
    occlusion: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """How a raw mesh becomes a file."""

    faces: int = 500_000
    texture_size: int = 2048
    alpha_mode: AlphaMode = AlphaMode.OPAQUE
    double_sided: bool = True
    image_format: str = "png"
    shells: str = "outer"  # one of SHELLS, see process_mesh
    normal_map: bool = False
    occlusion: bool = False
    lods: tuple[int, ...] = ()  # face counts of coarser levels, descending
    vertex_colors: bool = False  # in place of textures
    lods_in_one_file: bool = False  # by MSFT_lod, in place of a file for each level
    wall: float = 0.0  # world units: how thick open sheets become at least if shells are solid
    max_error: Length | None = None  # how far simplifying may move the surface; fewer faces where it allows that
    size: TrueSize | None = None  # in reality; None: a unit of the world is a metre where the format has units
    flat_base: float = 0.0  # share of the height below which everything is moved up, to a plane to stand on
    quads: int = 0  # about so many quads in place of `faces` triangles; 0: none
    seams: str = "usual"  # one of SEAMS, see bake_texture
    cavities: str = "fill"  # one of CAVITIES, see process_mesh
    hollow: Hollowing | None = None  # how the solid is hollowed out, which flat_base would make thinner

    def __post_init__(self) -> None:
        check_levels([self.faces, *self.lods])
        check_quads(self.quads, self.lods, self.max_error)
        check_texture_size(self.texture_size)
        check_flat_base(self.flat_base)
        check_seams(self.seams)
        if self.wall > CUBE / 2:
            raise SettingsError(
                f"The wall is {self.wall:g} thick; choose from 0 to {CUBE / 2:g}, half of the cube that objects are "
                "made in."
            )
        if self.max_error:
            self.max_error.check_error(CUBE)
        if self.hollow:
            self.hollow.check_in(CUBE)
        if self.hollow and self.flat_base:
            raise SettingsError("A flat base would thin the floor of a hollow object: make it part of the hollowing.")
        if self.image_format == "webp" and self.texture_size > MAX_WEBP:
            raise SettingsError(
                f"WebP holds at most {MAX_WEBP} pixels a side, got a texture size of {self.texture_size}; choose png."
            )

    def baked_size(self, textured: bool) -> int:
        """Pixels a side of the textures; 0 where none are baked. textured: whether there are voxels to bake."""
        return self.texture_size if textured and not self.vertex_colors else 0


def check_texture_size(size: int) -> None:
    """Raises SettingsError if no texture can be made in that many pixels along a side."""
    least, most = TEXTURE_SIZES
    if not least <= size <= most:
        raise SettingsError(f"The texture size must lie in {least}-{most}, got {size}.")


def check_seams(seams: str) -> None:
    """Raises SettingsError for an unknown name."""
    if seams not in SEAMS:
        raise SettingsError(unknown("seams", seams, SEAMS))


def check_quads(quads: int, lods: Sequence[int] = (), max_error: Length | None = None) -> None:
    """Raises SettingsError for a number of quads that is none, and for what cannot be had with quads."""
    if quads and not MIN_QUADS <= quads <= MAX_QUADS:
        raise SettingsError(f"From {MIN_QUADS} to {MAX_QUADS:,} quads can be asked for, got {quads}; 0 makes none.")
    if quads and lods:
        raise SettingsError("Levels of detail are made of triangles: leave them out, or the quads.")
    if quads and max_error:
        raise SettingsError("A max_error would have no effect on quads: leave one of the two out.")


def check_levels(counts: Sequence[int]) -> None:
    if min(counts) < MIN_FACES:
        raise SettingsError(f"A mesh needs at least {MIN_FACES} faces, got {min(counts)}.")
    if len(counts) - 1 > MAX_LEVELS:
        raise SettingsError(f"There can be {MAX_LEVELS} levels of detail, got {len(counts) - 1:,}; 2 to 4 are usual.")
    if any(after >= before for before, after in pairwise(counts)):
        raise SettingsError(
            f"Levels of detail must have fewer faces than the mesh and than each other, in turn; got "
            f"{', '.join(f'{count:,}' for count in counts[1:])} below {counts[0]:,}."
        )


@dataclass(frozen=True)
class Generation:
    """Everything that sampling and decoding made, before post-processing."""

    structure: Voxels  # on the grid of the first shape pass
    shape: Latent
    mesh: Mesh
    texture: Latent | None
    voxels: PBRVoxels | None
