"""READ FIRST. The pipeline: picture -> condition -> structure -> shape -> texture -> mesh and voxels -> GLB.

Each stage is a function from dataclass to dataclass; `generate` calls them in a row. All take a Runtime
(device, precision, backends, progress) and, where they need networks, the Models of a checkpoint.

Frames: a grid of R voxels a side fills the cube -0.5 .. 0.5, Z up; voxel (i, j, k) is [i, i + 1] / R - 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from . import geometry, sparse
from .backends import Backend, Backends
from .errors import BackendError, CheckpointError, EmptyResultError, MeshError, SettingsError
from .export import AlphaMode, Geometry, Material, write_glb
from .geometry.bake import (
    Original,
    Texels,
    bake_normals,
    bake_occlusion,
    bake_voxels,
    sample_voxels,
    vertex_tangents,
)
from .geometry.clean import AFTER_SIMPLIFYING, Cleaned, CleanSettings, clean
from .geometry.dual_grid import dual_grid_to_mesh
from .geometry.repair import vertex_normals
from .geometry.report import measure
from .geometry.shells import outer_shell
from .geometry.solid import project, solid
from .geometry.surface import ABSENT
from .image import to_pixels
from .models.flow import Context, FlowTransformer
from .render import Camera, Subject, turntable
from .runtime import Runtime
from .sampling import Spread, dense_spread, euler, guided, packed_spread
from .sparse import SparseTensor, Subdivision, Voxels
from .spec import (
    IMAGE_ENCODER,
    MAX_TOKENS,
    SHAPE_DECODER,
    STRUCTURE_DECODER,
    STRUCTURE_FLOW,
    TEXTURE_DECODER,
    Normalisation,
    Pass,
    Route,
    SamplerSettings,
)
from .weights import Models

# PBR channels of a voxel
BASE_COLOR, METALLIC, ROUGHNESS, ALPHA = slice(0, 3), 3, 4, 5
SHELLS = ("surface", "outer", "solid")  # what process_mesh can make of inner and open surfaces
_OCCLUSION_SIDE, _OCCLUSION_RAYS = 1024, 32
_LOWER = "Choose a lower type, or fewer max tokens."
_CASCADE_STEP = 8  # latent voxels by which a cascade lowers its grid when there are too many tokens


def table(choices: dict[str, str] | None = None, more: Mapping[str, Sequence[Backend]] | None = None) -> Backends:
    """The backend table of the whole pipeline.

    Args:
        choices: as for Backends.
        more: further rows by operation, which run only where they are chosen.
    """
    first, more = geometry.FIRST, more or {}
    operations = (*sparse.OPERATIONS, *geometry.OPERATIONS)
    rows = {op.name: (*first.get(op.name, ()), *op.rows, *more.get(op.name, ())) for op in operations}
    return Backends((replace(op, rows=rows[op.name]) for op in operations), choices)


@dataclass(frozen=True)
class Condition:
    """Image tokens by image scale: {1: [views, L, C], 2: [views, L', C]}. The negative condition is all zeros."""

    tokens: dict[int, torch.Tensor]

    def count(self, scale: int) -> int:
        """Tokens at an image scale, all views together. Raises SettingsError if there are none."""
        if scale not in self.tokens:
            have = ", ".join(map(str, self.tokens))
            raise SettingsError(f"The condition holds the image scales {have}; this pass needs {scale}.")
        return self.tokens[scale][..., 0].numel()

    def to(self, device: torch.device | str) -> Condition:
        return Condition({scale: tokens.to(device) for scale, tokens in self.tokens.items()})


@dataclass(frozen=True)
class Structure:
    """Which voxels of the coarse grid are occupied: [R, R, R] bool.

    random is the state of the run's random stream after this stage; the next stage continues it.
    """

    occupied: torch.Tensor
    random: torch.Tensor

    def to(self, device: torch.device | str) -> Structure:
        return Structure(self.occupied.to(device), self.random)

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

    def to(self, device: torch.device | str) -> Latent:
        return Latent(self.sparse.to(device), self.resolution, self.random)


@dataclass(frozen=True)
class Mesh:
    """Triangles in the world frame: vertices [V, 3] fp32, faces [F, 3] int32.

    facts: what process_mesh changed and measured; empty for a raw mesh.
    attrs: [V, 6] fp32, 0-1, as PBRVoxels: vertex colours; None if it has none.
    uvs: [V, 2] fp32, v downwards: those of a mesh that comes from elsewhere; None if it has none.
    lods: the same, coarser and coarser.
    """

    vertices: torch.Tensor
    faces: torch.Tensor
    facts: dict = field(default_factory=dict)
    attrs: torch.Tensor | None = None
    uvs: torch.Tensor | None = None
    lods: tuple[Mesh, ...] = ()

    @property
    def levels(self) -> tuple[Mesh, ...]:
        """The mesh and its coarser levels."""
        return (self, *self.lods)

    def to(self, device: torch.device | str) -> Mesh:
        attrs, uvs = (None if each is None else each.to(device) for each in (self.attrs, self.uvs))
        lods = tuple(level.to(device) for level in self.lods)
        return Mesh(self.vertices.to(device), self.faces.to(device), self.facts, attrs, uvs, lods)


@dataclass(frozen=True)
class PBRVoxels:
    """Material voxels: feats [T, 6] fp32 = base colour RGB, metallic, roughness, alpha, meant for 0-1, not clamped."""

    sparse: SparseTensor
    resolution: int

    def to(self, device: torch.device | str) -> PBRVoxels:
        return PBRVoxels(self.sparse.to(device), self.resolution)


@dataclass(frozen=True)
class Unwrapped:
    """A mesh whose vertices have normals [V, 3] unit, uvs [V, 2] in 0-1, v downwards, and, where there is a normal map,
    tangents [V, 4] (see geometry.bake)."""

    mesh: Mesh
    normals: torch.Tensor
    uvs: torch.Tensor
    tangents: torch.Tensor | None = None


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


@dataclass(frozen=True)
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

    def __post_init__(self) -> None:
        _check_levels([self.faces, *self.lods])
        if not 16 <= self.texture_size <= 16384:
            raise SettingsError(f"The texture size must lie in 16-16384, got {self.texture_size}.")


def encode_images(runtime: Runtime, models: Models, images: Sequence[Image.Image], scales: Sequence[int]) -> Condition:
    """Prepared pictures (views of one object) -> tokens at each image scale."""
    with runtime.stage("encode", len(scales), "Give fewer pictures."):
        largest = models.spec.image_size * max(scales)
        patches = (largest // models.config(IMAGE_ENCODER)["args"].get("patch_size", 16)) ** 2
        tokens = {}
        with runtime.use(models, IMAGE_ENCODER, patches) as encoder:
            for done, scale in enumerate(scales, 1):
                pixels = to_pixels(images, models.spec.image_size * scale).to(runtime.device)
                tokens[scale] = torch.cat([encoder(one[None]) for one in pixels])
                runtime.step("encode", done, len(scales))
        runtime.check_finite("image condition", *tokens.values())
        return Condition(tokens)


def sample_structure(
    runtime: Runtime, models: Models, condition: Condition, seed: int, settings: SamplerSettings | None = None
) -> Structure:
    """Sample the coarse structure. settings: the checkpoint's if not given.

    Raises:
        EmptyResultError: no voxel is occupied.
    """
    settings = settings or models.spec.structure_sampler
    random = torch.Generator().manual_seed(seed)
    with runtime.stage("structure", settings.steps, "Choose a device with more memory, or the CPU."):
        z = _structure_latent(runtime, models, condition, random, settings)
        with runtime.use(models, STRUCTURE_DECODER, z[0, 0].numel()) as decoder:
            logits = decoder(z)
        runtime.check_finite("structure", logits)
    occupied = logits[0, 0] > 0
    if not occupied.any():
        raise EmptyResultError(
            "The structure is empty: no voxel is occupied. Try another seed, and check that the picture shows the "
            "whole object on a transparent background."
        )
    return Structure(occupied, random.get_state())


def _structure_latent(runtime, models, condition: Condition, random: torch.Generator, settings) -> torch.Tensor:
    positions = models.config(STRUCTURE_FLOW)["args"]["resolution"] ** 3
    with runtime.use(models, STRUCTURE_FLOW, positions, condition.count(1)) as flow:
        noise = torch.randn(1, flow.in_channels, *(flow.resolution,) * 3, generator=random).to(runtime.device)

        def velocity(x: torch.Tensor, t: torch.Tensor, context: Context) -> torch.Tensor:
            return flow(x, t, context, runtime.backends)

        return _sample(runtime, "structure", flow, velocity, condition.tokens[1], noise, settings, dense_spread)


def sample_shape(
    runtime: Runtime,
    models: Models,
    condition: Condition,
    structure: Structure,
    route: Route,
    settings: SamplerSettings | None = None,
    max_tokens: int = MAX_TOKENS,
) -> Latent:
    """Sample the shape latent, coarse to fine if the route is a cascade.

    Args:
        settings: the checkpoint's if not given.
        max_tokens: a cascade lowers its resolution, down to that of its model, until it has fewer tokens.

    Raises:
        EmptyResultError: the coarse shape decodes to nothing.
    """
    settings = settings or models.spec.shape_sampler
    random = torch.Generator()
    random.set_state(structure.random)
    latent, resolution = None, 0
    for number, one_pass in enumerate(route.shape):
        grid = _grid(models, one_pass)
        if latent is None:
            voxels = structure.voxels(grid)
        else:
            voxels, grid = _finer_voxels(runtime, models, latent, resolution, one_pass, max_tokens)
        stage = "shape" if number == 0 else f"shape {grid * _upscale(models)}"
        latent = _sample_shape_pass(runtime, models, stage, condition, one_pass, voxels, random, settings)
        resolution = grid * _upscale(models)
    return Latent(latent, resolution, random.get_state())


def _sample_shape_pass(runtime, models, stage, condition, one_pass: Pass, voxels, random, settings) -> SparseTensor:
    seen = condition.count(one_pass.image_scale)
    with (
        runtime.stage(stage, settings.steps, _LOWER),
        runtime.use(models, one_pass.model, len(voxels), seen) as flow,
    ):
        noise = torch.randn(len(voxels), flow.in_channels, generator=random).to(runtime.device)
        normalised = _sample_latent(
            runtime, stage, flow, condition.tokens[one_pass.image_scale], voxels, noise, settings
        )
        return SparseTensor(voxels, _denormalise(normalised, models.spec.shape_normalisation))


def _finer_voxels(runtime, models, latent, resolution, one_pass: Pass, max_tokens) -> tuple[Voxels, int]:
    """Decode the coarse shape's voxels and quantise them to the next pass's grid."""
    tokens = len(latent.voxels)
    with runtime.stage("upsample", _levels(models), _LOWER), runtime.use(models, SHAPE_DECODER, tokens) as decoder:

        def on_level(level: int) -> None:
            runtime.step("upsample", level, decoder.levels)

        fine = decoder.upsample(latent, decoder.levels, runtime.backends, on_level)
        if len(fine) == 0:
            raise EmptyResultError("The coarse shape decodes to nothing. Try another seed.")
        smallest, grid = models.config(one_pass.model)["args"]["resolution"], _grid(models, one_pass)
        while True:
            coords = ((fine.xyz + 0.5) / resolution * grid).int().unique(dim=0)
            if len(coords) < max_tokens or grid <= smallest:
                return Voxels.single(coords), grid
            grid = max(smallest, grid - _CASCADE_STEP)


def sample_texture(
    runtime: Runtime,
    models: Models,
    condition: Condition,
    shape: Latent,
    route: Route,
    settings: SamplerSettings | None = None,
) -> Latent:
    """Sample the texture latent on the shape's voxels, told the shape latent.

    settings: the checkpoint's if not given.
    """
    settings = settings or models.spec.texture_sampler
    random = torch.Generator()
    random.set_state(shape.random)
    seen = condition.count(route.texture.image_scale)
    with (
        runtime.stage("texture", settings.steps, _LOWER),
        runtime.use(models, route.texture.model, len(shape.sparse.voxels), seen) as flow,
    ):
        shape_feats = _normalise(shape.sparse.feats, models.spec.shape_normalisation)
        channels = flow.in_channels - shape_feats.shape[1]
        noise = torch.randn(len(shape_feats), channels, generator=random).to(runtime.device)
        tokens = condition.tokens[route.texture.image_scale]
        normalised = _sample_latent(runtime, "texture", flow, tokens, shape.sparse.voxels, noise, settings, shape_feats)
        feats = _denormalise(normalised, models.spec.texture_normalisation)
    return Latent(shape.sparse.replace(feats), shape.resolution, random.get_state())


def _sample_latent(runtime, stage, flow, tokens, voxels: Voxels, noise, settings, concat=None) -> torch.Tensor:
    def velocity(x: torch.Tensor, t: torch.Tensor, context: Context) -> torch.Tensor:
        return flow(SparseTensor(voxels, x), t, context, concat, runtime.backends)

    spread = packed_spread(voxels.lengths)
    return _sample(
        runtime, stage, flow, velocity, tokens, noise, settings, spread, lambda x_0: SparseTensor(voxels, x_0)
    )


def _sample(
    runtime: Runtime,
    stage: str,
    flow: FlowTransformer,
    velocity: Callable[[torch.Tensor, torch.Tensor, Context], torch.Tensor],
    tokens: torch.Tensor,
    noise: torch.Tensor,
    settings: SamplerSettings,
    spread: Spread,
    preview: Callable[[torch.Tensor], object] = lambda x_0: x_0,
) -> torch.Tensor:
    """Run a sampler. Several views: each step takes the mean of their velocities (MultiDiffusion, arXiv 2302.08113)."""
    views = [flow.context(view[None].to(runtime.device)) for view in tokens]
    nothing = flow.zero_context(runtime.device)

    def at(t: float) -> torch.Tensor:
        return torch.tensor([1000 * t], dtype=torch.float32, device=runtime.device)

    def conditional(x: torch.Tensor, t: float) -> torch.Tensor:
        total = velocity(x, at(t), views[0])
        for view in views[1:]:
            total = total + velocity(x, at(t), view)
        return total / len(views) if len(views) > 1 else total

    def unconditional(x: torch.Tensor, t: float) -> torch.Tensor:
        return velocity(x, at(t), nothing)

    steps = euler(guided(conditional, unconditional, settings, spread), noise, settings)
    for done, sample in enumerate(steps, 1):
        runtime.step(stage, done, settings.steps, preview(sample.x_0))
    runtime.check_finite(f"{stage} latent", sample.x)
    return sample.x


def decode_shape(runtime: Runtime, models: Models, shape: Latent) -> tuple[Mesh, list[Subdivision]]:
    """Shape latent -> raw mesh (one vertex per fine voxel, holes open) and the subdivisions that led to its voxels.

    Raises:
        EmptyResultError: no voxel is left.
    """
    tokens = len(shape.sparse.voxels)
    with (
        runtime.stage("decode shape", _levels(models) + 1, _LOWER),
        runtime.use(models, SHAPE_DECODER, tokens) as decoder,
    ):
        fields, subdivisions = decoder(
            shape.sparse, None, runtime.backends, lambda level: runtime.step("decode shape", level, decoder.levels + 1)
        )
        if len(fields.voxels) == 0:
            raise EmptyResultError("The shape decodes to nothing. Try another seed.")
        runtime.check_finite("decoded shape", fields.feats)
        offsets, crossed, split = decoder.dual_grid(fields.feats)
        return Mesh(*dual_grid_to_mesh(fields.voxels, offsets, crossed, shape.resolution, split)), subdivisions


def decode_texture(runtime: Runtime, models: Models, texture: Latent, subdivisions: Sequence[Subdivision]) -> PBRVoxels:
    """Texture latent -> PBR voxels on the shape's fine voxels."""
    tokens = len(texture.sparse.voxels)
    with (
        runtime.stage("decode texture", _levels(models) + 1, _LOWER),
        runtime.use(models, TEXTURE_DECODER, tokens) as decoder,
    ):
        fields, _ = decoder(
            texture.sparse,
            subdivisions,
            runtime.backends,
            lambda level: runtime.step("decode texture", level, decoder.levels + 1),
        )
        runtime.check_finite("decoded texture", fields.feats)
        return PBRVoxels(fields.replace(fields.feats * 0.5 + 0.5), texture.resolution)


def process_mesh(
    runtime: Runtime,
    mesh: Mesh,
    target_faces: int,
    max_hole_perimeter: float = 3e-2,
    shells: str = "outer",
    resolution: int = 512,
    lods: Sequence[int] = (),
) -> Mesh:
    """Raw mesh -> cleaned, shells as asked, at most target_faces faces, cleaned again; on the CPU. Colours and UVs that
    it has stay behind.

    Args:
        max_hole_perimeter: world units; holes with a shorter rim are filled, 0 fills nothing.
        shells: "surface" keeps every face that is not broken, open sheets and inner shells too; "outer" drops what
            cannot be reached from outside (nothing, with a warning, where Warp is absent); "solid" remeshes to one
            closed manifold surface and snaps it to the raw one.
        resolution: cells along the longest side in which "outer" and "solid" see; narrower gaps count as closed.
        lods: face counts of coarser levels of detail, descending from below target_faces.

    Raises:
        EmptyResultError: the mesh has no faces. BackendError: "solid" without Warp.
        SettingsError: unknown shells, fewer than 4 faces, or levels that do not descend.
    """
    if shells not in SHELLS:
        raise SettingsError(f"Unknown shells {shells!r}; choose one of {', '.join(SHELLS)}.")
    _check_levels([target_faces, *lods])
    if len(mesh.faces) == 0:
        raise EmptyResultError(
            f"The mesh has no faces: no crossed edge has all four voxels round it ({len(mesh.vertices):,} voxels). "
            "Try another seed or type."
        )
    device = _geometry_device(runtime)
    with runtime.stage("process mesh", 4, _LOWER):
        cleaned = clean(
            mesh.vertices.to(device), mesh.faces.to(device), CleanSettings(max_hole_perimeter=max_hole_perimeter)
        )
        vertices, faces = cleaned.vertices, cleaned.faces
        if len(faces) == 0:
            raise EmptyResultError("Every face of the mesh has zero area. Try another seed or type.")
        facts: dict = {"cleaned": cleaned.changes}
        warnings = []
        if ABSENT and shells == "outer":
            warnings, shells = [f"Inner shells stay: {ABSENT}"], "surface"
        runtime.step("process mesh", 1, 4)
        if shells != "surface":
            vertices, faces, facts["shells"] = _shells(vertices, faces, shells, resolution)
        runtime.step("process mesh", 2, 4)
        # fast-simplification would open what solid closed
        closed = {"cuda": "warp", "cpu": "warp-cpu"}[device.type] if shells == "solid" else None
        levels = [_reduced(runtime, Cleaned(vertices, faces, {}), target_faces, closed)]
        for goal in lods:
            if goal < len(levels[-1].faces):
                levels.append(_reduced(runtime, levels[-1], goal, closed))
            else:
                warnings.append(f"No level of {goal:,} faces: the one before it has no more.")
        runtime.step("process mesh", 3, 4)
        meshes = []
        for level in levels:
            report = measure(level.vertices, level.faces)
            shown = {"cleaned_again": level.changes, "mesh": report.as_dict(), "warnings": report.warnings()}
            meshes.append(Mesh(level.vertices.cpu(), level.faces.cpu(), shown))
        first, *rest = meshes
        facts |= {**first.facts, "warnings": warnings + first.facts["warnings"]}
        if rest:
            facts["lods"] = [level.facts for level in rest]
        runtime.step("process mesh", 4, 4)
        return replace(first, facts=facts, lods=tuple(rest))


def _check_levels(counts: Sequence[int]) -> None:
    if min(counts) < 4:
        raise SettingsError(f"A mesh needs at least 4 faces, got {min(counts)}.")
    if any(after >= before for before, after in pairwise(counts)):
        raise SettingsError(
            f"Levels of detail must have fewer faces than the mesh and than each other, in turn; got "
            f"{', '.join(f'{count:,}' for count in counts[1:])} below {counts[0]:,}."
        )


def _reduced(runtime: Runtime, mesh: Cleaned, target: int, row: str | None) -> Cleaned:
    """At most target faces, clean, on the mesh's device. row: of the backend table, if not the first that works."""
    device = mesh.vertices.device
    goal = target - target // 2000  # a few faces over it would cost a second round
    while len(mesh.faces) > target and goal > 0:
        simplify = runtime.backends.pick(geometry.SIMPLIFY, device, row)
        before = len(mesh.faces)
        vertices, faces = simplify(mesh.vertices, mesh.faces, goal, _ticker(runtime, "process mesh", 2, 4))
        mesh = clean(vertices.to(device), faces.to(device), AFTER_SIMPLIFYING)
        if len(mesh.faces) >= before:  # as far as it goes
            break
        goal -= 2 * max(len(mesh.faces) - target, 1)  # parting what touches takes some faces more
    return mesh


def _shells(vertices: torch.Tensor, faces: torch.Tensor, shells: str, resolution: int):
    """As process_mesh says. Returns vertices, faces and the report."""
    if ABSENT:
        raise BackendError(f"A solid mesh needs Warp: {ABSENT}")
    if shells == "outer":
        return outer_shell(vertices, faces, resolution)
    closed, triangles, report = solid(vertices, faces, resolution)
    return project(closed, triangles, vertices, faces, limit=0.5 * report["cell"]), triangles, report


def _geometry_device(runtime: Runtime) -> torch.device:
    """Where meshes are worked on: fp64 and Warp are needed, which MPS lacks."""
    return torch.device("cpu") if runtime.device.type == "mps" else runtime.device


def _ticker(runtime: Runtime, stage: str, step: int, total: int) -> Callable[[], None]:
    """Repeats the current progress while a process works, so that a callback can interrupt it."""
    return lambda: runtime.step(stage, step, total)


def color_vertices(runtime: Runtime, mesh: Mesh, voxels: PBRVoxels, original: Mesh | None = None) -> Mesh:
    """The mesh and its levels with the voxels' values at their vertices, in place of a texture; on the CPU.

    original: as for bake_texture. facts gains vertices_far (as texels_far of TexturedMesh).
    """
    device = _geometry_device(runtime)
    with runtime.stage("color vertices", len(mesh.levels), "Ask for fewer faces."):
        trilinear, grid = runtime.backends.pick(sparse.TRILINEAR, device), voxels.sparse.to(device)
        full, far, levels = _original(original, device) if original else None, 0, []
        for level in mesh.levels:
            points = level.vertices.to(device)
            attrs, alone = sample_voxels(points, grid.voxels, grid.feats, voxels.resolution, trilinear, full)
            far += alone
            levels.append(replace(level, attrs=attrs.cpu(), lods=()))
            runtime.step("color vertices", len(levels), len(mesh.levels))
    first, *rest = levels
    return replace(first, facts={**mesh.facts, "vertices_far": far}, lods=tuple(rest)).to("cpu")


def bake_texture(
    runtime: Runtime,
    mesh: Mesh,
    voxels: PBRVoxels,
    size: int,
    padding: int = 4,
    original: Mesh | None = None,
    normal_map: bool = False,
    occlusion: bool = False,
    keep_uvs: bool = False,
) -> TexturedMesh:
    """Unwrap a processed mesh and bake the voxels into size x size maps.

    Levels of detail have charts of their own in the same maps, each with half the texels a side of the one before.

    Args:
        padding: texels between charts.
        original: the raw mesh of the voxels. Texels look up where it is nearest; without it, or without Warp, where
            the processed mesh is.
        normal_map, occlusion: bake these as well, from the original (from the mesh itself without one).
        keep_uvs: bake into the UVs that the mesh has.

    Raises:
        SettingsError: keep_uvs, and the mesh has no UVs, or levels of detail.
        MeshError: keep_uvs, and the UVs are not all in 0-1.
    """
    device = _geometry_device(runtime)
    with runtime.stage("unwrap", 1, "Ask for fewer faces."):
        levels = [level.to(device) for level in mesh.levels]
        source, faces, uvs, facts = _kept_uvs(mesh.to(device)) if keep_uvs else _unwrap(runtime, levels, size, padding)
        vertices = torch.cat([level.vertices for level in levels])[source]
        normals = torch.cat([_smooth_normals(level) for level in levels])[source]
        runtime.step("unwrap", 1, 1)
    tangents = relief = shade = None
    with runtime.stage("bake", 3, "Ask for a smaller texture."):
        pick = runtime.backends.pick
        rasterise, trilinear = pick(geometry.RASTER, device), pick(sparse.TRILINEAR, device)
        nearest = pick(geometry.NEAREST, device)
        grid = voxels.sparse.to(device)
        wanted = original or (mesh if normal_map or occlusion else None)
        full = _original(wanted, device) if wanted else None
        texels = Texels.of(uvs, faces, size, rasterise, nearest)
        at = vertices, faces
        values, far = bake_voxels(
            *(texels, *at, grid.voxels, grid.feats, voxels.resolution, trilinear), original=full if original else None
        )
        translucent = (values[:, ALPHA] < 0.9).float().mean()
        maps = texels.image(_rounded(values)).cpu().numpy()
        runtime.step("bake", 1, 3)
        if (normal_map or occlusion) and full is None:
            raise BackendError(f"Normal maps and occlusion need Warp: {ABSENT}")
        if normal_map:
            tangents = vertex_tangents(*at, uvs, normals)
            relief = _bytes(bake_normals(texels, *at, normals, tangents, full))
        runtime.step("bake", 2, 3)
        if occlusion:  # which is smooth, and dear: its rays would take minutes at full size on a CPU
            side = min(size, _OCCLUSION_SIDE)
            coarse = texels if side == size else Texels.of(uvs, faces, side, rasterise, nearest)
            shade = bake_occlusion(coarse, *at, normals, full, rays=_OCCLUSION_RAYS)
            shade = _bytes(F.interpolate(shade[None, None], (size, size), mode="bilinear")[0, 0])
        runtime.step("bake", 3, 3)
    if keep_uvs:
        facts |= _kept_facts(mesh, uvs, faces, texels)
    facts = {**mesh.facts, **facts, "texels_far": far, "translucent": round(float(translucent), 4)}
    counts = [len(level.faces) for level in levels]
    return TexturedMesh(_levels_of(faces, counts, vertices, normals, uvs, tangents), maps, facts, relief, shade)


def _unwrap(runtime: Runtime, levels: Sequence[Mesh], size: int, padding: int) -> tuple:
    """All levels in one atlas; returns as the backends do, the sources being rows of the levels' vertices in turn."""
    device, moved, faces, count = levels[0].vertices.device, [], [], 0
    for number, level in enumerate(levels):
        # smaller, for fewer texels; and apart, for xatlas takes corners in one place for the same
        moved.append(level.vertices * 0.5**number + 2.0 * number)
        faces.append(level.faces + count)
        count += len(level.vertices)
    unwrap, tick = runtime.backends.pick(geometry.UNWRAP, device), _ticker(runtime, "unwrap", 0, 1)
    source, faces, uvs, facts = unwrap(torch.cat(moved), torch.cat(faces), size, padding, tick)
    return source.to(device), faces.to(device), uvs.to(device), facts


def _kept_uvs(mesh: Mesh) -> tuple:
    """The UVs that a mesh has, as _unwrap returns them."""
    if mesh.uvs is None:
        raise SettingsError("The mesh has no UVs to keep (processing drops them). Bake without keeping UVs.")
    if mesh.lods:
        raise SettingsError("Levels of detail have no UVs to keep. Process the mesh without levels.")
    low, high = mesh.uvs.aminmax()
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # so NaN fails
        raise MeshError(
            f"The mesh's UVs reach from {float(low):.4g} to {float(high):.4g}; only those in 0-1 can be baked into one "
            "texture. Bake without keeping UVs, or unwrap it into one tile."
        )
    return torch.arange(len(mesh.vertices), device=mesh.faces.device), mesh.faces, mesh.uvs, {}


def _kept_facts(mesh: Mesh, uvs: torch.Tensor, faces: torch.Tensor, texels: Texels) -> dict:
    """What an unwrapper would have said: utilisation, and a warning where faces lie on each other."""
    corners = uvs.double()[faces.long()]
    one, two = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = float((one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).abs().sum() / 2)
    covered = float(texels.covered.float().mean())
    warnings = list(mesh.facts.get("warnings", ()))
    if area > 1.05 * covered:
        warnings.append(
            f"The UVs overlap: faces of {area:.2f} textures cover {covered:.2f}. The last one's colour stays."
        )
    return {"utilisation": covered, "warnings": warnings}


def _smooth_normals(mesh: Mesh) -> torch.Tensor:
    """[V, 3] unit normals; vertices in one place, which UVs may have parted, share theirs if the mesh has UVs."""
    if mesh.uvs is None:
        return vertex_normals(mesh.vertices, mesh.faces)
    places, place = mesh.vertices.unique(dim=0, return_inverse=True)
    return vertex_normals(places, place[mesh.faces.long()])[place]


def _levels_of(faces, counts: Sequence[int], vertices, normals, uvs, tangents) -> tuple[Unwrapped, ...]:
    """Parts the faces and what their vertices have by level, onto the CPU."""
    levels = []
    for part in faces.split(list(counts)):
        used, own = part.unique(return_inverse=True)
        at, normal, uv = (each[used].cpu() for each in (vertices, normals, uvs))
        levels.append(
            Unwrapped(Mesh(at, own.int().cpu()), normal, uv, None if tangents is None else tangents[used].cpu())
        )
    return tuple(levels)


def _original(mesh: Mesh, device: torch.device) -> Original | None:
    """A mesh ready to bake from, or None without Warp."""
    return None if ABSENT else Original(mesh.vertices.to(device), mesh.faces.to(device))


def export_glb(
    runtime: Runtime, result: Mesh | TexturedMesh, path: Path, settings: ExportSettings, extras: dict
) -> None:
    """Write a mesh, textured, with vertex colours or plain, as GLB. extras goes into asset.extras."""
    with runtime.stage("export", 1, "Ask for fewer faces or a smaller texture."):
        material = Material(
            alpha_mode=settings.alpha_mode, double_sided=settings.double_sided, image_format=settings.image_format
        )
        if isinstance(result, Mesh):
            if result.attrs is not None:
                metallic, roughness = (float(result.attrs[:, channel].mean()) for channel in (METALLIC, ROUGHNESS))
                material = replace(material, metallic=metallic, roughness=roughness)
            levels = [_coloured(level.to("cpu")) for level in result.levels]
        else:
            material = replace(
                material,
                base_color=result.maps[:, :, [0, 1, 2, ALPHA]],
                metallic=result.maps[:, :, METALLIC],
                roughness=result.maps[:, :, ROUGHNESS],
                occlusion=result.occlusion,
                normal=result.normal_map,
            )
            levels = [_textured(level) for level in result.levels]
        write_glb(path, levels, material, extras)
        runtime.step("export", 1, 1)


def _coloured(mesh: Mesh) -> Geometry:
    """A mesh for the file, with its vertex colours if it has any."""
    normals = vertex_normals(mesh.vertices, mesh.faces)
    colors = None if mesh.attrs is None else _bytes(mesh.attrs[:, [0, 1, 2, ALPHA]])
    return Geometry(mesh.vertices.numpy(), mesh.faces.numpy(), normals.numpy(), colors=colors)


def _textured(level: Unwrapped) -> Geometry:
    """An unwrapped mesh for the file."""
    tangents = None if level.tangents is None else level.tangents.numpy()
    mesh = level.mesh
    return Geometry(mesh.vertices.numpy(), mesh.faces.numpy(), level.normals.numpy(), level.uvs.numpy(), tangents)


def draw(
    runtime: Runtime,
    result: Mesh | TexturedMesh,
    frames: int = 4,
    size: int = 512,
    mode: str | None = None,
    camera: Camera | None = None,
    alpha_mode: AlphaMode = AlphaMode.OPAQUE,
) -> np.ndarray:
    """Pictures of a result on a turntable: [frames, size, size, 4] uint8, sRGB and straight alpha.

    Args:
        frames, size, mode, camera: as for render.turntable; without a mode "pbr" if there are colours, else "shaded".
    """
    device = _geometry_device(runtime)
    with runtime.stage("draw", 1, "Ask for smaller pictures."):
        if isinstance(result, Mesh):
            mesh = result.to(device)
            used, faces = mesh.faces.unique(return_inverse=True)  # raw meshes have vertices without faces
            colours = None if mesh.attrs is None else mesh.attrs[used]
            subject = Subject(mesh.vertices[used], faces.int(), colours=colours)
        else:
            first = result.levels[0]
            mesh = first.mesh.to(device)
            subject = Subject(
                *(mesh.vertices, mesh.faces, first.normals.to(device), first.uvs.to(device), result.maps),
                alpha_mode=alpha_mode.value,
            )
        coloured = subject.maps is not None or subject.colours is not None
        pictures = turntable(
            subject, frames, size, mode or ("pbr" if coloured else "shaded"), camera=camera or Camera(0.0)
        )
        runtime.step("draw", 1, 1)
    return pictures


def _rounded(values: torch.Tensor) -> torch.Tensor:
    """0-1 -> 0-255 uint8, on their device: a quarter of what there is to move."""
    return (values * 255).round_().clamp_(0, 255).to(torch.uint8)


def _bytes(values: torch.Tensor) -> np.ndarray:
    return _rounded(values).cpu().numpy()


@dataclass(frozen=True)
class Generation:
    """Everything that sampling and decoding made, before post-processing."""

    structure: Voxels  # on the grid of the first shape pass
    shape: Latent
    mesh: Mesh
    texture: Latent | None
    voxels: PBRVoxels | None


def generate(
    runtime: Runtime,
    models: Models,
    images: Sequence[Image.Image],
    route: Route,
    seed: int,
    texture: bool = True,
    max_tokens: int = MAX_TOKENS,
) -> Generation:
    """From prepared pictures (views of one object) to the raw mesh and its PBR voxels, with the checkpoint's samplers.

    Args:
        texture: False stops after the shape: no texture latent, no voxels.
    """
    models.checkpoint.require(route, texture)
    condition = encode_images(runtime, models, images, route.image_scales(texture))
    structure = sample_structure(runtime, models, condition, seed)
    shape = sample_shape(runtime, models, condition, structure, route, max_tokens=max_tokens)
    texture_latent = sample_texture(runtime, models, condition, shape, route) if texture else None
    mesh, subdivisions = decode_shape(runtime, models, shape)
    voxels = decode_texture(runtime, models, texture_latent, subdivisions) if texture else None
    return Generation(structure.voxels(_grid(models, route.shape[0])), shape, mesh, texture_latent, voxels)


def _grid(models: Models, one_pass: Pass) -> int:
    """Latent voxels along a side."""
    return round(models.config(one_pass.model)["args"]["resolution"] * one_pass.grid_scale)


def _levels(models: Models) -> int:
    """Subdivisions between a latent voxel and the finest ones."""
    return len(models.config(SHAPE_DECODER)["args"]["model_channels"]) - 1


def _upscale(models: Models) -> int:
    """Fine voxels per latent voxel along a side."""
    return 2 ** _levels(models)


def _denormalise(feats: torch.Tensor, normalisation: Normalisation) -> torch.Tensor:
    if feats.shape[1] != len(normalisation.mean):
        raise CheckpointError(
            f"The latent has {feats.shape[1]} channels, its normalisation {len(normalisation.mean)}: the models and "
            "pipeline.json belong to different checkpoints (ComfyUI bundles have the released one's)."
        )
    mean, std = (feats.new_tensor(values) for values in (normalisation.mean, normalisation.std))
    return feats * std + mean


def _normalise(feats: torch.Tensor, normalisation: Normalisation) -> torch.Tensor:
    mean, std = (feats.new_tensor(values) for values in (normalisation.mean, normalisation.std))
    return (feats - mean) / std
