"""Steps of the post-processing as functions of vertices and faces, which is how tests make and look at meshes."""

import numpy as np
import pytest
import torch
from devices import on_device

from pipeline.mesh import Mesh
from pipeline.mesh.bake import bake
from pipeline.mesh.operations import no_xatlas
from pipeline.mesh.repair import clean as cleaning
from pipeline.warp import unavailable_reason

needs_warp = pytest.mark.skipif(bool(unavailable_reason()), reason=f"Warp is absent: {unavailable_reason()}")
needs_xatlas = pytest.mark.skipif(bool(no_xatlas()), reason=no_xatlas())


def tensors(mesh):
    """A mesh of trimesh as vertices [V, 3] float32 and faces [F, 3] int32."""
    return torch.from_numpy(mesh.vertices.astype(np.float32)), torch.from_numpy(mesh.faces.astype(np.int32))


@on_device
def clean(vertices, faces, settings=None):
    return cleaning.clean(Mesh(vertices, faces), settings)


@on_device
def measure(vertices, faces):
    return Mesh(vertices, faces).report


def _tensors(mesh, *report):
    return mesh.vertices, mesh.faces, *report


@on_device
def collapse(vertices, faces, target, tick):
    from pipeline.mesh.simplify.collapse import collapse as run

    return _tensors(run(Mesh(vertices, faces), target, tick))


@on_device
def fast_simplification(vertices, faces, target, tick):
    from pipeline.mesh.simplify.fast_simplification import fast_simplification as run

    return _tensors(run(Mesh(vertices, faces), target, tick))


@on_device
def outside(vertices, faces, resolution):
    from pipeline.mesh.remesh.interior import outside as run

    return run(Mesh(vertices, faces), resolution)


@on_device
def outer_shell(vertices, faces, resolution):
    from pipeline.mesh.remesh.outer_shell import outer_shell as run

    return _tensors(*run(Mesh(vertices, faces), resolution))


@on_device
def solid(vertices, faces, resolution, wall=0.0):
    from pipeline.mesh.remesh.solid import solid as run

    return _tensors(*run(Mesh(vertices, faces), resolution, wall))


@on_device
def project(vertices, faces, original_vertices, original_faces, limit=1e6):
    from pipeline.mesh.remesh.project import project as run

    return run(Mesh(vertices, faces), Mesh(original_vertices, original_faces), limit).vertices


@on_device
def original(vertices, faces):
    return bake.SourceMesh(Mesh(vertices, faces))
