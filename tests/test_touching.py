"""Parts that touch each other along an edge or at a corner: drawn apart, so that files of places alone stay closed."""

import numpy as np
import pytest
import torch
import trimesh
from devices import on_device
from meshes import tensors

pytest.importorskip("warp")

from pipeline import stages
from pipeline.mesh import Mesh
from pipeline.mesh.query.crossing import crossing_by_kernels
from pipeline.mesh.remesh.untangle import parted
from pipeline.mesh.repair.repair import weld
from pipeline.runtime import Runtime
from pipeline.stages.finishing import process

pytestmark = pytest.mark.usefixtures("device")
parted = on_device(parted)
crossing_by_kernels = on_device(crossing_by_kernels)


def cubes(*moves, cavities=False):
    """Cubes of 1 at different places, each with vertices of its own; or cavities of these in a cube of 8."""
    boxes = [trimesh.creation.box().subdivide().apply_translation(move) for move in moves]
    if cavities:
        for box in boxes:
            box.invert()
        boxes.append(trimesh.creation.box((8, 8, 8)).subdivide())
    vertices = np.concatenate([box.vertices for box in boxes])
    starts = np.cumsum([0, *(len(box.vertices) for box in boxes)])
    return Mesh(
        *tensors(trimesh.Trimesh(vertices, np.concatenate([b.faces + k for b, k in zip(boxes, starts)]), process=False))
    )


@pytest.mark.parametrize("cavities", [False, True])
@pytest.mark.parametrize("moves", [((0, 0, 0), (1, 1, 0)), ((0, 0, 0), (1, 1, 1)), ((0, 0, 0), (1, 1, 0), (1, 0, 1))])
def test_what_touches_is_drawn_apart(moves, cavities):
    mesh = cubes(*moves, cavities=cavities)
    assert weld(mesh.vertices, mesh.faces)[2] > 0
    made = parted(mesh)
    vertices, faces, merged = weld(made.vertices, made.faces)
    assert merged == 0 and torch.equal(faces, mesh.faces) and Mesh(vertices, faces).report.watertight
    assert not crossing_by_kernels(vertices, faces).any()
    assert made.vertices[:, 2].min() == mesh.vertices[:, 2].min()
    assert (made.vertices - mesh.vertices).norm(dim=1).max() < 2e-4 * 8
    assert made.report.volume == pytest.approx(mesh.report.volume, rel=1e-3)


def test_what_does_not_touch_stays():
    mesh = cubes((0, 0, 0), (1.5, 0, 0))
    made = parted(mesh)
    assert torch.equal(made.vertices, mesh.vertices) and torch.equal(made.faces, mesh.faces)


def test_solids_touch_nowhere(monkeypatch):
    """However simplifying left them: a slicer reads places from an STL."""
    monkeypatch.setattr(process, "simplify_levels", lambda *given: ({100: cubes((0, 0, 0), (1, 1, 0))}, []))
    made = stages.process_mesh(
        Runtime("cpu", stages.table()), stages.Mesh(*tensors(trimesh.creation.box())), 100, shells="solid"
    )
    vertices, faces, merged = weld(made.vertices, made.faces)
    assert merged == 0 and Mesh(vertices, faces).report.watertight and made.facts["mesh"]["watertight"]
