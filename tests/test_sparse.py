"""Sparse operations: properties that leave no room for a wrong answer."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.sparse import Voxels, space_to_channel, subdivide
from pipeline.sparse.reference import attention, submanifold_conv, trilinear
from pipeline.sparse.resample import gather_children
from pipeline.sparse.tensor import TILE, SparseTensor


def random_voxels(side=12, share=0.3, samples=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coords = (torch.rand(samples, side, side, side, generator=generator) < share).nonzero()
    for sample in range(samples):  # no order may be relied on within a sample
        rows = (coords[:, 0] == sample).nonzero().squeeze(1)
        coords[rows] = coords[rows[torch.randperm(len(rows), generator=generator)]]
    return Voxels(coords)


def test_an_identity_kernel_returns_its_input():
    voxels = random_voxels(samples=2)
    feats = torch.randn(len(voxels), 5)
    weight = torch.zeros(5, 3, 3, 3, 5)
    weight[:, 1, 1, 1] = torch.eye(5)
    assert torch.equal(submanifold_conv(feats, voxels, weight, None), feats)


def test_a_one_offset_kernel_shifts():
    """weight[:, kx, ky, kz] multiplies the neighbour at (kx, ky, kz) - 1."""
    voxels = random_voxels()
    feats = torch.randn(len(voxels), 1)
    weight = torch.zeros(1, 3, 3, 3, 1)
    weight[0, 2, 0, 1] = 1  # x + 1, y - 1
    row = voxels.find(voxels.coords + torch.tensor([0, 1, -1, 0]))
    expected = torch.where(row[:, None] >= 0, feats[row.clamp_min(0)], 0)
    assert torch.equal(submanifold_conv(feats, voxels, weight, None), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_full_grid_agrees_with_conv3d(dtype):
    side, c_in, c_out = 13, 3, 4  # 2197 voxels: more than two tiles
    assert side**3 > 2 * TILE
    voxels = Voxels(torch.ones(2, side, side, side).nonzero())
    dense = torch.randn(2, c_in, side, side, side, dtype=dtype)
    weight, bias = torch.randn(c_out, 3, 3, 3, c_in, dtype=dtype), torch.randn(c_out, dtype=dtype)
    found = submanifold_conv(dense.movedim(1, -1).reshape(-1, c_in), voxels, weight, bias)
    expected = F.conv3d(dense, weight.movedim(-1, 1), bias, padding=1).movedim(1, -1).reshape(-1, c_out)
    torch.testing.assert_close(found, expected)


def test_a_sparse_grid_agrees_with_conv3d_of_zeros():
    voxels = random_voxels(side=14, share=0.4, samples=2)
    feats = torch.randn(len(voxels), 6)
    weight, bias = torch.randn(8, 3, 3, 3, 6), torch.randn(8)
    dense = torch.zeros(2, 14, 14, 14, 6)
    b, x, y, z = voxels.coords.long().unbind(1)
    dense[b, x, y, z] = feats
    expected = F.conv3d(dense.movedim(-1, 1), weight.movedim(-1, 1), bias, padding=1).movedim(1, -1)[b, x, y, z]
    torch.testing.assert_close(submanifold_conv(feats, voxels, weight, bias), expected, atol=1e-4, rtol=1e-4)


def test_a_convolution_in_blocks_is_the_same(monkeypatch):
    from pipeline.sparse import reference, tensor

    voxels = random_voxels(side=20, share=0.5)
    feats, weight = torch.randn(len(voxels), 4), torch.randn(4, 3, 3, 3, 4)
    whole = submanifold_conv(feats, voxels, weight, None)
    monkeypatch.setitem(reference._BLOCK_BYTES, "cpu", 1)  # one tile a block
    monkeypatch.setattr(tensor, "_CHUNK", 2 * TILE)  # several chunks
    again = Voxels(voxels.coords)
    assert len(again.neighbours.chunks) == 2 and torch.equal(submanifold_conv(feats, again, weight, None), whole)


def test_a_convolution_that_runs_out_of_memory_tries_smaller_blocks(monkeypatch):
    from pipeline.sparse import reference

    voxels = random_voxels(side=20, share=0.5)
    feats, weight = torch.randn(len(voxels), 4), torch.randn(4, 3, 3, 3, 4)
    whole, real, most = submanifold_conv(feats, voxels, weight, None), reference._conv_rows, 2 * TILE

    def limited(feats, kernel, chunk, first, last):
        if last - first > most:
            raise torch.cuda.OutOfMemoryError
        return real(feats, kernel, chunk, first, last)

    monkeypatch.setattr(reference, "_conv_rows", limited)
    assert len(voxels) > most and torch.equal(submanifold_conv(feats, voxels, weight, None), whole)
    most = 0
    with pytest.raises(torch.cuda.OutOfMemoryError):
        submanifold_conv(feats, voxels, weight, None)


def test_the_convolution_differentiates():
    voxels = random_voxels(side=4, share=0.6)
    feats = torch.randn(len(voxels), 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 3, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, w, b: submanifold_conv(f, voxels, w, b), (feats, weight, bias))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_sums_are_made_in_fp32(dtype):
    """The error stays at that of rounding the products and the result once, however many neighbours there are."""
    voxels = Voxels(torch.ones(1, 8, 8, 8).nonzero())
    feats, weight = torch.randn(512, 16).to(dtype), torch.randn(16, 3, 3, 3, 16).to(dtype)
    exact = submanifold_conv(feats.double(), voxels, weight.double(), None)
    found = submanifold_conv(feats, voxels, weight, None).double()
    assert (found - exact).norm() / exact.norm() < torch.finfo(dtype).eps / 2


def test_neighbours_do_not_wrap_round():
    """Voxels at opposite ends of neighbouring rows, and of neighbouring samples, are no neighbours."""
    coords = torch.tensor([[0, 0, 0, 9], [0, 0, 1, 0], [0, 9, 9, 9], [1, 0, 0, 0]])
    chunk = Voxels(coords).neighbours.chunks[0]
    assert chunk.sources.tolist() == [0, 1, 2, 3] and set(chunk.offset.tolist()) == {13}


def test_find():
    voxels = random_voxels(samples=2)
    rows = torch.randperm(len(voxels))
    assert torch.equal(voxels.find(voxels.coords[rows]), rows)
    assert (voxels.find(torch.tensor([[0, -1, 0, 0], [1, 99, 0, 0]])) == -1).all()
    below, own, above = voxels.find_columns(voxels.coords - torch.tensor([0, 0, 0, 1]), 3)
    assert torch.equal(own, torch.arange(len(voxels)))
    for found, step in ((below, -1), (above, 1)):
        assert torch.equal(found, voxels.find(voxels.coords + torch.tensor([0, 0, 0, step])))


def test_packed_attention_is_attention_one_by_one():
    lengths, keys = (7, 1, 30), (4, 9, 9)
    q, k, v = torch.randn(38, 2, 8), torch.randn(22, 2, 8), torch.randn(22, 2, 8)
    packed = attention(q, k, v, lengths, keys)
    alone = []
    for one_q, one_k, one_v in zip(q.split(lengths), k.split(keys), v.split(keys)):
        weights = torch.einsum("qhd,khd->hqk", one_q, one_k).div(8**0.5).softmax(-1)
        alone.append(torch.einsum("hqk,khd->qhd", weights, one_v))
    torch.testing.assert_close(packed, torch.cat(alone))


def test_equal_samples_take_the_batched_path_to_the_same_result():
    q, k, v = torch.randn(3, 24, 2, 8)
    batched = attention(q, k, v, (12, 12), (12, 12))
    halves = [attention(a, b, c, (12,), (12,)) for a, b, c in zip(q.split(12), k.split(12), v.split(12))]
    torch.testing.assert_close(batched, torch.cat(halves))


def test_trilinear_golden(golden):
    data = golden("sparse_trilinear")
    found = trilinear(data["in.feats"], Voxels.single(data["in.coords"]), data["in.query"])
    torch.testing.assert_close(found[:, :-1], data["out.values"], atol=1e-6, rtol=1e-6)


def test_trilinear_of_a_linear_field_is_linear():
    side = 9
    voxels = Voxels(torch.ones(1, side, side, side).nonzero())
    slope = torch.tensor([0.5, -2.0, 3.0])
    feats = ((voxels.xyz + 0.5) * slope).sum(1, keepdim=True)
    points = torch.rand(200, 3) * (side - 1) + 0.5
    found = trilinear(feats, voxels, points)
    torch.testing.assert_close(found[:, 0], (points * slope).sum(1), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found[:, 1], torch.ones(200))


def test_trilinear_drops_absent_voxels_and_says_so():
    voxels = Voxels.single(torch.tensor([[0, 0, 0], [1, 0, 0]]))
    feats = torch.tensor([[1.0], [3.0]])
    points = torch.tensor([[1.0, 0.5, 0.5], [0.5, 1.25, 0.5], [5.0, 5.0, 5.0], [-1e9, 0.0, 1e9]])
    found = trilinear(feats, voxels, points)
    torch.testing.assert_close(found, torch.tensor([[2.0, 1.0], [1.0, 0.25], [0.0, 0.0], [0.0, 0.0]]))


def test_subdivision_and_back():
    parents = random_voxels(side=5, share=0.5, samples=2)
    occupied = torch.rand(len(parents), 8) < 0.5
    occupied[:, 3] = True  # every parent keeps a child, so that the way back finds it
    subdivision = subdivide(parents, occupied)
    assert subdivision.children.lengths == tuple(int(part.sum()) for part in occupied.split(parents.lengths))
    child = torch.tensor([[c & 1, c >> 1 & 1, c >> 2] for c in range(8)])
    expected = [
        [row[0], *(2 * row[1:] + child[c]).tolist()]
        for row, keep in zip(parents.coords, occupied)
        for c in range(8)
        if keep[c]
    ]
    assert subdivision.children.coords.tolist() == [[int(v) for v in row] for row in expected]
    back = space_to_channel(subdivision.children)
    assert torch.equal(back.parents.find(parents.coords).sort().values, torch.arange(len(parents)))
    wide = torch.randn(len(parents), 8 * 3)
    fine = SparseTensor(subdivision.children, subdivision.channel_to_space(wide))
    again = gather_children(subdivision, fine).feats.reshape(-1, 8, 3)
    assert torch.equal(again, wide.reshape(-1, 8, 3) * occupied[:, :, None])
    assert torch.equal(back.channel_to_space(gather_children(back, fine).feats), fine.feats)


def test_coordinates_must_be_packed():
    with pytest.raises(ValueError, match=r"\[T, 4\]"):
        Voxels(torch.zeros(5, 3))
