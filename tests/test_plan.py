"""The memory plan: estimates against measurements, the choice, and the way down where memory runs out all the same."""

import sys
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
import torch
import trimesh
from tiny import tiny_checkpoint

from pipeline import plan, stages, triton_launch
from pipeline.bench import history
from pipeline.bench.networks import RandomModels
from pipeline.errors import OutOfMemoryError, SettingsError
from pipeline.image import prepare, read_picture
from pipeline.make import PlannedRun
from pipeline.make.from_state import finish_sampled
from pipeline.models import build, working_bytes
from pipeline.models.build import MODELS
from pipeline.plan import fit
from pipeline.runtime import Runtime
from pipeline.spec import (
    PIPELINE_TYPES,
    RELEASED_MODELS,
    SHAPE_DECODER,
    TEXTURE_DECODER,
)
from pipeline.stages.types import UNKNOWN
from pipeline.weights import Models, open_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

GB = 10**9
FINE = PIPELINE_TYPES["1536_cascade"]


class Released(RandomModels):
    """The released networks, of which only configurations are there."""

    outline = cache(RandomModels.outline)


@pytest.fixture(scope="module")
def released():
    return Released(RELEASED_MODELS)


@pytest.fixture
def gpu(monkeypatch):
    """As if there were a GPU with Triton whose memory nobody else uses; choose(free) then simulates it."""
    monkeypatch.setattr(triton_launch, "unavailable_reason", lambda: "")
    monkeypatch.setattr(sys.modules[plan.Plan.__module__], "held_bytes", lambda device: 0)


def choose(models, free, kind=FINE, tokens=None, **options):
    return plan.choose(models, plan.Demand(kind, tokens=tokens), "cuda", free=int(free * GB), **options)


# --- estimates


@pytest.fixture(scope="module")
def measured():
    return history.for_fit()


@pytest.fixture(scope="module")
def networks():
    return fit.networks(build)


def test_estimates_are_what_was_measured_or_a_little_more(measured, networks):
    """Full-size networks and runs on an H200, with and without limits: -4 % to +20 %."""
    found = fit.compared(measured, networks)
    kinds = ("flow", "decoder", "encoder", "stage decode", "stage process", "8 GB")
    assert len(found) >= 30 and all(any(kind in each.work for each in found) for kind in kinds)
    assert not [each for each in found if not 0.96 <= each.ratio <= 1.2]


def test_what_older_code_took_is_not_compared(networks, tmp_path):
    """A run behind all others takes their place; one that does not say its type cannot be estimated."""
    own = [line for line in history.read(history.HISTORY) if line["kind"] == "stage" and ": " in line["run"]]
    later = [{**line, "when": "2030-01-01", "peak_bytes": 10**9} for line in own]
    nameless = [{**line, "when": "2031-01-01", "run": line["run"].partition(": ")[2]} for line in own]
    history.append(tmp_path / "history.jsonl", [*own, *later, *nameless])
    stages_of = [
        each for each in fit.compared(history.for_fit(tmp_path / "history.jsonl"), networks) if "stage" in each.work
    ]
    assert len(stages_of) >= 8 and {each.measured for each in stages_of} == {10**9}
    kept = fit.compared([{**own[0], "stage": "shape", "keep_models": True}], networks)[0]
    assert kept.estimated > fit.compared([{**own[0], "stage": "shape"}], networks)[0].estimated + 9 * GB


def test_factors_are_those_that_fit_the_measurements(measured, networks):
    fitted = fit.refitted(measured, networks)
    assert len(fitted) == 6
    assert not {name: pair for name, pair in fitted.items() if not 1 <= pair[0] / pair[1] < 1.1}


def test_every_network_has_an_estimate():
    """Those that encode meshes had none, so that ComfyUI could not run them."""
    unet = {**RELEASED_MODELS[TEXTURE_DECODER]["args"], "in_channels": 6}
    unet = {key: unet[key] for key in ("in_channels", "model_channels", "latent_channels", "num_blocks")}
    shape = {key: value for key, value in unet.items() if key != "in_channels"}
    configs = {config["name"]: config for config in RELEASED_MODELS.values()}
    configs |= {"SparseUnetVaeEncoder": {"name": "SparseUnetVaeEncoder", "args": unet}}
    configs |= {"FlexiDualGridVaeEncoder": {"name": "FlexiDualGridVaeEncoder", "args": shape}}
    assert set(configs) == set(MODELS) - {"ElasticSLatFlowModel"}
    for config in configs.values():
        with torch.device("meta"):
            model = build(config)
        assert working_bytes(model, 1000, 100) > 1e6


def test_every_rung_takes_no_more_than_the_one_before(released, gpu):
    for kind in PIPELINE_TYPES.values():
        for free in (4, 12, 80):
            whole = choose(released, free, kind, name="whole", allow_lower=True)
            every = [whole, *whole.below]
            assert [each.rung for each in every if not each.lower] == list(plan.RUNGS)
            for one, smaller in pairwise(every):
                if one.demand == smaller.demand:
                    peaks = {each.stage: each.peak_bytes for each in one.estimates}
                    assert all(each.peak_bytes <= peaks[each.stage] for each in smaller.estimates)


# --- choosing


@pytest.mark.parametrize("fused", [True, False])
def test_a_hundred_structures_fit_into_8_gb(released, monkeypatch, fused):
    """200 to 49,000 tokens: nothing lower is made, and each says its plan."""
    monkeypatch.setattr(triton_launch, "unavailable_reason", lambda: "" if fused else "absent")
    names = []
    for number in range(100):
        tokens = round(200 * 245 ** (number / 99))
        chosen = choose(released, 8, tokens=tokens, allow_lower=True)
        assert chosen.fits and chosen.peak_bytes <= 8 * GB and not chosen.lower
        assert chosen.summary().startswith(f"Memory plan {chosen.rung.name}: ") and " 8.0 GB free." in chosen.summary()
        names.append(chosen.rung.name)
    order = [rung.name for rung in plan.RUNGS]
    assert names[0] == "one-at-a-time" and (fused or order.index(names[-1]) > order.index("one-at-a-time"))
    assert [order.index(name) for name in names] == sorted(order.index(name) for name in names)


def test_where_a_mesh_is_finished_is_decided_when_its_size_is_known(released, gpu):
    """At 6 GB the most that there might be is finished on the CPU, and nearly all that there is on the device."""
    most = choose(released, 6)
    assert most.rung.name == "cpu-finish"
    for faces, name in ((2_000_000, "tiled"), (60_000_000, "cpu-finish")):
        demand = plan.Demand(FINE, raw_faces=faces, source=plan.STATE)
        followed = most.finished_by(plan.choose(None, demand, "cuda", free=5 * GB))
        assert (followed.rung.name, followed.rung.finish_on_cpu) == (name, name == "cpu-finish")
    smallest = next(each for each in most.below if each.rung.name == "streamed")
    on_device = smallest.finished_by(choose(released, 80))
    assert on_device.rung.stream and not on_device.as_dict()["finish_on_cpu"]


def test_a_run_follows_that_decision(released, gpu):
    runtime = Runtime("cpu", stages.default_backends())
    ball = trimesh.creation.icosphere(3, 0.4)
    raw = stages.Mesh(torch.tensor(ball.vertices).float(), torch.tensor(ball.faces).int())
    export = stages.ExportSettings(faces=100, shells="surface")
    said = []
    run = PlannedRun(runtime=runtime, chosen=said.append)
    result, facts, followed = finish_sampled(run, choose(released, 6), runtime, raw, None, export)
    assert followed.rung.name == "tiled" and len(said) == 1 and said[0].demand.raw_faces == len(raw.faces)
    expected, counts = stages.finish_mesh(runtime, raw, None, export)
    assert torch.equal(result.vertices, expected.vertices) and facts == counts


def test_the_largest_plan_that_fits(released, gpu):
    usual = PIPELINE_TYPES["1024_cascade"]
    for free, name in ((80, "whole"), (12, "one-at-a-time"), (3.5, "one-at-a-time"), (3, "streamed")):
        assert choose(released, free, usual, 19_648, reuse=True).rung.name == name
    assert choose(released, 6, tokens=49_000).rung.name == "cpu-finish"
    assert choose(released, 80, usual, 19_648).rung.name == "one-at-a-time"  # one run has no use for what it keeps
    assert choose(released, 80, usual, name="streamed").rung.name == "streamed"
    with pytest.raises(SettingsError, match="Unknown memory plan 'large'; choose one of auto, whole, one-at-a-time"):
        choose(released, 80, usual, name="large")


def test_nothing_lower_is_made_unless_it_is_allowed(released, gpu):
    refused, allowed = (choose(released, 4, allow_lower=allow) for allow in (False, True))
    assert not refused.fits and not refused.lower and refused.rung.name == "streamed"
    assert "may not suffice" in refused.summary() and not refused.below
    assert allowed.fits and allowed.pipeline_type.name == "1536_cascade"
    assert allowed.lower == "at most 24,576 tokens in place of 49,152" in allowed.summary()
    lowest = choose(released, 2, allow_lower=True)
    assert lowest.fits and lowest.lower == "type 512 in place of 1536_cascade" in lowest.summary()
    assert choose(released, 80, allow_lower=True).lower == ""
    assert {each.lower for each in choose(released, 80, allow_lower=True).below} == {
        "",
        "at most 24,576 tokens in place of 49,152",
        "type 1024_cascade in place of 1536_cascade",
        "type 512 in place of 1536_cascade",
    }


def test_a_limit_is_never_passed_on_larger(released, gpu):
    for name in ("one-at-a-time", "tiled", "streamed"):
        chosen = choose(released, 6, name=name, memory_limit=6 * GB)
        assert chosen.limit == int(chosen.rung.share * 6 * GB)
    assert choose(released, 80, name="one-at-a-time").limit is None


# --- the way down


def test_what_asks_no_less_of_the_stage_is_passed_over(released, gpu, caplog):
    """Tiles do not help a flow network, nor streamed weights the post-processing."""
    for stage, tries in (
        ("shape 1536", ["one-at-a-time", "streamed"]),
        ("decode texture", ["one-at-a-time", "tiled", "streamed"]),
        ("bake", ["one-at-a-time", "cpu-finish"]),
    ):
        begun = choose(released, 80, name="one-at-a-time")
        seen = []

        def attempt(one, stage=stage, tries=tries, seen=seen):
            seen.append(one.rung.name)
            if len(seen) < len(tries):
                raise OutOfMemoryError("Out of memory.", stage)
            return one.rung.name

        made, done = plan.run(begun, attempt)
        assert seen == tries and made == done.rung.name == tries[-1]
        assert len(done.tried) == len(tries) - 1 and f"ran out of memory in {stage}." in done.summary()
    assert "Memory plan cpu-finish" in caplog.text


def test_the_last_error_says_what_was_tried_and_what_to_lower(released, gpu):
    def attempt(one):
        raise OutOfMemoryError("Out of memory on cuda in stage 'shape'. Choose a lower type.", "shape")

    with pytest.raises(
        OutOfMemoryError, match="Choose a lower type. All .* tried: one-at-a-time; streamed. .*--allow-"
    ):
        plan.run(choose(released, 80, name="one-at-a-time"), attempt)
    with pytest.raises(OutOfMemoryError, match="one-at-a-time; streamed.$"):  # of which no lower type asks less
        plan.run(choose(released, 80, name="one-at-a-time", allow_lower=True), attempt)


def test_something_lower_is_tried_last_and_said(released, gpu):
    seen = []

    def attempt(one):
        seen.append(one.name)
        if one.pipeline_type.name != "512":
            raise OutOfMemoryError("Out of memory.", f"shape {1536}")
        return seen

    _, done = plan.run(choose(released, 80, name="one-at-a-time", allow_lower=True), attempt)
    assert seen[:2] == ["one-at-a-time", "streamed"] and "at most 24,576 tokens in place of 49,152" in seen[2]
    assert seen[-1] == done.name == "one-at-a-time, type 512 in place of 1536_cascade"
    assert done.as_dict()["lower"] == "type 512 in place of 1536_cascade"


def test_tiles_stay_below_what_was_too_much(released, gpu):
    """80 GB seemed to be free; a decoder that then did not fit into 11 gets no room of 60."""
    chosen = choose(released, 80, name="one-at-a-time")
    needed = next(each.peak_bytes for each in chosen.estimates if each.stage == "decode shape")
    limits = []

    def attempt(one):
        limits.append(one.limit)
        raise OutOfMemoryError("Out of memory.", "decode shape")

    with pytest.raises(OutOfMemoryError):
        plan.run(chosen, attempt)
    assert limits[0] is None and limits[1] == int(0.75 * needed) and limits[2] <= 0.5 * needed


@pytest.fixture(scope="module")
def checkpoint_of_32(tmp_path_factory):
    return open_checkpoint(tiny_checkpoint(tmp_path_factory.mktemp("plan") / "tiny"))


@pytest.fixture(scope="module")
def images(request):
    return [prepare(read_picture(request.config.rootpath / "tests" / "golden" / "image_rgba.png"))]


STAGES = ("encode", "structure", "shape", "texture", "decode shape", "decode texture", "process mesh", "unwrap", "bake")


@pytest.fixture(scope="module")
def whole_run(checkpoint_of_32, images):
    """A run along a plan, from picture to textures: (a plan's stages on their runtime, its models and runtime)."""
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.4)  # what the seeded networks make is no surface
    ball = stages.Mesh(torch.tensor(ball.vertices, dtype=torch.float32), torch.tensor(ball.faces).int())

    def prepared(on_step=lambda step: None):
        models = Models(checkpoint_of_32, build)
        runtime = Runtime("cpu", stages.default_backends(), torch.float32, on_step)
        finished = stages.Finished()

        def attempt(one):
            used = one.runtime(runtime, models)
            made = stages.generate(used, models, images, one.pipeline_type, 3, finished=finished)
            mesh = stages.process_mesh(one.finishing(used), ball, 400, shells="surface")
            textured = stages.bake_texture(one.finishing(used), mesh, replace(made.voxels, origin=UNKNOWN), 64)
            return made, mesh, textured

        demand = plan.Demand(PIPELINE_TYPES["512"], texture_size=64)
        return attempt, plan.choose(models, demand, "cpu", dtype=torch.float32), runtime

    return prepared


@pytest.fixture(scope="module")
def undisturbed(whole_run):
    attempt, chosen, _ = whole_run()
    return plan.run(chosen, attempt)


def test_memory_that_runs_out_in_every_stage_in_turn_changes_no_bit(whole_run, undisturbed):
    """Each stage fails the first time: nine steps down a ladder that is made longer for it, and the same result."""
    failed = []

    def runs_out(step):
        if step.step == 1 and step.stage not in failed:
            failed.append(step.stage)
            raise torch.OutOfMemoryError("CUDA out of memory")

    attempt, chosen, runtime = whole_run(runs_out)
    shares = [1 - number / 20 for number in range(1, 12)]
    rungs = [plan.Rung(f"share {share:.2f}", "smaller tiles", tiles=True, share=share) for share in shares]
    chosen = replace(chosen, below=tuple(replace(chosen, rung=rung) for rung in rungs))
    (made, mesh, textured), done = plan.run(chosen, attempt)
    (expected, surface, baked), first = undisturbed
    assert tuple(failed) == STAGES and first.rung.name == "one-at-a-time" and first.tried == ()
    assert len(done.tried) == 9 and done.rung == rungs[8] and not done.lower
    assert done.tried[0] == "one-at-a-time ran out of memory in encode."
    assert torch.equal(made.mesh.vertices, expected.mesh.vertices) and len(made.mesh.faces) > 100
    assert torch.equal(made.voxels.sparse.feats, expected.voxels.sparse.feats)
    assert torch.equal(mesh.faces, surface.faces) and torch.equal(mesh.vertices, surface.vertices)
    assert (textured.maps == baked.maps).all()
    # what was finished is not made again, but for the post-processing, which is quick
    order = [record.stage for record in runtime.records]
    assert order == [*STAGES[:7], "process mesh", "unwrap", "process mesh", "unwrap", "bake"]


def test_on_a_cpu_there_are_smaller_tiles_to_fall_back_to(checkpoint_of_32):
    chosen = plan.choose(Models(checkpoint_of_32, build), plan.Demand(PIPELINE_TYPES["512"]), "cpu", free=40 * GB)
    assert [chosen.rung.name, *(each.rung.name for each in chosen.below)] == ["one-at-a-time", "tiled"]
    assert chosen.limit is None and chosen.below[0].limit > 30 * GB


def test_streamed_weights_give_the_same_bits(checkpoint_of_32, images, undisturbed, monkeypatch):
    from pipeline import streaming

    here, real = [], streaming._Visit._copy

    def copied(self, weight):
        here.append(weight)
        return real(self, weight)

    monkeypatch.setattr(streaming, "_LARGE", 0)
    monkeypatch.setattr(streaming._Visit, "_copy", copied)
    models = Models(checkpoint_of_32, build)
    runtime = Runtime("cpu", stages.default_backends(), torch.float32, stream=True)
    made = stages.generate(runtime, models, images, PIPELINE_TYPES["512"], 3)
    expected = undisturbed[0][0]
    assert torch.equal(made.mesh.vertices, expected.mesh.vertices)
    assert torch.equal(made.voxels.sparse.feats, expected.voxels.sparse.feats)
    assert len(here) > 200


def test_a_streamed_layer_is_at_home_again_when_it_has_run_or_failed(monkeypatch):
    from pipeline import streaming

    monkeypatch.setattr(streaming, "_LARGE", 0)
    layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)).requires_grad_(False)
    homes = [each.weight for each in layer]

    def at_home():
        return [each.weight is home for each, home in zip(layer, homes)]

    expected = layer(torch.ones(1, 4))
    assert streaming.streamed(layer, torch.device("cpu")) is streaming.streamed(layer, torch.device("cpu"))
    during = []
    layer[1].register_forward_pre_hook(
        lambda *_: during.append([each.weight is home for each, home in zip(layer, homes)])
    )
    assert torch.equal(layer(torch.ones(1, 4)), expected) and during == [[True, False]]
    with pytest.raises(RuntimeError):
        layer[1](torch.ones(1, 3))
    assert at_home() == [True, True]
    assert torch.equal(layer(torch.ones(1, 4)), expected)


def test_networks_that_are_kept_count_as_free(checkpoint_of_32):
    models = Models(checkpoint_of_32, build)
    before = models.held_bytes()
    model = models.get(SHAPE_DECODER, torch.device("cpu"), torch.float32)
    assert before == 0 and models.held_bytes() == sum(4 * each.numel() for each in model.state_dict().values())
