"""A test with random numbers that fails says with which seed, and `pytest --seed` gives the same numbers again."""

import json
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


RUNS = """
import contextlib, io, json, re, sys

import pytest

outputs = []
for _ in range(2):
    repeated = re.findall(r"pytest --seed (\\d+)", outputs[0]) if outputs else []
    with contextlib.redirect_stdout(io.StringIO()) as said:
        pytest.main(["-p", "seeds", "-p", "no:cacheprovider", *(f"--seed={each}" for each in repeated)])
    outputs.append(said.getvalue())
print(json.dumps(outputs))
"""


def outcomes(root, folder):
    """What two runs of FILE say, the second with the seed that the first one names: the seed, and the numbers of rng,
    torch, numpy and random."""
    (folder / "test_file.py").write_text(FILE, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", RUNS],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root / "tests")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for output in json.loads(done.stdout):
        assert "1 failed, 1 passed" in output, output
        (said,) = re.findall(r"^Seed (\d+)\. The same again: pytest --seed \1 'test_file", output, re.MULTILINE)
        (drawn,) = re.findall(r"^drawn (.*)$", output, re.MULTILINE)
        yield int(said), [float(each) for each in drawn.split()]


def test_a_failure_can_be_repeated_from_what_it_says(root, tmp_path):
    (seed, (own, *_)), (said, (again, *others)) = outcomes(root, tmp_path)
    assert said == seed and again == own
    torch.manual_seed(seed)
    numpy.random.seed(seed)
    random.seed(seed)
    assert others == [torch.rand(1).item(), numpy.random.rand(), random.random()]
