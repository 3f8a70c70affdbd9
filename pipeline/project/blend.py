"""Pictures and the texture that is there already, put together so that no seam shows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .cells import Cells
from .paint import Look

COLOURS = ("auto", "picture", "texture")
_SAMPLES = 400_000  # of the surface, from which smooth differences are found
_LENGTH = 0.04  # of the object's longest side: what is coarser than this is smooth in a picture's tone
_DETAIL = 0.02  # of it: what a picture gives to a texture that keeps its tone; coarser details have light in them
_AROUND = 0.08  # of it: what is smaller is a mark on what is round it
_MARK = 0.15  # difference of colours (sRGB, 0-1, Euclidean) from what is round a mark
_HUE = 0.08  # of a difference across a colour, from which on it is hardly light
_HIGHLIGHT = 0.3  # of the channel that a highlight raises most, by which it raises each
_FADE = 0.35  # of it: how far a picture's tone reaches beyond what it shows
_NEAREST = 0.01  # of it: over which the colours are smooth that a tone was found on
_OTHER = 0.2  # difference from these (sRGB, 0-1, Euclidean), from which on a colour is of another material


def blended(
    points: torch.Tensor, normals: torch.Tensor, baked: torch.Tensor, looks: Sequence[Look], colours: str
) -> torch.Tensor:
    """New colours of a surface's texels.

    Args:
        points, normals: [N, 3] of the texels, world; normals of unit length. baked: [N, 3] sRGB 0-1, what is there.
        looks: what pictures show of them; their tones (differences from `baked` that are smooth over the surface) are
            brought together first.
        colours: "picture": the pictures' tone, which what they do not show takes on near by, if its colour is like
            those on which the tone was found: what makes a yellow wall darker says nothing of the purple fin beside it.
            "texture": what is there keeps its tone, and pictures give what is finer.

    Returns:
        [N, 3] float32 sRGB 0-1.
    """
    size = float((points.amax(0) - points.amin(0)).amax())
    cells, fade = Cells(points, normals), _FADE * size
    length = size * (_DETAIL if colours == "texture" else _LENGTH)
    plain = _plain(cells, points, normals, baked, size) if colours == "texture" else baked.new_ones(len(baked))
    tones: list[torch.Tensor] = []
    pooled = mass = torch.zeros((), dtype=torch.float64, device=points.device)  # of all pictures: tones and colours
    for each in looks:
        some = slice(None, None, max(1, len(each.rows) // _SAMPLES))
        rows, trust = each.rows[some], each.weight[some].sqrt()  # grazing views tell the tone, too
        trust = trust * _on_usual_side(each.normal[some], normals[rows])
        difference = each.colour[some] - baked[rows]
        if colours == "texture":
            trust = trust * _likely_light(difference, baked[rows]) * plain[rows]
        both = torch.cat([difference, baked[rows]], 1)
        sums, known = cells.gathered(points[rows], normals[rows], both, trust)
        tones.append(cells.smoothed(sums[:, :3].contiguous(), known, length, fade))
        pooled, mass = pooled + sums, mass + known
    tone = torch.zeros(cells.count, 3, dtype=torch.float64, device=points.device)
    if colours == "picture" and looks:
        tone = tones[0] if len(looks) == 1 else cells.smoothed(pooled[:, :3].contiguous(), mass, length, fade)
    total, weight = torch.zeros_like(baked), baked.new_zeros(len(baked), 1)
    left = baked.new_ones(len(baked), 1)  # the share of what is there
    for each, own in zip(looks, tones):
        colour = each.colour
        if len(looks) > 1 or colours == "texture":
            colour = colour + cells.at(points[each.rows], normals[each.rows], tone - own)
        total[each.rows] += each.weight[:, None] * colour
        weight[each.rows] += each.weight[:, None]
        left[each.rows] *= 1 - each.share[:, None]
    rest = baked
    if bool(tone.any()):
        some = (left[:, 0] > 0).nonzero()[:, 0]
        place = points[some], normals[some]
        found_on = _found_on(cells, pooled[:, 3:], mass, size)
        like = 1 / (1 + ((baked[some] - cells.at(*place, found_on)).norm(dim=1, keepdim=True) / _OTHER) ** 4)
        rest = baked.index_add(0, some, like * cells.at(*place, tone))
    shown = total / weight.clamp_min(1e-9)
    return (left * rest + (1 - left) * shown).clamp(0, 1)


def _on_usual_side(seen: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
    """[N] 0 or 1: whether a picture sees faces of normals [N, 3] from the side that it sees most from; seen: their
    normals on the side that is seen. A wall's inside that a hole shows tells nothing of the tone of its outside."""
    front = (seen * normals).sum(1) > 0
    return (front if 2 * int(front.sum()) >= len(front) else ~front).float()


def _found_on(cells: Cells, sums: torch.Tensor, mass: torch.Tensor, size: float) -> torch.Tensor:
    """[M, 3] float64: the colours that a tone was found on near each cell, from their sums [M, 3] and weights [M]."""
    both = cells.smoothed(torch.cat([sums, mass[:, None]], 1), mass, _NEAREST * size, 1e3 * size)
    return both[:, :3] / both[:, 3:].clamp_min(1e-9)


def _plain(cells: Cells, points: torch.Tensor, normals: torch.Tensor, baked: torch.Tensor, size: float) -> torch.Tensor:
    """[N] in 0-1: whether what is there is as it is round about. Where it has a mark of its own a difference from the
    picture is none of light: a window that was generated elsewhere is no shadow on the wall."""
    some = slice(None, None, max(1, len(baked) // _SAMPLES))
    sums = cells.gathered(points[some], normals[some], baked[some], torch.ones_like(baked[some, 0]))
    around = cells.at(points, normals, cells.smoothed(*sums, _AROUND * size, 1e3 * size))
    return 1 / (1 + ((baked - around).norm(dim=1) / _MARK) ** 4)


def _likely_light(difference: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """[N] in 0-1: whether light can make differences [N, 3] from colours [N, 3], sRGB: it makes a colour brighter or
    darker, and highlights raise all channels, but it makes no white wall blue. What is no light is one of the picture's
    details, however large, and says nothing of its tone."""
    along = torch.nn.functional.normalize(own + 1e-3, dim=1)
    across = (difference - (difference * along).sum(1, keepdim=True) * along).norm(dim=1)
    low, high = difference.aminmax(dim=1)
    across = torch.where(low > _HIGHLIGHT * high, 0, across)
    return 1 / (1 + (across / _HUE) ** 4)
