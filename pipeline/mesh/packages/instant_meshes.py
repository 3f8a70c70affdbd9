"""Quads by the package pynanoinstantmeshes: Jakob et al. 2015, "Instant Field-Aligned Meshes"."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..jobs.processes import run_job
from ..mesh import Mesh


def instant_meshes(mesh: Mesh, target: int, tick: Callable[[], None]) -> Mesh:
    """About `target` quads along a field of directions, as triangles in pairs: faces 2 i and 2 i + 1 are a quad, cut
    along its shorter diagonal. On the CPU.

    A closed manifold mesh without features finer than a quad stays closed and manifold; what is finer may open it.
    The same mesh gives the same quads.
    """
    vertices, faces = mesh.vertices.cpu().float().numpy(), mesh.faces.cpu().int().numpy()
    result = run_job("quads", tick, vertices=vertices, faces=faces, target=np.array(target))
    points, quads = torch.from_numpy(result["vertices"]).float(), torch.from_numpy(result["quads"]).int()
    corners = points[quads.long()]
    turn = (corners[:, 0] - corners[:, 2]).norm(dim=1) > (corners[:, 1] - corners[:, 3]).norm(dim=1)
    quads = torch.where(turn[:, None], quads.roll(-1, 1), quads)
    triangles = torch.stack([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]], 1).reshape(-1, 3)
    return Mesh.known(points, triangles.contiguous(), kernels=mesh.kernels)
