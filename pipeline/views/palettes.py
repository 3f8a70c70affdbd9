"""The colours of pictures, compared so that neither how much of each shows nor the shading of a surface counts: whether
two pictures can be of one object, and under one light.

A palette's pixels become points: the logarithms of red and blue over green, which shading leaves alone and a tinted
light moves all the same way (Finlayson and Hordley, "Color constancy at a pixel", 2001), and of the brightness.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from PIL import Image

_SIDE = 64  # pixels of a side
_FLOOR = 0.02  # linear, added to every channel: dark pixels have no hue
_BIN = 0.1  # of the logarithms; points of one bin are one
_RARE = 0.005  # of the pixels; a rarer colour may be an edge's mixture
_SHADE = 0.5  # of a difference in brightness that counts; shading makes some
_FAR = 0.6  # distance above which two colours are just different
_GAIN = 0.2  # step of the logarithms of lights that are tried,
_GAINS = 11  # and how many of them, dimmer ones
_GAMMA = 2.2


class Palette:
    """The colours of a cut-out's object: linear [N, 3]."""

    def __init__(self, linear: np.ndarray) -> None:
        self.linear = linear

    @classmethod
    def of(cls, cut: Image.Image) -> Palette:
        """cut: RGBA."""
        small = np.asarray(cut.resize((_SIDE, _SIDE)), dtype=np.float64) / 255
        return cls(small[..., :3][small[..., 3] > 0.9] ** _GAMMA)

    @cached_property
    def hues(self) -> _Points:
        return _points(_features(self.linear)[:, :2])

    @cached_property
    def dimmed(self) -> list[_Points]:
        """Under lights that get weaker step by step, as stored in eight bits; the first is the picture itself."""
        steps = [(self.linear * np.exp(-_GAIN * number)) ** (1 / _GAMMA) for number in range(_GAINS + 1)]
        return [_points(_features(((step * 255).round() / 255) ** _GAMMA)) for step in steps]

    def relit(self, other: Palette) -> Palette:
        """Under the light that gives each channel the other palette's mean."""
        gain = (other.linear.mean(0) + _FLOOR) / (self.linear.mean(0) + _FLOOR)
        return Palette((self.linear * gain).clip(0, 1))


_Points = tuple[np.ndarray, np.ndarray]  # [M, D] and their shares [M]


def strangeness(one: Palette, other: Palette) -> float:
    """How far the colours of the one that shows fewer are from those of the other, whatever the shading: 0 to 0.6."""
    return min(_missing(one.hues, other.hues), _missing(other.hues, one.hues))


def brighter(one: Palette, other: Palette) -> tuple[float, float, float]:
    """The logarithm of the light, the same for all channels, that makes the first palette most like the second; and how
    far they are from each other without it and with it."""
    found = [(_apart(one.dimmed[number], other.dimmed[0]), -_GAIN * number) for number in range(_GAINS + 1)]
    found += [(_apart(one.dimmed[0], other.dimmed[number]), _GAIN * number) for number in range(1, _GAINS + 1)]
    after, gain = min(found, key=lambda each: (each[0], abs(each[1])))
    return gain, found[0][0], after


def _features(linear: np.ndarray) -> np.ndarray:
    red, green, blue = np.log(linear + _FLOOR).T
    return np.stack([red - green, blue - green, _SHADE * np.log(linear.mean(1) + _FLOOR)], 1)


def _points(features: np.ndarray) -> _Points:
    places, counts = np.unique(np.round(features / _BIN).astype(int), axis=0, return_counts=True)
    keep = counts >= _RARE * len(features)
    return places[keep] * _BIN, counts[keep] / max(1, counts[keep].sum())


def _missing(one: _Points, other: _Points) -> float:
    """The mean distance of colours to the nearest of others."""
    (places, shares), (others, _) = one, other
    if not (len(places) and len(others)):
        return 0.0
    distances = np.sqrt(np.square(places[:, None] - others[None]).sum(2)).min(1)
    return float((shares * np.minimum(distances, _FAR)).sum())


def _apart(one: _Points, other: _Points) -> float:
    return (_missing(one, other) + _missing(other, one)) / 2
