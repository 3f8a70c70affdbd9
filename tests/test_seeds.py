"""A test with random numbers that fails says with which seed, and `pytest --seed` gives the same numbers again."""

import os
import random
import re
import subprocess
import sys

import numpy
import torch

FILE = """
import random

import numpy
import torch


def test_draws(rng, seed):
    drawn = torch.randint(1 << 40, (1,), generator=rng).item()
    print("drawn", drawn, torch.rand(1).item(), numpy.random.rand(), random.random())
    assert seed < 0


def test_passes(seed):
    assert seed >= 0
"""


def outcome(root, folder, *options):
    """What a run of FILE says: the seed, and the numbers of rng, torch, numpy and random."""
    (folder / "test_file.py").write_text(FILE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "seeds", "-p", "no:cacheprovider", "--rootdir", folder, *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root / "tests")},
        capture_output=True,
        text=True,
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    (said,) = re.findall(r"^Seed (\d+)\. The same again: pytest --seed \1 'test_file", done.stdout, re.MULTILINE)
    (drawn,) = re.findall(r"^drawn (.*)$", done.stdout, re.MULTILINE)
    return int(said), [float(each) for each in drawn.split()]


def test_a_failure_can_be_repeated_from_what_it_says(root, tmp_path):
    seed, (own, *_) = outcome(root, tmp_path)
    said, (again, *others) = outcome(root, tmp_path, "--seed", str(seed))
    assert said == seed and again == own
    torch.manual_seed(seed)
    numpy.random.seed(seed)
    random.seed(seed)
    assert others == [torch.rand(1).item(), numpy.random.rand(), random.random()]
