"""Folders that cost a run to fill: one process of the suite fills each, the others wait for it."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PATIENCE = 600  # seconds


def filled_once(factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], None]) -> Path:
    """The folder of that name below the temporary folder of the whole run, after fill(folder) in whichever process came
    first."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, outcome = base / name, base / f"{name}.outcome"
    try:
        folder.mkdir()
    except FileExistsError:
        limit = time.monotonic() + PATIENCE
        while not (outcome.exists() and outcome.read_text()):
            assert time.monotonic() < limit, f"{folder} is not filled after {PATIENCE} seconds"
            time.sleep(0.1)
        assert outcome.read_text() == "filled", f"{folder} could not be filled by another process"
        return folder
    told = "failed"
    try:
        fill(folder)
        told = "filled"
    finally:
        outcome.write_text(told)
    return folder
