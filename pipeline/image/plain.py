"""An object before a plain background: a smooth surface of colour fitted to the picture's border, and a soft matte.

The matte is the classic one of a known background: alpha is the distance of a pixel from the background in units of the
distance of the nearest pixel that is surely object, and the background's share is taken out of the colour (Smith and
Blinn, "Blue screen matting", 1996).
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from ..errors import ImageError

_RING = 0.02  # of the shorter side: the border that is taken for background
_MOST = 0.7  # of the border must fit one smooth surface of colour; the rest may be an object that is cut off there
_NOISE = 10.0  # levels; single pixels of a plain border stray no further from its surface (median)
_DRIFT = 4.0  # levels; nor do groups of pixels, in which noise cancels
_CORNERS = 3  # of the four must be background: an object that fills a whole side is a floor or a wall
_QUIET = 5.0  # levels; what differs less from the background is background, even without any noise
_LOUD = 16.0  # levels; a single pixel that differs more is object
_SPECK = 0.0005  # of the picture; smaller spots are dust
_ACROSS = 0.15  # of a side; what touches two opposite sides at such a length is a floor, a wall or a frame
_FEW = 64  # pixels; fewer are no object
_VAGUE = 0.25  # of the outline; where more of it hardly differs from the background there is no object
_MUCH = 0.95  # of the picture
_PART = 0.005  # of the object; smaller parts that are not connected to it are dust too
_BAND = 2  # pixels on either side of the silhouette in which the matte is soft
_RINGING = 0.12  # of the contrast near by: what a JPEG leaves round an edge
_BLOCK = 6  # pixels from an edge that a JPEG spoils
_DARKEST = 0.4  # of the background's light: deeper shadows are taken for object
_EDGE = 4.5  # levels a pixel; a steeper change is an edge and no soft shadow
_SAMPLES = 40_000  # pixels a surface is fitted to at most


def plain_background(image: Image.Image) -> Image.Image:
    """Remove a plain background: one colour or a smooth gradient, with the noise of a camera or a JPEG.

    Enclosed regions of the background's colour (inside a handle) are background too.

    Args:
        image: RGB.

    Returns:
        RGBA; colours at the silhouette are the object's own. Its info has a "remark": that the colour decided, and what
        may be wrong with it.

    Raises:
        ImageError: the background is not plain, or nothing stands out from it.
    """
    colours = np.asarray(image.convert("RGB"), dtype=np.float32)
    ring = _ring(colours.shape[:2])
    surface, noise = _surface_of_border(colours, ring)
    for _ in range(2):  # with a first guess of the background, its whole area can be fitted
        surface = _fitted(colours, _background(colours - surface, noise), degree=3)
    lit = _background(colours - surface, noise)
    foreground = ~_without_shadow(lit, colours, surface, noise)
    share = foreground.mean()
    if foreground.sum() < _FEW:
        raise ImageError("the background is plain, but nothing stands out from it")
    if share > _MUCH:
        raise ImageError(f"{share:.0%} of the picture differs from its border, so the border is not the background")
    _check_border(ring, ~foreground)
    ends = [foreground[0], foreground[-1], foreground[:, 0], foreground[:, -1]]
    if any(min(one.mean(), other.mean()) > _ACROSS for one, other in (ends[:2], ends[2:])):
        raise ImageError("the background is not plain: what stands out from it goes from one side to the other")
    quiet = max(_QUIET, 3 * noise)
    remark = _checked_outline(colours, surface, foreground, quiet, 1 - foreground.sum() / (~lit).sum())
    found = _matte(colours, surface, foreground, quiet)
    found.info["remark"] = remark
    return found


def _checked_outline(
    colours: np.ndarray, surface: np.ndarray, foreground: np.ndarray, quiet: float, shadow: float
) -> str:
    """That the background was guessed, and where that may be wrong. Raise ImageError if it must be."""
    around = np.median(surface[~foreground], 0).round().clip(0, 255).astype(int).tolist()
    notes = [f"The picture's plain background (about rgb {tuple(around)}) was removed by its colour"]
    if shadow > 0.05:
        notes.append(f"{shadow:.0%} of what differs from it was taken for a soft shadow")
    contrast = ndimage.maximum_filter(np.linalg.norm(colours - surface, axis=2), 7)
    outline = foreground & ~_eroded(foreground, 1)
    weak = (contrast[outline] < 3 * quiet).mean()
    if weak > _VAGUE:
        raise ImageError(f"{weak:.0%} of what would be the object's outline hardly differs from the background")
    if weak > 0.05:
        notes.append(f"{weak:.0%} of the outline hardly differs from it, so parts may be missing: a mask would tell")
    return "; ".join(notes) + "."


def _ring(shape: tuple[int, int]) -> np.ndarray:
    width = max(1, round(_RING * min(shape)))
    ring = np.ones(shape, bool)
    ring[width:-width, width:-width] = False
    return ring


def _surface_of_border(colours: np.ndarray, ring: np.ndarray) -> tuple[np.ndarray, float]:
    """A quadratic surface of colour [H, W, 3] through most of the border, and how far pixels stray from it (median).

    Least absolute deviations by reweighting: up to a third of the border may be something else.
    """
    rows, columns = np.nonzero(ring)
    y, x = powers = _powers(ring.shape, 2)
    design, samples = y[rows] * x[columns], colours[rows, columns]
    distance = np.linalg.norm(samples - np.median(samples, 0), axis=1)
    weights = np.zeros((design.shape[1], samples.shape[1]))
    for _ in range(15):
        root = np.sqrt(1 / np.maximum(distance, 1))[:, None]
        weights = np.linalg.lstsq(design * root, samples * root, rcond=None)[0]
        distance = np.linalg.norm(samples - design @ weights, axis=1)
    surface = _surface(powers, weights)
    noise = float(np.median(distance))
    drift = _blurred(colours - surface, 7)[ring]  # what is left when noise is averaged out
    _check_border(ring, ring & (np.linalg.norm(colours - surface, axis=2) < max(_QUIET, 3 * noise)))
    strays = float(np.median(np.linalg.norm(drift, axis=1)))
    if noise > _NOISE or strays > _DRIFT:
        raise ImageError(
            f"the background is not plain: the border strays from one smooth colour by {strays:.0f} levels, "
            f"with noise by {noise:.0f}"
        )
    return surface, noise


def _check_border(ring: np.ndarray, background: np.ndarray) -> None:
    """Raise ImageError unless the picture's border is background for the most part, and at nearly every corner."""
    share = background[ring].mean()
    side = max(2, min(ring.shape) // 16)
    slices = (slice(None, side), slice(-side, None))
    corners = sum(bool(background[r, c][ring[r, c]].mean() > 0.5) for r in slices for c in slices)
    if share < _MOST or corners < _CORNERS:
        raise ImageError(
            f"the background is not plain: {share:.0%} of the picture's border and {corners} of its 4 corners have "
            f"one smooth colour; needed are {_MOST:.0%} and {_CORNERS}"
        )


def _powers(shape: tuple[int, int], degree: int) -> tuple[np.ndarray, np.ndarray]:
    """The factors in y [H, terms] and in x [W, terms], both in -1..1, of all terms up to a degree."""
    y, x = (np.linspace(-1, 1, size)[:, None] for size in shape)
    i, j = np.array([(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]).T
    return y**i, x**j


def _surface(powers: tuple[np.ndarray, np.ndarray], weights: np.ndarray) -> np.ndarray:
    """[H, W, 3] of weights [terms, 3]."""
    y, x = powers
    return np.stack([(y * one) @ x.T for one in weights.T], -1).astype(np.float32)


def _fitted(colours: np.ndarray, where: np.ndarray, degree: int) -> np.ndarray:
    """The surface of a degree through some pixels, by least squares: [H, W, 3]."""
    rows, columns = (index[:: max(1, len(index) // _SAMPLES)] for index in np.nonzero(where))
    y, x = powers = _powers(where.shape, degree)
    return _surface(powers, np.linalg.lstsq(y[rows] * x[columns], colours[rows, columns], rcond=None)[0])


def _blurred(values: np.ndarray, side: int) -> np.ndarray:
    """Means over squares of pixels, channel by channel, of [H, W, C]."""
    return np.asarray(ndimage.uniform_filter(values, (side, side, 0)))  # type: ignore[arg-type] # sizes by axis are fine


def _labelled(mask: np.ndarray, corners: bool = False) -> tuple[np.ndarray, int]:
    """Regions of a mask [H, W], numbered from 1, and how many; corners: pixels that touch in one are together, too."""
    regions = np.empty(mask.shape, np.int32)
    count = ndimage.label(mask, np.ones((3, 3)) if corners else None, output=regions)
    assert isinstance(count, int)
    return regions, count


def _eroded(mask: np.ndarray, pixels: int) -> np.ndarray:
    return np.asarray(ndimage.binary_erosion(mask, iterations=pixels), dtype=bool)


def _background(difference: np.ndarray, noise: float) -> np.ndarray:
    """Which pixels are background, from the difference [H, W, 3] to its colour."""
    quiet = max(_QUIET, 3 * noise)
    alone = np.linalg.norm(difference, axis=2)
    together = np.linalg.norm(_blurred(difference, 3), axis=2)  # noise cancels, objects do not
    ringing = _RINGING * ndimage.maximum_filter(alone, 2 * _BLOCK + 1)
    like = (together < np.maximum(quiet, ringing)) & (alone < np.maximum(max(_LOUD, 6 * noise), ringing))
    outside = _reached(like)
    return _without_specks(outside | _enclosed(difference, like & ~outside, noise))


def _enclosed(difference: np.ndarray, inside: np.ndarray, noise: float) -> np.ndarray:
    """Of the enclosed regions those that have the very colour of the background, as what is seen through a handle."""
    regions, count = _labelled(inside)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    same = np.zeros(count + 1, bool)
    for number in np.nonzero(sizes >= max(16, _SPECK * inside.size))[0]:
        if number:
            values = difference[regions == number]
            strays = np.linalg.norm(values, axis=1)
            calm = values[strays <= np.median(strays)]  # the half that edges and shadows reach less
            same[number] = np.linalg.norm(calm.mean(0)) < max(2.0, 0.5 * noise)
    return same[regions]


def _reached(like: np.ndarray) -> np.ndarray:
    """The pixels that are connected to the picture's border."""
    regions, count = _labelled(like)
    reached = np.zeros(count + 1, bool)
    reached[np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))] = True
    reached[0] = False
    return reached[regions]


def _without_specks(background: np.ndarray) -> np.ndarray:
    spots, count = _labelled(~background, corners=True)
    sizes = np.bincount(spots.ravel(), minlength=count + 1)
    small = sizes < max(4, _SPECK * background.size, _PART * sizes[1:].max(initial=0))
    small[0] = False
    return background | small[spots]


def _without_shadow(background: np.ndarray, colours: np.ndarray, surface: np.ndarray, noise: float) -> np.ndarray:
    """The background with soft shadows on it: the same colour, darker, with no edge between it and the background."""
    smooth = _blurred(colours, 3)
    light = (smooth * surface).sum(2) / np.maximum((surface**2).sum(2), 1)
    tint = np.linalg.norm(smooth - light[..., None] * surface, axis=2)
    darker = (tint < max(_QUIET, 3 * noise)) & (light > _DARKEST) & (light < 1)
    grey = smooth.mean(2)
    slope = np.hypot(*(ndimage.sobel(grey, axis) / 8 for axis in (0, 1)))
    edge = ndimage.maximum_filter(slope, 3) > _EDGE
    shadow = _reached(background | (darker & ~edge)) & ~background
    shadow = ndimage.binary_dilation(shadow, iterations=2, mask=darker & ~background)  # up to the edge itself
    return _without_specks(background | shadow)


def _matte(colours: np.ndarray, surface: np.ndarray, foreground: np.ndarray, quiet: float) -> Image.Image:
    """The soft cut-out along the border of a hard one."""
    distance = np.linalg.norm(colours - surface, axis=2)
    core = _eroded(foreground, _BAND)
    nearest = np.empty((2, *core.shape), np.int32)
    far = np.empty(core.shape)
    ndimage.distance_transform_edt(~core, return_indices=True, distances=far, indices=nearest)
    rows, columns = nearest
    thin = far > 2 * _BAND + 1  # no core near by: wires and spokes
    full = np.where(thin, ndimage.maximum_filter(distance, 2 * _BAND + 1), distance[rows, columns])
    full = np.maximum(full, 2 * quiet)
    alpha = np.clip((distance - quiet) / (full - quiet), 0, 1)
    near = ndimage.binary_dilation(foreground, iterations=_BAND)
    alpha = np.where(core, 1, np.where(near, alpha, 0)).astype(np.float32)
    share = np.maximum(alpha, 0.05)[..., None]
    own = np.where(alpha[..., None] > 0, surface + (colours - surface) / share, 0)
    values = np.concatenate([np.clip(own, 0, 255), alpha[..., None] * 255], 2)
    return Image.fromarray(np.round(values).astype(np.uint8))
