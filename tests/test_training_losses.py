"""The training's operations and losses: gradients, rows against their twins, what a decoder learns by."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.models.sparse_unet import SparseResBlockC2S3d
from pipeline.sparse import ATTENTION, SUBMANIFOLD_CONV, SparseTensor, Voxels
from training import losses, networks, operations, tasks, truth

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = networks.TINY


LENGTHS = (5, 9, 2)


@pytest.fixture
def voxels() -> Voxels:
    """Two samples with gaps."""
    random = torch.Generator().manual_seed(0)
    return Voxels(torch.rand(2, 4, 4, 4, generator=random).lt(0.4).nonzero().int())


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("row", ["torch", "gathered"])
def test_gradient_of_the_convolution_is_its_slope(training_backends, voxels, row):
    conv = training_backends.pick(SUBMANIFOLD_CONV, "cpu", row)
    given = randn(len(voxels), 2), randn(3, 3, 3, 3, 2, seed=1), randn(3, seed=2)
    assert torch.autograd.gradcheck(lambda x, w, b: conv(x, voxels, w, b), given)


@pytest.mark.parametrize("row", ["torch", "padded"])
@pytest.mark.parametrize("keys", [LENGTHS, (4, 4, 4)])
def test_gradient_of_attention_is_its_slope(training_backends, row, keys):
    attention = training_backends.pick(ATTENTION, "cpu", row)
    given = randn(sum(LENGTHS), 1, 4), randn(sum(keys), 1, 4, seed=1), randn(sum(keys), 1, 4, seed=2)
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v, LENGTHS, keys), given)


def test_rows_equal_their_twins(training_backends, voxels):
    conv = [training_backends.pick(SUBMANIFOLD_CONV, "cpu", name) for name in ("torch", "gathered")]
    given = randn(len(voxels), 8), randn(5, 3, 3, 3, 8, seed=1), randn(5, seed=2)
    torch.testing.assert_close(conv[1](given[0], voxels, *given[1:]), conv[0](given[0], voxels, *given[1:]))
    attention = [training_backends.pick(ATTENTION, "cpu", name) for name in ("torch", "padded")]
    q, k, v = (randn(sum(LENGTHS), 2, 8, seed=seed) for seed in range(3))
    torch.testing.assert_close(*(one(q, k, v, LENGTHS, LENGTHS) for one in attention))


def test_rows_are_checked_before_they_run_in_bf16(training_backends):
    """In bf16 they would seem wrong, and the slow references would run in their place."""
    tasks.ShapeVAE(TINY, "cpu", training_backends)
    with torch.autocast("cpu", torch.bfloat16):
        for operation, row in ((SUBMANIFOLD_CONV, "gathered"), (ATTENTION, "padded")):
            training_backends.pick(operation, "cpu")
            assert training_backends.used[operation] == row


@pytest.mark.parametrize("name", [tasks.SHAPE_VAE, tasks.TEXTURE_VAE])
def test_gradients_of_the_autoencoders_are_those_of_the_plain_operations(name, trained_on):
    """Through the pipeline's own encoder, decoder and resampling."""
    gradients = []
    for choices in ({}, {SUBMANIFOLD_CONV: "torch", ATTENTION: "torch"}):
        torch.manual_seed(0)
        task = tasks.TASKS[name](TINY, "cpu", operations.table(choices))
        for weight in task.modules.parameters():  # away from the branches that begin at zero
            weight.data += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        task.losses(task.group(trained_on, None), torch.Generator().manual_seed(2))["loss"].backward()
        gradients.append([weight.grad for weight in task.modules.parameters()])
    assert all(grad is not None and grad.abs().max() > 0 for grad in gradients[0])
    for found, expected in zip(*gradients):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("eager", [False, True])
def test_decoder_is_trained_on_what_it_does_alone(eager, trained_on, training_backends):
    """The training's walk gives the fields that the pipeline's own forward gives: along the true subdivisions where the
    decoder wants nothing more, else along those and all that it wants."""
    task = tasks.ShapeVAE(TINY, "cpu", training_backends)
    decoder = task.modules["decoder"]
    for block in decoder.modules():
        if isinstance(block, SparseResBlockC2S3d):
            nn.init.constant_(block.to_subdiv.bias, 100.0 if eager else -100.0)
    grids = truth.dual_grids(trained_on, TINY.resolution)
    levels = losses.levels(grids.voxels, decoder.levels)
    parents = levels[0].parents
    latent = SparseTensor(parents, torch.randn(len(parents), 8, generator=torch.Generator().manual_seed(0)))
    made, asked = losses.decode(decoder, latent, levels, training_backends)
    fields, taken = decoder(latent) if eager else decoder(latent, levels)
    row = made.voxels.find(fields.voxels.coords)
    assert torch.equal(made.voxels.coords[row], fields.voxels.coords)
    torch.testing.assert_close(made.feats[row], fields.feats, rtol=1e-4, atol=1e-5)
    assert [len(logits) for logits, _ in asked] == [len(level.parents) for level in taken]
    assert [exists.sum() for _, exists in asked] == [len(level.children) for level in levels]
    assert len(made.voxels) == (8**decoder.levels * len(parents) if eager else len(grids.voxels))
    assert (made.voxels.find(grids.voxels.coords) >= 0).all()
    assert torch.equal(levels[-1].children.coords, grids.voxels.coords)


def test_missed_children_of_the_coarsest_cost_most(trained_on, training_backends):
    task = tasks.ShapeVAE(TINY, "cpu", training_backends)
    first, second = (
        block.to_subdiv for block in task.modules["decoder"].modules() if isinstance(block, SparseResBlockC2S3d)
    )

    def cost(layer: nn.Linear, logit: float) -> float:
        """Of logits that are the same for all children of a level, and 0 for those of the other."""
        for each in (first, second):
            nn.init.zeros_(each.weight)
            nn.init.constant_(each.bias, logit if each is layer else 0.0)
        with torch.no_grad():
            return task.losses(task.group(trained_on, None), torch.Generator().manual_seed(0))["subdivision"].item()

    coarsest, finer = (cost(layer, -9.0) - cost(layer, 9.0) for layer in (first, second))
    assert coarsest > 5 * finer


def test_odd_crossings_are_open_edges(trained_on):
    """None on true grids; on spoiled ones as many as the mesh has edges of one or three faces."""
    grids = truth.dual_grids(trained_on, TINY.resolution)
    assert losses.odd(grids.voxels, grids.crossed.float()) == 0
    kept = torch.rand(grids.crossed.shape, generator=torch.Generator().manual_seed(0)) > 0.05
    spoiled = replace(grids, crossed=grids.crossed & kept)
    open_edges = 0
    for row in range(len(trained_on)):
        faces = spoiled.mesh(row)[1].long()
        edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).sort(1).values
        open_edges += int((edges.unique(dim=0, return_counts=True)[1] % 2).sum())
    assert open_edges > 100
    found = losses.odd(grids.voxels, spoiled.crossed.float()).item() * 3 * len(grids.voxels)
    assert found == pytest.approx(open_edges, rel=1e-4)


def test_diagonals_follow_the_surface(trained_on):
    """The loss is lowest for weights that choose the diagonal whose middle lies nearer to the surface."""
    grids = truth.dual_grids(trained_on, TINY.resolution)
    raw = torch.zeros(len(grids.voxels), requires_grad=True)
    optimiser = torch.optim.Adam([raw], 0.3)
    before = losses.diagonals(raw, grids, trained_on)
    for _ in range(20):
        optimiser.zero_grad()
        losses.diagonals(raw, grids, trained_on).backward()
        optimiser.step()
    assert losses.diagonals(raw, grids, trained_on) < 0.5 * before


def test_material_of_cells_is_the_mean_of_their_voxels(trained_on):
    grids = truth.dual_grids(trained_on, TINY.resolution)
    dense, filled = tasks.mean_material(grids, 4)
    sample, x, y, z = grids.voxels.coords[100].tolist()
    side = TINY.resolution // 4
    mine = (grids.voxels.coords[:, 0] == sample) & (grids.voxels.xyz // side == torch.tensor([x, y, z]) // side).all(1)
    torch.testing.assert_close(dense[sample, :, x // side, y // side, z // side], grids.pbr[mine].mean(0))
    assert torch.equal(filled, truth.occupancy(grids.voxels, TINY.resolution, 4))
