"""Pictures of meshes, plain, coloured or textured: stills and turntables, on a CPU or with CUDA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import BackendError, SettingsError, unknown
from ..warp import unavailable_reason
from .camera import Camera, turntable_cameras
from .studio import Studio
from .subject import MODES, Subject, check_subject

if TYPE_CHECKING:
    from .scene import Scene

_LARGEST = 4096  # pixels of a picture's side
_ASIDE, _FRONT, _STUDIO = Camera(), Camera(azimuth=0.0), Studio()


def render(
    subject: Subject,
    camera: Camera = _ASIDE,
    size: int = 512,
    mode: str = "shaded",
    background: Sequence[float] | None = None,
    studio: Studio = _STUDIO,
) -> np.ndarray:
    """A picture [size, size, 4] uint8: sRGB and straight alpha. The same input gives the same picture on a device.

    Faces are two-sided. Faces that reach behind the camera are left out; those without area do not show.

    Args:
        size: pixels along a side, 16-4096.
        mode: "shaded": grey clay under the studio's light. "normals": shading normals in the camera's frame, right, up
            and towards the viewer, -1..1 as 0..255. "base_color": without light. "wireframe": clay with the edges drawn
            on it. "pbr": the metallic-roughness material of glTF under the studio's light.
        background: RGB, 0-1 sRGB; None: transparent.

    Raises:
        EmptyResultError: no faces. NotFiniteError: NaN or infinity in normals, UVs or
        colours. SettingsError: anything else that cannot be drawn.
    """
    check_picture(size, mode, background)
    return made_scene(subject, mode, studio).picture(camera, size, background)


def turntable(
    subject: Subject,
    frames: int = 8,
    size: int = 512,
    mode: str = "shaded",
    background: Sequence[float] | None = None,
    camera: Camera = _FRONT,
    studio: Studio = _STUDIO,
) -> np.ndarray:
    """Pictures [frames, size, size, 4] from a full circle of azimuths, from the camera's on; otherwise as render()."""
    check_picture(size, mode, background, frames)
    scene = made_scene(subject, mode, studio)
    pictures = np.empty((frames, size, size, 4), np.uint8)
    for picture, one in zip(pictures, turntable_cameras(camera, frames)):
        picture[:] = scene.picture(one, size, background)
    return pictures


def check_picture(size: int, mode: str, background: Sequence[float] | None = None, frames: int = 1) -> None:
    """Raises SettingsError for what no picture can have."""
    if not 1 <= frames <= 1000:
        raise SettingsError(f"A turntable has 1 to 1000 frames, got {frames}.")
    if not 16 <= size <= _LARGEST:
        raise SettingsError(f"A picture's side must lie in 16-{_LARGEST} pixels, got {size}.")
    if mode not in MODES:
        raise SettingsError(unknown("mode", mode, MODES))
    if background is not None and (len(background) != 3 or not all(0 <= x <= 1 for x in background)):
        raise SettingsError(f"A background is three numbers in 0-1 (RGB) or None, got {background}.")


def made_scene(subject: Subject, mode: str, studio: Studio, tick: Callable[[], None] = lambda: None) -> Scene:
    """A checked subject, ready to be drawn."""
    if reason := unavailable_reason():
        raise BackendError(f"The renderer needs Warp: {reason}")
    check_subject(subject, mode)
    from .scene import Scene  # which imports Warp

    return Scene(subject, mode, studio, tick)
