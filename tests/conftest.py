"""The packages without the root on sys.path; golden data, a hub, the glTF validator for all tests."""

import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
GOLDEN_CHECKPOINT = ROOT / "checkpoints" / "random"

for _name in ("pipeline", "serving", "training", "installation"):
    if _name not in sys.modules:
        _folder = ROOT / _name
        _spec = spec_from_file_location(_name, _folder / "__init__.py", submodule_search_locations=[str(_folder)])
        sys.modules[_name] = module_from_spec(_spec)
        _spec.loader.exec_module(sys.modules[_name])

import torch  # noqa: E402
from comfyui_fixtures import server, server_with_hub  # noqa: E402, F401
from devices import DEVICES, running_on  # noqa: E402
from host_fixtures import host, made, ran  # noqa: E402, F401
from once import filled_once  # noqa: E402
from parallel import (  # noqa: E402, F401
    pytest_cmdline_main,
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_xdist_make_scheduler,
)
from safetensors import safe_open  # noqa: E402
from seeds import global_generators, pytest_addoption, pytest_runtest_makereport, rng, seed  # noqa: E402, F401
from training_fixtures import trained_on, training_backends  # noqa: E402, F401

VALIDATOR = "gltf-validator@2.0.0-dev.3.10"
SCRIPT = """
const validator = require('gltf-validator');
const data = new Uint8Array(require('fs').readFileSync(process.argv[2]));
const beside = uri => require('path').join(require('path').dirname(process.argv[2]), decodeURIComponent(uri));
const externalResourceFunction = uri => require('fs').promises.readFile(beside(uri)).then(file => new Uint8Array(file));
const options = {maxIssues: 0, externalResourceFunction};
validator.validateBytes(data, options).then(report => console.log(JSON.stringify(report)));
"""


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


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as a download needs; `breaks` are files that end after 1000 bytes."""

    folder, breaks = None, set()
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, body):
        match = re.fullmatch(r"/(acme/[^/]+)/resolve/[^/]+/(.+)", self.path)
        path = self.folder / match[2] if match and match[1] == "acme/small" else None
        if path is None or not path.is_file():
            code = {"acme/small": "EntryNotFound", "acme/gated": "GatedRepo"}.get(match and match[1], "RepoNotFound")
            self.send_response(403 if code == "GatedRepo" else 404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = path.read_bytes()
        first = int(self.headers.get("Range", "bytes=0-").split("=")[1].split("-")[0])
        self.send_response(206 if first else 200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        if body:
            broken = match[2] in self.breaks
            self.wfile.write(data[first : first + 1000] if broken else data[first:])
            self.close_connection = broken


@pytest.fixture(params=DEVICES)
def device(request):
    """Every device that there is; what tests call through devices.on_device runs on it."""
    with running_on(request.param, moves=request.param != "cpu") as device:
        yield device


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
def no_warp(monkeypatch):
    """As if Warp were not installed: importing it fails, and everybody who asks is told so."""
    monkeypatch.setitem(sys.modules, "warp", None)


@pytest.fixture(params=["warp", "torch"])
def both_ways(request, monkeypatch):
    """The large steps on half-edges by kernels, and by torch and scipy as where there is no Warp."""
    from manifolds import without_warp

    from pipeline.warp import unavailable_reason

    if request.param == "torch":
        without_warp(monkeypatch)
    elif unavailable_reason():
        pytest.skip(unavailable_reason())


@pytest.fixture(scope="module")
def one_thread():
    """For small networks, which gain little by several threads, and lose much where other processes run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def coarsely(monkeypatch):
    """Cameras are fitted, and parts moved, with fewer lines of sight and steps, for tests that need no accuracy."""
    from pipeline.project import align, fit

    coarse_fits(monkeypatch, fit)
    monkeypatch.setattr(align, "_STEPS", 10)


def coarse_fits(monkeypatch, fit):
    """Let a module pipeline.project.fit, of whichever package, fit cameras with little effort."""
    sides = {"_COARSE": (32, 1), "_FINE": (40, 1), "_FINEST": (64, 1)}
    steps = {"_AZIMUTHS": 12, "_STEPS": 14, "_FINE_STEPS": 40, "_LAST_STEPS": 16}
    for name, value in {**sides, **steps}.items():
        monkeypatch.setattr(fit, name, value)


@pytest.fixture(scope="module")
def small_views():
    """Runs draw the views of a result with an eighth of their side, for tests that are not about what they show."""
    from pipeline import stages
    from pipeline.stages.finishing import finish

    small = partial(stages.draw, size=64)
    with pytest.MonkeyPatch.context() as patch:
        for module in (stages, finish):
            patch.setattr(module, "draw", small)
        yield


@pytest.fixture
def checkpoint() -> Path:
    """The checkpoint of the golden runs, in the released layout; its weights are random."""
    return GOLDEN_CHECKPOINT


@pytest.fixture
def copy(checkpoint, tmp_path) -> Path:
    """A copy of that checkpoint, which may be damaged."""
    return shutil.copytree(checkpoint, tmp_path / "copy")


@pytest.fixture(scope="session")
def nested():
    """A ball within a ball, as one mesh."""
    from finish_meshes import nested

    return nested()


@pytest.fixture(scope="session")
def damaged():
    """A ball with the defects of generated meshes, and its voxels."""
    from finish_meshes import damaged

    return damaged()


@pytest.fixture(scope="session")
def rocket(tmp_path_factory) -> Path:
    """All that `generate` makes of the README's picture with the small checkpoint and the options of rocket_run.py."""
    from rocket_run import make

    return filled_once(tmp_path_factory, "rocket", make)


@pytest.fixture(scope="session")
def rocket_state(rocket) -> Path:
    """Its state, for tests of what comes after sampling."""
    return rocket / "rocket.safetensors"


@pytest.fixture(scope="session")
def encoders(tmp_path_factory) -> Path:
    """A checkpoint with encoders; its weights are random."""
    from tiny import tiny_checkpoint

    return tiny_checkpoint(tmp_path_factory.mktemp("encoders") / "tiny")


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


@pytest.fixture
def hub(checkpoint, tmp_path):
    """A hub on this machine that serves the checkpoint as acme/small; its environment, and the handler."""
    handler = type("Handler", (Hub,), {"folder": checkpoint, "breaks": set()})
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{running.server_address[1]}"
    yield {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}, handler
    running.shutdown()
    running.server_close()


@pytest.fixture(scope="session")
def validate(tmp_path_factory):
    """Khronos' validator from npm; returns its report on a GLB."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("node and npm are not installed, so Khronos' glTF validator cannot run")
    folder = tmp_path_factory.mktemp("validator")
    installed = subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), VALIDATOR],
        capture_output=True,
        text=True,
    )
    if installed.returncode:
        pytest.skip(f"npm could not install {VALIDATOR}: {installed.stderr.strip()[-200:]}")
    (folder / "validate.js").write_text(SCRIPT)

    def run(path):
        done = subprocess.run(
            ["node", str(folder / "validate.js"), str(path)], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    return run
