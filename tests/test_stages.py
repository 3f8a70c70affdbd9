"""The stages as a library: order, progress, interruption, memory, and what can go wrong in them."""

import weakref
from dataclasses import replace

import pytest
import torch
from conftest import GOLDEN, GOLDEN_CHECKPOINT

from pipeline import stages
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
from pipeline.spec import PIPELINE_TYPES, Samplers, SamplerSettings
from pipeline.weights import SMALL_CHECKPOINT, Models, open_checkpoint

# for what no sampler's steps change: two a stage, one pass of the network each
QUICK = Samplers(*[SamplerSettings(2, 1.0)] * 3)


def runtime(**options):
    return Runtime("cpu", stages.table(), torch.float32, **options)


@pytest.fixture
def models(checkpoint):
    return Models(open_checkpoint(checkpoint), build)


@pytest.fixture(scope="module")
def images():
    return [prepare(read_picture(GOLDEN / "image_rgba.png"))]


@pytest.fixture(scope="module")
def sampled(images):
    """A quick run of type 512, for tests of what comes after its latents; its subdivisions too."""
    models = Models(open_checkpoint(GOLDEN_CHECKPOINT), build)
    made = stages.generate(runtime(), models, images, PIPELINE_TYPES["512"], 42, samplers=QUICK)
    return made, stages.decode_shape(runtime(), models, made.shape)[1]


def test_progress(models, images):
    """One callback a step and one as a stage begins, with x0 as the preview of samplers; stages are measured."""
    steps = []
    used = runtime(on_step=steps.append)
    stages.generate(used, models, images, PIPELINE_TYPES["1024_cascade"], 42, samplers=QUICK)
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
        stages.generate(runtime(on_step=on_step), models, images, PIPELINE_TYPES["512"], 42, samplers=QUICK)
    assert (seen[-1].stage, seen[-1].step) == (stage, step)
    assert not models._loaded  # nothing stays behind
    if step:  # and the next run works
        stages.generate(runtime(), models, images, PIPELINE_TYPES["512"], 42, texture=False, samplers=QUICK)


def test_models_stay_if_asked_to(models, images):
    stages.generate(runtime(keep_models=True), models, images, PIPELINE_TYPES["512"], 42, texture=False, samplers=QUICK)
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
    whole = stages.generate(runtime(), models, images, PIPELINE_TYPES["512"], 1, samplers=QUICK)
    shape = stages.generate(runtime(), models, images, PIPELINE_TYPES["512"], 1, texture=False, samplers=QUICK)
    assert torch.equal(whole.mesh.vertices, shape.mesh.vertices) and shape.texture is None and shape.voxels is None


def test_the_token_cap_lowers_the_resolution_and_says_so(models, images, caplog):
    """By 128 at a time down to 1024, until there are fewer tokens than the cap, as the reference counts them. The log,
    the stage's record and what comes of the shape tell it."""
    pipeline_type = PIPELINE_TYPES["1536_cascade"]
    condition = stages.encode_images(runtime(), models, images, pipeline_type.image_scales())
    structure = stages.sample_structure(runtime(), models, condition, 42, QUICK.structure)
    coarse = stages.sample_shape(runtime(), models, condition, structure, PIPELINE_TYPES["512"], QUICK.shape)
    decoder = models.get("shape_slat_decoder", torch.device("cpu"))
    with torch.no_grad():
        fine = decoder.upsample(coarse.sparse, 4).xyz
    counts = {r: len(((fine + 0.5) / 512 * (r // 16)).int().unique(dim=0)) for r in range(1024, 1537, 128)}
    expected, cap = 1280, counts[1280] + 1
    assert counts[1024] < counts[1280] < counts[1408]
    for most, resolution in ((10**6, 1536), (cap, expected), (counts[expected], None), (1, 1024)):
        used = runtime()
        shape = stages.sample_shape(used, models, condition, structure, pipeline_type, QUICK.shape, most)
        said = shape.origin.notes
        if most == cap:
            assert stages.decode_shape(runtime(), models, shape)[0].origin.notes == said
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
    used = runtime()

    def of(views):
        condition = stages.encode_images(used, models, views, (1,))
        return condition, stages.sample_structure(used, models, condition, 42, QUICK.structure)

    def shape(condition, structure):
        return stages.sample_shape(used, models, condition, structure, PIPELINE_TYPES["512"], QUICK.shape)

    one, two = of(images), of(images * 2)
    assert torch.equal(one[1].occupied, two[1].occupied)
    torch.testing.assert_close(shape(*one).sparse.feats, shape(*two).sparse.feats, atol=1e-4, rtol=0)
    assert not torch.equal(one[1].occupied, of([images[0], images[0].rotate(90)])[1].occupied)


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
    ],
)
def test_what_goes_wrong_in_a_stage_is_named(models, images, role, edit, error, message):
    change(models, role, edit)
    with pytest.raises(error, match=message):
        stages.generate(runtime(), models, images, PIPELINE_TYPES["1024_cascade"], 42, samplers=QUICK)


def test_a_shape_that_decodes_to_nothing(models, sampled):
    change(models, "shape_slat_decoder", lambda m: fill(m.blocks[0][-1].to_subdiv.bias, -1e6))
    with pytest.raises(EmptyResultError, match="The shape decodes to nothing"):
        stages.decode_shape(runtime(), models, sampled[0].shape)


def test_what_is_decoded_to_no_numbers_is_named(models, sampled):
    made, subdivisions = sampled
    change(models, "shape_slat_decoder", lambda m: fill(m.output_layer.bias, torch.nan))
    with pytest.raises(NotFiniteError, match="decoded shape"):
        stages.decode_shape(runtime(), models, made.shape)
    change(models, "tex_slat_decoder", lambda m: fill(m.output_layer.bias, torch.nan))
    with pytest.raises(NotFiniteError, match="decoded texture"):
        stages.decode_texture(runtime(), models, made.texture, subdivisions)


@pytest.mark.parametrize(
    "problem",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    ],
)
def test_running_out_of_memory_says_what_to_lower(models, sampled, problem):
    def run_out(model):
        raise problem

    change(models, "shape_slat_decoder", run_out)
    with pytest.raises(
        OutOfMemoryError, match="on cpu in stage 'decode shape'. Choose a lower type, or fewer max tokens"
    ):
        stages.decode_shape(runtime(), models, sampled[0].shape)


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


def test_other_errors_are_not_mistaken_for_memory(models, sampled):
    def fail(model):
        raise RuntimeError("shape mismatch")

    change(models, "shape_slat_decoder", fail)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        stages.decode_shape(runtime(), models, sampled[0].shape)


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
