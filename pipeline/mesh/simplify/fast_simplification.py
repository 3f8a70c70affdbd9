"""Simplifying by the package fast-simplification, alone or for the bulk of the faces."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..jobs.processes import run_job
from ..mesh import Mesh
from ..repair.clean import AFTER_SIMPLIFYING, clean
from .bounded import by_halves, check_max_error, deviation
from .collapse import collapse
from .flaps import without_flaps
from .parts import reduce_in_parts

_BULK = 150_000  # faces that collapse takes down to any number in about two seconds on two cores
_BULK_ERROR = 0.4  # of max_error that the bulk may spend; else collapse does it all


def fast_simplification(
    mesh: Mesh, target_faces: int, tick: Callable[[], None], max_error: float | None = None
) -> Mesh:
    """Quadric edge collapse (Garland & Heckbert 1997) to about target_faces faces; the result is on the CPU.

    Large meshes are first simplified in parts, several at once (see `parts`). max_error: as of collapse; the package
    has no such bound, see by_halves.
    """
    check_max_error(max_error)
    if max_error is None:
        return _to_count(mesh, target_faces, tick)
    return by_halves(mesh.to("cpu"), target_faces, max_error, lambda some, count: _to_count(some, count, tick))


def _to_count(mesh: Mesh, target_faces: int, tick: Callable[[], None]) -> Mesh:
    vertices, faces = mesh.vertices.cpu().float().numpy(), mesh.faces.cpu().int().numpy()
    vertices, faces = reduce_in_parts(vertices, faces, target_faces, tick)
    result = run_job("simplify", tick, vertices=vertices, faces=faces, target_faces=np.array(target_faces))
    faces = without_flaps(torch.from_numpy(result["faces"]), mesh.kernels)
    return Mesh.known(torch.from_numpy(result["vertices"]), faces, kernels=mesh.kernels)


def hybrid(mesh: Mesh, target_faces: int, tick: Callable[[], None], max_error: float | None = None) -> Mesh:
    """fast_simplification for the bulk of the faces, which it removes several times as fast on a CPU, and collapse for
    the last of them, which keeps nearer to the surface, thin parts, and edges manifold. On a CPU. max_error: as of
    collapse; the bulk may spend a part of it."""
    check_max_error(max_error)
    most = max(target_faces + target_faces // 8, _BULK)
    if len(mesh.faces) <= most:
        return collapse(mesh, target_faces, tick, max_error)
    # without the non-manifold edges that it makes, which collapse has to keep
    bulk = clean(fast_simplification(mesh, most, tick), AFTER_SIMPLIFYING)
    if max_error is None:
        return collapse(bulk, target_faces, tick)
    spent = deviation(mesh, bulk)
    if spent > _BULK_ERROR * max_error:
        return collapse(mesh, target_faces, tick, max_error)
    return collapse(bulk, target_faces, tick, max_error - spent)
