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

from .palettes import Palette, brighter, strangeness
from .rig import View

MANY = 8  # views; more cost time and say little new

_SIDE = 128  # pixels of a side at which silhouettes are compared
_SMALL = 64  # and pictures
_MOVED = 0.05  # of a side, by which near cameras move things
_TOLERANCE = 1 / 24  # of a side: cameras are near and heights differ a little
_ALIKE = 0.04  # mean difference of two pictures on the object (0-1) below which they are one
_SAME_OUTLINE = 0.93  # of two silhouettes in common, if they are one picture's
_LOPSIDED = 0.97  # of a silhouette within its mirror image; above, an object may look alike from several sides
_FITTING = 0.9  # of two silhouettes that belong together
_FOREIGN = 0.6  # of two that cannot
_STRICT, _MIRRORED, _WELL = 1 / 48, 0.03, 0.8  # tolerance, by which the wrong way round must fit better, and how well
_STRANGE = 0.16  # strangeness of two palettes; of one object's at most 0.14 but for 2 % of them
_HUE = 0.1  # of it, where the silhouettes do not fit either
_BRIGHTER = 0.5  # logarithm of a light; the sun leaves one side of an object darker than the other by 0.4
_BETTER = 0.05  # by which palettes must be nearer to each other under one light,
_RELIT = 0.6  # and of their distance, what may be left of it
_TINT = 0.5  # of a palette's strangeness that may be left where a tinted light explains it


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
        elif reason := _foreign(one, other, opposite):
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
    """A cut-out as it is compared: silhouette [S, S] bool, its palette; and cropped tightly, `tight`
    [s, s, 4] in 0-1 with its width over its height, so that neither place nor scale count."""

    def __init__(self, cut: Image.Image) -> None:
        self.cut = cut
        self.silhouette = np.asarray(cut.getchannel("A").resize((_SIDE, _SIDE)), dtype=np.uint8) > 127
        self.palette = Palette.of(cut)
        piece = cut.crop(cut.getchannel("A").point([255 * (level > 127) for level in range(256)]).getbbox())
        self.aspect = piece.width / piece.height
        self.tight = np.asarray(piece.resize((_SMALL, _SMALL)), dtype=np.float32) / 255
        self.lopsided = _fit(self.silhouette, self.silhouette[:, ::-1]) < _LOPSIDED

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
    right, wrong = (_fit(each, other.silhouette, _STRICT) for each in (one.silhouette[:, ::-1], one.silhouette))
    if wrong < _WELL or wrong < right + _MIRRORED:
        return ""
    return "their outlines are not mirror images of each other: one is mirrored, or both were taken from one side"


def _foreign(one: _Look, other: _Look, opposite: bool) -> str:
    """Why two pictures cannot be of one object under one light, or nothing."""
    strange = strangeness(one.palette, other.palette)
    fit = _fit_of_sides(one.silhouette, other.silhouette) if opposite else 1.0
    if fit < _FOREIGN or (fit < _FITTING and strange > _HUE):
        return "shape"
    gain, before, after = brighter(one.palette, other.palette)
    if abs(gain) > _BRIGHTER and before - after > _BETTER and after < _RELIT * before:
        return "light"
    if strange < _STRANGE:
        return ""
    return "light" if strangeness(one.palette.relit(other.palette), other.palette) < _TINT * strange else "colour"


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
        lights = sum(why == "light" for why in mine.values())
        if 2 * lights >= sum(why != "shape" for why in mine.values()):  # a strong tint is told from paint by most only
            mine = {pair: "light" if why == "colour" else why for pair, why in mine.items()}
        for why in dict.fromkeys(mine.values()):
            others = [names[a if b == worst else b] for (a, b), each in mine.items() if each == why]
            remarks.append(f"{names[worst]} and {', '.join(others)} {words[why]}")
    return remarks


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def _fit(one: np.ndarray, other: np.ndarray, tolerance: float = _TOLERANCE) -> float:
    """The share of a silhouette that lies within the other one's, grown a little; of both ways the lesser."""
    size = 2 * max(1, round(tolerance * len(one))) + 1
    ways = (one, other), (other, one)
    return min(float((a & ndimage.maximum_filter(b, size)).sum() / max(1, a.sum())) for a, b in ways)


def _fit_of_sides(one: np.ndarray, other: np.ndarray) -> float:
    """The same from opposite sides, wherever a near camera's perspective has moved what is at another depth."""
    step = round(_MOVED * len(one))
    mirrored = one[:, ::-1]
    return max(_fit(np.roll(mirrored, up, 0), other) for up in (-step, 0, step))
