"""Settings of speed: which passes are predicted, and from what."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from pipeline import sampling
from pipeline.cli.main import parser
from pipeline.cli.results import _predicted
from pipeline.cli.samplers import samplers
from pipeline.errors import SettingsError
from pipeline.runtime import StageRecord
from pipeline.sampling import Start, guided, step_times, times
from pipeline.spec import SamplerSettings
from pipeline.speed import SPEEDS, Passes, Reusing, euler, log_snr, speed_named
from pipeline.weights import open_checkpoint

OFTEN, SELDOM = SPEEDS["fast"].shape, SPEEDS["fast"].texture


def steps_run(passes, steps=12, shift=3.0):
    moments = times(steps, shift)
    return sorted(moments.index(t) for t in passes.times(moments))


def test_which_steps_run_the_network():
    assert steps_run(OFTEN) == [0, 2, 5, 7, 9, 10, 11]
    assert steps_run(SELDOM) == [0, 3, 7, 9, 11]
    assert steps_run(SELDOM, 25) == [0, 6, 15, 19, 24]  # more steps cost no more passes
    assert steps_run(Passes(()), 5) == [0, 4]


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_few_steps_are_all_run(steps):
    assert steps_run(OFTEN, steps) == list(range(steps))


def counted(velocity):
    """A velocity that keeps the times at which it is asked."""
    asked = []

    def called(x, t):
        asked.append(t)
        return velocity(x, t)

    return called, asked


def last(samples):
    *_, sample = samples
    return sample.x


def test_predictions_of_a_velocity_that_is_straight_over_log_snr_are_exact():
    a, b, noise = torch.randn(3, 5, dtype=torch.float64)
    settings = SamplerSettings(steps=12, time_shift=3.0)
    moments = times(12, 3.0)
    velocity, asked = counted(lambda x, t: a + log_snr(t) * b)
    reusing = Reusing(velocity, frozenset(moments[:2]) | OFTEN.times(moments))
    found = last(euler(reusing, [reusing], noise, settings))
    exact = last(sampling.euler(lambda x, t: a + log_snr(t) * b, noise, settings))
    assert [moments.index(t) for t in asked] == [0, 1, 2, 5, 7, 9, 10, 11]
    assert (reusing.calls, reusing.passes) == (12, 8)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)


def test_a_pass_corrects_the_steps_that_were_predicted_before_it():
    """A velocity that does not depend on x and is a parabola over log SNR: lines miss it, the correction does not, but
    in the first gap, where there is no third pass yet."""
    a, b, c, noise = torch.randn(4, 5, dtype=torch.float64)
    settings = SamplerSettings(steps=12, time_shift=3.0)
    moments = times(12, 3.0)

    def velocity(x, t):
        return a + log_snr(t) * b + log_snr(t) ** 2 * c

    runs = frozenset(moments[step] for step in (0, 1, 2, 5, 7, 9, 11))
    reusing, alone = Reusing(velocity, runs), Reusing(velocity, runs)
    exact = last(sampling.euler(velocity, noise, settings))
    torch.testing.assert_close(last(euler(reusing, [reusing], noise, settings)), exact, rtol=0, atol=1e-12)
    assert (last(sampling.euler(alone, noise, settings)) - exact).abs().max() > 0.01  # predictions as they were made


def test_guidance_is_corrected_as_a_whole_and_rows_that_are_kept_stay():
    """Predicted differences of a network and none; each step is taken again with the rescaled guidance of its own x."""
    torch.manual_seed(0)
    a, b, noise, data = torch.randn(4, 6, 3, dtype=torch.float64)
    settings = SamplerSettings(
        steps=12, time_shift=3.0, guidance_scale=5.0, guidance_rescale=0.5, guidance_interval=(0.4, 1.0)
    )
    start = Start(data, keep=torch.tensor([True, False] * 3))
    moments = step_times(settings, start)

    def conditional(x, t):
        return a + torch.sin(x)

    def unconditional(x, t):
        return conditional(x, t) + log_snr(t) * b

    def spread(x):
        return x.std()

    own = Reusing(conditional, frozenset(moments))
    called, asked = counted(unconditional)
    none = Reusing(called, frozenset(moments[:2]) | OFTEN.times(moments), own)
    found = last(euler(guided(own, none, settings, spread), [own, none], noise, settings, start))
    exact = last(sampling.euler(guided(conditional, unconditional, settings, spread), noise, settings, start))
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-10)
    torch.testing.assert_close(found[start.keep], data[start.keep])
    assert len(asked) == 6 and own.passes == own.calls == 12, "guided until step 9"


def test_a_smooth_flow_is_closer_than_by_keeping_the_last_pass():
    """The flow to a point: x_0 turns as it goes; the result is within a thousandth of what every step would give."""
    noise = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    settings = SamplerSettings(steps=12, time_shift=3.0)
    moments = times(12, 3.0)

    def velocity(x, t):
        return (x - math.cos(2 * t) - 0.1 * torch.tanh(x)) / t

    exact = last(sampling.euler(velocity, noise, settings))

    def off(samples):
        return ((last(samples) - exact).norm() / exact.norm()).item()

    def error(passes):
        reusing = Reusing(velocity, passes.times(moments))
        return off(euler(reusing, [reusing], noise, settings))

    def keeping(x, t):
        if t in OFTEN.times(moments):
            kept[:] = [velocity(x, t)]
        return kept[0]

    kept = []
    assert error(OFTEN) < 1e-3 and error(OFTEN) < off(sampling.euler(keeping, noise, settings)) / 3
    assert error(OFTEN) < error(SELDOM) < 0.1


def test_passes_so_near_pure_noise_that_they_have_one_place():
    """A time shift of 1000 puts several there; the sum of their values was taken for the velocity."""
    noise, target = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    settings = SamplerSettings(steps=12, time_shift=1000.0)
    moments = times(12, 1000.0)
    reusing = Reusing(lambda x, t: noise - target, OFTEN.times(moments))
    found = last(euler(reusing, [reusing], noise, settings))
    assert reusing.passes < reusing.calls
    torch.testing.assert_close(found, target, rtol=0, atol=1e-9)


def test_what_is_remembered_does_not_grow_with_the_steps():
    settings = SamplerSettings(steps=200, time_shift=3.0)
    moments = times(200, 3.0)
    own = Reusing(lambda x, t: x * t, frozenset(moments))
    for _ in euler(own, [own], torch.ones(3), settings):
        assert len(own._passes) <= 4


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


def test_a_speed_that_came_to_nothing_is_told():
    """Each of one or two steps is run at any speed; nothing said so."""
    record = StageRecord("texture", 1.0, 0.0, 0, counts={"predicted_passes": 1})
    assert _predicted([record]) == "1 pass was predicted, not run."
    assert _predicted([replace(record, counts={})]).startswith("no pass was predicted: so few steps need each.")


def test_the_command_line_samples_at_a_speed(run, picture, checkpoint, tmp_path):
    """exact predicts nothing; the others say what they did, and the faster one leaves more out."""
    predicted, feats = {}, {}
    for speed in SPEEDS:
        state, report = tmp_path / f"{speed}.safetensors", tmp_path / f"{speed}.json"
        options = ("--checkpoint", checkpoint, "--type", "512", "--geometry-only", "--speed", speed)
        options += ("--structure-steps", 6, "--shape-steps", 6)
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
