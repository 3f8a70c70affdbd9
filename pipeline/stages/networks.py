"""The networks: picture -> condition -> structure -> shape -> texture -> raw mesh and voxels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from PIL import Image

from .. import mesh, render, sparse
from ..backends import Backend, Backends
from ..errors import CheckpointError, EmptyResultError, SettingsError
from ..image import to_pixels
from ..mesh.remesh.dual_grid import dual_grid_to_mesh
from ..models import operations as network_operations
from ..models.flow import Context, FlowTransformer
from ..replay import Replayed
from ..runtime import Runtime
from ..sampling import Spread, Start, dense_spread, guided, packed_spread, solver
from ..sparse import SparseTensor, Subdivision, Voxels
from ..spec import (
    CHECKPOINTS_OWN,
    IMAGE_ENCODER,
    MAX_TOKENS,
    SHAPE_DECODER,
    STRUCTURE_DECODER,
    STRUCTURE_FLOW,
    TEXTURE_DECODER,
    Normalisation,
    Pass,
    Route,
    Samplers,
    SamplerSettings,
)
from ..weights import Models
from .checks import check_tokens, preflight
from .provenance import check_condition, check_latent, check_structure, check_subdivisions, made_with, recipe
from .values import (
    LOWER,
    Condition,
    Generation,
    Latent,
    LatentStart,
    Mesh,
    Origin,
    PBRVoxels,
    Structure,
    Subdivisions,
)

log = logging.getLogger(__name__)

_USUAL_GROWTH = 3.5, 4.4  # of the last level of a shape: 4.0 on usual surfaces, 4.52 in a run that ran away
_MANY = 100_000  # voxels from which on growth tells something
_CASCADE_STEP = 8  # latent voxels by which a cascade lowers its grid when there are too many tokens


def table(choices: dict[str, str] | None = None, more: Mapping[str, Sequence[Backend]] | None = None) -> Backends:
    """The backend table of the whole pipeline.

    Args:
        choices: as for Backends.
        more: further rows by operation, which run only where they are chosen.
    """
    operations = (*sparse.OPERATIONS, *network_operations.OPERATIONS, *mesh.OPERATIONS, *render.OPERATIONS)
    more = more or {}
    return Backends((replace(op, rows=(*op.rows, *more.get(op.name, ()))) for op in operations), choices)


def encode_images(runtime: Runtime, models: Models, images: Sequence[Image.Image], scales: Sequence[int]) -> Condition:
    """Prepared pictures (views of one object) -> tokens at each image scale."""
    side, shown = models.spec.image_size, [(one.mode, one.size, one.tobytes()) for one in images]
    made = recipe(models.fingerprint(IMAGE_ENCODER), side, *(part for each in shown for part in each))
    origin = made_with(models, IMAGE_ENCODER, made)
    with runtime.stage("encode", len(scales) * len(images), "Give fewer pictures."):
        largest = side * max(scales)
        patches = (largest // models.config(IMAGE_ENCODER)["args"].get("patch_size", 16)) ** 2
        tokens = {}
        with runtime.use(models, IMAGE_ENCODER, patches) as encoder:
            for number, scale in enumerate(scales):
                found = []
                for done, one in enumerate(to_pixels(images, side * scale).to(runtime.device), 1):
                    found.append(encoder(one[None]))
                    runtime.step("encode", number * len(images) + done, len(scales) * len(images))
                tokens[scale] = torch.cat(found)
        runtime.check_finite("image condition", *tokens.values())
        return Condition(tokens, origin)


def sample_structure(
    runtime: Runtime, models: Models, condition: Condition, seed: int, settings: SamplerSettings | None = None
) -> Structure:
    """Sample the coarse structure. settings: the checkpoint's if not given.

    Raises:
        EmptyResultError: no voxel is occupied. SettingsError: the condition is another checkpoint's.
    """
    check_condition(models, condition, [(STRUCTURE_FLOW, 1)])
    settings = settings or models.spec.structure_sampler
    networks = [models.fingerprint(role) for role in (STRUCTURE_FLOW, STRUCTURE_DECODER)]
    made = recipe(*networks, condition.origin.recipe, seed, settings)
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
    return Structure(occupied, random.get_state(), made_with(models, STRUCTURE_DECODER, made, f"seed {seed}"))


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
        SettingsError: condition or structure are another checkpoint's.
    """
    check_tokens(max_tokens)
    check_condition(models, condition, [(one_pass.model, one_pass.image_scale) for one_pass in route.shape])
    check_structure(models, structure)
    settings = settings or models.spec.shape_sampler
    origin = _shape_origin(models, condition, structure, route, settings, max_tokens)
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
    return Latent(latent, resolution, random.get_state(), origin)


def _shape_origin(models, condition: Condition, structure: Structure, route: Route, settings, max_tokens) -> Origin:
    networks = [models.fingerprint(role) for role in (SHAPE_DECODER, *(one_pass.model for one_pass in route.shape))]
    most = max_tokens if len(route.shape) > 1 else 0  # which no other route heeds
    made = recipe(*networks, condition.origin.recipe, structure.origin.recipe, route.shape, settings, most)
    told = f"{structure.origin.told or 'a structure from elsewhere'}, {route.name}, {models.checkpoint.name}"
    return made_with(models, SHAPE_DECODER, made, told)


def _sample_shape_pass(
    runtime, models, stage, condition, one_pass: Pass, voxels, random, settings, start: LatentStart | None = None
) -> SparseTensor:
    seen = condition.count(one_pass.image_scale)
    with (
        runtime.stage(stage, settings.steps, LOWER),
        runtime.use(models, one_pass.model, len(voxels), seen) as flow,
    ):
        noise = torch.randn(len(voxels), flow.in_channels, generator=random).to(runtime.device)
        begin = normalised_start(start, voxels, models.spec.shape_normalisation)
        normalised = _sample_latent(
            runtime, stage, flow, condition.tokens[one_pass.image_scale], voxels, noise, settings, start=begin
        )
        return SparseTensor(voxels, _denormalise(normalised, models.spec.shape_normalisation))


def _finer_voxels(runtime, models, latent, resolution, one_pass: Pass, max_tokens) -> tuple[Voxels, int]:
    """Decode the coarse shape's voxels and quantise them to the next pass's grid."""
    tokens = len(latent.voxels)
    with runtime.stage("upsample", _levels(models), LOWER), runtime.use(models, SHAPE_DECODER, tokens) as decoder:

        def on_level(level: int) -> None:
            runtime.step("upsample", level, decoder.levels)

        fine = decoder.upsample(latent, decoder.levels, runtime.backends, on_level, runtime.budget())
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
    start: LatentStart | None = None,
) -> Latent:
    """Sample the texture latent on the shape's voxels, told the shape latent.

    Args:
        settings: the checkpoint's if not given.
        start: a texture latent on the same voxels to begin from.

    Raises:
        SettingsError: condition, shape or start are another checkpoint's, or the start lies on other voxels.
    """
    check_condition(models, condition, [(route.texture.model, route.texture.image_scale)])
    check_latent(models, shape, SHAPE_DECODER)
    settings = settings or models.spec.texture_sampler
    origin = made_with(models, TEXTURE_DECODER, shape.origin.recipe, shape.origin.told)
    random = torch.Generator()
    random.set_state(shape.random)
    seen = condition.count(route.texture.image_scale)
    with (
        runtime.stage("texture", settings.steps, LOWER),
        runtime.use(models, route.texture.model, len(shape.sparse.voxels), seen) as flow,
    ):
        shape_feats = _normalise(shape.sparse.feats, models.spec.shape_normalisation)
        channels = flow.in_channels - shape_feats.shape[1]
        noise = torch.randn(len(shape_feats), channels, generator=random).to(runtime.device)
        tokens = condition.tokens[route.texture.image_scale]
        begin = normalised_start(start, shape.sparse.voxels, models.spec.texture_normalisation)
        normalised = _sample_latent(
            runtime, "texture", flow, tokens, shape.sparse.voxels, noise, settings, shape_feats, begin
        )
        feats = _denormalise(normalised, models.spec.texture_normalisation)
    return Latent(shape.sparse.replace(feats), shape.resolution, random.get_state(), origin)


def normalised_start(start: LatentStart | None, voxels: Voxels, normalisation: Normalisation) -> Start | None:
    """A start in the numbers that a flow sees. Raises SettingsError if it lies on other voxels."""
    if start is None:
        return None
    own = start.latent.sparse.voxels.coords
    if own.shape != voxels.coords.shape or not torch.equal(own.to(voxels.device), voxels.coords):
        raise SettingsError(
            f"The latent to start from lies on {len(own):,} voxels that are not the {len(voxels):,} which are sampled. "
            "Encode the same mesh at the same resolution."
        )
    moved = start.to(voxels.device)
    return Start(_normalise(moved.latent.sparse.feats, normalisation), start.strength, moved.keep)


def _sample_latent(
    runtime, stage, flow, tokens, voxels: Voxels, noise, settings, concat=None, start: Start | None = None
) -> torch.Tensor:
    def velocity(x: torch.Tensor, t: torch.Tensor, context: Context) -> torch.Tensor:
        return flow(SparseTensor(voxels, x), t, context, concat, runtime.backends)

    spread = packed_spread(voxels.lengths)
    return _sample(
        runtime, stage, flow, velocity, tokens, noise, settings, spread, lambda x_0: SparseTensor(voxels, x_0), start
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
    start: Start | None = None,
) -> torch.Tensor:
    """Run a sampler. Several views: each step takes the mean of their velocities (MultiDiffusion, arXiv 2302.08113)."""
    contexts = [flow.context(view[None].to(runtime.device)) for view in tokens]
    contexts.append(flow.zero_context(runtime.device))
    *views, nothing = (partial(velocity, context=context) for context in contexts)
    if runtime.replays(flow, noise.numel() // noise.shape[1]):
        *views, nothing = map(Replayed, (*views, nothing))

    def at(t: float) -> torch.Tensor:
        return torch.tensor([1000 * t], dtype=torch.float32, device=runtime.device)

    def conditional(x: torch.Tensor, t: float) -> torch.Tensor:
        total = views[0](x, at(t))
        for view in views[1:]:
            total = total + view(x, at(t))
        return total / len(views) if len(views) > 1 else total

    def unconditional(x: torch.Tensor, t: float) -> torch.Tensor:
        return nothing(x, at(t))

    if start is not None and start.strength == 0:
        return start.data
    steps = solver(settings.solver)(guided(conditional, unconditional, settings, spread), noise, settings, start)
    for done, sample in enumerate(steps, 1):
        runtime.step(stage, done, settings.steps, preview(sample.x_0))
    runtime.check_finite(f"{stage} latent", sample.x)
    return sample.x


def decode_shape(runtime: Runtime, models: Models, shape: Latent) -> tuple[Mesh, Subdivisions]:
    """Shape latent -> raw mesh (one vertex per fine voxel, holes open) and the subdivisions that led to its voxels.

    Raises:
        EmptyResultError: no voxel is left. SettingsError: the latent is another checkpoint's.
    """
    check_latent(models, shape, SHAPE_DECODER)
    tokens = len(shape.sparse.voxels)
    with (
        runtime.stage("decode shape", _levels(models) + 1, LOWER),
        runtime.use(models, SHAPE_DECODER, tokens) as decoder,
    ):
        fields, subdivisions = decoder(
            *(shape.sparse, None, runtime.backends),
            lambda level: runtime.step("decode shape", level, decoder.levels + 1),
            runtime.budget(),
        )
        if len(fields.voxels) == 0:
            raise EmptyResultError("The shape decodes to nothing. Try another seed.")
        runtime.check_finite("decoded shape", fields.feats)
        if warning := growth_warning(len(subdivisions[-1].parents), len(fields.voxels)):
            log.warning(warning)
        offsets, crossed, split = decoder.dual_grid(fields.feats)
        vertices, faces = dual_grid_to_mesh(fields.voxels, offsets, crossed, shape.resolution, split)
        # of the shape, in the terms of no network any more
        origin = Origin(recipe=shape.origin.recipe, told=shape.origin.told)
        return Mesh(vertices, faces, resolution=shape.resolution, origin=origin), Subdivisions(
            tuple(subdivisions), origin
        )


def growth_warning(coarse: int, fine: int) -> str:
    """What a decoder's last level tells of a shape: a surface has four children for each voxel.

    Args:
        coarse, fine: voxels before and after the last subdivision; below 100,000 edges and tips count too much.
    """
    if coarse < _MANY or _USUAL_GROWTH[0] <= fine / coarse <= _USUAL_GROWTH[1]:
        return ""
    return (
        f"The last level of the shape grew {fine / coarse:.2f}-fold, where 4.0 is usual: the surface is torn or has "
        "layers, and the mesh will have many holes. Try another seed, or a cut-out with clean edges."
    )


def decode_texture(runtime: Runtime, models: Models, texture: Latent, subdivisions: Sequence[Subdivision]) -> PBRVoxels:
    """Texture latent -> PBR voxels on the shape's fine voxels.

    Args:
        subdivisions: of the shape that the texture was sampled on, as decode_shape gives them.

    Raises:
        SettingsError: the latent is another checkpoint's, or the subdivisions are another shape's.
    """
    check_latent(models, texture, TEXTURE_DECODER)
    check_subdivisions(models, texture, subdivisions)
    tokens = len(texture.sparse.voxels)
    with (
        runtime.stage("decode texture", _levels(models) + 1, LOWER),
        runtime.use(models, TEXTURE_DECODER, tokens, voxels=len(subdivisions[-1].children)) as decoder,
    ):
        fields, _ = decoder(
            texture.sparse,
            subdivisions,
            runtime.backends,
            lambda level: runtime.step("decode texture", level, decoder.levels + 1),
            runtime.budget(),
        )
        runtime.check_finite("decoded texture", fields.feats)
        origin = Origin(recipe=texture.origin.recipe, told=texture.origin.told)
        return PBRVoxels(fields.replace(fields.feats * 0.5 + 0.5), texture.resolution, origin)


def generate(
    runtime: Runtime,
    models: Models,
    images: Sequence[Image.Image],
    route: Route,
    seed: int,
    texture: bool = True,
    max_tokens: int = MAX_TOKENS,
    samplers: Samplers = CHECKPOINTS_OWN,
) -> Generation:
    """From prepared pictures (views of one object) to the raw mesh and its PBR voxels.

    Args:
        texture: False stops after the shape: no texture latent, no voxels.
        samplers: the checkpoint's where not given.
    """
    preflight(models.checkpoint, route, texture=texture, max_tokens=max_tokens)
    condition = encode_images(runtime, models, images, route.image_scales(texture))
    structure = sample_structure(runtime, models, condition, seed, samplers.structure)
    shape = sample_shape(runtime, models, condition, structure, route, samplers.shape, max_tokens)
    texture_latent = sample_texture(runtime, models, condition, shape, route, samplers.texture) if texture else None
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
    mean, std = _numbers(feats, normalisation)
    return feats * std + mean


def _normalise(feats: torch.Tensor, normalisation: Normalisation) -> torch.Tensor:
    mean, std = _numbers(feats, normalisation)
    return (feats - mean) / std


def _numbers(feats: torch.Tensor, normalisation: Normalisation) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of every channel [C], where the features [T, C] are."""
    if feats.shape[1] != len(normalisation.mean):
        raise CheckpointError(
            f"The latent has {feats.shape[1]} channels, its normalisation {len(normalisation.mean)}: the models and "
            "pipeline.json belong to different checkpoints (ComfyUI bundles have the released one's)."
        )
    return feats.new_tensor(normalisation.mean), feats.new_tensor(normalisation.std)
