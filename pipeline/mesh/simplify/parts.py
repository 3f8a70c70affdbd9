"""Simplifying a large mesh in parts, several at once, to a little more than is wanted; joined again, it is whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...warp import cores
from ..jobs.processes import run_jobs

_FACES = 600_000  # of a part at most; how a mesh is divided does not depend on the machine
_SPARE = 1.5  # faces left in the parts for each that is wanted: the last pass, over the whole, evens out the cuts
_BESIDE_CUTS = 8  # faces a part keeps at least for each vertex on its cuts, which have to stay
_WORTH = 0.6  # of its faces at most may be left in the parts


def reduce_in_parts(
    vertices: np.ndarray, faces: np.ndarray, target_faces: int, tick: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray]:
    """The mesh with fewer faces, but more than target_faces; as it is where it is small or these are many.

    The cuts between parts are open borders, which fast-simplification keeps to the bit, so the parts fit together again
    vertex by vertex, and the pass that follows collapses edges across the cuts like others.

    Args:
        vertices: [V, 3] float32. faces: [F, 3] int32.
    """
    if len(faces) <= _FACES:
        return vertices, faces
    parts = _split(vertices, faces)
    cut = _cut_vertices(faces, parts, len(vertices))
    low, size = vertices.min(0).astype(np.float64), float(np.ptp(vertices, axis=0).max()) or 1.0
    pieces = [_piece(vertices, faces[part], cut) for part in parts]
    targets = [
        max(int(_SPARE * target_faces * len(part) / len(faces)), _BESIDE_CUTS * int(piece[2].sum()))
        for part, piece in zip(parts, pieces)
    ]
    if sum(targets) > _WORTH * len(faces):
        return vertices, faces
    groups = np.array_split(np.arange(len(parts)), min(cores(), len(parts)))
    inputs = [_job([pieces[i] for i in group], [targets[i] for i in group], low, size) for group in groups]
    results = run_jobs("simplify_parts", tick, inputs)
    if not all(result["complete"] for result in results):  # a border that moved: not as documented, so do without
        return vertices, faces
    names = iter([piece[3] for piece in pieces])
    return _join(vertices, cut, results, names)


def _split(vertices: np.ndarray, faces: np.ndarray) -> list[np.ndarray]:
    """Rows of faces, ascending, in groups of at most _FACES, halved at the median along the longest side."""
    a, b, c = faces.T
    centre = [axis[a] + axis[b] + axis[c] for axis in np.ascontiguousarray(vertices.T)]
    done, stack = [], [np.arange(len(faces), dtype=np.int32)]
    while stack:
        group = stack.pop()
        if len(group) <= _FACES:
            done.append(group)
            continue
        along = max((axis[group] for axis in centre), key=np.ptp)
        lower = along < np.partition(along, len(along) // 2)[len(along) // 2]
        if not lower.any():  # half of them at one place
            done.append(group)
            continue
        stack += [group[lower], group[~lower]]
    return done


def _cut_vertices(faces: np.ndarray, parts: list[np.ndarray], count: int) -> np.ndarray:
    """[V] bool: used by several parts."""
    owner = np.full(count, -1, np.int32)
    cut = np.zeros(count, bool)
    for number, part in enumerate(parts):
        corner = faces[part].reshape(-1)
        cut[corner[owner[corner] >= 0]] = True
        owner[corner] = number
    return cut


def _piece(vertices: np.ndarray, faces: np.ndarray, cut: np.ndarray):
    """A part on its own: vertices, faces, which vertices are cut, and their numbers in the whole mesh."""
    low = int(faces.min())
    used = np.zeros(int(faces.max()) - low + 1, bool)
    used[faces.reshape(-1) - low] = True
    number = np.cumsum(used, dtype=np.int32) - 1
    names = np.flatnonzero(used) + low
    return vertices[names], number[faces - low], cut[names], names


def _job(pieces: list, targets: list[int], low: np.ndarray, size: float) -> dict[str, np.ndarray]:
    points, corners, cut, _ = zip(*pieces)
    return {
        "vertices": np.concatenate(points),
        "faces": np.concatenate(corners),
        "cut": np.concatenate(cut),
        "vertex_ends": np.cumsum([len(each) for each in points]),
        "face_ends": np.cumsum([len(each) for each in corners]),
        "targets": np.array(targets),
        "low": low,
        "size": np.array(size),
    }


def _join(vertices: np.ndarray, cut: np.ndarray, results: list[dict], names) -> tuple[np.ndarray, np.ndarray]:
    """One mesh: the cut vertices in front, then those inside the parts."""
    points, corners, count = [vertices[cut]], [], int(cut.sum())
    row = np.cumsum(cut) - 1
    for result in results:
        start = begin = 0
        for end, last in zip(result["vertex_ends"], result["face_ends"]):
            number, own = result["number"][start:end], next(names)
            inside = number < 0
            place = np.where(inside, count + np.cumsum(inside) - 1, row[own[number]])
            points.append(result["vertices"][start:end][inside])
            corners.append(place[result["faces"][begin:last]])
            count += int(inside.sum())
            start, begin = end, last
    return np.concatenate(points), np.concatenate(corners).astype(np.int32)
