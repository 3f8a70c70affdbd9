"""Settings of speed: which passes are predicted, and from what."""

import json

import pytest
import torch
from safetensors import safe_open

from pipeline.cli.main import parser
from pipeline.cli.samplers import samplers
from pipeline.errors import SettingsError
from pipeline.sampling import Start, euler, step_times, times
from pipeline.spec import SamplerSettings
from pipeline.speed import SPEEDS, Reuse, Reusing, speed_named
from pipeline.weights import open_checkpoint


def asked(reuse, steps=12):
    """The steps at which the network runs."""
    moments, ran = times(steps, 3.0), []

    def velocity(x, t):
        ran.append(moments.index(t))
        return x * t

    reusing = Reusing(velocity, reuse, moments)
    for t in moments[:-1]:
        reusing(torch.ones(2), t)
    assert reusing.calls == steps and reusing.passes == len(ran)
    return ran


def test_which_steps_run_the_network():
    assert asked(Reuse()) == [0, 1, 3, 5, 7, 9, 10, 11]
    assert asked(Reuse(last=1)) == [0, 1, 3, 5, 7, 9, 11]
    assert asked(Reuse(first=4, every=3)) == [0, 1, 2, 3, 6, 9, 10, 11]


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_few_steps_are_all_run(steps):
    assert asked(Reuse(), steps) == list(range(steps))


def test_predictions_of_a_velocity_that_is_linear_in_time_are_exact():
    a, b, noise = torch.randn(3, 5, dtype=torch.float64)
    settings = SamplerSettings(steps=12, time_shift=3.0)
    reusing = Reusing(lambda x, t: a + t * b, Reuse(), times(12, 3.0))
    *_, exact = euler(lambda x, t: a + t * b, noise, settings)
    *_, found = euler(reusing, noise, settings)
    assert reusing.passes == 8
    torch.testing.assert_close(found.x, exact.x, rtol=0, atol=1e-12)


def test_times_of_a_run_from_a_start():
    settings = SamplerSettings(steps=4, time_shift=1.0)
    assert step_times(settings) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert step_times(settings, Start(torch.zeros(1), 0.6)) == [0.6, 0.5, 0.25, 0.0]


def test_unknown_speed_and_a_solver_that_does_not_go_with_one(checkpoint, run, picture):
    with pytest.raises(SettingsError, match="exact, balanced, fast"):
        speed_named("faster")
    spec = open_checkpoint(checkpoint).spec
    options = parser().parse_args(["generate", "x.png", "--solver", "heun", "--speed", "fast"])
    with pytest.raises(SettingsError, match="euler only"):
        samplers(options, spec)
    code, _, err = run("generate", picture, "--checkpoint", checkpoint, "--solver", "heun", "--speed", "balanced")
    assert code == 1 and "euler only" in err


def test_the_command_line_samples_at_a_speed(run, picture, checkpoint, tmp_path):
    """exact predicts nothing; the others say what they did, and the faster one leaves more out."""
    predicted, feats = {}, {}
    for speed in SPEEDS:
        state, report = tmp_path / f"{speed}.safetensors", tmp_path / f"{speed}.json"
        options = ("--checkpoint", checkpoint, "--type", "512", "--geometry-only", "--speed", speed)
        code, out, err = run("generate", picture, *options, "--save-state", state, "--report", report)
        assert code == 0, err
        with safe_open(state, "pt") as file:
            assert speed in file.metadata()["speed"]
            feats[speed] = file.get_tensor("shape_slat.feats")
        stages = json.loads(report.read_text())["stages"]
        predicted[speed] = sum(stage["counts"].get("predicted_passes", 0) for stage in stages)
        assert not any(stage["notes"] for stage in stages), "nothing had to be made to fit, and no user need be warned"
        assert "To fit" not in out and (f"Speed {speed}: " in out) == (predicted[speed] > 0)
    assert predicted["exact"] == 0 < predicted["balanced"] < predicted["fast"]
    assert not torch.equal(feats["exact"], feats["balanced"])
