"""The training: networks learn, runs resume exactly, checkpoints come out whole."""

import copy
import csv
import json
import math
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline.models import build
from pipeline.spec import SHAPE_FLOW_512, SamplerSettings
from training import __main__ as training_main
from training import losses, networks, objects, operations, tasks, truth
from training.__main__ import main
from training.encoders import ENCODER_PLANS
from training.evaluation import evaluate
from training.export import export, pipeline_json
from training.train import Limits, TrainingError, is_finished, load_weights, train

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = networks.TINY


def learned(task, batch, steps: int, rate: float) -> dict[str, float]:
    """Each term at the end of a short training on one batch, over its value at the beginning."""
    random = torch.Generator().manual_seed(0)
    optimiser, first = torch.optim.AdamW(task.modules.parameters(), rate), {}
    for _ in range(steps):
        optimiser.zero_grad()
        terms = task.losses(batch, random)
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(task.modules.parameters(), 1.0)
        optimiser.step()
        first = first or terms
    return {key: float(terms[key].detach()) / max(1e-9, float(first[key].detach())) for key in terms}


def test_autoencoders_learn(trained_on, training_backends):
    torch.manual_seed(0)
    structure = tasks.StructureVAE(TINY, "cpu", training_backends)
    grids = truth.dual_grids(trained_on, TINY.resolution)
    occupied = truth.occupancy(grids.voxels, TINY.resolution, TINY.structure)
    assert learned(structure, occupied, 25, 5e-3)["bce"] < 0.5
    shape = tasks.ShapeVAE(TINY, "cpu", training_backends)
    fell = learned(shape, shape.group(trained_on, None), 16, 5e-3)
    assert fell["subdivision"] < 0.6 and fell["crossed"] < 0.95 and fell["offsets"] < 0.8
    texture = tasks.TextureVAE(TINY, "cpu", training_backends)
    assert learned(texture, texture.group(trained_on, None), 16, 5e-3)["l1"] < 0.5


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Every run, one cycle long."""
    folder = tmp_path_factory.mktemp("runs")
    plans = {
        name: replace(plan, objects=2, batch=2, repeats=1, warmup=1, measured=2) for name, plan in tasks.PLANS.items()
    }
    torch.manual_seed(0)
    for name, task in tasks.TASKS.items():
        one = task(TINY, "cpu", operations.table())
        one.load(partial(load_weights, folder))
        assert train(one, plans[name], folder / name, Limits(0, 1)).finished
    return folder


def test_encoder_and_flows_learn(runs, training_backends):
    torch.manual_seed(0)
    encoder = tasks.Encoder(TINY, "cpu", training_backends)
    random = torch.Generator().manual_seed(1)
    fell = learned(encoder, encoder.group(objects.sample(2, random), random), 25, 3e-3)
    assert fell["position"] < 0.8 and fell["colour"] < 0.9 and fell["occupancy"] < 0.7
    for name in (tasks.STRUCTURE, tasks.SHAPE, tasks.TEXTURE):
        flow = tasks.TASKS[name](TINY, "cpu", training_backends)
        flow.load(partial(load_weights, runs))
        random = torch.Generator().manual_seed(2)
        batch = flow.select(flow.draw(2, random), torch.tensor([1, 0]))
        # at first the data are unknown: the noise's share of the velocity is learned
        assert learned(flow, batch, 40, 5e-3)["loss"] < 0.8, name


def test_flow_learns_the_velocity_of_the_sampler(training_backends):
    """A network that says exactly (1 - sigma) noise - x_0 has no loss, and Euler steps along it end at x_0."""
    from pipeline.sampling import euler
    from pipeline.spec import SamplerSettings

    x_0, seen = torch.randn(2, 4, 4, 4, 4), {}

    class Oracle(networks.build(TINY.models["sparse_structure_flow_model"]).__class__):
        def __init__(self):
            torch.nn.Module.__init__(self)

        def context(self, tokens):
            seen["left out"] = (tokens == 0).all(2).all(1)

        def forward(self, x_t, t, context, training_backends):
            t = (t / 1000).reshape(-1, 1, 1, 1, 1)
            noise = (x_t - (1 - t) * x_0) / (1e-5 + (1 - 1e-5) * t)
            seen["t"] = t
            return (1 - 1e-5) * noise - x_0

    tokens = torch.ones(2, 3, 5)
    terms = losses.flow(Oracle(), x_0, tokens, torch.Generator().manual_seed(0), training_backends)
    assert terms["loss"] < 1e-4 and ((seen["t"] > 0) & (seen["t"] < 1)).all()
    oracle, shares = Oracle(), []

    def velocity(x, t):
        return oracle(x, torch.full((2,), 1000 * t), None, None)

    *_, end = euler(velocity, torch.randn_like(x_0), SamplerSettings(steps=3))
    torch.testing.assert_close(end.x, x_0, rtol=0, atol=1e-3)
    for seed in range(200):
        losses.flow(oracle, x_0, tokens, torch.Generator().manual_seed(seed), training_backends)
        shares.append(seen["left out"].float().mean().item())
    assert 0.05 < sum(shares) / len(shares) < 0.15


def plan_of(cycles_of: int) -> tasks.Plan:
    return replace(tasks.PLANS[tasks.STRUCTURE_VAE], objects=2, batch=1, repeats=cycles_of, warmup=2)


def new_task() -> tasks.Task:
    torch.manual_seed(0)
    return tasks.StructureVAE(TINY, "cpu", operations.table())


def test_resumed_run_makes_the_weights_of_an_uninterrupted_one(tmp_path):
    plan = plan_of(1)
    whole, parted = new_task(), new_task()
    assert train(whole, plan, tmp_path / "whole", Limits(0, 6)).finished
    calls = iter(range(100))
    done = train(parted, plan, tmp_path / "parted", Limits(0, 6), stopped=lambda: next(calls) >= 1)
    assert not done.finished and done.steps == 2 and not is_finished(tmp_path, "parted")
    torch.manual_seed(9)  # other first weights, which the state replaces
    again = tasks.StructureVAE(TINY, "cpu", operations.table())
    with pytest.raises(TrainingError, match="--resume"):
        train(again, plan, tmp_path / "parted", Limits(0, 6))
    assert train(again, plan, tmp_path / "parted", Limits(0, 6), resume=True).steps == 6
    assert is_finished(tmp_path, "parted")
    for a, b in zip(whole.modules.state_dict().values(), again.modules.state_dict().values()):
        assert torch.equal(a, b)
    a, b = (load_weights(tmp_path, name) for name in ("whole", "parted"))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert all(value.dtype == torch.float16 for value in a.values())
    with (tmp_path / "parted" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [2, 6] and all(math.isfinite(float(row["loss"])) for row in rows)


def test_average_lags_behind_the_weights(tmp_path):
    task = new_task()
    first = copy.deepcopy(task.modules.state_dict())
    train(task, replace(plan_of(4), average=0.999, rate=1e-2), tmp_path / "run", Limits(0, 8))
    key = "decoder.input_layer.weight"
    made = load_weights(tmp_path, "run")[key].float()
    start, end = first[key], task.modules.state_dict()[key]
    assert 1e-3 < (made - end).norm() < 0.5 * (made - start).norm() < 0.5 * (end - start).norm()


def test_sigterm_saves(tmp_path):
    from training.train import Stop

    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        done = train(new_task(), plan_of(1), tmp_path / "run", Limits(0, 10), stopped=lambda: stop.asked)
    assert not done.finished and (tmp_path / "run" / "state.pt").is_file()


def test_run_begins_from_weights_whose_state_is_gone(tmp_path):
    train(new_task(), plan_of(1), tmp_path / "run", Limits(0, 4))
    (tmp_path / "run" / "state.pt").unlink()
    made = load_weights(tmp_path, "run")
    torch.manual_seed(9)
    task = tasks.StructureVAE(TINY, "cpu", operations.table())
    done = train(task, replace(plan_of(1), rate=0.0), tmp_path / "run", Limits(0, 2), resume=True)
    assert done.finished and done.steps == 2
    for key, value in task.modules.state_dict().items():
        assert torch.equal(value.half(), made[key]), key


def test_runs_are_spread_over_gpus(tmp_path, monkeypatch):
    """Each beside the fewest others, on GPUs that the user has left visible."""
    begun = {}

    class Process:
        returncode = 0

        def __init__(self, command, env):
            self.name, self.asked = command[3], 0
            begun[self.name] = env["CUDA_VISIBLE_DEVICES"]

        def poll(self):
            self.asked += 1
            return 0 if self.asked > 2 else None

    monkeypatch.setattr(training_main.subprocess, "Popen", Process)
    monkeypatch.setattr(training_main.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(training_main, "is_finished", lambda folder, name: name in begun and begun[name] != "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    assert main(["all", "--out", str(tmp_path)]) == 0
    first = [begun[name] for name in (tasks.STRUCTURE_VAE, tasks.SHAPE_VAE, tasks.TEXTURE_VAE, tasks.ENCODER)]
    assert first == ["5", "3", "5", "3"] and len(begun) == 7


def test_colours_reach_the_latent_before_any_training():
    """As they are, not folded: see SparseUnetVaeEncoder."""
    torch.manual_seed(0)
    task = tasks.TextureVAE(networks.SMALL, "cpu", operations.table())
    random = torch.Generator().manual_seed(1)
    seen, told = [], []
    with torch.no_grad():
        for _ in range(8):
            grids = truth.dual_grids(objects.sample(4, random), 32)
            mean, log_variance = task.encode(grids)
            assert log_variance.exp().max() < 0.1
            dense, _ = tasks.mean_material(grids, 4)
            sample, x, y, z = mean.voxels.coords.long().unbind(1)
            seen.append(torch.nn.functional.pad(mean.feats, (0, 1), value=1.0))
            told.append(dense[sample, :3, x, y, z])
    seen, told = torch.cat(seen), torch.cat(told)
    guess = seen @ torch.linalg.lstsq(seen, told).solution
    assert (guess - told).square().mean() < 0.01 * told.var(0).mean()


def test_not_finite_loss_is_an_error_and_does_not_overwrite(tmp_path):
    task = new_task()
    train(task, plan_of(1), tmp_path / "run", Limits(0, 2))
    saved = (tmp_path / "run" / "state.pt").read_bytes()
    task = new_task()
    task.modules["decoder"].register_forward_hook(lambda module, given, made: made * float("nan"))
    with pytest.raises(TrainingError, match="not finite"):
        train(task, plan_of(1), tmp_path / "run", Limits(0, 4), resume=True)
    assert (tmp_path / "run" / "state.pt").read_bytes() == saved


def test_flow_needs_what_it_is_conditioned_on(tmp_path, capsys):
    assert main(["shape-flow", "--out", str(tmp_path), "--design", "tiny", "--device", "cpu", "--steps", "1"]) == 1
    assert "Train encoder first" in capsys.readouterr().err


def test_checkpoint_comes_out_whole(runs, tmp_path, run, picture):
    """Strictly read back, weights equal to the runs' fp16; the command line generates with it."""
    from pipeline.weights import Models, open_checkpoint

    size = export(TINY, partial(load_weights, runs), tmp_path / "made")
    assert size == sum(path.stat().st_size for path in (tmp_path / "made").rglob("*") if path.is_file())
    models = Models(open_checkpoint(tmp_path / "made"), build)
    assert models.spec.image_size == TINY.image_size and models.spec.default_pipeline_type == "512"
    flow = models.get(SHAPE_FLOW_512, torch.device("cpu"))
    for key, value in load_weights(runs, tasks.SHAPE).items():
        assert torch.equal(flow.state_dict()[key.removeprefix("flow.")], value.float())
    rows = evaluate.autoencode(models, TINY, partial(load_weights, runs), torch.device("cpu"), 2, 1)
    assert len(rows) == 2 and all(0 <= row.measures.structure_iou <= 1 for row in rows)
    scale = load_weights(runs, tasks.SHAPE_VAE)
    torch.testing.assert_close(
        torch.tensor(models.spec.shape_normalisation.std), scale["statistics.std"], atol=1e-6, rtol=0
    )
    arguments = (
        "generate",
        picture,
        "--checkpoint",
        tmp_path / "made",
        "--output",
        tmp_path / "o.glb",
        "--device",
        "cpu",
    )
    code, _, error = run(*arguments)
    # an untrained decoder may leave nothing; every network has run then
    assert code == 0 or "empty" in error or "nothing" in error or "no faces" in error, error


def test_encoders_for_a_checkpoint_that_is_trained(runs, tmp_path, monkeypatch):
    """Only the encoders learn; they are written beside decoders that stay what they were, to the byte."""
    from pipeline.weights import Models, open_checkpoint

    made = tmp_path / "made"
    export(TINY, partial(load_weights, runs), made)
    for name in ("shape_slat_encoder", "tex_slat_encoder"):
        for file in (made / "ckpts").glob(f"{name}.*"):
            file.unlink()
    (made / "texturing_pipeline.json").unlink()
    assert "shape_slat_encoder" not in open_checkpoint(made).roles
    before = {path.name: path.read_bytes() for path in (made / "ckpts").iterdir()}
    common = ("--out", tmp_path, "--design", "tiny", "--device", "cpu", "--steps", "2", "--batch", "2")
    for name in ("shape-encoder", "texture-encoder"):
        plan = ENCODER_PLANS[name]
        monkeypatch.setitem(ENCODER_PLANS, name, replace(plan, objects=plan.batch, measured=2))
        assert main([*map(str, (name, "--checkpoint", made, *common))]) == 0
        rows = list(csv.DictReader((tmp_path / name / "log.csv").open()))
        assert math.isfinite(float(rows[-1]["loss"]))
        assert not any(key.startswith("decoder.") for key in load_weights(tmp_path, name))
    assert main(["add-encoders", "--out", str(tmp_path), "--design", "tiny", "--checkpoint", str(made)]) == 0
    assert all((made / "ckpts" / name).read_bytes() == data for name, data in before.items())
    models = Models(open_checkpoint(made), build)
    for role, run in (("shape_slat_encoder", "shape-encoder"), ("tex_slat_encoder", "texture-encoder")):
        own = models.get(role, torch.device("cpu")).state_dict()
        for key, value in own.items():
            assert torch.equal(value, load_weights(tmp_path, run)[f"encoder.{key}"].float())


def test_the_bundled_checkpoint_says_what_training_would_write():
    """Samplers, models and types; what is measured of the latents is the run's own."""
    bundled = json.loads((Path(__file__).parent.parent / "checkpoints/small/pipeline.json").read_text(encoding="utf-8"))
    measured = {key: value for key, value in bundled["args"].items() if key.endswith("_normalization")}
    assert len(measured) == 2 and bundled == pipeline_json(networks.SMALL, measured)
    guided = SamplerSettings.from_json(bundled["args"]["tex_slat_sampler"])
    assert guided.guidance_scale > 1 and guided.guidance_interval == (0, 1)  # colours are off by a quarter more without


def test_small_checkpoint_fits():
    """At most 16 MB in fp16, 20 with the encoders of meshes, and the grids that the issues ask for."""
    total = sum(networks.parameters(build(config)) for config in networks.SMALL.models.values())
    assert 2 * total <= 15.97e6  # names and shapes take some 30 kB
    encoders = (networks.SMALL.shape_encoder, networks.SMALL.texture_encoder)
    assert 2 * sum(networks.parameters(build(config)) for config in encoders) <= 3.9e6
    assert (networks.SMALL.structure, networks.SMALL.latent, networks.SMALL.resolution) == (32, 16, 128)
