"""Unwrapping where Warp is absent: by xatlas, or triangle by triangle."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from ...errors import SettingsError
from ..jobs.processes import run_job
from ..jobs.worker import CHUNK_FACES


def xatlas(
    vertices: torch.Tensor,
    faces: torch.Tensor,
    size: int,
    padding: int,
    tick: Callable[[], None],
    fewer_seams: bool = False,
    chunk_faces: int = CHUNK_FACES,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict]:
    """Charts, parameterisation and packing by xatlas.

    fewer_seams: has no effect, for none of xatlas's weights makes its charts much larger.
    chunk_faces: maximum number of faces of the parts that the mesh is split into, as xatlas is more than linear in it.

    Returns:
        source [V'] int64 (the vertex each new vertex copies), faces [F, 3] int32, uvs [V', 2] in 0-1, and
        {"charts", "utilisation"}.
    """
    result = run_job(
        "unwrap",
        tick,
        vertices=vertices.cpu().numpy(),
        faces=faces.cpu().numpy(),
        resolution=np.array(size),
        padding=np.array(padding),
        chunk=np.array(chunk_faces),
    )
    facts = {"charts": int(result["charts"]), "utilisation": float(result["utilisation"])}
    source, faces, uvs = (torch.from_numpy(result[name]) for name in ("source", "faces", "uvs"))
    return source, faces, uvs, facts


def triangle_by_triangle(
    vertices: torch.Tensor,
    faces: torch.Tensor,
    size: int,
    padding: int,
    tick: Callable[[], None],
    fewer_seams: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict]:
    """The unwrapping that needs no package: every face its own right triangle, two to a cell of a square grid. Every
    edge is a seam, whether fewer are wanted or not.

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
