"""Decode: shape latent -> raw mesh and subdivisions; texture latent -> material voxels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from ...errors import EmptyResultError
from ...mesh import DUAL_GRID_TO_MESH
from ...models.sparse_unet import SparseUnetVaeDecoder
from ...runtime import Runtime
from ...sparse import Subdivision
from ...spec import SHAPE_DECODER, TEXTURE_DECODER
from ...weights import Models
from ..provenance import check_latent, check_subdivisions
from ..types import LOWER, Latent, Mesh, PBRVoxels, Subdivisions
from .latents import subdivision_levels

log = logging.getLogger(__name__)

# Voxels after the last subdivision for each one before it: 4 on a surface, 4.52 measured on one in several layers.
_USUAL_GROWTH = 3.5, 4.4
_MIN_VOXELS = 100_000  # before the last subdivision; in fewer, edges and tips of the shape count too much


def decode_shape(runtime: Runtime, models: Models, shape: Latent) -> tuple[Mesh, Subdivisions]:
    """Shape latent -> raw mesh (one vertex per fine voxel, holes open) and the subdivisions that led to its voxels.

    Raises:
        EmptyResultError: no voxel is left. SettingsError: the latent is another checkpoint's.
    """
    check_latent(models, shape, SHAPE_DECODER)
    tokens = len(shape.sparse.voxels)
    with (
        runtime.stage("decode shape", subdivision_levels(models) + 1, LOWER),
        runtime.use(models, SHAPE_DECODER, tokens) as decoder,
    ):
        call = level_done(runtime, "decode shape", decoder, decoder.levels + 1)
        fields, subdivisions = decoder(shape.sparse, None, runtime.backends, call, runtime.budget())
        if len(fields.voxels) == 0:
            raise EmptyResultError("The shape decodes to nothing. Try another seed.")
        runtime.check_finite("decoded shape", fields.feats)
        if warning := growth_warning(len(subdivisions[-1].parents), len(fields.voxels)):
            log.warning(warning)
        offsets, crossed, split = decoder.dual_grid(fields.feats)
        voxels = fields.voxels
        del fields  # the mesh takes more than they do
        to_mesh = runtime.backends.pick(DUAL_GRID_TO_MESH, voxels.coords.device)
        vertices, faces = to_mesh(voxels, offsets, crossed, shape.resolution, split)
        runtime.count(tokens=tokens, voxels=len(vertices), faces=len(faces))
        origin = shape.origin.of_shape
        return Mesh(vertices, faces, resolution=shape.resolution, origin=origin), Subdivisions(
            tuple(subdivisions), origin
        )


def level_done(runtime: Runtime, stage: str, decoder: SparseUnetVaeDecoder, total: int) -> Callable[[int], None]:
    """What a decoder calls when so many levels are done: progress, and the level's weights have no more work."""

    def call(level: int) -> None:
        runtime.step(stage, level, total)
        runtime.spend(decoder.blocks[min(level, decoder.levels + 1) - 1])

    return call


def growth_warning(coarse: int, fine: int) -> str:
    """What a decoder's last level tells of a shape: a surface has four children for each voxel.

    Args:
        coarse, fine: voxels before and after the last subdivision; below 100,000 edges and tips count too much.
    """
    if coarse < _MIN_VOXELS or _USUAL_GROWTH[0] <= fine / coarse <= _USUAL_GROWTH[1]:
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
        runtime.stage("decode texture", subdivision_levels(models) + 1, LOWER),
        runtime.use(models, TEXTURE_DECODER, tokens, voxels=len(subdivisions[-1].children)) as decoder,
    ):
        call = level_done(runtime, "decode texture", decoder, decoder.levels + 1)
        fields, _ = decoder(texture.sparse, subdivisions, runtime.backends, call, runtime.budget())
        runtime.check_finite("decoded texture", fields.feats)
        runtime.count(tokens=tokens, voxels=len(fields.voxels))
        return PBRVoxels(fields.replace(fields.feats * 0.5 + 0.5), texture.resolution, texture.origin.of_shape)
