"""Random numbers in tests: where a failure can be repeated. `pytest --seed 7` gives every test the numbers of seed 7.

`seed` and `rng` are for tests that must hold for any input: without --seed they draw anew in every run, and a failure
says which seed it had. What draws from the global generators of torch, numpy and random instead has seed 0.
"""

import random
import secrets

import pytest

_SEED = pytest.StashKey[int]()


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, help="seed of all random numbers; default: new ones for `seed` and `rng`")


@pytest.fixture
def seed(request) -> int:
    """Another number in every run, unless --seed names one."""
    given = request.config.getoption("--seed")
    request.node.stash[_SEED] = secrets.randbits(31) if given is None else given
    return request.node.stash[_SEED]


@pytest.fixture
def rng(seed):
    """torch's generator on the CPU, with `seed`."""
    import torch

    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def global_generators(request):
    import numpy
    import torch

    given = request.config.getoption("--seed") or 0
    random.seed(given)
    numpy.random.seed(given % 2**32)
    torch.manual_seed(given)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    seed = item.stash.get(_SEED, None)
    if report.failed and seed is not None:
        report.sections.append(("Random numbers", f"Seed {seed}. The same again: pytest --seed {seed} {item.nodeid!r}"))
