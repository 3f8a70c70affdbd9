"""Whether pictures of views show one object, in words: repeated, mirrored, of other light, of another object.

The bounds stand where 30 held-out objects of the training set, rendered from four sides, and pictures spoiled on
purpose are told apart; tests/test_bad_views.py has a sample of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from PIL import Image
from scipy import ndimage

from .rig import View

MANY = 8  # views; more cost time and say little new

_SIDE = 128  # pixels of a side at which silhouettes are compared
_SMALL = 64  # and colours
_MOVED = 0.05  # of a side, by which near cameras move things
_TOLERANCE = 1 / 24  # of a side: cameras are near and heights differ a little
_ALIKE = 0.04  # mean difference of two pictures on the object (0-1) below which they are one
_SAME_OUTLINE = 0.93  # of two silhouettes in common, if they are one picture's
_LOPSIDED = 0.97  # of a silhouette within its mirror image; above, an object may look alike from several sides
_FITTING = 0.9  # of two silhouettes that belong together
_FOREIGN = 0.6  # of two that cannot
_MIRRORED = 0.04  # by which the wrong way round must fit better
_CHROMA, _COLOUR = 0.18, 0.22  # of palettes in 0-1: sets of one object reach 0.16 and 0.19
_HUE = 0.08  # of chroma, where the silhouettes do not fit either
_TINT, _SAME_PAINT = 4.0, 0.03  # of a light by which one palette becomes another one but for this distance
_DARK = 1e-3  # linear; what is darker says nothing about a light
_RELIT = 0.6  # of a palette's distance that another light must explain


def disagreements(cuts: Sequence[Image.Image], views: Sequence[View], names: Sequence[str]) -> list[str]:
    """What does not fit together, a sentence each.

    Args:
        cuts: RGBA, level views on one scale (image.to_one_scale).
        views: directions of each; empty where they are not known.
        names: of each.
    """
    looks = [_Look(cut) for cut in cuts]
    remarks: list[str] = []
    alike: list[set[int]] = []
    suspects: dict[tuple[int, int], str] = {}
    for i, j in combinations(range(len(cuts)), 2):
        one, other, pair = looks[i], looks[j], f"{names[i]} and {names[j]}"
        opposite = bool(views) and _opposite(views[i], views[j])
        if one.same(other):
            _join(alike, i, j)
        # left and right of most things are mirror images
        elif one.same(other.mirrored(), exactly=opposite or not views):
            remarks.append(f"{names[j]} is {names[i]} mirrored")
        elif opposite and (turned := _turned(one, other)):
            remarks.append(f"{pair} are seen from opposite sides, yet {turned}")
        elif reason := _foreign(one, other, opposite, len(cuts) > 2):
            suspects[i, j] = reason
    remarks = [f"{_listed([names[k] for k in sorted(group)])} are the same picture" for group in alike] + remarks
    remarks += _named(suspects, names)
    if len(cuts) > MANY:
        remarks.append(
            f"{len(cuts)} views: every strategy but primary and sequential takes as many passes of the network a step, "
            f"and the networks were trained on one picture; four views that differ say as much as {len(cuts)}"
        )
    return remarks


def _join(groups: list[set[int]], one: int, other: int) -> None:
    """Two that belong together into one group."""
    own = [group for group in groups if one in group or other in group]
    groups[:] = [group for group in groups if group not in own] + [{one, other}.union(*own)]


def _listed(names: Sequence[str]) -> str:
    """ "front, left and back"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


class _Look:
    """A cut-out as it is compared: silhouette [S, S] bool, palette [N, 3] in 0-1; and cropped tightly, `tight`
    [s, s, 4] in 0-1 with its width over its height, so that neither place nor scale count."""

    def __init__(self, cut: Image.Image) -> None:
        self.cut = cut
        self.silhouette = np.asarray(cut.getchannel("A").resize((_SIDE, _SIDE)), dtype=np.uint8) > 127
        small = np.asarray(cut.resize((_SMALL, _SMALL)), dtype=np.float32) / 255
        self.palette = small[..., :3][small[..., 3] > 0.9]
        piece = cut.crop(cut.getchannel("A").point([255 * (level > 127) for level in range(256)]).getbbox())
        self.aspect = piece.width / piece.height
        self.tight = np.asarray(piece.resize((_SMALL, _SMALL)), dtype=np.float32) / 255
        self.lopsided = _fit(self.silhouette, self.silhouette[:, ::-1]) < _LOPSIDED
        self.colour, self.chroma = _quantiles(self.palette, _SPACE), _quantiles(_chroma(self.palette), _PLANE)

    def mirrored(self) -> _Look:
        return _Look(self.cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT))

    def same(self, other: _Look, exactly: bool = False) -> bool:
        """One picture, be it stored again. Round objects look alike from all sides: where a silhouette is its own
        mirror image, only equal pixels count; exactly: they alone."""
        if self.cut.size == other.cut.size and self.cut.tobytes() == other.cut.tobytes():
            return True
        if exactly or not self.lopsided:
            return False
        solid = self.tight[..., 3] > 0.5, other.tight[..., 3] > 0.5
        alike = abs(self.aspect / other.aspect - 1) < 1 - _SAME_OUTLINE and _overlap(*solid) > _SAME_OUTLINE
        on_black = [look.tight[..., :3] * look.tight[..., 3:] for look in (self, other)]
        differences = np.abs(on_black[0] - on_black[1])[solid[0] | solid[1]]
        return alike and float(differences.mean()) < _ALIKE


def _opposite(one: View, other: View) -> bool:
    level = one.elevation == 0 and other.elevation == 0
    return level and abs((one.azimuth - other.azimuth) % 360 - 180) < 1


def _turned(one: _Look, other: _Look) -> str:
    """That one of two pictures from opposite sides is mirrored: their silhouettes should be mirror images."""
    right, wrong = _fit(one.silhouette[:, ::-1], other.silhouette), _fit(one.silhouette, other.silhouette)
    if wrong < _FITTING or wrong < right + _MIRRORED:
        return ""
    return "their outlines are not mirror images of each other: one is mirrored, or both were taken from one side"


def _foreign(one: _Look, other: _Look, opposite: bool, more: bool) -> str:
    """Why two pictures cannot be of one object under one light, or nothing. more: there are others to ask."""
    chroma, colour = _distance(one.chroma, other.chroma), _distance(one.colour, other.colour)
    fit = _fit_of_sides(one.silhouette, other.silhouette) if opposite else 1.0
    if fit < _FOREIGN or (fit < _FITTING and chroma > _HUE):
        return "shape"
    relit, tint = _relit(one.palette, other.palette)
    differ = chroma > _CHROMA or colour > _COLOUR
    tinted = tint > _TINT and (more or not opposite)
    if not (differ or tinted):
        return ""
    explained = _distance(_quantiles(relit, _SPACE), other.colour)
    if (tinted and explained < _SAME_PAINT) or (differ and explained < (1 - _RELIT) * colour):
        return "light"
    return "colour" if differ else ""


def _named(suspects: dict[tuple[int, int], str], names: Sequence[str]) -> list[str]:
    """A sentence for each picture that does not fit to others. Colours count if it does not fit to most of them: the
    front of an object may well have other colours than its back, but then the sides have both."""
    left, remarks = dict(suspects), []
    words = {
        "shape": "do not show the same object from opposite sides: their outlines differ",
        "light": "differ in brightness or tint as under different lights, which then show in the texture",
        "colour": "differ in colour: different objects, or different lights",
    }
    while left:
        counts = [sum(place in pair for pair in left) for place in range(len(names))]
        worst = counts.index(max(counts))
        mine = {pair: why for pair, why in left.items() if worst in pair}
        left = {pair: why for pair, why in left.items() if pair not in mine}
        if 2 * len(mine) < len(names) and "shape" not in mine.values():
            continue
        for why in dict.fromkeys(mine.values()):
            others = [names[a if b == worst else b] for (a, b), each in mine.items() if each == why]
            remarks.append(f"{names[worst]} and {', '.join(others)} {words[why]}")
    return remarks


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def _fit(one: np.ndarray, other: np.ndarray) -> float:
    """The share of a silhouette that lies within the other one's, grown a little; of both ways the lesser."""
    size = 2 * max(1, round(_TOLERANCE * len(one))) + 1
    ways = (one, other), (other, one)
    return min(float((a & ndimage.maximum_filter(b, size)).sum() / max(1, a.sum())) for a, b in ways)


def _fit_of_sides(one: np.ndarray, other: np.ndarray) -> float:
    """The same from opposite sides, wherever a near camera's perspective has moved what is at another depth."""
    step = round(_MOVED * len(one))
    mirrored = one[:, ::-1]
    return max(_fit(np.roll(mirrored, up, 0), other) for up in (-step, 0, step))


def _quantiles(palette: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """[49, D] of a palette [N, C] along directions [D, C]."""
    if len(palette) == 0:
        return np.zeros((49, len(directions)))
    return np.quantile(palette @ directions.T, np.linspace(0.02, 0.98, 49), axis=0)


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """How far two palettes are from each other: the mean difference of their quantiles, in the direction where it is
    largest (a sliced Wasserstein distance)."""
    return float(np.abs(one - other).mean(0).max())


def _chroma(palette: np.ndarray) -> np.ndarray:
    return (palette - palette.mean(1, keepdims=True))[:, [0, 2]]


def _relit(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, float]:
    """A palette under a light that gives each channel the other one's mean, as far as light adds up (gamma 2.2), and
    how tinted that light is: the largest of its channels over the smallest."""
    if not (len(one) and len(other)):
        return one, 1.0
    linear = one**2.2
    gain = ((other**2.2).mean(0) + _DARK) / (linear.mean(0) + _DARK)
    return (linear * gain).clip(0, 1) ** (1 / 2.2), float(gain.max() / gain.min())


_PLANE = np.array([[1, 0], [0, 1], [0.7, 0.7], [0.7, -0.7]])
_SPACE = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.58] * 3, [0.7, -0.7, 0], [0, 0.7, -0.7], [0.7, 0, -0.7]])
