"""Pictures and videos of what a command makes: the options, what they can be refused for, and the files."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import stages
from ..console import Written
from ..errors import SettingsError
from ..export import AlphaMode
from ..export.files import writing
from ..render import (
    Camera,
    Studio,
    Subject,
    check_picture,
    check_video,
    environment_studio,
    read_environment,
    turntable_frame_count,
    video,
)
from ..runtime import Runtime

_ELEVATION = 15.0  # degrees, of a turntable's camera
_SECONDS, _FPS, _SIZE = 6.0, 30.0, 768  # of a turntable


def add_drawing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pictures of the result", "what --output holds, drawn by the pack's own renderer")
    group.add_argument("--picture", type=Path, metavar="OUT.png", help="four views")
    group.add_argument(
        "--turntable",
        type=Path,
        metavar="OUT.mp4",
        help="a video of one turn; needs the package av (PyAV), which ComfyUI brings",
    )
    group.add_argument("--turntable-seconds", type=float, metavar="S", help=f"of one turn; default: {_SECONDS:g}")
    group.add_argument("--turntable-fps", type=float, metavar="N", help=f"frames a second; default: {_FPS:g}")
    group.add_argument(
        "--turntable-size", type=int, metavar="N", help=f"pixels along a side, an even number; default: {_SIZE}"
    )
    group.add_argument(
        "--environment",
        type=Path,
        metavar="FILE",
        help="an equirectangular picture that lights them, .hdr, .exr (needs the package OpenEXR) or any other; "
        "default: the bundled studio",
    )
    group.add_argument("--environment-rotation", type=float, metavar="DEG", help="turn it to the right; default: 0")


def wants_drawing(options: argparse.Namespace) -> bool:
    return options.picture is not None or options.turntable is not None


def drawn_outputs(options: argparse.Namespace, output: Path | None) -> list[tuple[str, Path | None]]:
    """Files that the options ask for, as (option, path). The environment is read here, before any work is done.

    Raises:
        SettingsError, BackendError: what they ask for cannot be. ImageError: the environment is none.
    """
    if output is None and wants_drawing(options):
        raise SettingsError(
            f"{'--picture' if options.picture else '--turntable'} shows what --output holds; give both."
        )
    if options.picture is not None and options.picture.suffix.lower() != ".png":
        raise SettingsError(f"The picture must end in .png, got {options.picture.name}.")
    seconds, fps, size = options.turntable_seconds, options.turntable_fps, options.turntable_size
    if options.turntable is None and (seconds, fps, size) != (None, None, None):
        raise SettingsError("The options --turntable-... have no effect without --turntable. Add it or leave them out.")
    if options.environment is None and options.environment_rotation is not None:
        raise SettingsError("--environment-rotation has no effect without --environment. Add it, or leave it out.")
    if options.turntable is not None:
        seconds, fps, size = _film(options)
        check_video(options.turntable, size)
        check_picture(size, "shaded", None, turntable_frame_count(seconds, fps))
    if options.environment is not None and not wants_drawing(options):
        raise SettingsError("--environment lights --picture and --turntable; give one of them.")
    options.studio = _studio(options)
    return [("--picture", options.picture), ("--turntable", options.turntable)]


def _film(options: argparse.Namespace) -> tuple[float, float, int]:
    """Seconds, frames a second and pixels of the turntable's side."""

    def given(name: str, usual: float) -> float:
        value = vars(options)[name]
        return usual if value is None else value

    seconds, fps = given("turntable_seconds", _SECONDS), given("turntable_fps", _FPS)
    return seconds, fps, int(given("turntable_size", _SIZE))


def _studio(options: argparse.Namespace) -> Studio:
    if options.environment is None:
        return stages.STUDIO
    return environment_studio(read_environment(options.environment), options.environment_rotation or 0.0)


def write_drawings(
    options: argparse.Namespace,
    runtime: Runtime,
    result: stages.Mesh | stages.TexturedMesh | Subject,
    alpha_mode: AlphaMode,
    written: Written,
) -> None:
    """The files of `drawn_outputs`; one that fails does not cost the other."""
    if options.picture:
        with written.or_not():
            stages.write_views(runtime, result, options.picture, alpha_mode, options.studio)
            written.paths.append(options.picture)
    if options.turntable:
        with written.or_not():
            _write_turntable(options, runtime, result, alpha_mode)
            written.paths.append(options.turntable)


def _write_turntable(options: argparse.Namespace, runtime: Runtime, result, alpha_mode: AlphaMode) -> None:
    seconds, fps, size = _film(options)
    frames = turntable_frame_count(seconds, fps)
    with (
        writing(options.turntable) as temporary,
        video(temporary, size, fps) as film,
    ):
        stages.draw_each(
            runtime,
            result,
            lambda _, picture: film.add(picture),
            frames,
            size,
            camera=Camera(0.0, _ELEVATION),
            alpha_mode=alpha_mode,
            studio=options.studio,
        )
