"""The rows of the backend table for meshes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from ..backends import Backend, Operation
from ..errors import SettingsError
from .jobs import missing, run_job
from .raster import rasterise

SIMPLIFY, UNWRAP, RASTER = "simplify", "unwrap", "raster"


def fast_simplification(
    vertices: torch.Tensor, faces: torch.Tensor, target: int, tick: Callable[[], None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quadric edge collapse (Garland & Heckbert 1997) to about `target` faces; returns CPU vertices and faces."""
    result = run_job(
        "simplify", tick, vertices=vertices.cpu().double().numpy(), faces=faces.cpu().numpy(), target=np.int64(target)
    )
    return torch.from_numpy(result["vertices"]), torch.from_numpy(result["faces"])


def xatlas(
    vertices: torch.Tensor, faces: torch.Tensor, size: int, padding: int, tick: Callable[[], None]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict]:
    """Charts, parameterisation and packing by xatlas.

    Returns:
        source [V'] int64 (the vertex each new vertex copies), faces [F, 3] int32, uvs [V', 2] in 0-1, and
        {"charts", "utilisation"}.
    """
    result = run_job(
        "unwrap",
        tick,
        vertices=vertices.cpu().numpy(),
        faces=faces.cpu().numpy(),
        resolution=np.int64(size),
        padding=np.int64(padding),
    )
    facts = {"charts": int(result["charts"]), "utilisation": float(result["utilisation"])}
    arrays = (torch.from_numpy(result[name]) for name in ("source", "faces", "uvs"))
    return (*arrays, facts)


def triangle_by_triangle(
    vertices: torch.Tensor, faces: torch.Tensor, size: int, padding: int, tick: Callable[[], None]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict]:
    """The unwrapping that needs no package: every face its own right triangle, two to a cell of a square grid.

    Never overlaps, but spends texels on `padding` round each face (less where a cell is small) and on seams.
    Returns as xatlas.

    Raises:
        SettingsError: a cell would have less than 3 x 3 texels.
    """
    count = len(faces)
    cells = math.ceil(math.sqrt(math.ceil(count / 2)))
    side = size / cells
    if side < 3:
        raise SettingsError(
            f"{count:,} faces do not fit into a texture of {size} pixels without xatlas, which is not installed here: "
            f"ask for at most {2 * (size // 3) ** 2:,} faces or a larger texture."
        )
    gap = min(padding, side / 6) / 2  # round each triangle; the diagonals lie two gaps apart
    near, far = gap, side - (1 + math.sqrt(2)) * gap
    lower = torch.tensor([[near, near], [far, near], [near, far]])
    both = torch.stack([lower, side - lower])  # [2, 3, 2]
    face = torch.arange(count)
    cell = torch.stack([face // 2 % cells, face // 2 // cells], 1)
    uvs = ((cell * side)[:, None] + both[face % 2]) / size
    facts = {"charts": count, "utilisation": count / 2 * (far - near) ** 2 / size**2}
    new_faces = torch.arange(3 * count, dtype=torch.int32).reshape(-1, 3)
    return faces.cpu().long().reshape(-1), new_faces, uvs.reshape(-1, 2).float(), facts


def _row(name: str, package: str, function: Callable, why: str) -> Backend:
    reason = missing(package, why)
    return Backend(name, None if reason else function, reason)


OPERATIONS = (
    Operation(
        SIMPLIFY,
        (_row("fast-simplification", "fast_simplification", fast_simplification, "pip install fast-simplification."),),
    ),
    Operation(
        UNWRAP,
        (
            _row("xatlas", "xatlas", xatlas, "it has wheels for Python up to 3.13, none for Linux on Arm."),
            Backend("triangles", triangle_by_triangle),
        ),
    ),
    Operation(RASTER, twin=rasterise),
)
