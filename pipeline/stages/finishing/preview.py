"""Preview: a result -> stills and turntables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ...export import AlphaMode
from ...mesh.repair.repair import compact
from ...render import RENDER, Camera, Frame, Studio, Subject, turntable_cameras
from ...runtime import Runtime
from ..checks import check_pictures, geometry_device
from ..types import Mesh, TexturedMesh

STUDIO = Studio()  # the bundled light


def draw(
    runtime: Runtime,
    result: Mesh | TexturedMesh | Subject,
    frames: int = 4,
    size: int = 512,
    mode: str | None = None,
    camera: Camera | None = None,
    alpha_mode: AlphaMode = AlphaMode.OPAQUE,
    studio: Studio = STUDIO,
) -> np.ndarray:
    """Pictures of a result on a turntable: [frames, size, size, 4] uint8, sRGB and straight alpha.

    Args:
        frames, size, mode, camera: as for render.turntable; without a mode "pbr" if there are colours, else "shaded".

    Raises:
        SettingsError: see check_pictures.
    """
    check_pictures(frames, size)
    pictures = np.empty((frames, size, size, 4), np.uint8)
    draw_each(runtime, result, pictures.__setitem__, frames, size, mode, camera, alpha_mode, studio)
    return pictures


def draw_each(
    runtime: Runtime,
    result: Mesh | TexturedMesh | Subject,
    receive: Callable[[int, np.ndarray], None],
    frames: int = 4,
    size: int = 512,
    mode: str | None = None,
    camera: Camera | None = None,
    alpha_mode: AlphaMode = AlphaMode.OPAQUE,
    studio: Studio = STUDIO,
) -> None:
    """As draw, but each picture [size, size, 4] is handed to receive(number, picture), and none is kept."""
    cameras = turntable_cameras(camera or Camera(0.0), frames)

    def hand_on(number: int, frame: Frame) -> None:
        receive(number, frame.picture)

    draw_views(runtime, result, hand_on, cameras, size, mode, alpha_mode, studio)


def draw_views(
    runtime: Runtime,
    result: Mesh | TexturedMesh | Subject,
    receive: Callable[[int, Frame], None],
    cameras: Sequence[Camera],
    size: int = 512,
    mode: str | None = None,
    alpha_mode: AlphaMode = AlphaMode.OPAQUE,
    studio: Studio = STUDIO,
    passes: bool = False,
) -> None:
    """Views from any cameras: each is handed to receive(number, view). passes: with depth and normals."""
    device, frames = geometry_device(runtime.device), len(cameras)
    with runtime.stage("draw", frames, "Ask for smaller pictures."):
        subject = _subject(result, device, alpha_mode)
        coloured = subject.maps is not None or subject.colours is not None
        done = 0
        drawn = runtime.backends.pick(RENDER, device)(
            subject,
            cameras,
            size,
            mode or ("pbr" if coloured else "shaded"),
            studio=studio,
            passes=passes,
            tick=lambda: runtime.step("draw", done, frames),
        )
        for number, frame in enumerate(drawn):
            receive(number, frame)
            done = number + 1
            runtime.step("draw", done, frames)


def _subject(result: Mesh | TexturedMesh | Subject, device: torch.device, alpha_mode: AlphaMode) -> Subject:
    """What the renderer shows of a result."""
    if isinstance(result, Subject):
        return result
    if isinstance(result, Mesh):
        mesh = result.to(device)
        rows = mesh.vertices if mesh.attrs is None else torch.cat([mesh.vertices, mesh.attrs], 1)
        rows, faces = compact(rows, mesh.faces)  # raw meshes have vertices without faces
        return Subject.known(rows[:, :3], faces, colours=None if mesh.attrs is None else rows[:, 3:])
    first = result.levels[0]
    mesh = first.mesh.to(device)
    return Subject.known(
        mesh.vertices,
        mesh.faces,
        normals=first.normals.to(device),
        uvs=first.uvs.to(device),
        maps=result.maps,
        alpha_mode=alpha_mode.value,
    )
