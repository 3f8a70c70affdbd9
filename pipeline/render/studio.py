"""The light of pictures: a sky and soft boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import SettingsError
from .camera import Camera
from .surroundings import Environment


@dataclass(frozen=True)
class Softbox:
    """A rectangular light far away. Degrees: azimuth from the camera's (positive: to its right), elevation above the
    horizon, width and height as seen from the object; radiance RGB, linear."""

    azimuth: float
    elevation: float
    width: float
    height: float
    radiance: tuple[float, float, float]

    def axes(self) -> np.ndarray:
        return Camera(self.azimuth, self.elevation).axes()


@dataclass(frozen=True)
class Studio:
    """The light: a sky that turns from nadir to zenith near the horizon, and soft boxes. It turns with the camera's
    azimuth, as the studio of a turntable stays with its camera. The first box casts shadows."""

    zenith: tuple[float, float, float] = (0.36, 0.39, 0.44)
    nadir: tuple[float, float, float] = (0.1, 0.095, 0.09)
    boxes: tuple[Softbox, ...] = (
        Softbox(-50, 45, 36, 36, (6.4, 6.2, 5.9)),
        Softbox(70, 10, 20, 70, (1.1, 1.2, 1.4)),
        Softbox(160, 35, 60, 24, (3.0, 3.15, 3.4)),
    )
    horizon: float = 0.35  # radians over which the sky turns
    edge: float = 0.06  # radians over which a box fades
    environment: Environment | None = None  # a picture of the surroundings whose light adds to the sky's

    def __post_init__(self) -> None:
        if not self.boxes:
            raise SettingsError("A studio needs a soft box; one without radiance will do.")

    def radiance(self, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Light from directions [N, 3] in the studio's frame (the camera stands on -Y): [N, 3] of everything but the
        first box, and of the first box."""
        sky = 0.5 + 0.5 * np.tanh(np.arcsin(directions[:, 2:].clip(-1, 1)) / self.horizon)
        rest = (1 - sky) * np.array(self.nadir) + sky * np.array(self.zenith)
        for box in self.boxes[1:]:
            rest += self._box(box, directions)
        if self.environment is not None:
            rest += self.environment.radiance(directions)
        return rest, self._box(self.boxes[0], directions)

    def _box(self, box: Softbox, directions: np.ndarray) -> np.ndarray:
        x, y, z = box.axes() @ directions.T
        up = np.arcsin(y.clip(-1, 1))
        right = np.arctan2(x, z) * np.cos(up)
        inside = 1.0
        for at, size in ((right, box.width), (up, box.height)):
            half = math.radians(size) / 2
            inside = inside * (np.tanh((at + half) / self.edge) - np.tanh((at - half) / self.edge)) / 2
        return inside[:, None] * np.array(box.radiance)

    def harmonics(self) -> np.ndarray:
        """[18, 3] coefficients of 1, y, z, x, xy, yz, 3zz - 1, xz, xx - yy: irradiance / pi as a function of a normal,
        of everything but the first box and then of the first box (Ramamoorthi and Hanrahan 2001)."""
        count = 1 << 12
        steps = np.arange(count) + 0.5
        z, turn = 1 - 2 * steps / count, np.pi * (1 + 5**0.5) * steps
        flat = np.sqrt(1 - z * z)
        x, y = flat * np.cos(turn), flat * np.sin(turn)
        basis = np.stack([np.ones(count), y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y], 1)
        scale = np.array([0.282095, *[0.488603] * 3, 1.092548, 1.092548, 0.315392, 1.092548, 0.546274]) ** 2
        lobe = np.array([1, *[2 / 3] * 3, *[1 / 4] * 5])  # of the cosine, / pi
        lights = self.radiance(np.stack([x, y, z], 1))
        return np.concatenate([(scale * lobe)[:, None] * (basis.T @ light) * (4 * np.pi / count) for light in lights])
