"""Depths that a camera sees: jumps from one part to another, and what are mere slits in a generated surface."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import grey_opening

from ..views import PictureCamera

FAR = 1e9  # depth of nothing
_SLIT = 0.014  # picture sides that a slit in the surface is wide at most
_STEEP = 6.0  # pixels of depth from one pixel to the next; a surface seen at more than 80 degrees to its normal
_STEP = 0.03  # picture sides of depth, from which one part hides another; generated surfaces are rough by less


def step_of(camera: PictureCamera, side: int, least: float = _STEP) -> float:
    """World units of depth between pixels of side x side, from which one part hides another. least: picture sides."""
    return max(_STEEP / side, least) / camera.scale


def without_slits(depth: np.ndarray) -> np.ndarray:
    """Depth [s, s] without what is far in narrow places only: pinholes and slits of a generated surface, which no
    picture shows. A line of sight through them still tells what it meets."""
    wide = max(3, 2 * round(_SLIT * len(depth) / 2) + 1)
    return np.asarray(grey_opening(np.where(np.isfinite(depth), depth, FAR), (wide, wide)))


def depth_edges(depth: np.ndarray, least: float) -> np.ndarray:
    """[s, s] bool: pixels behind a jump of depth, on which the picture may show the part in front. least: jump, world
    units."""
    return depth_jumps(depth) > least


def depth_jumps(depth: np.ndarray, alone: bool = False) -> np.ndarray:
    """[s, s] world units by which the nearest neighbour of each pixel is in front of it; 0 where none is, or nothing
    is seen. alone: less by the larger of the steps right before and behind it, so that what is left is no slope."""
    known = depth < FAR
    depth = np.where(known, depth, 0)
    jump = np.zeros_like(depth)
    for axis in (0, 1):
        one, two = np.delete(known, -1, axis), np.delete(known, 0, axis)
        step = np.where(one & two, -np.diff(depth, axis=axis), 0)  # above 0: the second is in front
        if alone:
            size = np.pad(np.abs(step), [(1, 1) if each == axis else (0, 0) for each in (0, 1)])
            slope = np.maximum(np.delete(size, (-1, -2), axis), np.delete(size, (0, 1), axis))
            step = np.sign(step) * np.maximum(np.abs(step) - slope, 0)
        first, second = (np.s_[:-1], np.s_[1:]) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
        jump[first] = np.maximum(jump[first], step)
        jump[second] = np.maximum(jump[second], -step)
    return jump
