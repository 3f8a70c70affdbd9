"""The rows of the backend table for meshes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ..backends import Backend, Operation
from ..errors import SettingsError
from ..warp import missing, unavailable_reason
from .bake.raster import nearest_covered, rasterise
from .bake.raster_warp import nearest_covered_warp, rasterise_warp
from .jobs.processes import run_job
from .jobs.worker import CHUNK_FACES
from .simplify.collapse import collapse
from .simplify.parts import reduce_in_parts

SIMPLIFY, UNWRAP, RASTER, NEAREST = "simplify", "unwrap", "raster", "nearest"


def fast_simplification(
    vertices: torch.Tensor, faces: torch.Tensor, target: int, tick: Callable[[], None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quadric edge collapse (Garland & Heckbert 1997) to about `target` faces; returns CPU vertices and faces.

    Large meshes are first simplified in parts, several at once (see `parts`).
    """
    vertices, faces = vertices.cpu().float().numpy(), faces.cpu().int().numpy()
    vertices, faces = reduce_in_parts(vertices, faces, target, tick)
    result = run_job("simplify", tick, vertices=vertices, faces=faces, target=np.int64(target))
    return torch.from_numpy(result["vertices"]), torch.from_numpy(result["faces"])


def hybrid(
    vertices: torch.Tensor, faces: torch.Tensor, target: int, tick: Callable[[], None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """fast_simplification for the bulk of the faces, which it removes several times as fast on a CPU, and collapse for
    the last of them, which keeps nearer to the surface, thin parts, and edges manifold."""
    most = max(target + target // 8, _BULK)
    if len(faces) > most:
        vertices, faces = fast_simplification(vertices, faces, most, tick)
    return collapse(vertices.cpu(), faces.cpu(), target, tick)


_BULK = 150_000  # faces that collapse takes down to any number in about two seconds on two cores


def unwrap(
    vertices: torch.Tensor, faces: torch.Tensor, size: int, padding: int, tick: Callable[[], None]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict]:
    """uv.unwrap, which imports Warp."""
    from .uv.unwrap import unwrap as run

    return run(vertices, faces, size, padding, tick)


def xatlas(
    vertices: torch.Tensor,
    faces: torch.Tensor,
    size: int,
    padding: int,
    tick: Callable[[], None],
    chunk_faces: int = CHUNK_FACES,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict]:
    """Charts, parameterisation and packing by xatlas.

    chunk_faces: the mesh is split into parts of at most so many faces, as xatlas is more than linear in their number.

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
        chunk=np.int64(chunk_faces),
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


def _warp(function: Callable, devices: tuple[str, ...] = ("cpu", "cuda")) -> Backend:
    return Backend("warp", function, unavailable_reason, devices)


def _no_fast_simplification() -> str:
    return missing("fast_simplification", "pip install fast-simplification.")


def _no_xatlas() -> str:
    return missing("xatlas", "it has wheels for Python up to 3.13, none for Linux on Arm.")


def _raster_example(device: torch.device) -> tuple:
    """A square of two triangles, wound against each other, and one across its corner."""
    uvs = torch.tensor([[0.1, 0.1], [0.9, 0.15], [0.85, 0.9], [0.1, 0.8], [0.02, 0.05], [0.05, 0.02]], device=device)
    return uvs, torch.tensor([[0, 1, 2], [0, 3, 2], [0, 4, 5]], dtype=torch.int32, device=device), 64


def _nearest_example(device: torch.device) -> tuple:
    """Two covered texels, with no texel as near to one as to the other."""
    covered = torch.zeros(32, 32, dtype=torch.bool, device=device)
    covered[3, 5] = covered[24, 28] = True
    return (covered,)


OPERATIONS = (
    Operation(
        SIMPLIFY,
        (
            _warp(collapse, ("cuda",)),
            Backend("hybrid", hybrid, lambda: unavailable_reason() or _no_fast_simplification(), ("cpu",)),
            Backend("fast-simplification", fast_simplification, _no_fast_simplification),
            # several times slower on a CPU for large meshes, but what was closed stays closed
            replace(_warp(collapse, ("cpu",)), name="warp-cpu"),
        ),
    ),
    Operation(
        UNWRAP,
        (
            _warp(unwrap),
            Backend("xatlas", xatlas, _no_xatlas),
            Backend("triangles", triangle_by_triangle),
        ),
    ),
    Operation(RASTER, (_warp(rasterise_warp),), twin=rasterise, example=_raster_example, tolerance=1e-6),
    Operation(NEAREST, (_warp(nearest_covered_warp),), twin=nearest_covered, example=_nearest_example),
)
