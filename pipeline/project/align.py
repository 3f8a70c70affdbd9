"""Non-rigid registration of a picture to an object of slightly other proportions: its parts are moved smoothly to where
the object has them.

A generated object differs slightly from its picture: a handle is lower, an eye higher, and even from the best camera
pixels of one part would be projected on another one behind it. The moves are found by demons (Thirion, "Image matching
as a diffusion process: an analogy with Maxwell's demons", 1998) with the gradients of both pictures (Vercauteren et
al., "Diffeomorphic demons", 2009), coarse to fine: silhouettes must agree, and colours in the light that suits them
best.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates

from ..views import PictureCamera
from .painted import Painted
from .picture import Picture
from .shading import estimated

_SIDES, _SAMPLES = (32, 64, 128, 256), 2  # pixels along a side, level by level; and lines of sight along a side of each
_STEPS = 30  # of each level
_STRIDE = 0.5  # pixels; largest move in a step
_FLUID, _STIFF = 2.0, 1.0  # pixels over which steps, and the total moves, are smoothed
_MOST = 0.06  # of the object's longer side in the picture; largest total move
_NEAR = 3.0  # pixels within which a picture's edges must meet edges of the object's colours to pull at each other
_QUIET = 1e-3  # squared gradient; smaller ones are ignored
_SLACK = 2  # pixels of the last level by which outlines may still differ from the object's
_HALF, _WHOLE = 0.5, 0.9  # shares of a pixel that count as object, and as fully covered


@dataclass(frozen=True)
class Aligned:
    """picture: with its parts moved. iou: overlap of silhouettes with the object's now. moved: by how much parts were
    moved at most, in picture sides."""

    picture: Picture
    iou: float
    moved: float


def aligned(painted: Painted, picture: Picture, camera: PictureCamera) -> Aligned:
    """A picture that shows each part where the object has it, seen from a camera; parts move by 6 % of the object at
    most."""
    left, top, right, bottom = picture.box
    most, iou, side = _MOST * max(right - left, bottom - top), 0.0, 1
    moves = np.zeros((2, 1, 1))
    for side in _SIDES:
        own, normal = _object(painted, camera, side)
        given, here = _layers(*picture.small(side)), np.indices((side, side))
        moves = _resized(moves, side)
        lit = _in_light_of(_at(given, here + moves * side), own, normal)
        for _ in range(_STEPS):
            step = _step(_at(given, here + moves * side), lit) / side
            moves = _smooth(moves + step, _STIFF)
            moves *= np.minimum(1, most / np.maximum(np.linalg.norm(moves, axis=0), 1e-9))
        share = _at(given[:1], here + moves * side)[0]
        iou = float(np.minimum(share, own[0]).sum() / max(np.maximum(share, own[0]).sum(), 1e-9))
    return Aligned(picture.moved(moves, _SLACK / side), iou, float(np.linalg.norm(moves, axis=0).max()))


def _object(painted: Painted, camera: PictureCamera, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Layers and unit normals [3, s, s] of what a camera sees."""
    seen = painted.seen(camera, side * _SAMPLES)

    def means(values: torch.Tensor) -> np.ndarray:
        values = (values * seen.mask[:, :, None]).cpu()
        return values.reshape(side, _SAMPLES, side, _SAMPLES, -1).mean((1, 3)).numpy()

    share = means(seen.mask[:, :, None].float())
    layers = _layers(means(seen.colour) / np.maximum(share, 1e-6), share[:, :, 0])
    return layers, F.normalize(torch.from_numpy(means(seen.normal)), dim=2).permute(2, 0, 1).numpy()


def _layers(colour: np.ndarray, share: np.ndarray) -> np.ndarray:
    """[4, s, s]: the share that is object, and colours; beyond the outline those of the nearest pixel inside."""
    return np.concatenate([share[None], _spread(colour.transpose(2, 0, 1), share)])


def _spread(colour: np.ndarray, share: np.ndarray) -> np.ndarray:
    if not (share > _HALF).any():
        return colour
    place = np.empty((2, *share.shape), np.int32)
    distance_transform_edt(share <= _HALF, return_distances=False, return_indices=True, indices=place)
    return colour[:, place[0], place[1]]


def _in_light_of(shown: np.ndarray, own: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """The object's layers [4, s, s] in the light of a picture's."""
    both = torch.from_numpy((shown[0] > _WHOLE) & (own[0] > _WHOLE)).reshape(-1)
    if not both.any():
        return own
    wanted, colour, towards = (torch.from_numpy(each.reshape(3, -1).T).float() for each in (shown[1:], own[1:], normal))
    lit = estimated(wanted[both], colour[both], towards[both]).on(colour, towards)
    return np.concatenate([own[:1], _spread(lit.T.reshape(own[1:].shape).numpy(), own[0])])


def _step(shown: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """[2, s, s] pixels down and right by which a picture's layers [4, s, s] are to be taken from farther on."""
    slopes = [np.stack([*np.gradient(each, axis=(1, 2))], 1) for each in (shown, wanted)]  # [4, 2, s, s] each
    counts = np.ones_like(shown)
    counts[1:] = (shown[0] > _HALF) & (wanted[0] > _HALF)
    miss, slope = counts * (wanted - shown), counts[:, None] * (slopes[0] + slopes[1]) / 2
    force = miss[:, None] * slope
    force[1:] *= _paired(*slopes)
    against = (np.square(slope).sum(1) + np.square(miss)).sum(0) + _QUIET
    step = _smooth(force.sum(0) / against, _FLUID)
    return step * np.minimum(1, _STRIDE / np.maximum(np.linalg.norm(step, axis=0), 1e-9))


def _paired(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[s, s] in 0-1: whether colours of both change near a pixel. What only one of them shows, a pattern that was not
    generated or a blotch that was, has no place to be moved to. one, other: slopes of layers [4, 2, s, s]."""
    first, second = (gaussian_filter(np.square(each[1:]).sum((0, 1)), _NEAR) + _QUIET for each in (one, other))
    return np.square(4 * first * second / np.square(first + second))


def _at(layers: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Layers [C, s, s] between pixels, at rows and columns [2, s, s]."""
    return np.stack([map_coordinates(each, place, order=1, mode="nearest") for each in layers])


def _smooth(values: np.ndarray, width: float) -> np.ndarray:
    return np.stack([gaussian_filter(each, width) for each in values])


def _resized(moves: np.ndarray, side: int) -> np.ndarray:
    return F.interpolate(torch.from_numpy(moves)[None], (side, side), mode="bilinear", align_corners=False)[0].numpy()
