"""A decoder's levels in tiles: the same bits as at once, in less memory, as the budget asks."""

from dataclasses import replace

import pytest
import torch

from pipeline import stages
from pipeline.backends import Backend, Backends
from pipeline.budget import Budget, device_bytes
from pipeline.models import build, tiles, working_bytes
from pipeline.models.layers import PLAIN
from pipeline.runtime import Runtime, StageRecord
from pipeline.sparse import SparseTensor, Voxels
from pipeline.stages.networks.decode import level_done
from pipeline.weights import SMALL_CHECKPOINT, Models, open_checkpoint

CPU = torch.device("cpu")


def surface(side, seed=0):
    """A wavy sheet and a ball, so that slabs differ along every axis: [T, 3]."""
    random = torch.Generator().manual_seed(seed)
    xyz = torch.stack(torch.meshgrid(*[torch.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    at = (xyz.float() + 0.5) / side - 0.5
    sheet = (at[:, 2] - 0.1 * torch.sin(9 * at[:, 0])).abs() < 0.6 / side
    ball = ((at - 0.2).norm(dim=1) - 0.25).abs() < 0.6 / side
    loose = torch.rand(len(xyz), generator=random) < 0.002
    return xyz[sheet | ball | loose]


def random_decoder(kind, blocks, seed=0):
    """Every child that a random half of the logits names."""
    torch.manual_seed(seed)
    args = {"model_channels": [32, 16, 16], "num_blocks": blocks, "latent_channels": 8}
    args |= {"out_channels": 6, "pred_subdiv": False} if kind == "SparseUnetVaeDecoder" else {"resolution": 64}
    return build({"name": kind, "args": args}).requires_grad_(False).eval()


def in_tiles(most, notes):
    """A budget that lets a level take at most `most` bytes."""
    return Budget(lambda: most, notes.append)


@pytest.fixture(autouse=True)
def as_in_a_stage(monkeypatch):
    """Without gradients, and with budgets so small that nothing can be left alone."""
    monkeypatch.setattr(tiles, "_SPARE", 0)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("blocks", [[1, 2, 0], [2, 1, 3]])
def test_random_decoders_give_the_same_bits_in_tiles(blocks):
    shape, texture = (random_decoder(kind, blocks) for kind in ("FlexiDualGridVaeDecoder", "SparseUnetVaeDecoder"))
    coords = surface(16)
    x = SparseTensor(Voxels.single(coords), torch.randn(len(coords), 8, generator=torch.Generator().manual_seed(1)))
    whole, subdivisions = shape(x)
    for most, levels in ((1500 << 10, 1), (300 << 10, 3)):
        notes = []
        fields, found = shape(x, budget=in_tiles(most, notes))
        assert len(notes) >= levels and notes[-1].startswith("level 3 of 3 in ")
        assert torch.equal(fields.voxels.coords, whole.voxels.coords) and torch.equal(fields.feats, whole.feats)
        assert all(torch.equal(a.logits, b.logits) for a, b in zip(subdivisions, found))
        assert torch.equal(shape.upsample(x, 2, budget=in_tiles(most, notes)).coords, whole.voxels.coords)
        colours = texture(x, subdivisions, budget=in_tiles(most, notes))[0].feats
        assert torch.equal(colours, texture(x, subdivisions)[0].feats)


def test_the_bundled_decoders_give_the_same_bits_in_tiles():
    models = Models(open_checkpoint(SMALL_CHECKPOINT), build)
    coords = surface(12)
    random = torch.Generator().manual_seed(2)
    subdivisions = None
    for role in ("shape_slat_decoder", "tex_slat_decoder"):
        decoder = models.get(role, CPU, torch.float32)
        x = SparseTensor(Voxels.single(coords), torch.randn(len(coords), decoder.latent_channels, generator=random))
        whole, found = decoder(x, subdivisions)
        notes = []
        tiled, _ = decoder(x, subdivisions, budget=in_tiles(2 << 20, notes))
        subdivisions = subdivisions or found
        assert notes and torch.equal(tiled.feats, whole.feats)


def test_two_samples_give_the_same_bits_in_tiles():
    decoder = random_decoder("FlexiDualGridVaeDecoder", [1, 1, 1])
    one, two = (surface(16, seed) for seed in (1, 2))
    coords = torch.cat([torch.nn.functional.pad(xyz, (1, 0), value=i) for i, xyz in enumerate((one, two.flip(1)))])
    coords = coords[torch.argsort(coords[:, 0], stable=True)]
    x = SparseTensor(Voxels(coords), torch.randn(len(coords), 8, generator=torch.Generator().manual_seed(1)))
    whole, notes = decoder(x)[0], []
    tiled = decoder(x, budget=in_tiles(1 << 20, notes))[0]
    assert notes and tiled.voxels.lengths == whole.voxels.lengths and torch.equal(tiled.feats, whole.feats)


def test_a_halo_too_thin_changes_the_result(monkeypatch):
    """The halo is the receptive field: with one voxel less the bits differ, so these tests can fail."""
    decoder = random_decoder("FlexiDualGridVaeDecoder", [1, 1, 1])
    coords = surface(16)
    x = SparseTensor(Voxels.single(coords), torch.randn(len(coords), 8, generator=torch.Generator().manual_seed(1)))
    whole = decoder(x)[0]
    monkeypatch.setattr(tiles, "_fine_halo", lambda after: after)
    assert not torch.equal(decoder(x, budget=in_tiles(1 << 20, []))[0].feats, whole.feats)


def test_slabs_cover_every_voxel_once_and_fit():
    voxels = Voxels.single(surface(24))
    x = SparseTensor(voxels, torch.zeros(len(voxels), 16))
    work = tiles.blocks_work("blocks", x, 2)
    room = work.planes()[0]
    slabs = tiles.cut(work, sum(room) // 3)
    assert 3 < len(slabs) < 12 and len({slab.axis for slab in slabs}) == 1
    rows = torch.cat([slab.rows(voxels) for slab in slabs])
    assert torch.equal(rows.sort().values, torch.arange(len(voxels)))
    each = len(x.voxels) and sum(room) // len(voxels)
    assert all(len(slab.rows(voxels, 2)) * each <= sum(room) // 3 for slab in slabs)


def test_a_flat_object_is_cut_across():
    xyz = torch.stack(torch.meshgrid(torch.arange(3), torch.arange(40), torch.arange(40), indexing="ij"), -1)
    x = SparseTensor(Voxels.single(xyz.reshape(-1, 3)), torch.zeros(4800, 16))
    work = tiles.blocks_work("blocks", x, 1)
    slabs = tiles.cut(work, sum(work.planes()[0]) // 4)
    assert slabs[0].axis != 0 and 4 < len(slabs) < 8


def test_what_does_not_fit_at_all_is_cut_into_a_bounded_number_of_tiles():
    voxels = Voxels.single(surface(40))
    work = tiles.blocks_work("blocks", SparseTensor(voxels, torch.zeros(len(voxels), 4)), 1)
    assert 10 < len(tiles.cut(work, -5)) <= 40


def out_of_memory():
    return torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def failing(failures, error):
    """A table whose convolution to children fails so many times, as a kernel row does that finds no memory."""
    calls = []

    def child_conv(*arguments):
        calls.append(arguments)
        if len(calls) <= failures:
            raise error()
        return PLAIN.operations["child_conv"].reference(*arguments)

    rows = (Backend("torch", child_conv),)
    operations = PLAIN.operations | {"child_conv": replace(PLAIN.operations["child_conv"], rows=rows, example=None)}
    return Backends(operations.values(), dict.fromkeys(operations, "torch"))


@pytest.mark.parametrize("error", [out_of_memory, MemoryError, lambda: RuntimeError("can't allocate memory")])
def test_a_kernel_that_runs_out_of_memory_is_run_in_tiles(error):
    decoder = random_decoder("FlexiDualGridVaeDecoder", [1, 1, 0])
    coords = surface(16)
    x = SparseTensor(Voxels.single(coords), torch.randn(len(coords), 8))
    whole, notes = decoder(x)[0], []
    found = decoder(x, None, failing(1, error), budget=in_tiles(1 << 40, notes))[0]
    assert torch.equal(found.feats, whole.feats)
    assert len(notes) == 1 and notes[0].startswith("level 2 of 3 in ")
    with pytest.raises(error().__class__):
        decoder(x, None, failing(2, error), budget=in_tiles(1 << 40, notes))


def test_an_error_of_another_kind_is_not_tried_again():
    calls = []

    def call(slabs):
        calls.append(slabs)
        raise RuntimeError("an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        tiles.run(tiles.Work("it", 10, 0, lambda: [[10]], 1), in_tiles(100, []), call)
    assert calls == [[]]


def test_free_bytes_heed_the_limit():
    assert device_bytes(CPU, 1) == 0
    assert device_bytes(CPU) > 0 and device_bytes(CPU, 1 << 60) > 0


def test_a_host_is_asked_for_no_more_than_a_decoder_in_tiles_can_use():
    decoder = random_decoder("FlexiDualGridVaeDecoder", [1, 1, 0])
    whole = working_bytes(decoder, 1, voxels=10_000_000)
    assert working_bytes(decoder, 1, voxels=10_000_000, available=whole // 2) == whole // 2
    assert working_bytes(decoder, 1, voxels=10_000_000, available=2 * whole) == whole


def test_a_run_with_a_limit_says_its_tiles_and_gives_the_same_bits():
    """Memory limits reach the decoders through the Runtime; the stage's record tells what was decided."""
    made = {}
    for limit in (None, 1):
        runtime = Runtime(CPU, stages.table(), torch.float32, memory_limit=limit)
        models = Models(open_checkpoint(SMALL_CHECKPOINT), build)
        coords = surface(10)
        latent = torch.randn(len(coords), 8, generator=torch.Generator().manual_seed(3))
        sparse = SparseTensor(Voxels.single(coords), latent)
        shape = stages.Latent(sparse, 128, torch.Generator().get_state())
        mesh, subdivisions = stages.decode_shape(runtime, models, shape)
        voxels = stages.decode_texture(runtime, models, shape, subdivisions)
        made[limit] = mesh, voxels.sparse.feats, [record.notes for record in runtime.records]
    (mesh, colours, notes), (other, others, tiled) = made.values()
    assert torch.equal(mesh.vertices, other.vertices) and torch.equal(mesh.faces, other.faces)
    assert torch.equal(colours, others)
    assert notes == [(), ()] and all("tiles" in text for each in tiled for text in each) and all(tiled)


def test_tiles_stay_below_what_is_wanted_without_a_note(caplog):
    """What is free would do: nothing was made to fit, so that nobody need be told."""
    caplog.set_level("INFO")
    decoder = random_decoder("FlexiDualGridVaeDecoder", [1, 2, 0])
    x = SparseTensor(Voxels.single(surface(16)), torch.randn(len(surface(16)), 8))
    whole, notes = decoder(x)[0].feats, []
    tiled = decoder(x, budget=Budget(lambda: 1 << 40, notes.append, lambda: 300 << 10))[0].feats
    assert torch.equal(tiled, whole) and notes == [] and "level 3 of 3 in " in caplog.text


def test_a_run_on_a_gpu_stays_below_its_own_peak(monkeypatch):
    held = {"now": 2_000_000_000}
    monkeypatch.setattr("pipeline.runtime.held_bytes", lambda device: held["now"])
    record = StageRecord("shape 1024", 1.0, 0.0, 3_000_000_000)
    for device, keep, expected in (("cuda", False, 906_250_000), ("cuda", True, 1 << 62), ("cpu", False, 1 << 62)):
        runtime = Runtime("cpu", stages.table(), keep_models=keep)
        runtime.device = torch.device(device)
        assert runtime.below_the_peak() == 1 << 62  # nothing has run yet
        runtime.records.append(record)
        assert runtime.below_the_peak() == expected  # a 32nd below: estimates of tiles are not exact
    held["now"] = 4_000_000_000
    runtime = Runtime("cuda", stages.table())
    runtime.records.append(record)
    assert 0 < runtime.below_the_peak() < 1_000_000_000


@pytest.mark.parametrize("keep", [False, True])
def test_weights_of_a_level_go_when_it_is_done(keep):
    """Those of the coarse levels are nine tenths of a decoder, its memory's peak is on the finest."""
    models = Models(open_checkpoint(SMALL_CHECKPOINT), build)
    runtime = Runtime("cpu", stages.table(), torch.float32, keep_models=keep)
    coords, seen = surface(8), []
    x = SparseTensor(Voxels.single(coords), torch.randn(len(coords), 8, generator=torch.Generator().manual_seed(2)))
    with runtime.use(models, "shape_slat_decoder", len(coords)) as decoder:
        x = x.replace(torch.randn(len(coords), decoder.latent_channels))
        call = level_done(runtime, "decode shape", decoder, decoder.levels + 1)

        def on_level(level):
            call(level)
            seen.append([all(each.is_meta for each in part.parameters()) for part in decoder.blocks])

        fields, _ = decoder(x, None, runtime.backends, on_level)
    levels = range(decoder.levels + 1)
    assert seen == [[not keep and number <= done for number in levels] for done in levels]
    again = models.get("shape_slat_decoder", CPU, torch.float32)
    assert (again is decoder) is keep and torch.equal(again(x)[0].feats, fields.feats)
