"""Where a picture is taken from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..errors import SettingsError, check_finite
from ..views.rig import camera_axes


@dataclass(frozen=True)
class Camera:
    """Where a picture is taken from. World frame, Z up; the camera looks at `target` and keeps upright.

    azimuth: degrees, 0 in front of the object (on -Y, looking along +Y with +X to the right), growing anticlockwise
        seen from above: 90 is on +X.
    elevation: degrees above the horizon, -90 to 90.
    fov: degrees that the picture's side spans.
    distance: from the target in world units; target: world position. None: chosen so that the object fills the picture
        and would fit from every azimuth.
    """

    azimuth: float = 30.0
    elevation: float = 20.0
    fov: float = 30.0
    distance: float | None = None
    target: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        check_finite("A camera's", azimuth=self.azimuth, elevation=self.elevation, field_of_view=self.fov)
        check_finite("A camera's", distance=self.distance or 1.0)
        check_finite("A camera's target:", **dict(zip("xyz", self.target or ())))
        if not -90 <= self.elevation <= 90:
            raise SettingsError(f"A camera's elevation must lie in -90 to 90 degrees, got {self.elevation}.")
        if not 1 <= self.fov <= 150:
            raise SettingsError(f"A camera's field of view must lie in 1 to 150 degrees, got {self.fov}.")
        if self.distance is not None and self.distance <= 0:
            raise SettingsError(f"A camera's distance must be above 0, got {self.distance}.")

    def axes(self) -> np.ndarray:
        """[3, 3] float64: rows are the picture's right, its up and the direction towards the viewer."""
        return camera_axes(self.azimuth, self.elevation)


def turntable_cameras(camera: Camera, frames: int) -> list[Camera]:
    """Cameras on a full circle of azimuths, evenly spaced, from the camera's on."""
    return [replace(camera, azimuth=camera.azimuth + 360 * k / frames) for k in range(frames)]
