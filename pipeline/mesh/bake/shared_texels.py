"""Places of a mesh that share texels with other places of it, whose colours they then show."""

from __future__ import annotations

import torch

from ..topology.steady import steady_sum
from .bake import Texels

_NEAR = 0.05  # of the mesh's longest side, within which two places may share a texel,
_TEXELS = 2.0  # and so many texels of mean size more
_LEAST = 0.005  # of the surface, below which it is not worth telling: faces smaller than a texel


def shared_share(vertices: torch.Tensor, uvs: torch.Tensor, faces: torch.Tensor, texels: Texels) -> float:
    """The share of the surface, by faces, in whose middle the texture shows another place of the mesh; 0 if it is too
    small to tell. Mirrored halves, stacked parts and parts that share a dot of colour are found alike.

    Args:
        vertices: [V, 3]. uvs: [V, 2] in 0-1. faces: [F, 3]. texels: of these.
    """
    size, faces = texels.covered.shape[0], faces.long()
    column, row = (uvs[faces].mean(1) * size).long().clamp(0, size - 1).unbind(1)
    shown = texels.source[row * size + column].long()
    corners = vertices[faces[texels.face[shown].long()]]
    far = vertices[faces].mean(1) - (corners * texels.weights[shown][:, :, None]).sum(1)
    a, b, c = vertices[faces].double().unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=1) / 2
    whole = float(steady_sum(area))
    used = vertices[faces.reshape(-1)]
    reach = _NEAR * float((used.amax(0) - used.amin(0)).amax()) + _TEXELS * (whole / len(texels)) ** 0.5
    share = float(steady_sum(area * (far.norm(dim=1) > reach))) / max(whole, 1e-300)
    return share if share > _LEAST else 0.0


def sharing_line(share: float, of: str = "") -> str:
    """A warning. share: see shared_share. of: names of meshes."""
    return f"The UVs{of and f' of {of}'} overlap: {share:.1%} of the surface shows the colours of other places."
