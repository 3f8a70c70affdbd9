"""Decode: shape latent -> raw mesh and subdivisions; texture latent -> material voxels."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..errors import EmptyResultError
from ..mesh import DUAL_GRID_TO_MESH
from ..runtime import Runtime
from ..sparse import Subdivision
from ..spec import SHAPE_DECODER, TEXTURE_DECODER
from ..weights import Models
from .latents import subdivision_levels
from .provenance import check_latent, check_subdivisions
from .types import LOWER, Latent, Mesh, PBRVoxels, Subdivisions

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
        fields, subdivisions = decoder(
            shape.sparse,
            None,
            runtime.backends,
            lambda level: runtime.step("decode shape", level, decoder.levels + 1),
            runtime.budget(),
        )
        if len(fields.voxels) == 0:
            raise EmptyResultError("The shape decodes to nothing. Try another seed.")
        runtime.check_finite("decoded shape", fields.feats)
        if warning := growth_warning(len(subdivisions[-1].parents), len(fields.voxels)):
            log.warning(warning)
        offsets, crossed, split = decoder.dual_grid(fields.feats)
        to_mesh = runtime.backends.pick(DUAL_GRID_TO_MESH, fields.feats.device)
        vertices, faces = to_mesh(fields.voxels, offsets, crossed, shape.resolution, split)
        runtime.count(tokens=tokens, voxels=len(vertices), faces=len(faces))
        origin = shape.origin.of_shape
        return Mesh(vertices, faces, resolution=shape.resolution, origin=origin), Subdivisions(
            tuple(subdivisions), origin
        )


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
        fields, _ = decoder(
            texture.sparse,
            subdivisions,
            runtime.backends,
            lambda level: runtime.step("decode texture", level, decoder.levels + 1),
            runtime.budget(),
        )
        runtime.check_finite("decoded texture", fields.feats)
        runtime.count(tokens=tokens, voxels=len(fields.voxels))
        return PBRVoxels(fields.replace(fields.feats * 0.5 + 0.5), texture.resolution, texture.origin.of_shape)
