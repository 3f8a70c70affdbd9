"""Flaps: pairs of faces of the same vertices that face opposite ways, what is left where a thin part has collapsed."""

from __future__ import annotations

import torch

from ..topology.sorting import by_corners


def without_flaps(faces: torch.Tensor, kernels: bool | None) -> torch.Tensor:
    """Faces [F, 3] without such pairs. Cleaning drops one of a pair, and the other would hang on as a component of its
    own."""
    order, again = by_corners(faces, kernels)
    if not bool(again.any()):
        return faces
    group = (~again).cumsum(0) - 1
    a, b, c = faces[order.long()].unbind(1)
    side = 1 - 2 * ((a > b).int() + (b > c).int() + (c > a).int() - 1)  # by the parity of their order
    total = torch.zeros(int(group[-1]) + 1, dtype=torch.int64, device=faces.device).index_add_(0, group, side.long())
    stays = (total[group] != 0) | (torch.bincount(group)[group] == 1)
    keep = torch.zeros(len(faces), dtype=torch.bool, device=faces.device)
    keep[order.long()] = stays
    return faces[keep]
