"""Texture a scene of meshes that one has: encode, sample, decode, and bake into each mesh's own UVs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from ... import sparse
from ...errors import EmptyResultError, SettingsError, unknown
from ...export.scene_textures import BakedGroup
from ...mesh import NEAREST, RASTER, UNWRAP
from ...mesh.bake.bake import Texels, bake_voxels, sample_voxels
from ...mesh.bake.shared_texels import shared_share, sharing_line
from ...mesh.io import Frame, Scene
from ...mesh.io.atlas import UVS, Group, groups_of, has_uvs, unwrapped_group
from ...runtime import Runtime
from ...spec import (
    IMAGE_ENCODER,
    SHAPE_DECODER,
    SHAPE_ENCODER,
    TEXTURE_DECODER,
    TEXTURE_ENCODER,
    PipelineType,
    SamplerSettings,
)
from ...weights import Models
from ..checks import geometry_device
from ..finishing.quantise import to_uint8
from ..finishing.source_mesh import nearest_voxel_by_row
from ..networks.decode import decode_texture
from ..networks.encode_mesh import Encoded, encode_mesh, encode_texture, texture_resolution
from ..networks.texture import sample_texture
from ..types import Condition, LatentStart, Mesh, PBRVoxels, check_texture_size
from .existing import Materials
from .keep import NOTHING, Keep, kept_tokens, places_of, put_back

_PADDING = 4  # texels between new charts


@dataclass(frozen=True)
class SceneTextures:
    """What a scene is to be written with. groups: for export.scene_textures. facts: what is worth telling. keep: what
    of the old textures they hold."""

    groups: tuple[BakedGroup, ...]
    voxels: PBRVoxels
    facts: dict
    keep: Keep = NOTHING


def scene_mesh(scene: Scene, frame: Frame) -> Mesh:
    """All parts as one mesh in the unit cube."""
    vertices, faces = scene.joined(frame)
    return Mesh(torch.from_numpy(vertices), torch.from_numpy(faces).int())


def texture_scene(
    runtime: Runtime,
    models: Models,
    condition: Condition,
    scene: Scene,
    pipeline_type: PipelineType,
    *,
    size: int,
    seed: int = 42,
    uvs: str = "keep",
    strength: float = 1.0,
    keep: Keep = NOTHING,
    settings: SamplerSettings | None = None,
    finishing: Runtime | None = None,
) -> SceneTextures:
    """New textures for a scene from pictures of what it is to look like.

    Args:
        size: pixels of each texture along a side.
        uvs: "keep" bakes into the UVs that are there, "fill" makes new ones for meshes without, "new" for all.
        strength: 1 from noise alone; below it from the textures that the scene has, which change the less the lower.
        keep: what stays as it is; what is new beside it goes with it. Kept texels are those of the old textures.
        finishing: where textures are baked, if not where the networks run.

    Raises:
        SettingsError: an unknown name or value. MeshError: UVs that cannot be kept, see mesh.io.atlas.
        CheckpointError: the checkpoint lacks an encoder.
    """
    check_texture_size(size)
    scene.document.require_images()  # they go into the new file
    parts = keep.changed_parts(scene)
    groups = _groups(runtime, scene, scene.frame(), parts, uvs, size)  # what is wrong with UVs is said first
    frame = scene.frame()
    encoded = encode_mesh(runtime, models, scene_mesh(scene, frame), texture_resolution(models, pipeline_type), seed)
    start = None
    if strength < 1 or keep:
        start = _start(runtime, models, scene, frame, encoded, strength, keep)
    latent = sample_texture(runtime, models, condition, encoded.shape, pipeline_type, settings, start)
    voxels = decode_texture(runtime, models, latent, encoded.subdivisions)
    return bake_scene(finishing or runtime, scene, frame, voxels, groups, size, keep)


def bake_scene(
    runtime: Runtime,
    scene: Scene,
    frame: Frame,
    voxels: PBRVoxels,
    groups: list[Group],
    size: int,
    keep: Keep = NOTHING,
) -> SceneTextures:
    """Voxels into the textures of a scene, but where it is to be kept, which is copied from the old ones."""
    device = geometry_device(runtime.device)
    pick = runtime.backends.pick
    rasterise, nearest, trilinear = pick(RASTER, device), pick(NEAREST, device), pick(sparse.TRILINEAR, device)
    grid, baked, far, warnings = voxels.sparse.to(device), [], 0, list(scene.notes)
    nearest_voxel = nearest_voxel_by_row(runtime, device)
    old, kept = Materials(scene, not keep.vertex_colors), 0
    with runtime.stage("bake", len(groups), "Ask for a smaller texture."):
        for number, group in enumerate(groups, 1):
            vertices, faces, uvs = (each.to(device) for each in group.geometry(scene, frame))
            names = ", ".join(sorted({scene.parts[piece.part].name for piece in group.pieces}))[:200]
            place = grid.voxels, grid.feats, voxels.resolution, trilinear
            try:
                texels = Texels.of(uvs, faces, size, rasterise, nearest)
            except EmptyResultError:
                one, alone = sample_voxels(vertices[faces[:1]].mean(1), *place, nearest=nearest_voxel)
                image = to_uint8(one).expand(size, size, -1)
                warnings.append(
                    f"UVs of {names} cover no texel: these faces have one colour. --uvs new gives them room."
                )
            else:
                values, alone = bake_voxels(texels, vertices, faces, *place, nearest=nearest_voxel)
                if keep.partly:
                    kept += put_back(values, texels, group, scene, keep, old)
                image = texels.image(to_uint8(values))
                kept_uvs = all(piece.source is None for piece in group.pieces)  # in new ones faces may lack a texel
                if kept_uvs and (share := shared_share(vertices, uvs, faces, texels)):
                    warnings.append(f"{sharing_line(share, names)} --uvs new gives each its own.")
            far += alone
            baked.append(BakedGroup(group, image.cpu().numpy()))
            runtime.step("bake", number, len(groups))
    facts = {"textures": len(baked), "texture_size": size, "texels_far": far, "warnings": warnings}
    facts |= {"texels_kept": kept} if keep.partly else {}
    facts |= {"parts": len(scene.parts), "faces": sum(len(part.faces) for part in scene.parts)}
    facts |= {"vertices": sum(len(part.vertices) for part in scene.parts)}
    return SceneTextures(tuple(baked), voxels, facts, keep)


def _groups(runtime: Runtime, scene: Scene, frame: Frame, parts: list[int], uvs: str, size: int) -> list[Group]:
    if uvs not in UVS:
        raise SettingsError(unknown("uvs", uvs, UVS))
    device = geometry_device(runtime.device)
    kept = [] if uvs == "new" else [number for number in parts if uvs == "keep" or has_uvs(scene.parts[number])]
    made = [number for number in parts if number not in set(kept)]
    groups = []
    if kept:
        with runtime.stage("read UVs", 1, "Take --uvs new, or a mesh of fewer faces."):
            groups += groups_of(scene, kept, runtime.backends.pick(RASTER, "cpu"))
            runtime.step("read UVs", 1, 1)
    if made:
        with runtime.stage("unwrap", 1, "Ask for fewer faces."):
            pick, tick = runtime.backends.pick(UNWRAP, device), partial(runtime.step, "unwrap", 0, 1)
            groups.append(unwrapped_group(scene, frame, made, partial(_unwrapped, pick, device, size, tick)))
            runtime.step("unwrap", 1, 1)
    return groups


def _unwrapped(unwrap, device, size: int, tick, vertices: torch.Tensor, faces: torch.Tensor):
    return unwrap(vertices.to(device), faces.to(device), size, _PADDING, tick)[:3]


def _start(
    runtime: Runtime, models: Models, scene: Scene, frame: Frame, encoded: Encoded, strength: float, keep: Keep
) -> LatentStart:
    """The latent of the textures that the scene has, and which of its voxels lie where it is kept."""
    device = geometry_device(runtime.device)
    fine = encoded.subdivisions[-1].children
    with runtime.stage("read textures", 1, "Ask for a lower type."):
        materials, places = Materials(scene, not keep.vertex_colors), places_of(scene, frame, encoded, runtime)
        old = torch.empty(len(fine), 6, device=device)
        for place in places:
            old[place.rows] = materials.at(place)
        kept = kept_tokens(scene, keep, places, encoded.subdivisions) if keep else None
        runtime.step("read textures", 1, 1)
    attrs = old.to(fine.device)
    voxels = PBRVoxels(sparse.SparseTensor(fine, attrs), encoded.shape.resolution, encoded.shape.origin)
    return LatentStart(encode_texture(runtime, models, voxels, encoded.shape), strength, kept)


def texturing_roles(pipeline_type: PipelineType, existing: bool) -> tuple[str, ...]:
    """The models that texture_scene needs beside the image encoder. existing: whether old textures are encoded."""
    roles = IMAGE_ENCODER, SHAPE_ENCODER, SHAPE_DECODER, pipeline_type.texture.model, TEXTURE_DECODER
    return (*roles, TEXTURE_ENCODER) if existing else roles
