"""Light from an equirectangular picture: blurred for rough surfaces, with its sun taken out as what casts shadows.

The picture's middle is what the camera looks towards, behind the object; its left and right edges meet behind the
camera. As the studio, it turns with the camera.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import ImageError, SettingsError
from .studio import Softbox, Studio
from .surroundings import BLURRED, FIRST_BLUR, LEVELS, Environment

_SHARP = (256, 512)  # rows and columns of what mirrors show, at most
_BLUR_TO_SIGMA = 0.907  # of a bell curve as wide as the derivative of tanh(x / blur) / 2
_SUN = math.radians(10)  # the angle round its middle within which a sun's light is looked for
_SUN_BOX = 10.0  # degrees of a side of the box that takes its place
_LEAST_SUN = 0.08  # of all light; a weaker one casts no shadow
_LUMA = np.array([0.2126, 0.7152, 0.0722])
_BLACK = 1e-6  # mean radiance of what is no light


def environment_studio(picture: np.ndarray, rotation: float = 0.0, strength: float = 1.0) -> Studio:
    """The studio that a picture is.

    Args:
        picture: [H, W, 3] linear radiance, twice as wide as high. Its scale does not matter: it is brought to the mean
            radiance of the default studio.
        rotation: degrees that the surroundings are turned to the right, -360 to 360.
        strength: how many times as bright.

    Raises:
        ImageError: another shape, NaN, infinity, or nothing but black. SettingsError: rotation or strength are none.
    """
    if not abs(rotation) <= 360:
        raise SettingsError(f"The rotation of an environment must lie in -360 to 360 degrees, got {rotation:g}.")
    if not 0 < strength < math.inf:
        raise SettingsError(f"The strength of an environment must be above 0, got {strength:g}.")
    light = _checked(picture)
    light = np.roll(light, round(rotation / 360 * light.shape[1]), 1)
    weights = _solid_angles(*light.shape[:2])
    mean = float((light @ _LUMA * weights).sum() / (4 * math.pi))
    if mean < _BLACK:
        raise ImageError("The environment is black: it gives no light.")
    light = light * (strength * _default_mean() / mean)
    light, sun = _without_sun(light, weights)
    small = _reduced(light, BLURRED)
    blurred = [_blurred(small, FIRST_BLUR * 2**level * _BLUR_TO_SIGMA) for level in range(LEVELS)]
    environment = Environment(_reduced(light, _SHARP).astype(np.float32), np.stack(blurred).astype(np.float32))
    dark = (0.0, 0.0, 0.0)
    return Studio(dark, dark, (sun,), environment=environment)


def _checked(picture: np.ndarray) -> np.ndarray:
    if picture.ndim != 3 or picture.shape[2] != 3 or abs(picture.shape[1] - 2 * picture.shape[0]) > 2:
        size = " x ".join(map(str, picture.shape[1::-1]))
        raise ImageError(
            f"An environment is an equirectangular picture, twice as wide as high; this one is {size} pixels. Use a "
            "panorama of 360 x 180 degrees."
        )
    if not np.isfinite(picture).all():
        raise ImageError("The environment holds NaN or infinity.")
    step = max(1, min(picture.shape[0] // 512, picture.shape[1] // 1024))
    if step > 1 and picture.shape[0] % step == 0 and picture.shape[1] % step == 0:  # less memory than what follows
        blocks = picture.reshape(picture.shape[0] // step, step, picture.shape[1] // step, step, 3)
        picture = blocks.mean((1, 3), dtype=np.float64)
    return _reduced(np.maximum(picture.astype(np.float64), 0), (512, 1024))


def _reduced(light: np.ndarray, most: tuple[int, int]) -> np.ndarray:
    """[H, W, 3] at most so large: means over the pixels' areas, so that no light is lost."""
    rows, columns = (min(side, limit) for side, limit in zip(light.shape[:2], most))
    for axis, count in ((0, rows), (1, columns)):
        edges = np.linspace(0, light.shape[axis], count + 1)
        total = np.concatenate([np.zeros_like(light.take([0], axis)), light.cumsum(axis)], axis)
        whole = np.floor(edges).astype(int).clip(0, light.shape[axis])
        part = (edges - whole).reshape([-1 if d == axis else 1 for d in range(3)])
        after = total.take(np.minimum(whole + 1, light.shape[axis]), axis)
        upto = total.take(whole, axis) * (1 - part) + after * part
        light = np.diff(upto, axis=axis) / (light.shape[axis] / count)
    return light


def _solid_angles(rows: int, columns: int) -> np.ndarray:
    """[H, 1] steradians of each pixel."""
    edges = np.cos(np.linspace(0, np.pi, rows + 1))
    return ((edges[:-1] - edges[1:]) * 2 * np.pi / columns)[:, None]


def _directions(rows: int, columns: int) -> np.ndarray:
    """[H, W, 3] unit, of the pixels' centres in the studio's frame."""
    up = np.pi * (0.5 - (np.arange(rows) + 0.5) / rows)[:, None]
    right = 2 * np.pi * ((np.arange(columns) + 0.5) / columns - 0.5)[None]
    flat = np.cos(up)
    return np.stack([flat * np.sin(right), flat * np.cos(right), np.sin(up) + 0 * right], -1)


def _without_sun(light: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, Softbox]:
    """The light without what is brightest within a few degrees, and a box of the same power in its place. Where nothing
    stands out the box is dark."""
    luma = light @ _LUMA
    directions = _directions(*luma.shape)
    around = _blurred(_reduced(light, BLURRED), FIRST_BLUR) @ _LUMA
    middle = _directions(*around.shape).reshape(-1, 3)[around.argmax()]
    cosine = directions @ middle
    ring = (cosine < math.cos(_SUN)) & (cosine > math.cos(2 * _SUN))
    level = float(np.median(luma[ring])) if ring.any() else 0.0
    kept = np.where((cosine >= math.cos(_SUN)) & (luma > level), level / np.maximum(luma, 1e-12), 1.0)[..., None]
    power = ((1 - kept) * light * weights[..., None]).sum((0, 1))
    azimuth = math.degrees(math.atan2(middle[0], -middle[1]))  # of a camera at that place, which 0 puts on -Y
    elevation = math.degrees(math.asin(float(np.clip(middle[2], -1, 1))))
    if power @ _LUMA < _LEAST_SUN * float((luma * weights).sum()):
        return light, Softbox(azimuth, elevation, _SUN_BOX, _SUN_BOX, (0.0, 0.0, 0.0))
    radiance = power / math.radians(_SUN_BOX) ** 2
    return light * kept, Softbox(azimuth, elevation, _SUN_BOX, _SUN_BOX, tuple(radiance.tolist()))


def _blurred(light: np.ndarray, sigma: float) -> np.ndarray:
    """[H, W, 3] convolved on the sphere with exp((cos - 1) / sigma^2): circular along each pair of rows."""
    rows, columns, _ = light.shape
    up = np.pi * (0.5 - (np.arange(rows) + 0.5) / rows)
    turn = np.cos(2 * np.pi * np.arange(columns) / columns)
    flat = np.cos(up)[:, None] * np.cos(up)[None]
    cosine = flat[..., None] * turn + (np.sin(up)[:, None] * np.sin(up)[None])[..., None]  # [H, H, W]
    kernel = np.fft.rfft(np.exp((cosine - 1) / sigma**2) * _solid_angles(rows, columns)[None])
    given = np.fft.rfft(np.concatenate([light, np.ones_like(light[..., :1])], 2), axis=1)
    found = np.fft.irfft(np.einsum("ijm,jmc->imc", kernel, given), columns, axis=1)
    return np.maximum(found[..., :3] / found[..., 3:], 0)


def _default_mean() -> float:
    """Mean radiance of the default studio."""
    rest, first = Studio().radiance(_directions(*BLURRED).reshape(-1, 3))
    weights = np.broadcast_to(_solid_angles(*BLURRED), BLURRED).reshape(-1)
    return float((((rest + first) @ _LUMA) * weights).sum() / (4 * math.pi))
