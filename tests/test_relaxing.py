"""Relaxing after the collapse: walls are kept apart, and vertices are asked no more often than needed."""

import pytest
import torch
from devices import on_device
from meshes import needs_warp

from pipeline.mesh import Mesh, examples
from pipeline.mesh.query.crossing import crossing_by_kernels
from pipeline.mesh.simplify.collapse import CollapseConfig, collapse
from pipeline.mesh.simplify.relax import RelaxConfig

pytestmark = [needs_warp, pytest.mark.usefixtures("device")]
collapse, crossing = on_device(collapse), on_device(crossing_by_kernels)


def quiet():
    pass


def crossing_faces(mesh: Mesh) -> int:
    return int(crossing(mesh.vertices, mesh.faces).count_nonzero())


@pytest.fixture(scope="module")
def walls():
    """Two balls, one a hundredth smaller: 4 % of a face's side between them, once simplified."""
    ball = examples.ball(torch.device("cpu"), rows=28)
    both = torch.cat([ball.vertices, 0.99 * ball.vertices])
    return Mesh(both, torch.cat([ball.faces, ball.faces.flip(1) + len(ball.vertices)]))


def test_walls_that_lie_close_are_kept_from_going_through_each_other(walls):
    left, before = (collapse(walls, 800, quiet, config=CollapseConfig(relax=RelaxConfig(rounds=n))) for n in (12, 0))
    assert crossing_faces(before) > 100
    assert crossing_faces(left) < crossing_faces(before) / 5


def test_vertices_that_cannot_be_moved_are_asked_again_where_a_face_has_changed(walls, monkeypatch):
    """And nowhere else: with many crossing faces most can not, and asking is what relaxing costs."""
    from pipeline.mesh.simplify import relax_kernels as kernels
    from pipeline.warp import launch

    kept, no_move = launch.launch_parallel, torch.iinfo(torch.int64).max
    asked, settled_once = 0, 0

    def watched(kernel, count, *arguments, **rows):
        nonlocal asked, settled_once
        if kernel is kernels.propose:
            faces, changed, settled, keys = arguments[6].reshape(-1, 3), *(arguments[k] for k in (12, 13, 16))
            waits = settled.cpu() > 0
            waits[faces[changed > 0].long().reshape(-1).cpu()] = False
        kept(kernel, count, *arguments, **rows)
        if kernel is kernels.propose:
            assert (keys.cpu()[waits] == no_move).all()
            asked, settled_once = asked + 1, settled_once + int(waits.sum())

    monkeypatch.setattr(launch, "launch_parallel", watched)
    collapse(walls, 800, quiet)
    assert asked > 2 and settled_once > asked
