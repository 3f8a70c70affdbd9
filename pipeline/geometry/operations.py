"""The rows of the backend table for meshes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..backends import Backend, Operation
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
        (_row("xatlas", "xatlas", xatlas, "it has wheels for Python up to 3.13, none for Linux on Arm."),),
    ),
    Operation(RASTER, twin=rasterise),
)
