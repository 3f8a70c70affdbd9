"""Views of a mesh from any number of cameras: pictures, and beside them depth, normals and the cameras themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..views.camera import PictureCamera
from .camera import Camera
from .pictures import check_picture, made_scene
from .studio import Studio
from .subject import Subject

_STUDIO = Studio()


@dataclass(frozen=True, eq=False)
class Frame:
    """One view.

    picture: [S, S, 4] uint8, sRGB and straight alpha. camera: that took it, in world units.
    depth: [S, S] float32, world units from the eye along the optical axis to what each pixel sees first, inf where
        that is nothing; normals: [S, S, 4] uint8 as mode "normals"; None where they were not asked for.
    near, far: depths between which the whole subject lies.
    """

    picture: np.ndarray
    camera: PictureCamera
    near: float
    far: float
    depth: np.ndarray | None = None
    normals: np.ndarray | None = None

    def nearness(self) -> np.ndarray:
        """[S, S] float32 from the depth: 1 at `near`, 0 at `far` and where there is nothing, linear between."""
        assert self.depth is not None
        return ((self.far - self.depth) / (self.far - self.near)).clip(0, 1).astype(np.float32)


def view_frames(
    subject: Subject,
    cameras: Sequence[Camera],
    size: int = 512,
    mode: str = "shaded",
    background: Sequence[float] | None = None,
    studio: Studio = _STUDIO,
    passes: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[Frame]:
    """One view after the other, each drawn when it is asked for; arguments and errors as for render().

    Args:
        passes: depth and normals too.
        tick: called several times while a picture is drawn; an exception that it raises stops the drawing.
    """
    check_picture(size, mode, background, len(cameras))
    scene = made_scene(subject, mode, studio, tick)
    bare = made_scene(subject, "normals", studio, tick) if passes else None
    return (_frame(scene, bare, camera, size, background) for camera in cameras)


def _frame(scene, bare, camera: Camera, size: int, background: Sequence[float] | None) -> Frame:
    found = Frame(scene.picture(camera, size, background), scene.camera(camera), *scene.bounds(camera))
    if bare is None:
        return found
    return replace(found, depth=bare.depth(camera, size), normals=bare.picture(camera, size, None))
