"""The sampler as pure functions."""

import math
from itertools import pairwise

import pytest
import torch

from pipeline.errors import SettingsError
from pipeline.sampling import (
    data_from_velocity,
    dense_spread,
    euler,
    guided,
    heun,
    packed_spread,
    solver,
    times,
    velocity_from_data,
)
from pipeline.spec import SamplerSettings


def test_times():
    assert times(4, 1.0) == [1.0, 0.75, 0.5, 0.25, 0.0]
    pushed = times(12, 5.0)
    assert pushed[0] == 1 and pushed[-1] == 0 and all(a > b for a, b in pairwise(pushed))
    assert pushed[6] == pytest.approx(5 * 0.5 / (1 + 4 * 0.5))


def test_euler_is_exact_for_a_constant_velocity():
    noise, velocity = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    *_, last = euler(lambda x, t: velocity, noise, SamplerSettings(steps=7, time_shift=3.0))
    torch.testing.assert_close(last.x, noise - velocity)


def test_euler_reaches_the_data_along_straight_lines():
    """A velocity that always points at x_0 leads there in any number of steps, and x_0 is seen at every step."""
    data, noise = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    settings = SamplerSettings(steps=5, time_shift=3.0, sigma_min=0.0)
    samples = list(euler(lambda x, t: (x - data) / t, noise, settings))
    assert len(samples) == 5
    torch.testing.assert_close(samples[-1].x, data)
    for sample in samples:
        torch.testing.assert_close(sample.x_0, data)


def test_velocity_and_data_are_inverse():
    x, v = torch.randn(2, 10, dtype=torch.float64)
    x_0 = data_from_velocity(x, 0.7, v, 1e-5)
    torch.testing.assert_close(velocity_from_data(x, 0.7, x_0, 1e-5), v)


def test_guidance_inside_and_outside_its_interval():
    x = torch.randn(1, 50)
    settings = SamplerSettings(guidance_scale=7.5, guidance_interval=(0.6, 0.9))
    asked = []

    def negative(x, t):
        asked.append(t)
        return -x

    velocity = guided(lambda x, t: 2 * x, negative, settings, dense_spread)
    torch.testing.assert_close(velocity(x, 0.6), 7.5 * 2 * x + 6.5 * x)
    torch.testing.assert_close(velocity(x, 0.9), 7.5 * 2 * x + 6.5 * x)
    assert torch.equal(velocity(x, 0.95), 2 * x) and torch.equal(velocity(x, 0.5), 2 * x)
    assert asked == [0.6, 0.9]  # the unconditional pass runs only where it counts


@pytest.mark.parametrize(("strength", "expected"), [(1.0, 2.0), (0.0, -1.0)])
def test_strength_one_and_zero_take_one_pass(strength, expected):
    x = torch.ones(1, 4)
    settings = SamplerSettings(guidance_scale=strength, guidance_rescale=0.5)
    velocity = guided(lambda x, t: 2 * x, lambda x, t: -x, settings, dense_spread)
    assert torch.equal(velocity(x, 0.7), expected * x)


def test_full_rescale_gives_the_conditional_standard_deviation():
    x, positive, negative = torch.randn(3, 2, 1000, dtype=torch.float64)
    settings = SamplerSettings(guidance_scale=7.5, guidance_rescale=1.0)
    v = guided(lambda x, t: positive, lambda x, t: negative, settings, dense_spread)(x, 0.8)
    found = data_from_velocity(x, 0.8, v, settings.sigma_min).std(1)
    torch.testing.assert_close(found, data_from_velocity(x, 0.8, positive, settings.sigma_min).std(1))


def test_spreads():
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    assert dense_spread(x).shape == (2, 1, 1)
    torch.testing.assert_close(dense_spread(x)[1, 0, 0], x[1].std())  # unbiased
    packed = packed_spread((2, 5))(x.reshape(-1)[:21].reshape(7, 3))
    assert packed.shape == (7, 1)
    torch.testing.assert_close(packed[0, 0], x.reshape(-1)[:6].std(correction=0))  # population
    torch.testing.assert_close(packed[6, 0], x.reshape(-1)[6:21].std(correction=0))


def growth(steps, solve, rescale_t):
    """Error of dx/dt = x cos t from 1 to 0, whose solution is exp(sin t)."""
    x_1 = torch.tensor([1.0], dtype=torch.float64) * math.exp(math.sin(1))
    settings = SamplerSettings(steps=steps, time_shift=rescale_t)
    *_, last = solve(lambda x, t: x * math.cos(t), x_1, settings)
    return abs(last.x.item() - 1)


@pytest.mark.parametrize("rescale_t", [1.0, 3.0])
@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2)])
def test_order_of_convergence(name, order, rescale_t):
    """Twice the steps: an error of 2^-order."""
    errors = [growth(steps, solver(name), rescale_t) for steps in (40, 80, 160)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


def test_heun_never_asks_at_the_data():
    """(x - data) / t has no value at t = 0; two passes a step but one in the last."""
    data, noise, asked = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64), []

    def velocity(x, t):
        asked.append(t)
        return (x - data) / t

    samples = list(heun(velocity, noise, SamplerSettings(steps=4, sigma_min=0.0)))
    torch.testing.assert_close(samples[-1].x, data)
    assert len(samples) == 4 and len(asked) == 7 and min(asked) > 0
    for sample in samples:
        torch.testing.assert_close(sample.x_0, data)


def test_an_unknown_solver_is_named():
    with pytest.raises(SettingsError, match="Unknown solver 'rk9'; choose one of euler, heun"):
        solver("rk9")


@pytest.mark.parametrize(
    "change",
    [
        *({"steps": 0}, {"time_shift": 0.0}, {"time_shift": math.inf}),
        *({"guidance_rescale": 1.5}, {"guidance_scale": math.nan}),
        *(
            {"guidance_interval": (0.9, 0.6)},
            {"guidance_interval": (-0.1, 1.0)},
            {"guidance_interval": (math.nan, 1.0)},
        ),
    ],
)
def test_settings_that_cannot_work(change):
    with pytest.raises(SettingsError):
        SamplerSettings(**change)


@pytest.mark.parametrize("field", ["guidance_scale", "guidance_rescale", "time_shift", "sigma_min"])
def test_a_number_that_is_not_finite_is_named_alone(field):
    with pytest.raises(
        SettingsError, match=f"^A sampler's {field.replace('_', ' ')} must be a finite number, got nan.$"
    ):
        SamplerSettings(**{field: math.nan})
