"""The camera of a picture: a direction, and where the object lies in the picture and how large it is there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import SettingsError, check_finite
from .rig import View, camera_axes

_NARROW = 1e-3  # degrees; a narrower field of view counts as none
_NEAREST = 0.02  # of the distance from eye to target: what is nearer to the eye is not in the picture


@dataclass(frozen=True)
class PictureCamera:
    """An upright camera of a square picture (a picture that is not square lies in the middle of one).

    azimuth, elevation: degrees, as View. fov: degrees that the picture's side spans, 0 to 150; 0: parallel lines of
    sight. scale: picture sides that one world unit takes at the target. shift: picture sides from the picture's middle
    to the target, right and down: the picture is then a part of a larger one. target: a point of the world that the
    other numbers refer to.

    Raises:
        SettingsError: numbers that are not finite, or out of range.
    """

    azimuth: float = 0.0
    elevation: float = 0.0
    fov: float = 30.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    target: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        check_finite("A camera's", azimuth=self.azimuth, elevation=self.elevation, field_of_view=self.fov)
        check_finite("A camera's", scale=self.scale, **dict(zip(("shift_right", "shift_down"), self.shift)))
        check_finite("A camera's target:", **dict(zip("xyz", self.target)))
        if not -90 <= self.elevation <= 90:
            raise SettingsError(f"A camera's elevation must lie in -90 to 90 degrees, got {self.elevation:g}.")
        if not 0 <= self.fov <= 150:
            raise SettingsError(f"A camera's field of view must lie in 0 to 150 degrees, got {self.fov:g}.")
        if self.scale <= 0:
            raise SettingsError(f"A camera's scale must be above 0, got {self.scale:g}.")
        object.__setattr__(self, "azimuth", self.azimuth % 360)

    @classmethod
    def at(
        cls, azimuth: float, elevation: float, fov: float, distance: float, target: tuple[float, float, float]
    ) -> PictureCamera:
        """A camera so many world units from its target, which is in the middle of the picture. fov: above 0."""
        return cls(azimuth, elevation, fov, 1 / (2 * distance * math.tan(math.radians(fov) / 2)), target=target)

    @property
    def view(self) -> View:
        """Its direction."""
        return View(self.azimuth, self.elevation)

    @property
    def distance(self) -> float:
        """World units from the target to the eye; inf for parallel lines of sight."""
        if self.fov < _NARROW:
            return math.inf
        return 1 / (2 * self.scale * math.tan(math.radians(self.fov) / 2))

    def axes(self) -> np.ndarray:
        """[3, 3] float64, see camera_axes."""
        return camera_axes(self.azimuth, self.elevation)

    def project(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where world points lie in the picture.

        Args:
            points: [N, 3].

        Returns:
            [N, 2] right and down in picture sides, 0-1 inside, (0, 0) the picture's upper left corner; [N] picture
            sides of one world unit at that depth, 0 for what lies behind the eye (whose place means nothing).
        """
        axes = torch.from_numpy(self.axes()).to(points)
        right, up, back = ((points - points.new_tensor(self.target)) @ axes.T).unbind(1)
        away = 1 - back / self.distance  # 1 at the target, 0 at the eye
        size = self.scale / away.clamp_min(_NEAREST)
        place = torch.stack([0.5 + self.shift[0] + right * size, 0.5 + self.shift[1] - up * size], 1)
        return place, torch.where(away < _NEAREST, 0, size)

    def towards(self, points: torch.Tensor) -> torch.Tensor:
        """[N, 3] unit directions from world points [N, 3] to the eye."""
        back = points.new_tensor(self.axes()[2])
        if math.isinf(self.distance):
            return back.expand(len(points), 3)
        eye = points.new_tensor(self.target) + self.distance * back
        return torch.nn.functional.normalize(eye - points, dim=1)

    def rays(self, side: int, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """Lines of sight through the centres of side x side pixels, row by row: origins and unit directions, both
        [side * side, 3] float32. Origins are the eye, or lie two world units before the target's plane."""
        axes = torch.from_numpy(self.axes()).to(device, torch.float32)
        line = (torch.arange(side, device=device) + 0.5) / side - 0.5
        down, right = torch.meshgrid(line - self.shift[1], line - self.shift[0], indexing="ij")
        flat = torch.stack([right, -down], -1).reshape(-1, 2) / self.scale  # world units in the target's plane
        onto = flat @ axes[:2] + axes.new_tensor(self.target)
        if math.isinf(self.distance):
            return onto + 2 * axes[2], -axes[2].expand_as(onto)
        eye = axes.new_tensor(self.target) + self.distance * axes[2]
        length = (flat[:, :1].square() + flat[:, 1:].square() + self.distance**2).sqrt()
        return eye.expand_as(onto), (onto - eye) / length
