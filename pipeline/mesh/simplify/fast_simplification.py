"""Simplifying by the package fast-simplification, alone or for the bulk of the faces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ..jobs.processes import run_job
from ..mesh import Mesh
from ..repair.clean import AFTER_SIMPLIFYING, clean
from .bounded import ErrorBound, by_halves, deviation
from .collapse import collapse
from .flaps import without_flaps
from .parts import reduce_in_parts

_BULK = 150_000  # faces that collapse takes down to any number in about two seconds on two cores
_BULK_ERROR = 0.4  # of a bound's max_error that the bulk may spend; else collapse does it all


def fast_simplification(
    mesh: Mesh, target_faces: int, tick: Callable[[], None], bound: ErrorBound | None = None
) -> Mesh:
    """Quadric edge collapse (Garland & Heckbert 1997) to about target_faces faces; the result is on the CPU.

    Large meshes are first simplified in parts, several at once (see `parts`). bound: as of collapse; the package knows
    none, see by_halves.
    """
    if bound is None:
        return _to_count(mesh, target_faces, tick)
    return by_halves(mesh.to("cpu"), target_faces, bound, lambda some, count: _to_count(some, count, tick))


def _to_count(mesh: Mesh, target_faces: int, tick: Callable[[], None]) -> Mesh:
    vertices, faces = mesh.vertices.cpu().float().numpy(), mesh.faces.cpu().int().numpy()
    vertices, faces = reduce_in_parts(vertices, faces, target_faces, tick)
    result = run_job("simplify", tick, vertices=vertices, faces=faces, target_faces=np.array(target_faces))
    faces = without_flaps(torch.from_numpy(result["faces"]), mesh.kernels)
    return Mesh.known(torch.from_numpy(result["vertices"]), faces, kernels=mesh.kernels)


def hybrid(mesh: Mesh, target_faces: int, tick: Callable[[], None], bound: ErrorBound | None = None) -> Mesh:
    """fast_simplification for the bulk of the faces, which it removes several times as fast on a CPU, and collapse for
    the last of them, which keeps nearer to the surface, thin parts, and edges manifold. On a CPU. bound: as of
    collapse; the bulk may spend a part of it."""
    most = max(target_faces + target_faces // 8, _BULK)
    if len(mesh.faces) <= most:
        return collapse(mesh, target_faces, tick, bound)
    # without the non-manifold edges that it makes, which collapse has to keep
    bulk = clean(fast_simplification(mesh, most, tick), AFTER_SIMPLIFYING)
    if bound is None:
        return collapse(bulk, target_faces, tick)
    spent = deviation(mesh, bulk, bound.measure)
    if spent > _BULK_ERROR * bound.max_error:
        return collapse(mesh, target_faces, tick, bound)
    return collapse(bulk, target_faces, tick, replace(bound, max_error=bound.max_error - spent))
