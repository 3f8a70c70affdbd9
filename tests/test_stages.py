"""The stages as a library: order, progress, interruption, memory, and what can go wrong in them."""

import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import stages
from pipeline.bench_shapes import surface_net
from pipeline.errors import (
    BackendError,
    CheckpointError,
    EmptyResultError,
    NotFiniteError,
    OutOfMemoryError,
    SettingsError,
)
from pipeline.image import prepare, read_picture
from pipeline.models import build
from pipeline.runtime import Runtime, choose_device, choose_dtype
from pipeline.sparse import SparseTensor, Voxels
from pipeline.spec import IMAGE_ENCODER, PIPELINE_TYPES, SHAPE_DECODER, SamplerSettings
from pipeline.weights import SMALL_CHECKPOINT, Models, open_checkpoint

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "random"


@pytest.fixture
def models(checkpoint):
    return Models(open_checkpoint(checkpoint), build)


@pytest.fixture
def images(picture):
    return [prepare(read_picture(picture))]


def runtime(**options):
    return Runtime("cpu", stages.table(), torch.float32, **options)


def test_progress(models, images):
    """One callback a step and one as a stage begins, with x0 as the preview of samplers; stages are measured."""
    steps = []
    used = runtime(on_step=steps.append)
    stages.generate(used, models, images, PIPELINE_TYPES["1024_cascade"], 42)
    order = list(dict.fromkeys(step.stage for step in steps))
    sampled = ["structure", "shape", "shape 1024", "texture"]
    assert order == [
        "encode",
        "structure",
        "shape",
        "upsample",
        "shape 1024",
        "texture",
        "decode shape",
        "decode texture",
    ]
    for stage in order:
        own = [step for step in steps if step.stage == stage]
        assert [step.step for step in own] == list(range(own[0].total + 1)), stage
        assert {step.total for step in own} == {own[0].total} and own[0].preview is None
        assert (own[1].preview is not None) == (stage in sampled)
    structure, shape = ([step for step in steps if step.stage == stage][1] for stage in ("structure", "shape"))
    assert structure.preview.shape == (1, 8, 16, 16, 16) and isinstance(shape.preview, SparseTensor)
    assert [record.stage for record in used.records] == order
    assert all(record.peak_bytes > 1e7 and record.seconds >= record.loading_seconds for record in used.records)


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("stage", ["structure", "shape", "decode shape"])
def test_raising_from_the_callback_stops_the_run(models, images, stage, step):
    class Stop(BaseException):  # as ComfyUI's interruption does
        pass

    seen = []

    def on_step(now):
        seen.append(now)
        if (now.stage, now.step) == (stage, step):
            raise Stop

    with pytest.raises(Stop):
        stages.generate(runtime(on_step=on_step), models, images, PIPELINE_TYPES["512"], 42)
    assert (seen[-1].stage, seen[-1].step) == (stage, step)
    assert not models._loaded  # nothing stays behind
    stages.generate(runtime(), models, images, PIPELINE_TYPES["512"], 42)  # and the next run works


def test_models_stay_if_asked_to(models, images):
    stages.generate(runtime(keep_models=True), models, images, PIPELINE_TYPES["512"], 42, texture=False)
    assert set(models._loaded) == set(PIPELINE_TYPES["512"].roles(texture=False))


def test_the_stages_one_by_one_continue_one_random_stream(models, images, golden):
    """Separate calls, as nodes make them, give the one-shot run."""
    data, pipeline_type, used = golden("pipeline_1024_cascade"), PIPELINE_TYPES["1024_cascade"], runtime()
    condition = stages.encode_images(used, models, images, (1, 2))
    structure = stages.sample_structure(used, models, condition, 42)
    torch.rand(100)  # the global stream has no part in it
    shape = stages.sample_shape(used, models, condition, structure, pipeline_type)
    stages.sample_texture(used, models, condition, shape, pipeline_type)
    texture = stages.sample_texture(used, models, condition, shape, pipeline_type)  # a second call changes nothing
    torch.testing.assert_close(texture.sparse.feats, data["out.tex_slat.feats"], atol=1e-4, rtol=0)


def test_geometry_only_gives_the_same_shape(models, images):
    whole = stages.generate(runtime(), models, images, PIPELINE_TYPES["512"], 1)
    shape = stages.generate(runtime(), models, images, PIPELINE_TYPES["512"], 1, texture=False)
    assert torch.equal(whole.mesh.vertices, shape.mesh.vertices) and shape.texture is None and shape.voxels is None


def test_the_token_cap_lowers_the_resolution_and_says_so(models, images, caplog):
    """By 128 at a time down to 1024, until there are fewer tokens than the cap, as the reference counts them. The log,
    the stage's record and what comes of the shape tell it."""
    pipeline_type, cap = PIPELINE_TYPES["1536_cascade"], 620
    coarse = stages.generate(runtime(), models, images, PIPELINE_TYPES["512"], 42, texture=False).shape
    decoder = models.get("shape_slat_decoder", torch.device("cpu"))
    with torch.no_grad():
        fine = decoder.upsample(coarse.sparse, 4).xyz
    counts = {r: len(((fine + 0.5) / 512 * (r // 16)).int().unique(dim=0)) for r in range(1024, 1537, 128)}
    expected = max(r for r, count in counts.items() if count < cap)
    assert 1024 < expected < 1536
    for most, resolution in ((10**6, 1536), (cap, expected), (counts[expected], None), (1, 1024)):
        used = runtime()
        made = stages.generate(used, models, images, pipeline_type, 42, texture=False, max_tokens=most)
        shape, said = made.shape, made.mesh.origin.notes
        if resolution is None:  # as many as the cap is too many
            assert shape.resolution < expected
        else:
            assert shape.resolution == resolution and len(shape.sparse.voxels) == counts[resolution]
        (upsampled,) = [record for record in used.records if record.stage == "upsample"]
        assert upsampled.counts["next_tokens"] == len(shape.sparse.voxels)
        told = f"has {shape.resolution} voxels a side in place of 1536, which would take {counts[1536]:,} latent voxels"
        assert (told in said) == (shape.resolution < 1536) and upsampled.notes == tuple(filter(None, [said]))
        assert (f"It has {counts[1024]:,} latent voxels, not fewer than 1 " in said) == (most == 1)
        assert said in caplog.text


def test_views_of_the_same_picture_are_the_picture(models, images):
    one = stages.generate(runtime(), models, images, PIPELINE_TYPES["512"], 42, texture=False)
    two = stages.generate(runtime(), models, images * 2, PIPELINE_TYPES["512"], 42, texture=False)
    assert torch.equal(one.structure.coords, two.structure.coords)
    torch.testing.assert_close(one.shape.sparse.feats, two.shape.sparse.feats, atol=1e-4, rtol=0)
    other = [images[0], images[0].rotate(90)]
    turned = stages.generate(runtime(), models, other, PIPELINE_TYPES["512"], 42, texture=False)
    assert not torch.equal(one.structure.coords, turned.structure.coords)


def change(models, role, edit):
    """Damage a model of the checkpoint once it is loaded."""
    load = models.get

    def get(asked, *rest):
        model = load(asked, *rest)
        if asked == role:
            edit(model)
        return model

    models.get = get


def fill(parameter, value):
    parameter.data.fill_(value)


@pytest.mark.parametrize(
    ("role", "edit", "error", "message"),
    [
        ("image_encoder", lambda m: fill(m.layer[0].norm1.weight, torch.nan), NotFiniteError, "image condition"),
        (
            "sparse_structure_flow_model",
            lambda m: fill(m.out_layer.bias, torch.nan),
            NotFiniteError,
            "structure latent",
        ),
        ("sparse_structure_decoder", lambda m: fill(m.out_layer[2].bias, torch.inf), NotFiniteError, "structure holds"),
        ("sparse_structure_decoder", lambda m: fill(m.out_layer[2].bias, -1e6), EmptyResultError, "structure is empty"),
        ("shape_slat_flow_model_512", lambda m: fill(m.out_layer.bias, torch.nan), NotFiniteError, "shape latent"),
        ("tex_slat_flow_model_1024", lambda m: fill(m.out_layer.bias, torch.nan), NotFiniteError, "texture latent"),
        (
            "shape_slat_decoder",
            lambda m: fill(m.blocks[2][-1].to_subdiv.bias, -1e6),
            EmptyResultError,
            "coarse shape decodes to nothing",
        ),
        ("shape_slat_decoder", lambda m: fill(m.output_layer.bias, torch.nan), NotFiniteError, "decoded shape"),
        ("tex_slat_decoder", lambda m: fill(m.output_layer.bias, torch.nan), NotFiniteError, "decoded texture"),
    ],
)
def test_what_goes_wrong_in_a_stage_is_named(models, images, role, edit, error, message):
    change(models, role, edit)
    with pytest.raises(error, match=message):
        stages.generate(runtime(), models, images, PIPELINE_TYPES["1024_cascade"], 42)


def test_a_shape_that_decodes_to_nothing(models, images):
    change(models, "shape_slat_decoder", lambda m: fill(m.blocks[0][-1].to_subdiv.bias, -1e6))
    with pytest.raises(EmptyResultError, match="The shape decodes to nothing"):
        stages.generate(runtime(), models, images, PIPELINE_TYPES["512"], 42)


@pytest.mark.parametrize(
    "problem",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    ],
)
def test_running_out_of_memory_says_what_to_lower(models, images, problem):
    def run_out(model):
        raise problem

    change(models, "shape_slat_decoder", run_out)
    with pytest.raises(
        OutOfMemoryError, match="on cpu in stage 'decode shape'. Choose a lower type, or fewer max tokens"
    ):
        stages.generate(runtime(), models, images, PIPELINE_TYPES["512"], 42)


def test_the_error_keeps_no_memory():
    """ComfyUI shows the error while the next run starts: the failed stage's tensors must be gone by then."""
    used, held = runtime(), []

    def fail():
        tensor = torch.zeros(1000)
        held.append(weakref.ref(tensor))
        raise MemoryError

    with pytest.raises(OutOfMemoryError) as caught, used.stage("full", 1, "Lower it."):
        fail()
    assert caught.value.__cause__ is not None and held[0]() is None


def test_other_errors_are_not_mistaken_for_memory(models, images):
    def fail(model):
        raise RuntimeError("shape mismatch")

    change(models, "shape_slat_decoder", fail)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        stages.generate(runtime(), models, images, PIPELINE_TYPES["512"], 42)


def test_meshes_without_faces():
    empty = stages.Mesh(torch.zeros(7, 3), torch.zeros(0, 3, dtype=torch.int32))
    with pytest.raises(EmptyResultError, match="The mesh has no faces"):
        stages.process_mesh(runtime(), empty, 1000)
    flat = stages.Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]], dtype=torch.int32))
    with pytest.raises(EmptyResultError, match="zero area"):
        stages.process_mesh(runtime(), flat, 1000)


@pytest.mark.parametrize("change", [{"faces": 3}, {"texture_size": 63}, {"texture_size": 32768}])
def test_export_settings_are_checked(change):
    with pytest.raises(SettingsError):
        stages.ExportSettings(**change)


FLAGS = {
    "no texture for a normal map": (("--geometry-only", "--normal-map"), "normal_map would have no effect"),
    "colours in its place": (("--vertex-colors", "--occlusion"), "occlusion would have no effect: vertex colours"),
    "no colours": (("--geometry-only", "--vertex-colors"), "vertex_colors would have no effect without texture"),
    "levels": (("--lods", 100, 200), "Levels of detail must have fewer faces"),
    "faces": (("--faces", 3), "at least 4 faces, got 3"),
    "tokens": (("--max-tokens", 0), "max_tokens must be at least 1, got 0"),
    "solid without Warp": (("--shells", "solid"), "A solid mesh needs Warp: warp is not installed"),
    "normal map without Warp": (("--normal-map",), "Normal maps and occlusion need Warp: warp is not installed"),
    "occlusion without Warp": (("--occlusion",), "Normal maps and occlusion need Warp: warp is not installed"),
    "picture without Warp": (("--picture", "x.png"), "Pictures of the result need Warp: warp is not installed"),
}


@pytest.mark.parametrize("case", FLAGS)
def test_what_cannot_be_finished_is_not_begun(run, picture, tmp_path, monkeypatch, request, case):
    """On the command line: said before anything is loaded, though the step that needs it is the last."""
    flags, message = FLAGS[case]
    if "Warp" in case:
        request.getfixturevalue("no_warp")
    monkeypatch.setattr(stages, "generate", lambda *_: pytest.fail("began"))
    monkeypatch.chdir(tmp_path)
    code, _, err = run("generate", picture, "--output", "x.glb", *flags)
    assert code == 1 and err.startswith("error: ") and message in err and not list(tmp_path.iterdir())


def test_preflight(checkpoint):
    """What each kind of run needs, and no more."""
    opened, pipeline_type = open_checkpoint(checkpoint), PIPELINE_TYPES["1024_cascade"]
    table = stages.table({"unwrap": "triangles"})
    stages.preflight(opened, pipeline_type, stages.ExportSettings(), backends=table)
    gone = stages.table()
    for op in ("simplify", "unwrap", "raster"):
        rows = tuple(replace(row, function=None, absent="lost") for row in gone.operations[op].rows)
        gone.operations[op] = replace(gone.operations[op], rows=rows)
    stages.preflight(opened, pipeline_type, None, backends=gone)
    with pytest.raises(BackendError, match="No backend for 'simplify' is available"):
        stages.preflight(opened, pipeline_type, stages.ExportSettings(), backends=gone)
    gone.operations["simplify"] = table.operations["simplify"]
    for export, texture in ((stages.ExportSettings(vertex_colors=True), True), (stages.ExportSettings(), False)):
        stages.preflight(opened, pipeline_type, export, texture=texture, backends=gone)
    with pytest.raises(BackendError, match="No backend for 'unwrap' is available"):
        stages.preflight(opened, pipeline_type, stages.ExportSettings(), backends=gone)
    small = open_checkpoint(SMALL_CHECKPOINT)
    with pytest.raises(CheckpointError, match="Type 1536_cascade needs"):
        stages.preflight(small, PIPELINE_TYPES["1536_cascade"])


class Run:
    """What the stages make of a seed with the random checkpoint, one sampling step each.

    Its structure decoder makes the same of every seed, so there are half of the voxels with an even one.
    """

    def __init__(self, models, condition, seed):
        used, pipeline_type, quick = runtime(keep_models=True), PIPELINE_TYPES["512"], SamplerSettings(1, 1.0)
        self.condition = condition
        self.structure = stages.sample_structure(used, models, condition, seed, quick)
        if seed % 2 == 0:
            self.structure.occupied[: len(self.structure.occupied) // 2] = False
        self.shape = stages.sample_shape(used, models, condition, self.structure, pipeline_type, quick)
        # the random checkpoint has texture networks for 1024 only
        self.texture = stages.sample_texture(used, models, condition, self.shape, PIPELINE_TYPES["1024"], quick)
        self.mesh, self.subdivisions = stages.decode_shape(used, models, self.shape)
        self.voxels = stages.decode_texture(used, models, self.texture, self.subdivisions)


@pytest.fixture(scope="module")
def runs(one_thread):
    """Models, and the runs of two seeds with them."""
    models = Models(open_checkpoint(GOLDEN_CHECKPOINT), build)
    picture = prepare(read_picture(GOLDEN / "image_rgba.png"))
    condition = stages.encode_images(runtime(keep_models=True), models, [picture], (1, 2))
    return models, Run(models, condition, 1), Run(models, condition, 2)


def refused(match, stage, *arguments, **more):
    """A stage that says why it does not run, before its first step."""
    steps = []
    with pytest.raises(SettingsError, match=match):
        stage(runtime(on_step=steps.append), *arguments, **more)
    assert not steps


def test_values_of_different_shapes_do_not_mix(runs):
    models, one, two = runs
    assert len(one.texture.sparse.voxels) != len(two.texture.sparse.voxels)
    different = "different shapes .*seed 1, 512, random.*seed 2, 512, random"
    refused(different, stages.decode_texture, models, one.texture, two.subdivisions)
    refused(different, stages.bake_texture, two.mesh, one.voxels, 64)
    refused(different, stages.bake_texture, one.mesh, one.voxels, 64, original=two.mesh)
    refused(different, stages.color_vertices, two.mesh, one.voxels)
    # also on the way through ComfyUI, which moves values, and for what processing makes of a mesh
    refused(different, stages.decode_texture, models, one.texture.to("meta"), two.subdivisions.to("meta"))
    ball = stages.Mesh(*surface_net(lambda points: points.norm(dim=1) - 0.4, 8), origin=two.mesh.origin)
    processed = stages.process_mesh(runtime(), ball, 100, shells="surface", lods=[50])
    assert len(processed.lods) == 1
    for level in processed.levels:
        refused(different, stages.color_vertices, level.to("cpu"), one.voxels)


def test_the_same_voxels_of_another_run_do_not_mix(runs):
    """One structure sampled with other settings: everything fits in size, and the colours would be another shape's."""
    models, one, _ = runs
    other = stages.sample_shape(
        runtime(keep_models=True), models, one.condition, one.structure, PIPELINE_TYPES["512"], SamplerSettings(1, 1.5)
    )
    assert torch.equal(other.sparse.voxels.coords, one.shape.sparse.voxels.coords)
    texture = replace(one.texture, origin=replace(one.texture.origin, recipe=other.origin.recipe))
    refused("different shapes .*other sampler settings", stages.decode_texture, models, texture, one.subdivisions)


def test_values_without_an_origin_are_compared_by_what_they_hold(runs):
    models, one, two = runs
    levels = list(two.subdivisions)
    texture, unknown = replace(one.texture, origin=stages.Origin()), stages.Origin()
    refused("Level 0 of the subdivision divides .* that are not", stages.decode_texture, models, texture, levels)
    refused("has 3 levels; tex_slat_decoder of random follows 4", stages.decode_texture, models, texture, levels[:3])
    mixed = [*one.subdivisions[:2], *two.subdivisions[2:]]
    refused("Level 2 of the subdivision", stages.decode_texture, models, texture, mixed)
    voxels, mesh = (replace(each, origin=unknown) for each in (one.voxels, one.mesh))
    refused("The original is the raw mesh of", stages.bake_texture, mesh, voxels, 64, original=two.mesh)
    narrow = stages.Condition({1: torch.zeros(1, 5, 7), 2: torch.zeros(1, 5, 7)})
    refused("tokens of 7 channels; sparse_structure_flow_model of random", stages.sample_structure, models, narrow, 1)
    thin = replace(one.shape, sparse=one.shape.sparse.replace(one.shape.sparse.feats[:, :5]), origin=unknown)
    refused("shape latent has 5 channels", stages.decode_shape, models, thin)
    refused("shape latent has 5 channels", stages.sample_texture, models, one.condition, thin, PIPELINE_TYPES["1024"])
    # and what fits runs, as values of a state or of other nodes do
    same = stages.decode_texture(runtime(keep_models=True), models, texture, list(one.subdivisions))
    assert torch.equal(same.sparse.feats, one.voxels.sparse.feats)


@pytest.fixture
def changed(tmp_path):
    """The random checkpoint elsewhere, with one number of one network changed."""

    def change(file):
        folder = tmp_path / "fine-tuned"
        shutil.copytree(GOLDEN_CHECKPOINT, folder)
        path = folder / file
        tensors = load_file(path)
        name = max(tensors, key=lambda key: tensors[key].numel())
        tensors[name] = tensors[name] + 1
        save_file(tensors, path)
        return Models(open_checkpoint(folder), build)

    return change


def test_values_of_another_checkpoint_are_named(runs, changed):
    models, one, _ = runs
    other, pipeline_type = changed("ckpts/shape_slat_decoder.safetensors"), PIPELINE_TYPES["512"]
    text = "shape latent was made with another shape_slat_decoder .of random. than that of fine-tuned"
    refused(text, stages.decode_shape, other, one.shape)
    refused(text, stages.sample_texture, other, one.condition, one.shape, PIPELINE_TYPES["1024"])
    # the encoder and the structure decoder are the same there, so these go on
    shape = stages.sample_shape(runtime(), other, one.condition, one.structure, pipeline_type, SamplerSettings(1, 1.0))
    assert torch.equal(shape.sparse.feats, one.shape.sparse.feats) and shape.origin.recipe != one.shape.origin.recipe
    refused("belongs to tex_slat_decoder", stages.decode_shape, models, one.texture)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("image_encoder/model.safetensors", "condition was made with another image_encoder"),
        ("ckpts/sparse_structure_decoder.safetensors", "structure was made with another sparse_structure_decoder"),
    ],
)
def test_conditions_and_structures_of_another_checkpoint_are_named(runs, changed, file, text):
    _, one, _ = runs
    refused(text, stages.sample_shape, changed(file), one.condition, one.structure, PIPELINE_TYPES["512"])


def test_fingerprints(runs, tmp_path):
    """The same network has one wherever it lies, and every network another; recipes are the same run after run."""
    models, one, two = runs
    shutil.copytree(GOLDEN_CHECKPOINT, tmp_path / "copy")
    copy = Models(open_checkpoint(tmp_path / "copy"), build)
    roles = [IMAGE_ENCODER, *PIPELINE_TYPES["1024_cascade"].roles()]
    assert [copy.fingerprint(role) for role in roles] == [models.fingerprint(role) for role in roles]
    assert len({models.fingerprint(role) for role in roles}) == len(set(roles))
    assert models.fingerprint(SHAPE_DECODER) == one.shape.origin.network
    again = Run(copy, one.condition, 1)
    for name in ("structure", "shape", "texture", "subdivisions", "mesh", "voxels"):
        first, second, third = (getattr(each, name).origin for each in (one, again, two))
        same = replace(second, checkpoint=first.checkpoint, description=first.description)
        assert first.recipe and first == same, name
        assert first.recipe != third.recipe and getattr(one, name).to("cpu").origin == first


def test_structure_pooling():
    occupied = torch.zeros(8, 8, 8, dtype=torch.bool)
    occupied[1, 2, 3] = occupied[1, 2, 2] = occupied[7, 7, 7] = True
    structure = stages.Structure(occupied, torch.Generator().get_state())
    assert structure.voxels(8).xyz.tolist() == [[1, 2, 2], [1, 2, 3], [7, 7, 7]]
    assert structure.voxels(4).xyz.tolist() == [[0, 1, 1], [3, 3, 3]]
    with pytest.raises(SettingsError, match="cannot be pooled to 16"):
        structure.voxels(16)
    assert isinstance(structure.voxels(4), Voxels)


def test_devices():
    assert choose_device("cpu") == torch.device("cpu") and choose_dtype(torch.device("cpu")) == torch.float32
    with pytest.raises(SettingsError, match="cannot use the device 'tpu' here; it finds .*cpu"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="cannot use the device 'cuda'"):
            choose_device("cuda")


def test_a_last_level_that_grows_unusually_is_said():
    """A surface has four children for each voxel; a run that ran away had 4.52."""
    from pipeline.stages.networks.decode import growth_warning

    assert growth_warning(300_000, 1_200_000) == growth_warning(300_000, 1_110_000) == growth_warning(1000, 6000) == ""
    assert "grew 4.52-fold, where 4.0 is usual" in growth_warning(300_000, 1_356_000)
    assert "grew 3.20-fold" in growth_warning(300_000, 960_000)


def test_memory_estimates_follow_known_voxels():
    """Measured on an H200 without fused kernels: 3.4, 6.9 and 12.9 GB, of which 0.95 are weights."""
    from pipeline.models import build, working_bytes
    from pipeline.spec import RELEASED_MODELS, SHAPE_DECODER

    with torch.device("meta"):
        decoder = build(RELEASED_MODELS[SHAPE_DECODER])
    for voxels, measured in ((1_290_000, 3.4e9), (5_140_000, 6.9e9), (10_900_000, 12.9e9)):
        assert measured <= working_bytes(decoder, 1, voxels=voxels) + 0.95e9 < 1.35 * measured
    assert working_bytes(decoder, 10_000) == working_bytes(decoder, 1, voxels=round(10_000 * 4.5**4))


def test_every_network_of_a_checkpoint_has_a_memory_estimate(encoders):
    """A host asks before each; encoders had none, so that no node could encode a mesh."""
    from pipeline.models import working_bytes

    models = Models(open_checkpoint(encoders), build)
    sizes = {role: working_bytes(models.get(role, torch.device("cpu")), 100) for role in models.checkpoint.roles}
    assert min(sizes.values()) > 0
    for encoder, decoder in (("shape_slat_encoder", "shape_slat_decoder"), ("tex_slat_encoder", "tex_slat_decoder")):
        assert sizes[encoder] >= sizes[decoder] // 2, "about as much as their mirror images"
