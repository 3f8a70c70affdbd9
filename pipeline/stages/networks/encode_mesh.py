"""Encode a mesh: triangles -> dual grid -> shape latent and subdivisions; materials on its voxels -> texture latent.

Frame: the unit cube -0.5 .. 0.5, Z up, as everywhere in the stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...errors import EmptyResultError, MeshError
from ...mesh import MESH_TO_DUAL_GRID
from ...mesh.checks import check_mesh
from ...mesh.io import Frame
from ...mesh.io.scene import SIDE
from ...runtime import Runtime
from ...sparse import SparseTensor, Voxels, space_to_channel
from ...spec import SHAPE_DECODER, SHAPE_ENCODER, TEXTURE_DECODER, TEXTURE_ENCODER, PipelineType
from ...weights import Models
from ..checks import geometry_device
from ..provenance import made_with, recipe
from ..types import LOWER, Latent, Mesh, PBRVoxels, Subdivisions
from .latents import grid_size, subdivision_levels, voxels_per_token

_GRIDS = 2  # steps of the stage: the grid, the network


@dataclass(frozen=True)
class Encoded:
    """What a mesh is to the networks: its shape latent, and how that is divided into the voxels where the mesh is."""

    shape: Latent
    subdivisions: Subdivisions


def encode_mesh(runtime: Runtime, models: Models, mesh: Mesh, resolution: int, seed: int = 0) -> Encoded:
    """The posterior's mean of a mesh in the unit cube.

    Args:
        mesh: in the unit cube; need not be closed or consistently oriented.
        resolution: voxels along a side, a multiple of the encoder's factor; see texture_resolution.
        seed: of the random stream that what is sampled on the latent goes on with.

    Raises:
        CheckpointError: the checkpoint has no shape encoder. MeshError: no mesh, or it reaches out of the cube.
        EmptyResultError: no face crosses an edge of the grid.
    """
    return encode_mesh_within(runtime, models, mesh, (resolution,), 0, seed)[0]


def encode_mesh_within(
    runtime: Runtime, models: Models, mesh: Mesh, resolutions: Sequence[int], max_tokens: int, seed: int = 0
) -> tuple[Encoded, int]:
    """As encode_mesh, at the first of some resolutions that gives fewer than max_tokens latent voxels, or else at the
    last; and how many latent voxels the first one gives. The network runs once."""
    models.checkpoint.require_models([SHAPE_ENCODER, SHAPE_DECODER], "Encoding a mesh")
    check_mesh(mesh.vertices, mesh.faces, some_faces=True)
    extent = float(mesh.vertices[mesh.faces.reshape(-1).long()].abs().max())
    if extent > 0.5:
        raise MeshError(
            f"The mesh reaches {extent:.4g} from the origin; expected at most 0.5. Move it into the unit cube first."
        )
    levels = subdivision_levels(models)
    if bad := [resolution for resolution in resolutions if resolution % 2**levels]:
        raise MeshError(f"A grid of {bad[0]} voxels a side cannot be encoded {levels} times by halves.")
    with runtime.stage("encode mesh", _GRIDS, LOWER):
        first, remaining = 0, list(resolutions)
        while True:
            resolution = remaining.pop(0)
            voxels, offsets, crossed = _voxelised(runtime, mesh, resolution)
            steps = _divided(voxels, levels)
            first = first or len(steps[0].parents)
            if len(steps[0].parents) < max_tokens or not remaining:
                break
        runtime.step("encode mesh", 1, _GRIDS)
        runtime.count(faces=len(mesh.faces), voxels=len(voxels))
        with runtime.use(models, SHAPE_ENCODER, len(steps[0].parents), voxels=len(voxels)) as encoder:
            mean, _ = encoder(voxels, offsets, crossed, runtime.backends)
        runtime.check_finite("encoded mesh", mean.feats)
        runtime.step("encode mesh", 2, _GRIDS)
    networks = models.fingerprint(SHAPE_ENCODER), models.fingerprint(SHAPE_DECODER)
    data = (each.detach().cpu().numpy().tobytes() for each in (mesh.vertices, mesh.faces))
    description = f"an encoded mesh of {len(mesh.faces):,} faces at {resolution}, {models.checkpoint.name}"
    origin = made_with(models, SHAPE_DECODER, recipe(*networks, *data, resolution, seed), description)
    random = torch.Generator().manual_seed(seed).get_state()
    latent = Latent(SparseTensor(steps[0].parents, mean.feats), resolution, random, origin)
    return Encoded(latent, Subdivisions(tuple(steps), origin)), first


def encode_texture(runtime: Runtime, models: Models, voxels: PBRVoxels, shape: Latent) -> Latent:
    """Materials on a mesh's fine voxels -> texture latent on the latent voxels of its shape.

    Raises:
        CheckpointError: the checkpoint has no texture encoder. MeshError: the voxels are not those of the shape.
    """
    models.checkpoint.require_models([TEXTURE_ENCODER, TEXTURE_DECODER], "Encoding the texture of a mesh")
    own = voxels.sparse.to(runtime.device)
    with (
        runtime.stage("encode texture", 1, LOWER),
        runtime.use(models, TEXTURE_ENCODER, len(shape.sparse.voxels), voxels=len(own.voxels)) as encoder,
    ):
        mean, _ = encoder(own.replace(own.feats.clamp(0, 1) * 2 - 1), runtime.backends)
        runtime.check_finite("encoded texture", mean.feats)
        runtime.step("encode texture", 1, 1)
    latent = shape.sparse.voxels.to(mean.feats.device)
    if not torch.equal(mean.voxels.coords, latent.coords):
        raise MeshError("The materials lie on other voxels than the shape. Take both of the same encoded mesh.")
    origin = made_with(models, TEXTURE_DECODER, shape.origin.recipe, shape.origin.description, shape.origin.notes)
    return Latent(SparseTensor(latent, mean.feats), voxels.resolution, shape.random, origin)


def frame_of(mesh: Mesh) -> Frame:
    """Where a mesh lies: the similarity between it and the unit cube, for a file (Y up). Raises MeshError if it has no
    usable extent."""
    mesh.require_faces()
    low, high = mesh.vertices[mesh.faces.reshape(-1).long()].double().aminmax(dim=0)
    longest = float((high - low).max())
    if not 1e-12 <= longest <= 1e12:
        raise MeshError(f"The mesh is {longest:.3g} units large; 1e-12 to 1e+12 can be worked on. Scale it first.")
    x, y, z = ((low + high) / 2).tolist()
    return Frame((x, z, -y), longest)


def in_unit_cube(mesh: Mesh) -> Mesh:
    """A mesh of any size and place, centred and scaled so that its longest side fills the cube but for 1e-5; its UVs
    and colours stay. Raises MeshError if it has no usable extent."""
    frame = frame_of(mesh)
    x, y, z = frame.centre
    middle = mesh.vertices.new_tensor([x, -z, y], dtype=torch.float64)
    moved = (mesh.vertices.double() - middle) * (SIDE / frame.longest)
    return Mesh.known(moved.float(), mesh.faces, attrs=mesh.attrs, uvs=mesh.uvs)


def shape_resolution(models: Models, pipeline_type: PipelineType) -> int:
    """Fine voxels along a side of what a pipeline type's finest shape flow works on."""
    return grid_size(models, pipeline_type.shape[-1]) * voxels_per_token(models)


def texture_resolution(models: Models, pipeline_type: PipelineType) -> int:
    """Fine voxels along a side of what a pipeline type's texture flow works on."""
    return grid_size(models, pipeline_type.texture) * voxels_per_token(models)


def _voxelised(runtime: Runtime, mesh: Mesh, resolution: int) -> tuple[Voxels, torch.Tensor, torch.Tensor]:
    """The dual grid of a mesh on the device of the networks: voxels, offsets, crossed.

    Raises:
        EmptyResultError: there are none.
    """
    device = geometry_device(runtime.device)
    to_dual_grid = runtime.backends.pick(MESH_TO_DUAL_GRID, device)
    found = to_dual_grid(mesh.vertices.detach().to(device), mesh.faces.detach().to(device), resolution)
    if len(found[0]) == 0:
        raise EmptyResultError(f"No face of the mesh crosses an edge of the {resolution} voxels a side.")
    coords, offsets, crossed = (each.to(runtime.device) for each in found)
    return Voxels.single(coords), offsets, crossed


def _divided(voxels: Voxels, levels: int) -> list:
    """The subdivisions that lead to these voxels, coarse to fine; each divides the children of the one before."""
    found = []
    for _ in range(levels):
        found.insert(0, space_to_channel(voxels))
        voxels = found[0].parents
    return found
