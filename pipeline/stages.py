"""READ FIRST. The pipeline: picture -> condition -> structure -> shape -> texture -> mesh and voxels -> GLB.

Each stage is a function from dataclass to dataclass; `generate` calls them in a row. All take a Runtime
(device, precision, backends, progress) and, where they need networks, the Models of a checkpoint.

Frames: a grid of R voxels a side fills the cube -0.5 .. 0.5, Z up; voxel (i, j, k) is [i, i + 1] / R - 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from . import geometry, sparse
from .backends import Backend, Backends
from .errors import BackendError, CheckpointError, EmptyResultError, SettingsError
from .export import AlphaMode, Material, write_glb
from .geometry.bake import BakedMaps, Original, Texels, bake_normals, bake_occlusion, bake_voxels, vertex_tangents
from .geometry.clean import AFTER_SIMPLIFYING, Cleaned, CleanSettings, clean
from .geometry.dual_grid import dual_grid_to_mesh
from .geometry.repair import vertex_normals
from .geometry.report import measure
from .geometry.shells import outer_shell
from .geometry.solid import project, solid
from .geometry.surface import ABSENT
from .image import to_pixels
from .models.flow import Context, FlowTransformer
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
    """

    vertices: torch.Tensor
    faces: torch.Tensor
    facts: dict = field(default_factory=dict)

    def to(self, device: torch.device | str) -> Mesh:
        return Mesh(self.vertices.to(device), self.faces.to(device), self.facts)


@dataclass(frozen=True)
class PBRVoxels:
    """Material voxels: feats [T, 6] fp32 = base colour RGB, metallic, roughness, alpha, meant for 0-1, not clamped."""

    sparse: SparseTensor
    resolution: int

    def to(self, device: torch.device | str) -> PBRVoxels:
        return PBRVoxels(self.sparse.to(device), self.resolution)


@dataclass(frozen=True)
class TexturedMesh:
    """An unwrapped mesh with its maps, all on the CPU. uvs [V, 2] in 0-1, v downwards; normals [V, 3] unit.

    normal_map: [S, S, 3] float32 in 0-1, in the tangent space of `tangents` [V, 4] (see geometry.bake); None if not
    asked for. occlusion: [S, S] float32, 1 where all light arrives; None if not asked for.
    facts: the mesh's, charts, utilisation (share of the atlas that charts cover), stretch where the unwrapper tells,
    texels_far (see BakedMaps.far).
    """

    mesh: Mesh
    normals: torch.Tensor
    uvs: torch.Tensor
    maps: BakedMaps
    facts: dict
    tangents: torch.Tensor | None = None
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

    def __post_init__(self) -> None:
        if self.faces < 4:
            raise SettingsError(f"A mesh needs at least 4 faces, got {self.faces}.")
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
) -> Mesh:
    """Raw mesh -> cleaned, shells as asked, at most target_faces faces, cleaned again; on the CPU.

    Args:
        max_hole_perimeter: world units; holes with a shorter rim are filled, 0 fills nothing.
        shells: "surface" keeps every face that is not broken, open sheets and inner shells too; "outer" drops what
            cannot be reached from outside (nothing, with a warning, where Warp is absent); "solid" remeshes to one
            closed manifold surface and snaps it to the raw one.
        resolution: cells along the longest side in which "outer" and "solid" see; narrower gaps count as closed.

    Raises:
        EmptyResultError: the mesh has no faces. BackendError: "solid" without Warp.
    """
    if shells not in SHELLS:
        raise SettingsError(f"Unknown shells {shells!r}; choose one of {', '.join(SHELLS)}.")
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
        cleaned, goal = Cleaned(vertices, faces, {}), target_faces
        while len(cleaned.faces) > target_faces and goal > 0:
            # fast-simplification would open what solid closed
            closed = {"cuda": "warp", "cpu": "warp-cpu"}[device.type] if shells == "solid" else None
            simplify = runtime.backends.pick(geometry.SIMPLIFY, device, closed)
            tick = _ticker(runtime, "process mesh", 2, 4)
            before = len(cleaned.faces)
            vertices, faces = simplify(cleaned.vertices, cleaned.faces, goal, tick)
            cleaned = clean(vertices.to(device), faces.to(device), AFTER_SIMPLIFYING)
            if len(cleaned.faces) >= before:  # as far as it goes
                break
            goal -= 2 * max(len(cleaned.faces) - target_faces, 1)  # parting what touches takes some faces more
        runtime.step("process mesh", 3, 4)
        report = measure(cleaned.vertices, cleaned.faces)
        facts |= {"cleaned_again": cleaned.changes, "mesh": report.as_dict(), "warnings": warnings + report.warnings()}
        runtime.step("process mesh", 4, 4)
        return Mesh(cleaned.vertices.cpu(), cleaned.faces.cpu(), facts)


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


def bake_texture(
    runtime: Runtime,
    mesh: Mesh,
    voxels: PBRVoxels,
    size: int,
    padding: int = 4,
    original: Mesh | None = None,
    normal_map: bool = False,
    occlusion: bool = False,
) -> TexturedMesh:
    """Unwrap a processed mesh and bake the voxels into size x size maps.

    Args:
        padding: texels between charts.
        original: the raw mesh of the voxels. Texels look up where it is nearest; without it, or without Warp, where
            the processed mesh is.
        normal_map, occlusion: bake these as well, from the original (from the mesh itself without one).
    """
    device = _geometry_device(runtime)
    with runtime.stage("unwrap", 1, "Ask for fewer faces."):
        unwrap = runtime.backends.pick(geometry.UNWRAP, device)
        tick = _ticker(runtime, "unwrap", 0, 1)
        vertices, faces = mesh.vertices.to(device), mesh.faces.to(device)
        source, faces, uvs, facts = unwrap(vertices, faces, size, padding, tick)
        source, faces, uvs = source.to(device), faces.to(device), uvs.to(device)
        normals = vertex_normals(vertices, mesh.faces.to(device))[source]
        vertices = vertices[source]
        runtime.step("unwrap", 1, 1)
    tangents = relief = shade = None
    with runtime.stage("bake", 3, "Ask for a smaller texture."):
        pick = runtime.backends.pick
        rasterise, trilinear = pick(geometry.RASTER, device), pick(sparse.TRILINEAR, device)
        nearest = pick(geometry.NEAREST, device)
        grid = voxels.sparse.to(device)
        wanted = original or (Mesh(vertices, faces) if normal_map or occlusion else None)
        full = _original(wanted, device) if wanted else None
        maps = bake_voxels(
            *(vertices, faces, uvs, grid.voxels, grid.feats, voxels.resolution, size, rasterise, trilinear),
            nearest=nearest,
            original=full if original else None,
        )
        runtime.step("bake", 1, 3)
        if normal_map or occlusion:
            if full is None:
                raise BackendError(f"Normal maps and occlusion need Warp: {ABSENT}")
            texels = Texels.of(uvs, faces, size, rasterise, nearest)
            if normal_map:
                tangents = vertex_tangents(vertices, faces, uvs, normals)
                relief = bake_normals(texels, vertices, faces, normals, tangents, full).cpu().numpy()
                tangents = tangents.cpu()
            runtime.step("bake", 2, 3)
            if occlusion:  # which is smooth, and dear: its rays would take minutes at full size on a CPU
                texels = Texels.of(uvs, faces, min(size, _OCCLUSION_SIDE), rasterise, nearest)
                shade = bake_occlusion(texels, vertices, faces, normals, full, rays=_OCCLUSION_RAYS)
                shade = F.interpolate(shade[None, None], (size, size), mode="bilinear")[0, 0].cpu().numpy()
        runtime.step("bake", 3, 3)
    facts = {**mesh.facts, **facts, "texels_far": maps.far}
    return TexturedMesh(
        Mesh(vertices.cpu(), faces.cpu()), normals.cpu(), uvs.cpu(), maps, facts, tangents, relief, shade
    )


def _original(mesh: Mesh, device: torch.device) -> Original | None:
    """A mesh ready to bake from, or None without Warp."""
    return None if ABSENT else Original(mesh.vertices.to(device), mesh.faces.to(device))


def export_glb(
    runtime: Runtime, result: Mesh | TexturedMesh, path: Path, settings: ExportSettings, extras: dict
) -> None:
    """Write a mesh, textured or plain, as GLB. extras goes into asset.extras."""
    with runtime.stage("export", 1, "Ask for fewer faces or a smaller texture."):
        plain = Material(
            alpha_mode=settings.alpha_mode, double_sided=settings.double_sided, image_format=settings.image_format
        )
        if isinstance(result, Mesh):
            vertices, faces = result.vertices.cpu(), result.faces.cpu()
            normals = vertex_normals(vertices, faces)
            write_glb(path, vertices.numpy(), faces.numpy(), normals.numpy(), None, plain, extras)
        else:
            texels = _bytes(result.maps.attrs)
            material = replace(
                plain,
                base_color=texels[:, :, [0, 1, 2, ALPHA]],
                metallic=texels[:, :, METALLIC],
                roughness=texels[:, :, ROUGHNESS],
                occlusion=None if result.occlusion is None else _bytes(result.occlusion),
                normal=None if result.normal_map is None else _bytes(result.normal_map),
            )
            mesh, arrays = result.mesh, (result.normals.numpy(), result.uvs.numpy())
            tangents = None if result.tangents is None else result.tangents.numpy()
            write_glb(path, mesh.vertices.numpy(), mesh.faces.numpy(), *arrays, material, extras, tangents)
        runtime.step("export", 1, 1)


def _bytes(values: np.ndarray) -> np.ndarray:
    """0-1 -> 0-255."""
    return np.round(values * 255).clip(0, 255).astype(np.uint8)


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
