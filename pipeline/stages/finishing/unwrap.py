"""Texture coordinates for baking: a new atlas of all levels, or the UVs that the mesh has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from ...errors import MeshError, SettingsError
from ...mesh import UNWRAP
from ...mesh.bake.bake import Texels
from ...mesh.bake.shared_texels import shared_share, sharing_line
from ...runtime import Runtime
from ..types import SEAMS, Mesh

_FULL_PADDING = 256  # pixels of a texture from which on padding is meant as it is given


def unwrap_levels(runtime: Runtime, levels: Sequence[Mesh], size: int, padding: int, seams: str = SEAMS[0]) -> tuple:
    """All levels in one atlas; returns as the backends do, the sources being rows of the levels' vertices in turn."""
    device, moved, faces, count = levels[0].vertices.device, [], [], 0
    for number, level in enumerate(levels):
        # smaller, for fewer texels; and apart, for xatlas takes corners in one place for the same
        moved.append(level.vertices * 0.5**number + 2.0 * number)
        faces.append(level.faces + count)
        count += len(level.vertices)
    if size < _FULL_PADDING:  # where charts are small, it would take most of the texels
        padding = min(padding, max(1, padding * size // _FULL_PADDING))
    unwrap, tick = runtime.backends.pick(UNWRAP, device), partial(runtime.step, "unwrap", 0, 1)
    at = torch.cat(moved), torch.cat(faces)
    source, faces, uvs, facts = unwrap(*at, size, padding, tick, seams == "fewer")
    if seams == "fewer" and (used := runtime.backends.used.get(UNWRAP)) != "warp":
        said = f"There are no fewer seams than usual: {used} unwrapped the mesh, which cannot make fewer. Install Warp."
        facts = {**facts, "warnings": [*levels[0].facts.get("warnings", ()), said]}
    return source.to(device), faces.to(device), uvs.to(device), facts


def kept_uvs(mesh: Mesh) -> tuple:
    """The UVs that a mesh has, as unwrap_levels returns them."""
    return torch.arange(len(mesh.vertices), device=mesh.faces.device), mesh.faces, mesh.uvs, {}


def check_uvs(mesh: Mesh) -> None:
    """Raises SettingsError or MeshError, as bake_texture says, if its UVs cannot be kept."""
    if mesh.uvs is None:
        raise SettingsError("The mesh has no UVs to keep (processing drops them). Turn keep_uvs off.")
    if mesh.lods:
        raise SettingsError("Levels of detail have no UVs to keep. Process the mesh without levels.")
    mesh.require_faces()
    low, high = mesh.uvs.aminmax()
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # so NaN fails
        raise MeshError(
            f"The mesh's UVs reach from {float(low):.4g} to {float(high):.4g}; only those in 0-1 can be baked into one "
            "texture. Turn keep_uvs off, or unwrap it into one tile."
        )


def kept_facts(mesh: Mesh, vertices: torch.Tensor, uvs: torch.Tensor, faces: torch.Tensor, texels: Texels) -> dict:
    """What an unwrapper would have said: utilisation, and a warning where faces lie on each other."""
    covered = int(texels.covered.count_nonzero()) / texels.covered.numel()
    warnings = list(mesh.facts.get("warnings", ()))
    if share := shared_share(vertices, uvs, faces, texels):
        warnings.append(sharing_line(share))
    return {"utilisation": covered, "warnings": warnings}
