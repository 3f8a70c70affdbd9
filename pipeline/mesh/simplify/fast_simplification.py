"""Simplifying by the package fast-simplification, alone or for the bulk of the faces."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..jobs.processes import run_job
from ..mesh import Mesh
from .collapse import collapse
from .parts import reduce_in_parts

_BULK = 150_000  # faces that collapse takes down to any number in about two seconds on two cores


def fast_simplification(mesh: Mesh, target: int, tick: Callable[[], None]) -> Mesh:
    """Quadric edge collapse (Garland & Heckbert 1997) to about `target` faces; the result is on the CPU.

    Large meshes are first simplified in parts, several at once (see `parts`).
    """
    vertices, faces = mesh.vertices.cpu().float().numpy(), mesh.faces.cpu().int().numpy()
    vertices, faces = reduce_in_parts(vertices, faces, target, tick)
    result = run_job("simplify", tick, vertices=vertices, faces=faces, target=np.array(target))
    return Mesh.known(torch.from_numpy(result["vertices"]), torch.from_numpy(result["faces"]), kernels=mesh.kernels)


def hybrid(mesh: Mesh, target: int, tick: Callable[[], None]) -> Mesh:
    """fast_simplification for the bulk of the faces, which it removes several times as fast on a CPU, and collapse for
    the last of them, which keeps nearer to the surface, thin parts, and edges manifold. On a CPU."""
    most = max(target + target // 8, _BULK)
    if len(mesh.faces) > most:
        mesh = fast_simplification(mesh, most, tick)
    return collapse(mesh, target, tick)
