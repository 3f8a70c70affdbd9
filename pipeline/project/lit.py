"""How much light a picture has in it: whether its brightness follows the surface's direction within one material.

The object's own colours are not asked, as those that are there may be wrong: pixels near each other that have the same
hue are compared, and what their normals explain of the difference is light (the assumption of Retinex: Land and McCann,
"Lightness and Retinex theory", 1971).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import uniform_filter

from ..srgb import tensor_to_linear
from ..views import PictureCamera
from .painted import Painted
from .picture import Picture
from .shading import harmonics

_SIDE = 128  # pixels
_LAGS = ((0, 8), (8, 0), (8, 8), (8, -8))  # pixels between the two of a pair
_BLUR = 5  # pixels over which normals are averaged: a generated surface is rough
_SAME = 0.03  # difference of hues (shares of red, green, blue) of one material
_EDGE = 0.7  # of the logarithm of brightness; more is another material
_DARK = 0.01  # linear light, below which a brightness says little
_RIDGE = 1e-3  # of the samples, towards light from everywhere
_TURNED = 0.1  # difference of the harmonics of two normals that are not one
_FEW = 200  # pairs, below which nothing can be said
LIT = 0.003  # of 9 held-out objects light_in is at most 0.002 without light, 0.001 of text, and at least 0.004 in light


def light_in(painted: Painted, picture: Picture, camera: PictureCamera) -> float:
    """The standard deviation, in the logarithm, of the light that a picture shows on the surface its camera sees, times
    the correlation of brightness with it: about 0 for pictures of mere colours, mostly 0.06 and more for others; inf
    where too little can be compared."""
    seen = painted.seen(camera, _SIDE, colours=False)
    colour, share = picture.small(_SIDE)
    inside = seen.mask.cpu().numpy() & (share > 0.99)
    normal = _blurred(seen.normal.cpu().numpy(), inside)
    light = tensor_to_linear(torch.from_numpy(colour)).numpy()
    total = light.sum(2)
    hue, bright = light / (total[..., None] + 3 * _DARK), np.log(total / 3 + _DARK)
    basis = harmonics(torch.from_numpy(normal.reshape(-1, 3)).double()).numpy().reshape(_SIDE, _SIDE, 9)[..., 1:]
    rows, wanted = [], []
    for down, right in _LAGS:
        one, other = _shifted(down, right)
        both = inside[one] & inside[other]
        both &= np.abs(hue[one] - hue[other]).sum(2) < _SAME
        step = bright[one] - bright[other]
        both &= np.abs(step) < _EDGE
        rows.append((basis[one] - basis[other])[both])
        wanted.append(step[both])
    slopes, steps = np.concatenate(rows), np.concatenate(wanted)
    turned = np.linalg.norm(slopes, axis=1) > _TURNED
    if turned.sum() < _FEW:  # a flat side says nothing of light
        return float("inf")
    matrix = slopes.T @ slopes / len(steps) + _RIDGE * np.eye(8) * np.square(slopes).mean()
    found = np.linalg.solve(matrix, slopes.T @ steps / len(steps))
    left, whole = (float(np.square(each[turned]).sum()) for each in (steps - slopes @ found, steps))
    explained = 1 - left / max(whole, 1e-12)
    return float((basis[inside] @ found).std()) * max(explained, 0.0) ** 0.5


def _shifted(down: int, right: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Windows of a picture that are so many pixels from each other."""
    a, b = slice(0, _SIDE - down), slice(down, _SIDE)
    c, d = slice(max(0, -right), _SIDE - max(0, right)), slice(max(0, right), _SIDE - max(0, -right))
    return (a, c), (b, d)


def _blurred(normal: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """[S, S, 3] unit normals, averaged over what is inside."""
    mean = uniform_filter(normal * inside[..., None], (_BLUR, _BLUR, 1))  # type: ignore[arg-type] - a size for each axis
    return (mean / np.maximum(np.linalg.norm(mean, axis=2, keepdims=True), 1e-6)).astype(np.float32)
