"""Makes `import pipeline` work without the root on sys.path, and reads the golden data."""

import json
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
CHECKPOINT = ROOT / "checkpoints" / "random"

if "pipeline" not in sys.modules:
    _folder = ROOT / "pipeline"
    _spec = spec_from_file_location("pipeline", _folder / "__init__.py", submodule_search_locations=[str(_folder)])
    sys.modules["pipeline"] = module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["pipeline"])

import torch  # noqa: E402
from safetensors import safe_open  # noqa: E402


class Golden:
    """One golden file: tensors by name, metadata decoded from JSON."""

    def __init__(self, name: str) -> None:
        with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
            self.facts = {key: _decoded(value) for key, value in (file.metadata() or {}).items()}
            # some flow checkpoints hold rotary phases, which follow from the configuration
            self.tensors = {key: file.get_tensor(key) for key in file.keys() if not key.endswith("rope_phases")}

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.tensors[key]

    def get(self, key: str) -> torch.Tensor | None:
        return self.tensors.get(key)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return {key[2:]: value for key, value in self.tensors.items() if key.startswith("w.")}

    @property
    def config(self) -> dict:
        args = self.facts["args"] if "args" in self.facts else self.facts["config"]
        return {"name": self.facts["name"], "args": args}

    def model(self, weights: "Golden | None" = None) -> torch.nn.Module:
        """The model of the file, with the weights of the file (or of another one)."""
        from pipeline.models import build

        model = build(self.config)
        model.load_state_dict((weights or self).weights)
        return model.eval().requires_grad_(False)


def _decoded(value: str):
    try:
        return json.loads(value)
    except ValueError:
        return value


@pytest.fixture
def golden():
    """Golden(name) reads a golden file."""
    return Golden


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture
def picture() -> Path:
    """The picture of the golden runs."""
    return GOLDEN / "image_rgba.png"


@pytest.fixture
def checkpoint() -> Path:
    """The golden checkpoint, in the released layout."""
    return CHECKPOINT


@pytest.fixture
def cli(tmp_path):
    """Run the command line as a user does, in a process of its own; returns the finished process."""

    def run(*arguments, environment=None, timeout=300) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
        return subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def run(capsys):
    """Run the command line in this process; returns (exit code, stdout, stderr)."""
    from pipeline.__main__ import main

    def call(*arguments) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit:  # argparse
            code = exit.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
