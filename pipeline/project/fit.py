"""The camera of a picture, found by drawing the object from many sides: silhouettes must agree, and colours in some
light. A coarse search over directions, then a local one over all of the camera's numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..views import PictureCamera, View
from .painted import Painted
from .picture import Picture, sampled
from .shading import estimated

MIN_IOU = 0.85  # overlap of silhouettes below which picture and object do not belong together

_COARSE, _FINE, _FINEST = (40, 2), (64, 2), (128, 2)  # pixels along a side, and lines of sight along a side of each
_LARGEST = 512  # pixels of a picture's side that are looked at
_AZIMUTHS, _ELEVATIONS = (
    24,
    (-20.0, 5.0, 30.0, 55.0),
)  # directions of the coarse search: 15 degrees apart all round, at these
_FOV = 30.0  # degrees, to begin with
_FOVS = 5.0, 60.0  # that a fit may have
_NAMED = 20.0  # degrees by which a picture's direction may miss its name
_BEGINNINGS = 3  # directions of the coarse search that the local one starts from
_COLOUR = 0.3  # of the colours' correlation in the score, against the silhouettes' overlap
_FRONT = 2.5e-4  # of the score for each degree away from the front, where most pictures are taken from
_ASIDE = 0.03  # of the score, for all that is more than 50 to 70 degrees away from it
# Of the score, for a factor of e between height and width of what was generated and of the picture. Of 20 held-out
# objects from four sides, coarse search, neither preference: 3 fronts and 8 of 60 other sides are wrong with 0.1 to
# 0.2, 3 and 9 with 0 and 0.05, 3 and 7 with 0.3, 4 and 5 with 0.5, 5 and 8 with 0.8 (docs/views.md).
_STRETCH = 0.15
_CLOSE = 0.01  # of the score, within which two directions are looked at more closely
_ALIKE = 0.02  # difference of likeness below which two directions are equally good
_ELSEWHERE = 45.0  # degrees between two such from which on it is open where the picture was taken from
_STEPS, _FINE_STEPS, _LAST_STEPS = 40, 120, 60  # drawings of a local search
_ROUND = 15.0  # degrees between the directions round the object that the best one is compared with
_SAMPLES, _ROUNDS = 2000, 2  # pixels whose colours are compared, and rounds of reweighting
_FLAT = 1e-3  # of a variance of colours, below which their correlation says little
_FEW = 16  # pixels; in fewer colours say nothing


@dataclass(frozen=True)
class Fit:
    """A camera, and how far the object looks like the picture from there.

    iou: overlap of silhouettes (intersection over union, 0-1). colour: mean difference of colours (sRGB, 0-1) in the
    low-order light that suits them best. correlation: of colours in that light, up to 1, which also tells where
    something blurred belongs. mirrored: by how much the mirrored picture fits better (below 0: worse), near
    0 for objects that look the same in a mirror; 0 for a camera that was not searched. rival: another direction, far
    from this one, from which the object looks nearly as much like the picture; None if there is none. stretched: the
    likeness if the picture is stretched to the object's height and width, less what the stretch costs; None where that
    was not looked at.
    """

    camera: PictureCamera
    iou: float
    colour: float
    correlation: float
    mirrored: float = 0.0
    rival: PictureCamera | None = None
    stretched: float | None = None

    @property
    def likeness(self) -> float:
        """Of silhouettes and colours, the higher the better."""
        return self.iou + _COLOUR * self.correlation

    @property
    def shape(self) -> float:
        """The likeness by which directions are compared: one object is generated deeper than another, and from aside
        its silhouette would fit less than that of a side which has the picture's proportions by chance."""
        return self.likeness if self.stretched is None else self.stretched

    @property
    def score(self) -> float:
        """The likeness by shape; of directions that look alike the one nearest to the front is the best, above all one
        in front: the networks take the picture that they make an object from for its front."""
        away = abs((self.camera.azimuth + 180) % 360 - 180)
        return self.shape - _FRONT * away - _ASIDE * min(max((away - 50) / 20, 0), 1)


def fit_camera(painted: Painted, picture: Picture, near: View | None = None) -> Fit:
    """The camera from which the object looks most like the picture.

    Args:
        near: the direction it was taken from, roughly; None: searched all round.
    """
    picture, rank = picture.reduced(_LARGEST), _rank(near)
    coarse, fine, finest = (_Matcher(painted, picture, *side) for side in (_COARSE, _FINE, _FINEST))
    turned = _roughly(coarse, near)
    close = math.inf if any(picture.cut_off) else _CLOSE
    likely = [fit for fit in turned[:_BEGINNINGS] if rank(fit) > rank(turned[0]) - close]
    refined = sorted((_refined(fine, fit.camera, near) for fit in likely), key=rank, reverse=True)
    round_ = [] if near else _all_round(fine, refined[0].camera)
    last = [fit for fit in [*refined, *round_[:1]] if rank(fit) > rank(refined[0]) - _CLOSE]
    best = max((_settled(finest, fit.camera, near) for fit in last), key=rank)
    reflected = _roughly(_Matcher(painted, picture.mirrored(), *_COARSE), near)
    alike = [fit for fit in turned[1:] if fit.shape > turned[0].shape - _ALIKE]
    alike += [fit for fit in round_ if fit.shape > refined[0].shape - _ALIKE]
    rivals = [fit.camera for fit in alike if angle(fit.camera, best.camera) > _ELSEWHERE]
    return replace(best, mirrored=_mirrored(turned, reflected, near), rival=rivals[0] if rivals else None)


def _mirrored(turned: Sequence[Fit], reflected: Sequence[Fit], near: View | None) -> float:
    """By how much the fits of a mirrored picture are better than those of the picture. A picture of the back is not
    mirrored because its mirror image would do for a front: it must not fit worse, wherever it was taken from."""
    by_rank, by_shape = (
        max(map(measure, reflected)) - max(map(measure, turned)) for measure in (_rank(near), lambda fit: fit.shape)
    )
    return by_rank if by_shape > -_ALIKE else min(by_rank, by_shape)


def measured(painted: Painted, picture: Picture, camera: PictureCamera) -> Fit:
    """How well a known camera fits."""
    return _Matcher(painted, picture.reduced(_LARGEST), *_FINE).at(camera)


def _rank(near: View | None) -> Callable[[Fit], float]:
    """The higher the better: where a direction is named the front has no advantage."""
    return (lambda fit: fit.score) if near is None else (lambda fit: fit.likeness)


def _roughly(matcher: _Matcher, near: View | None) -> list[Fit]:
    """The likeliest directions, best first."""
    rank = _rank(near)
    found = sorted(map(matcher.framed, _directions(near)), key=rank, reverse=True)
    if any(matcher.cut_off):  # the frame is a guess then, and would lead a local search astray
        return found
    return sorted((_turned(matcher, fit.camera, near) for fit in _apart(found)), key=rank, reverse=True)


class _Matcher:
    """Scores cameras against one picture of side x side pixels, with samples x samples lines of sight for each."""

    def __init__(self, painted: Painted, picture: Picture, side: int, samples: int) -> None:
        colour, share = picture.small(side)
        self.samples = samples
        self.painted, self.side, self.box, self.cut_off = painted, side, picture.box, picture.cut_off
        self.colour, self.share = torch.from_numpy(colour), torch.from_numpy(share)

    def at(self, camera: PictureCamera, stretched: bool = False) -> Fit:
        """How well a camera fits. stretched: whether to find that, too, which a picture that is cut off has not."""
        side, samples = self.side, self.samples
        seen = self.painted.seen(camera, side * samples)
        cover = _means(seen.mask.float(), samples).cpu()
        drawn = cover, *(_means(each, samples).cpu() for each in (seen.colour, seen.normal))
        fit = Fit(camera, *self._compared(drawn, self.colour, self.share, self._beyond(camera) * float(cover.sum())))
        if not stretched or any(self.cut_off) or not cover.any():
            return fit
        low, high = self._ends(camera)
        wanted = np.array(self.box).reshape(2, 2)
        ratio = (wanted[1] - wanted[0]) / np.maximum(high - low, 1e-6)
        line = (torch.arange(side) + 0.5) / side
        across, down = ((line - low[k]) * ratio[k] + wanted[0][k] for k in (0, 1))
        place = torch.stack(torch.meshgrid(down, across, indexing="ij")[::-1], 2).float().reshape(-1, 2)
        both = torch.cat([self.colour.permute(2, 0, 1), self.share[None]])
        picture = sampled(both, place, "bilinear").reshape(side, side, 4)
        iou, _, correlation = self._compared(drawn, picture[..., :3], picture[..., 3], 0.0)
        cost = _STRETCH * abs(math.log(ratio[0] / ratio[1]))
        return replace(fit, stretched=iou + _COLOUR * correlation - cost)

    def _compared(
        self, drawn: tuple[torch.Tensor, ...], colour: torch.Tensor, share: torch.Tensor, beyond: float
    ) -> tuple[float, float, float]:
        """Overlap, difference and correlation of colours of what is drawn (cover [S, S], colour and normal [S, S, 3])
        and a picture [S, S, 3] with its shares [S, S]; beyond: pixels of the object beyond the picture's borders."""
        cover, own, normal = drawn
        iou = float(torch.minimum(cover, share).sum() / (torch.maximum(cover, share).sum() + beyond).clamp_min(1e-6))
        both = (cover > 0.99) & (share > 0.99)
        if int(both.sum()) < _FEW:
            return iou, 1.0, 0.0
        # means, as the picture's pixels are: a single line of sight may meet a detail that covers little of the pixel
        own, normal = own[both], normal[both]
        some = slice(None, None, max(1, len(own) // _SAMPLES))
        wanted, own, normal = colour[both][some], own[some], torch.nn.functional.normalize(normal[some], dim=1)
        shown = estimated(wanted, own, normal, _ROUNDS).on(own, normal)
        return iou, float((shown - wanted).abs().mean()), _correlation(shown, wanted)

    def _beyond(self, camera: PictureCamera) -> float:
        """What lies beyond the picture's borders, times what lies in it; by boxes. At borders where the picture cuts
        the object off nothing does."""
        low, high = self._ends(camera)
        cut = np.array(self.cut_off).reshape(2, 2)
        inside = np.maximum(np.minimum(high, 1) - np.maximum(low, 0), 1e-3).prod()
        low, high = np.where(cut[0], np.maximum(low, 0), low), np.where(cut[1], np.minimum(high, 1), high)
        return float(np.maximum(high - low, 1e-3).prod() / inside) - 1

    def _ends(self, camera: PictureCamera) -> tuple[np.ndarray, np.ndarray]:
        """[2] and [2] left and top, right and bottom of the object, in picture sides."""
        place, _ = camera.project(self.painted.outline)
        low, high = (each.double().cpu().numpy() for each in place.aminmax(dim=0))
        return low, high

    def framed(self, view: View, fov: float = _FOV) -> Fit:
        return self.at(self.framing(PictureCamera(view.azimuth, view.elevation, fov, target=self.painted.middle)), True)

    def framing(self, camera: PictureCamera) -> PictureCamera:
        """With the scale and shift at which the object's box in the picture is the picture's, as far as it is whole."""
        camera = replace(camera, scale=0.5 / self.painted.radius, shift=(0.0, 0.0))
        cut = np.array(self.cut_off).reshape(2, 2)  # at the low and the high end, by axis
        low, high = np.array(self.box).reshape(2, 2)
        for _ in range(3):  # the scale changes the perspective a little
            place, _ = camera.project(self.painted.outline)
            ends = torch.stack(place.aminmax(dim=0)).double().cpu().numpy()  # [2, 2] low and high, by axis
            ratio = (high - low) / np.maximum(ends[1] - ends[0], 1e-6)
            whole = ~cut.any(0)
            times = float(np.exp(np.log(ratio[whole] if whole.any() else ratio).mean()))
            old = 0.5 + np.array(camera.shift)
            moved = np.stack([low, high]) - old - (ends - old) * times  # [2, 2] that each end asks for
            use = ~cut | cut.all(0)
            shift = old - 0.5 + (moved * use).sum(0) / use.sum(0)
            camera = replace(camera, scale=camera.scale * times, shift=(float(shift[0]), float(shift[1])))
        return camera


def _means(values: torch.Tensor, samples: int) -> torch.Tensor:
    """[S, S, ...] -> [S / samples, S / samples, ...]: the mean of each square, several times as fast as torch's mean
    over two of four axes."""
    rows = sum(values[row::samples] for row in range(1, samples)) + values[::samples]
    columns = sum(rows[:, column::samples] for column in range(1, samples)) + rows[:, ::samples]
    return columns / samples**2


def _directions(near: View | None) -> list[View]:
    """Those that the coarse search tries."""
    if near is None:
        return [View(360 * k / _AZIMUTHS, e) for e in _ELEVATIONS for k in range(_AZIMUTHS)]
    heights = sorted({float(np.clip(near.elevation + e, -89, 89)) for e in (-_NAMED / 2, 0.0, _NAMED / 2)})
    return [View(near.azimuth + a, e) for a in (-_NAMED / 2, 0.0, _NAMED / 2) for e in heights]


def _apart(found: Sequence[Fit]) -> list[Fit]:
    """The best of the fits whose directions are not next to each other."""
    chosen: list[Fit] = []
    for fit in found:
        if all(angle(fit.camera, other.camera) > 25 for other in chosen):
            chosen.append(fit)
        if len(chosen) == _BEGINNINGS:
            break
    return chosen


def _correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    """Of colours [N, 3], each channel without its mean; near 0 where one of them hardly varies."""
    one, other = one - one.mean(0), other - other.mean(0)
    return float((one * other).mean() / ((one.square().mean() * other.square().mean()).sqrt() + _FLAT))


def angle(one: PictureCamera, other: PictureCamera) -> float:
    """Degrees between the directions of two cameras."""
    return float(np.degrees(np.arccos(np.clip(one.axes()[2] @ other.axes()[2], -1, 1))))


def _turned(matcher: _Matcher, camera: PictureCamera, near: View | None) -> Fit:
    """A local search over direction and field of view, the object framed anew each time."""

    def of(x: np.ndarray) -> PictureCamera:
        return matcher.framing(_within(replace(camera, azimuth=0.0, elevation=0.0), x[0], x[1], x[2], near))

    start = np.array([camera.azimuth, camera.elevation, camera.fov])
    return _searched(matcher, of, start, np.array([8.0, 8.0, -8.0]), _STEPS)


def _all_round(matcher: _Matcher, camera: PictureCamera) -> list[Fit]:
    """What a camera sees from elsewhere at its height, the likeliest first: round things look the same, but for what is
    too small for the coarse search."""
    count = round(360 / _ROUND)
    turned = [replace(camera, azimuth=camera.azimuth + number * _ROUND) for number in range(1, count)]
    return sorted((matcher.at(matcher.framing(each), True) for each in turned), key=lambda fit: -fit.score)


def _settled(matcher: _Matcher, camera: PictureCamera, near: View | None) -> Fit:
    """The end of the search: small steps with all that the picture shows."""
    return _refined(matcher, camera, near, 0.4, _LAST_STEPS)


def _refined(
    matcher: _Matcher, camera: PictureCamera, near: View | None, step: float = 1.0, most: int = _FINE_STEPS
) -> Fit:
    """A local search over all of a camera's numbers."""

    def of(x: np.ndarray) -> PictureCamera:
        turned = _within(camera, x[0], x[1], x[2], near)
        return replace(turned, scale=camera.scale * float(np.exp(x[3])), shift=(float(x[4]), float(x[5])))

    start = np.array([camera.azimuth, camera.elevation, camera.fov, 0.0, *camera.shift])
    return _searched(matcher, of, start, step * np.array([3.0, 3.0, 5.0, 0.02, 0.01, 0.01]), most)


def _within(camera: PictureCamera, azimuth: float, elevation: float, fov: float, near: View | None) -> PictureCamera:
    """With other angles, as far as they are allowed."""
    low, high = (-89.0, 89.0) if near is None else (near.elevation - _NAMED, near.elevation + _NAMED)
    if near is not None:
        azimuth = float(np.clip(azimuth, near.azimuth - _NAMED, near.azimuth + _NAMED))
    elevation = float(np.clip(elevation, max(low, -89.0), min(high, 89.0)))
    return replace(camera, azimuth=float(azimuth), elevation=elevation, fov=float(np.clip(fov, *_FOVS)))


def _searched(matcher: _Matcher, of, start: np.ndarray, step: np.ndarray, most: int) -> Fit:
    """The best camera that a simplex finds (Nelder and Mead 1965); of: numbers -> camera. Being nearer to the front
    counts between searches, not in one, where it would pull the camera away from where it belongs."""
    from scipy.optimize import minimize  # takes as long to import as a part of torch; few runs fit a camera

    best = matcher.at(of(start))

    def loss(x: np.ndarray) -> float:
        nonlocal best
        fit = matcher.at(of(x))
        best = max(best, fit, key=lambda each: each.likeness)
        return -fit.likeness

    simplex = np.concatenate([start[None], start + np.diag(step)])
    minimize(loss, start, method="Nelder-Mead", options={"initial_simplex": simplex, "maxfev": most, "fatol": 1e-4})
    return matcher.at(best.camera, True)
