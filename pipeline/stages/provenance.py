"""Whether values that a stage is given together belong together.

A graph can connect what different runs made. Every value of a stage carries an Origin; each stage calls one function of
this file before it does any work. What shows in the values themselves (widths, voxels) is compared as well, so
that values of unknown origin cannot read past the end of an array either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from ..errors import SettingsError
from ..sparse import Subdivision
from ..spec import IMAGE_ENCODER, SHAPE_DECODER, STRUCTURE_DECODER, TEXTURE_DECODER
from ..weights import Models
from .types import UNKNOWN, Condition, Latent, Mesh, Origin, PBRVoxels, Structure


def made_with(models: Models, role: str, recipe: str, description: str = "", notes: str = "") -> Origin:
    """The origin of a value in the terms of a network of this checkpoint."""
    return Origin(role, models.fingerprint(role), models.checkpoint.name, recipe, description, notes)


def with_notes(facts: dict, origin: Origin) -> dict:
    """The facts of a mesh with the notes of what it is put together with, as warnings, each once."""
    if not origin.notes:
        return facts
    return {**facts, "warnings": list(dict.fromkeys([*facts.get("warnings", ()), *origin.notes.splitlines()]))}


def recipe(*parts: object) -> str:
    """A fingerprint of inputs and settings (bytes, or anything whose repr tells it); "" if a part is "" (unknown)."""
    if "" in [part for part in parts if isinstance(part, str)]:
        return ""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:32]


def check_condition(models: Models, condition: Condition, passes: Sequence[tuple[str, int]]) -> None:
    """passes: (flow network, image scale) of every run that is to see the condition.

    Raises:
        SettingsError: another image encoder made it, it lacks a scale, or a network takes tokens of another width.
    """
    _check_network(models, IMAGE_ENCODER, "condition", condition.origin, "Encode the picture with these models.")
    for role, scale in passes:
        condition.count(scale)
        width, expected = condition.tokens[scale].shape[-1], models.config(role)["args"]["cond_channels"]
        if width != expected:
            raise SettingsError(
                f"The condition has tokens of {width} channels; {role} of {models.checkpoint.name} takes {expected}. "
                "Encode the picture with these models."
            )


def check_structure(models: Models, structure: Structure) -> None:
    """Raises SettingsError if another checkpoint made the structure."""
    _check_network(models, STRUCTURE_DECODER, "structure", structure.origin, "Sample it with these models.")


def check_latent(models: Models, latent: Latent, role: str) -> None:
    """role: SHAPE_DECODER or TEXTURE_DECODER, whose latent is asked for.

    Raises:
        SettingsError: it is a latent of another kind or checkpoint.
    """
    what = {SHAPE_DECODER: "shape latent", TEXTURE_DECODER: "texture latent"}[role]
    _check_network(models, role, what, latent.origin, "Sample it with these models.")
    width, expected = latent.sparse.feats.shape[1], models.config(role)["args"]["latent_channels"]
    if width != expected:
        raise SettingsError(
            f"The {what} has {width} channels; {role} of {models.checkpoint.name} takes {expected}. "
            "Sample it with these models."
        )


def check_subdivisions(models: Models, texture: Latent, subdivisions: Sequence[Subdivision]) -> None:
    """Raises SettingsError if the subdivisions are not those of the shape that the texture was sampled for."""
    cure = "Take the subdivision from decoding the same shape latent that the texture was sampled on."
    origin = getattr(subdivisions, "origin", UNKNOWN)
    _check_recipes({"texture latent": texture.origin, "subdivision": origin}, cure)
    expected = len(models.config(TEXTURE_DECODER)["args"]["model_channels"]) - 1
    if len(subdivisions) != expected:
        raise SettingsError(
            f"The subdivision has {len(subdivisions)} levels; {TEXTURE_DECODER} of {models.checkpoint.name} follows "
            f"{expected}. {cure}"
        )
    own = texture.sparse.voxels.coords
    for level, each in enumerate(subdivisions):
        divided = each.parents.coords
        if divided is not own and not torch.equal(divided, own):
            raise SettingsError(
                f"Level {level} of the subdivision divides {len(divided):,} voxels that are not the {len(own):,} "
                f"voxels of the texture latent at this level. {cure}"
            )
        own = each.children.coords


def check_voxels(voxels: PBRVoxels, mesh: Mesh, original: Mesh | None) -> None:
    """Raises SettingsError if the voxels are known to be another shape's than the mesh or the original."""
    cure = (
        "Take the voxels of the same shape. If this is meant, a mesh that went to ComfyUI's own MESH and back has no "
        "origin and is not compared."
    )
    origins = {"voxels": voxels.origin, "mesh": mesh.origin}
    _check_recipes(origins if original is None else {**origins, "original": original.origin}, cure)
    if original is not None and original.resolution:  # a raw mesh, which has a vertex for every voxel
        found = (original.resolution, len(original.vertices))
        if found != (voxels.resolution, len(voxels.sparse.voxels)):
            raise SettingsError(
                f"The original is the raw mesh of {found[1]:,} voxels at a resolution of {found[0]}, not of the "
                f"{len(voxels.sparse.voxels):,} voxels at {voxels.resolution} that are to be baked. Take the raw mesh "
                "and the voxels of the same shape."
            )


def _check_network(models: Models, role: str, what: str, origin: Origin, cure: str) -> None:
    """That a value is in the terms of this checkpoint's network of that role."""
    if not origin.role:
        return
    if origin.role != role:
        raise SettingsError(f"A {what} is needed here, which belongs to {role}; this value belongs to {origin.role}.")
    if origin.network != models.fingerprint(role):
        name = models.checkpoint.name
        other = "files of that name that differ" if origin.checkpoint == name else origin.checkpoint
        raise SettingsError(
            f"The {what} was made with another {role} (of {other}) than that of {name}, with which it is to be used. "
            + cure
        )


def _check_recipes(origins: dict[str, Origin], cure: str) -> None:
    """That values are of one shape, as far as it is known."""
    known = {what: origin for what, origin in origins.items() if origin.recipe}
    if len({origin.recipe for origin in known.values()}) > 1:
        listed = "; ".join(f"{what}: {origin.description}" for what, origin in known.items())
        same = len({origin.description for origin in known.values()}) == 1
        more = ", with another picture, other weights or other sampler settings" if same else ""
        raise SettingsError(f"These values belong to different shapes ({listed}{more}). {cure}")
