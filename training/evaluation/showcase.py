"""The README's picture: held-out objects, each made from its picture by a cold command line, on a turntable."""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from pipeline.render import Camera, Subject, turntable
from pipeline.warp import cores

from ..train import TrainingError
from .examples import Example

_FRAMES = 4  # stills of a turntable
_FIRST = 20.0  # degrees, azimuth of the first
_ELEVATION = 18.0  # degrees
_TILE, _GAP, _BESIDE = 224, 8, 104  # pixels: of a picture's side, round it, of the column with the times
_PAPER, _INK = (246, 246, 244), (60, 60, 64)  # sRGB
_QUALITY = 88  # of a JPEG: the README loads it at once


@dataclass(frozen=True)
class Made:
    """What the command line made of an example: the stills [frames, S, S, 4] uint8, and how long it took."""

    example: Example
    stills: np.ndarray
    seconds: float


def make(checkpoint: Path, example: Example, pictures: Path) -> Made:
    """Run `python -m pipeline generate` in a process of its own, as a user would, and look at the file.

    Args:
        pictures: folder that keeps the picture.

    Raises:
        TrainingError: the command fails.
    """
    pictures.mkdir(parents=True, exist_ok=True)
    picture = pictures / f"{example.name}.png"
    example.picture.save(picture, optimize=True)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.glb"
        command = [sys.executable, "-m", "pipeline", "generate", picture, "--checkpoint", checkpoint]
        start = time.perf_counter()
        done = subprocess.run([*map(str, command), "--output", str(output)], capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise TrainingError(f"{example.name} (number {example.number}): {done.stderr.strip()}")
        return Made(example, stills(read_glb(output)), seconds)


def stills(subject: Subject) -> np.ndarray:
    """[frames, S, S, 4] uint8."""
    return turntable(subject, _FRAMES, _TILE, "pbr", camera=Camera(_FIRST, _ELEVATION))


def read_glb(path: Path) -> Subject:
    """A textured GLB as a viewer sees it, turned back to the world frame."""
    import trimesh  # of the tests' requirements; the training does without

    scene: Any = trimesh.load(path, process=False)
    (mesh,) = scene.geometry.values()
    material = mesh.visual.material
    base, packed = (np.asarray(each) for each in (material.baseColorTexture, material.metallicRoughnessTexture))
    alpha = base[..., 3:] if base.shape[2] == 4 else np.full_like(base[..., :1], 255)
    maps = np.concatenate([base[..., :3], packed[..., [2, 1]], alpha], 2)
    uvs = np.stack([mesh.visual.uv[:, 0], 1 - mesh.visual.uv[:, 1]], 1)  # v goes up in trimesh
    vertices, normals = (_z_up(torch.tensor(each)) for each in (mesh.vertices, mesh.vertex_normals))
    return Subject(
        vertices,
        torch.tensor(mesh.faces),
        normals,
        torch.tensor(uvs, dtype=torch.float32),
        maps,
        alpha_mode=material.alphaMode or "OPAQUE",
    )


def _z_up(rows: torch.Tensor) -> torch.Tensor:
    x, y, z = rows.float().unbind(1)
    return torch.stack([x, -z, y], 1)


def sheet(rows: Sequence[Made]) -> Image.Image:
    """A row for each object: its picture, seconds, stills."""
    step = _TILE + 2 * _GAP
    paper = Image.new("RGB", (_BESIDE + (1 + _FRAMES) * step, len(rows) * step), _PAPER)
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(size=26)
    for number, row in enumerate(rows):
        top = number * step + _GAP
        shown = row.example.picture.resize((_TILE, _TILE), Image.Resampling.LANCZOS)
        paper.paste(shown, (_GAP, top), shown)
        middle = step + _BESIDE // 2, top + _TILE // 2
        pen.text(middle, f"{row.seconds:.0f} s", _INK, font, anchor="ms")
        _arrow(pen, *middle)
        for frame, still in enumerate(map(Image.fromarray, row.stills)):
            paper.paste(still, (_BESIDE + (1 + frame) * step + _GAP, top), still)
    return paper


def _arrow(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    """From the left to the right, below a text at (x, y)."""
    y += 14
    pen.line([(x - 26, y), (x + 20, y)], _INK, 3)
    pen.polygon([(x + 28, y), (x + 16, y - 6), (x + 16, y + 6)], _INK)


def save(rows: Sequence[Made], path: Path) -> None:
    """The sheet as JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows).save(path, quality=_QUALITY, optimize=True)


def line(rows: Sequence[Made]) -> str:
    """Times and machine, for the README."""
    times = ", ".join(f"{row.example.name} {row.seconds:.1f} s" for row in rows)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    machine = f"{cores()} cores of an {platform.machine()} {device}"
    return f"{times} ({machine}, torch {torch.__version__.split('+')[0]}, {date.today()})."
