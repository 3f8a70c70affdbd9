"""IMAGE and MASK to PIL and back, and the pictures that nodes show while they run."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import folder_paths
import numpy as np
import torch
from PIL import Image, ImageOps

from ...pipeline.errors import ImageError
from ...pipeline.image import fitted, leaves_all, marks_nothing, white_is_background

log = logging.getLogger(__name__)

# name in ComfyUI's input folder -> file in assets: the pictures and the mesh that our graphs open
EXAMPLES = {
    "trellis2_rocket.png": "rocket.png",
    "trellis2_chair.png": "pictures/chair.png",
    "trellis2_rocket.glb": "rocket.glb",
    "trellis2_repaint.png": "repaint.png",
    **{f"trellis2_car_{side}.png": f"pictures/car_{side}.png" for side in ("front", "left", "back")},
}
_OFFERED = "trellis2_example.txt"  # in ComfyUI's user folder
_ASSETS = Path(__file__).resolve().parents[2] / "assets"

SIDE = 256  # pixels of a preview
_POINTS = 400_000  # voxels drawn at most
# The camera looks from the front, above and to the right; rows are the picture's right, up and towards the viewer.
_VIEW = np.array([[0.82, 0.57, 0.0], [-0.24, 0.34, 0.91], [0.52, -0.75, 0.42]])
_VIEW /= np.linalg.norm(_VIEW, axis=1, keepdims=True)


def offer_examples() -> None:
    """Put the examples of our graphs into ComfyUI's input folder, each once: one that was deleted is not restored."""
    offered = Path(folder_paths.get_user_directory()) / _OFFERED
    try:
        known = set(offered.read_text(encoding="utf-8").split()) if offered.exists() else set()
        for name, file in EXAMPLES.items():
            target = Path(folder_paths.get_input_directory()) / name
            if name in known:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copyfile(_ASSETS / file, target)
        if not known >= EXAMPLES.keys():
            offered.parent.mkdir(parents=True, exist_ok=True)
            notice = "were put into the input folder once. Without this file they are put there again."
            offered.write_text(f"{' '.join(EXAMPLES)} {notice}\n", encoding="utf-8")
    except OSError as error:
        log.warning("The examples could not be copied to ComfyUI's input folder: %s", error)


def to_pil(image: torch.Tensor) -> list[Image.Image]:
    """IMAGE [B, H, W, 3 or 4] in 0-1 -> pictures. Raises ImageError for anything else."""
    if image.ndim != 4 or image.shape[3] not in (3, 4) or 0 in image.shape:
        raise ImageError(f"An image must be [batch, height, width, 3 or 4], got {list(image.shape)}.")
    return [Image.fromarray(_bytes(one)) for one in image]


MASK_MARKS = ("automatic", "background", "object")


def masks_to_pil(mask: torch.Tensor, images: list[Image.Image], marks: str) -> list[Image.Image | None]:
    """MASK [B, H, W] in 0-1 -> one grey picture an image, of its size, white: object; None for one that cuts nothing
    out.

    Args:
        images: a single mask serves all of them.
        marks: what 1 stands for; "automatic" decides as white_is_background. Unless it is "object", a mask that leaves
            all or nearly all of a picture is none: Load Image gives zeros for a picture without transparency.
    """
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or len(mask) not in (1, len(images)) or 0 in mask.shape:
        raise ImageError(
            f"{len(images)} images need 1 or {len(images)} masks [batch, height, width], got {list(mask.shape)}."
        )
    if not mask.any():
        if marks != "object":
            return [None] * len(images)
        raise ImageError("The mask is empty: it marks no object. If it marks the background, set mask_marks to that.")
    grey = [Image.fromarray(_bytes(one)) for one in mask] * (len(images) // len(mask))
    grey = [fitted(one, image) for one, image in zip(grey, images)]
    if marks == "object":
        return [*grey]
    marked = [(one, image) for one, image in zip(grey, images) if not marks_nothing(one)]
    if marks == "automatic" and marked and not white_is_background(*zip(*marked)):
        return [None if marks_nothing(one) else one for one in grey]
    inverted = [ImageOps.invert(one) for one in grey]
    if any(leaves_all(one) for one in inverted):
        log.warning("A mask leaves nearly the whole picture, which is no cut-out; it is not used.")
    return [None if leaves_all(one) else one for one in inverted]


def to_image(pictures: list[Image.Image]) -> torch.Tensor:
    """Pictures of one size -> IMAGE [B, H, W, C], or MASK [B, H, W] from grey ones."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]).astype(np.float32) / 255)


def same_size(pictures: list[Image.Image]) -> list[Image.Image]:
    """Square pictures enlarged to the side of the largest, as a batch needs it."""
    side = max(picture.width for picture in pictures)
    return [
        picture if picture.width == side else picture.resize((side, side), Image.Resampling.LANCZOS)
        for picture in pictures
    ]


def _bytes(values: torch.Tensor) -> np.ndarray:
    """0-1 -> 0-255; exact for what was 8-bit before."""
    if not torch.isfinite(values).all():
        raise ImageError("The image or mask holds NaN or infinity.")
    return (values.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def draw_voxels(coords: torch.Tensor, resolution: int, colors: torch.Tensor | None = None) -> Image.Image:
    """Voxels [T, 3] seen from the front: shaded by depth, or in their colours [T, 3] in 0-1."""
    if len(coords) > _POINTS:
        rows = torch.linspace(0, len(coords) - 1, _POINTS, device=coords.device).long()
        coords, colors = coords[rows], None if colors is None else colors[rows]
    centres = (coords.cpu().numpy() + 0.5) / resolution - 0.5
    size = max(1, round(1.3 * _scale() / resolution))
    if colors is None:
        depth = centres @ _VIEW[2]
        shade = 0.35 + 0.6 * (depth - depth.min()) / max(float(np.ptp(depth)), 1e-6) if len(depth) else depth
        shown = np.repeat(shade[:, None], 3, 1)
    else:
        shown = colors.float().clamp(0, 1).cpu().numpy()
    return _splat(centres, shown, size)


def _scale() -> float:
    """Pixels a world unit takes: the cube's diagonal fits into the picture."""
    return SIDE / 1.6


def _splat(points: np.ndarray, colors: np.ndarray, size: int) -> Image.Image:
    """Draw points [N, 3] as squares of `size` pixels, nearer ones over farther ones."""
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    right, up, depth = (points @ _VIEW.T).T
    order = depth.argsort(kind="stable")  # far to near: of several writes to a pixel the last one stays
    columns = np.round(SIDE / 2 + right * _scale() - size / 2).astype(int)[order]
    rows = np.round(SIDE / 2 - up * _scale() - size / 2).astype(int)[order]
    values = np.round(np.clip(colors, 0, 1) * 255).astype(np.uint8)[order]
    steps = np.arange(size)
    rows = (rows[:, None, None] + steps[:, None]).clip(0, SIDE - 1)
    columns = (columns[:, None, None] + steps).clip(0, SIDE - 1)
    rows, columns = np.broadcast_arrays(rows, columns)
    picture[rows, columns] = values[:, None, None]
    return Image.fromarray(picture)
