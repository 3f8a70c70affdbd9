"""Whatever order threads take the rows of kernels in, the result is the same to the bit."""

import random

import pytest
import torch
from meshes import needs_warp

from pipeline.bench import shapes
from pipeline.mesh import Mesh
from pipeline.mesh.grid.dual_grid import dual_grid_to_mesh
from pipeline.mesh.operations import outer_shell, solid, unwrap
from pipeline.mesh.repair.clean import clean
from pipeline.mesh.simplify.collapse import collapse
from pipeline.sparse import Voxels

pytestmark = needs_warp


@pytest.fixture
def reorder(monkeypatch):
    """reorder(seed): from then on kernels on the CPU run in 50 launches each, in an order drawn by the seed; 0 for the
    ascending one. Rows that write to each other's places are in order, too: on a GPU they are in none."""
    import warp as wp

    from pipeline.warp import launch

    def set_order(seed):
        def share(kernel, rows, given, device, chunk):
            if len(rows) == 0:
                return
            launch.load(kernel.module, str(device))
            size = max(1, len(rows) // 50)
            starts = list(rows[::size])
            if seed:
                random.Random(seed).shuffle(starts)
            for start in starts:
                wp.launch(kernel, min(size, rows.stop - start), [start, *given[0]], device=device)

        monkeypatch.setattr(launch, "_share", share)

    return set_order


@pytest.fixture(scope="module")
def crowded():
    """A dual grid every edge of which is crossed, parted where it touches itself: all handles, 5,067 faces."""
    side = 10
    cells = torch.cartesian_prod(*[torch.arange(side)] * 3).int()
    offsets = torch.rand(len(cells), 3, generator=torch.Generator().manual_seed(0))
    crossed = torch.ones(len(cells), 3, dtype=torch.bool)
    return clean(Mesh(*dual_grid_to_mesh(Voxels.single(cells), offsets, crossed, side)))


@pytest.fixture(scope="module")
def field():
    return Mesh(*shapes.spoil(*shapes.surface_net(shapes.bench_field, 24)), kernels=True)


def of_mesh(mesh):
    return mesh.vertices, mesh.faces


def charts(mesh):
    return unwrap(*of_mesh(clean(mesh)), 256, 2, lambda: None)[:3]


@pytest.mark.parametrize(
    ("run", "name"),
    [
        (lambda mesh: of_mesh(collapse(mesh, 100, lambda: None)), "crowded"),
        (lambda mesh: of_mesh(clean(mesh)), "field"),
        (lambda mesh: of_mesh(outer_shell(mesh, 48)[0]), "field"),
        (lambda mesh: of_mesh(solid(mesh, 32)[0]), "field"),
        (charts, "field"),
    ],
    ids=["collapse", "clean", "outer_shell", "solid", "unwrap"],
)
def test_the_order_of_rows_does_not_matter(run, name, reorder, request):
    mesh, results = request.getfixturevalue(name), []
    for seed in (0, 1, 2):
        reorder(seed)
        results.append(run(mesh))
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))
