"""What takes a background away: its plain colour, or the optional package rembg."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

from PIL import Image

from ..errors import ImageError, MissingPackageError
from .plain import plain_background

log = logging.getLogger(__name__)
Remover = Callable[[Image.Image], Image.Image]  # RGB -> RGBA

DEFAULT_MODEL = "birefnet-general-lite"
KINDS = ("auto", "plain", "rembg")
CURES = (
    "Let a model remove the background: pip install 'rembg[cpu]', or give a mask of the object or a PNG with "
    "transparency, or photograph it before one even colour."
)
PATIENCE = 5.0  # seconds without an answer, after which the download of rembg's weights is given up


def background_remover(kind: str = "auto", model: str = DEFAULT_MODEL, cures: str = CURES) -> Remover:
    """What removes backgrounds; nothing is loaded before it is needed.

    Args:
        kind: "plain": by the colour of a plain background, "rembg": by rembg's model, "auto": by the colour if the
            background is plain, else by rembg if it is installed.
        model: of rembg.
        cures: what an error recommends.
    """
    with_rembg = cache(lambda: rembg_remover(model, cures))
    if kind == "rembg":
        return lambda image: with_rembg()(image)

    def remove(image: Image.Image) -> Image.Image:
        try:
            return plain_background(image)
        except ImageError as error:
            reason = error
        start = f"The picture has no transparent background, and {reason}."
        if kind == "plain":
            raise ImageError(f"{start} {cures}") from reason
        try:
            remover = with_rembg()
        except MissingPackageError as error:
            raise MissingPackageError(f"{start} {error}") from error
        log.info("%s Its background is removed by rembg's %s.", start, model)
        return remover(image)

    return remove


def rembg_remover(model: str = DEFAULT_MODEL, cures: str = CURES) -> Remover:
    """Background removal through the optional package rembg (ONNX, no remote code).

    Args:
        model: a rembg model. The default is MIT-licensed (BiRefNet); rembg's own default, bria-rmbg,
            is not free for commercial use.
        cures: what an error recommends.

    Raises:
        MissingPackageError: rembg is not installed, does not know the model or cannot get its weights.
    """
    try:
        import rembg
    except (ImportError, SystemExit) as error:  # rembg exits the process when it finds no onnxruntime
        problem = "onnxruntime is missing" if isinstance(error, SystemExit) else error
        raise MissingPackageError(f"rembg is not usable here ({problem}). {cures}") from error
    try:
        session = _impatient(lambda: rembg.new_session(model))
    except (ValueError, OSError) as error:
        raise MissingPackageError(
            f"rembg cannot load the model {model!r}, which it downloads on first use: {error}. {cures}"
        ) from error
    return lambda image: rembg.remove(image, session=session).convert("RGBA")


def _impatient(load: Callable[[], object]) -> object:
    """Load weights through pooch, rembg's downloader, with a shorter time-out than its 30 s for each address of the
    server: where a firewall drops what it does not like, that is a minute of nothing."""
    try:
        from pooch import downloaders
    except ImportError:
        return load()
    usual = getattr(downloaders, "DEFAULT_TIMEOUT", None)  # for this very purpose, says pooch
    if usual is None:
        return load()
    downloaders.DEFAULT_TIMEOUT = PATIENCE
    try:
        return load()
    finally:
        downloaders.DEFAULT_TIMEOUT = usual
