"""A turntable as a video file, by the optional package PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..errors import BackendError, OutputError, SettingsError

VIDEO_SUFFIXES = (".mp4",)
BACKDROP = (0.93, 0.93, 0.92)  # sRGB, behind what is drawn: H.264 in players has no alpha
_QUALITY = "18"  # constant rate factor: no loss is seen
_LONGEST = 1000  # frames


def video_unavailable() -> str:
    """Why videos cannot be written here; empty if they can."""
    return "" if find_spec("av") else "the package av is missing; pip install av (ComfyUI brings it)"


def turntable_frame_count(seconds: float, fps: float) -> int:
    """Frames of one turn.

    Raises:
        SettingsError: fewer than 2 frames or more than 1000.
    """
    if not (0 < seconds < 1e6 and 1 <= fps <= 120):
        raise SettingsError(
            f"A turntable needs seconds above 0 and 1-120 frames a second; got {seconds:g} and {fps:g}."
        )
    frames = round(seconds * fps)
    if not 2 <= frames <= _LONGEST:
        raise SettingsError(
            f"{seconds:g} seconds at {fps:g} frames a second are {frames} frames; a turntable has 2 to {_LONGEST}."
        )
    return frames


def check_video(path: Path, size: int) -> None:
    """Raises SettingsError for a file or a size that a video cannot have, BackendError without PyAV."""
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise SettingsError(f"A turntable's file must end in {' or '.join(VIDEO_SUFFIXES)}, got {path.name}.")
    if size % 2:
        raise SettingsError(f"A video's side must be an even number of pixels, got {size}.")
    if reason := video_unavailable():
        raise BackendError(f"A turntable video cannot be written: {reason}.")


class Video:
    """Takes frames [S, S, 4] uint8 (straight alpha) one after the other, over the backdrop."""

    def __init__(self, container, stream) -> None:
        self._container, self._stream = container, stream
        self._behind = np.array(BACKDROP, np.float32) * 255

    def add(self, picture: np.ndarray) -> None:
        import av

        cover = picture[..., 3:].astype(np.float32) / 255
        flat = picture[..., :3] * cover + self._behind * (1 - cover)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(flat.round().astype(np.uint8)), format="rgb24")
        self._container.mux(self._stream.encode(frame))


@contextmanager
def video(path: Path, size: int, fps: float) -> Iterator[Video]:
    """A video of size x size pixels that is finished when the block ends: H.264, which every player knows.

    Raises:
        BackendError: without PyAV, or its build has no encoder. OutputError: the file cannot be written.
    """
    if reason := video_unavailable():
        raise BackendError(f"A turntable video cannot be written: {reason}.")
    import av

    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            try:
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            except ValueError as error:  # av.codec.codec.UnknownCodecError is one
                raise BackendError("This build of PyAV has no H.264 encoder; pip install av brings one.") from error
            stream.width = stream.height = size
            stream.pix_fmt, stream.options = "yuv420p", {"crf": _QUALITY}
            yield Video(container, stream)
            container.mux(stream.encode())
    except OSError as error:  # av.FFmpegError is one where a file is at fault
        raise OutputError(f"{path} cannot be written: {error}") from error
