"""Building blocks of recipes: random numbers for many objects at once, parts with a place and a shape, materials."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ..fields import BALLS, BEAM, EGG, RING, TURNED, WIDTH

Number = torch.Tensor | float  # [n], or one for all
BINS = 16  # of a class's main proportion; even ones are for training, odd ones held out
_MARGIN = 0.1  # of a bin at either end that is left empty


class Draw:
    """Random numbers for n objects of one class. All from a CPU generator: the same on every device."""

    def __init__(self, count: int, random: torch.Generator, held_out: bool) -> None:
        self.count, self._random = count, random
        bins = torch.randint(BINS // 2, (count,), generator=random) * 2 + int(held_out)
        self.main = (bins + _MARGIN + (1 - 2 * _MARGIN) * self.between(0, 1)) / BINS  # [n] in 0-1

    def between(self, low: Number, high: Number) -> torch.Tensor:
        return low + (high - low) * torch.rand(self.count, generator=self._random)

    def proportion(self, low: float, high: float) -> torch.Tensor:
        """The class's main proportion: the one that separates training objects from held-out ones."""
        return low + (high - low) * self.main

    def chance(self, probability: float) -> torch.Tensor:
        return self.between(0, 1) < probability

    def side(self) -> torch.Tensor:
        """-1 or 1."""
        return torch.where(self.chance(0.5), 1.0, -1.0)

    def choice(self, *options: torch.Tensor) -> torch.Tensor:
        """For each object one of some [n, ...] tensors."""
        which = torch.randint(len(options), (self.count,), generator=self._random)
        return torch.stack(options)[which, torch.arange(self.count)]

    # Materials [n, 6]: base colour sRGB, metallic, roughness, alpha

    def paint(self) -> torch.Tensor:
        """Any colour; about one in eight of them metallic."""
        strong = self._hue(0, 1, (0.65, 1.0), (0.55, 1.0))
        soft = self._hue(0, 1, (0.25, 0.6), (0.6, 0.95))
        dark = self._hue(0, 1, (0.5, 1.0), (0.2, 0.5))
        grey = self._hue(0, 1, (0.0, 0.06), (0.15, 0.97))
        colour = self.choice(strong, strong, strong, soft, soft, dark, grey)
        coated = self._material(colour, 0.0, self.between(0.15, 0.95))
        return torch.where(self.chance(0.12)[:, None], self.metal(), coated)

    def vivid(self) -> torch.Tensor:
        return self._material(self._hue(0, 1, (0.65, 1.0), (0.6, 1.0)), 0.0, self.between(0.15, 0.8))

    def metal(self) -> torch.Tensor:
        steel = self._hue(0.5, 0.65, (0.0, 0.08), (0.55, 0.92))
        gold = self._hue(0.09, 0.14, (0.45, 0.7), (0.75, 0.98))
        copper = self._hue(0.02, 0.07, (0.4, 0.65), (0.65, 0.92))
        return self._material(self.choice(steel, steel, gold, copper), 1.0, self.between(0.15, 0.6))

    def wood(self) -> torch.Tensor:
        return self._material(self._hue(0.05, 0.11, (0.35, 0.75), (0.3, 0.85)), 0.0, self.between(0.4, 0.9))

    def white(self) -> torch.Tensor:
        return self._material(self._hue(0.05, 0.6, (0.0, 0.1), (0.82, 0.98)), 0.0, self.between(0.3, 0.9))

    def dark(self) -> torch.Tensor:
        return self._material(self._hue(0, 1, (0.0, 0.3), (0.04, 0.22)), 0.0, self.between(0.3, 0.9))

    def leaf(self) -> torch.Tensor:
        green = self._hue(0.2, 0.42, (0.45, 0.95), (0.25, 0.8))
        autumn = self._hue(0.0, 0.14, (0.6, 0.95), (0.5, 0.95))
        return self._material(self.choice(green, green, green, autumn), 0.0, self.between(0.6, 1.0))

    def glass(self) -> torch.Tensor:
        """Translucent, 0.6-0.85 opaque: two layers are opaque enough for the object's box of image.cut_out."""
        material = self._material(self._hue(0, 1, (0.2, 0.9), (0.45, 0.95)), 0.0, self.between(0.05, 0.3))
        material[:, 5] = self.between(0.6, 0.85)
        return material

    def either(self, probability: float, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.where(self.chance(probability)[:, None], first, second)

    def _hue(self, first: float, last: float, saturation: tuple, value: tuple) -> torch.Tensor:
        """[n, 3] sRGB from hue (0-1 round the circle), saturation and value."""
        hue, s, v = self.between(first, last), self.between(*saturation)[:, None], self.between(*value)[:, None]
        wheel = (hue[:, None] * 6 + torch.tensor([5.0, 3.0, 1.0])) % 6
        return v - v * s * torch.minimum(wheel, 4 - wheel).clamp(0, 1)

    def _material(self, colour: torch.Tensor, metallic: float, roughness: torch.Tensor) -> torch.Tensor:
        rest = torch.stack([torch.full_like(roughness, metallic), roughness, torch.ones_like(roughness)], 1)
        return torch.cat([colour, rest], 1)


@dataclass(frozen=True)
class Part:
    """One primitive of n objects (columns as in fields.py), angles in radians.

    tilt: turned about x, then about y, then about z, to bring the primitive's own axes into the object's frame.
    present: [n] bool or None for always.
    """

    kind: torch.Tensor | int
    size: tuple[Number, ...]
    material: torch.Tensor  # [n, 6]
    at: tuple[Number, Number, Number] = (0.0, 0.0, 0.0)
    tilt: tuple[Number, Number, Number] = (0.0, 0.0, 0.0)
    rounding: Number = 0.0
    mirror: tuple[bool, bool] = (False, False)
    turns: Number = 1.0
    phase: Number = 0.0
    cut: bool = False
    present: torch.Tensor | None = None

    def when(self, present: torch.Tensor) -> Part:
        return replace(self, present=present if self.present is None else present & self.present)

    def rows(self) -> torch.Tensor:
        """[n, WIDTH]."""
        count = len(self.material)

        def column(value) -> torch.Tensor:
            return torch.as_tensor(value, dtype=torch.float32).expand(count)

        operation = column(-1.0 if self.cut else 1.0)
        if self.present is not None:
            operation = torch.where(self.present, operation, 0.0)
        size = [column(each) for each in (*self.size, *[1.0] * (4 - len(self.size)))]
        columns = [column(self.kind), operation, column(self.rounding), *(column(float(m)) for m in self.mirror)]
        columns += [column(self.turns), column(self.phase), *(column(each) for each in self.at), *size]
        rotation = _rotation(*(column(each) for each in self.tilt)).transpose(1, 2)  # object -> own axes
        rows = torch.cat([torch.stack(columns, 1), rotation.reshape(count, 9)], 1)
        assert rows.shape[1] == WIDTH
        return rows


def _rotation(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """[n, 3, 3]: about x, then y, then z."""

    def about(angle: torch.Tensor, first: int, second: int) -> torch.Tensor:
        turn = torch.eye(3).repeat(len(angle), 1, 1)
        turn[:, first, first] = turn[:, second, second] = angle.cos()
        turn[:, second, first], turn[:, first, second] = angle.sin(), -angle.sin()
        return turn

    return about(z, 0, 1) @ about(y, 2, 0) @ about(x, 1, 2)


QUARTER = math.pi / 2  # of a turn, in radians
ALONG_X, ALONG_Y = (0.0, QUARTER, 0.0), (-QUARTER, 0.0, 0.0)  # tilts that lay a primitive's z axis along x or y
BOTH, SIDES = (True, True), (True, False)  # mirrors


def box(x: Number, y: Number, z: Number, material: torch.Tensor, **more) -> Part:
    """Half extents."""
    return Part(BEAM, (x, x, z, y), material, **more)


def beam(bottom: Number, top: Number, y: Number, z: Number, material: torch.Tensor, **more) -> Part:
    """A box whose half width along x goes from bottom to top."""
    return Part(BEAM, (bottom, top, z, y), material, **more)


def turned(bottom: Number, top: Number, half: Number, material: torch.Tensor, **more) -> Part:
    return Part(TURNED, (bottom, top, half), material, **more)


def post(square: torch.Tensor, bottom: Number, top: Number, half: Number, material: torch.Tensor, **more) -> Part:
    """A leg: square where `square` [n], else round."""
    zero = torch.zeros(len(material))
    return Part(torch.where(square, BEAM, TURNED), (bottom + zero, top + zero, half, bottom + zero), material, **more)


def ball(radius: Number, material: torch.Tensor, **more) -> Part:
    return Part(BALLS, (radius, radius, 1e-5), material, **more)


def balls(low: Number, high: Number, height: Number, material: torch.Tensor, **more) -> Part:
    """A ball at the place and one at `height` above it, with what lies between."""
    return Part(BALLS, (low, high, height), material, **more)


def ring(radius: Number, section: Number, material: torch.Tensor, long: Number = 0.0, tall: Number = 0.0, **more):
    return Part(RING, (radius, section, long, tall), material, **more)


def egg(x: Number, y: Number, z: Number, material: torch.Tensor, **more) -> Part:
    return Part(EGG, (x, y, z), material, **more)
