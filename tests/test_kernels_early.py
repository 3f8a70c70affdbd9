"""Warp's kernels of a run are compiled beside its samplers: the rows that preflight tries load all of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import stages
from pipeline.backends import Backends
from pipeline.make import TextureSettings
from pipeline.mesh import MESH_TO_DUAL_GRID, NEAREST, RASTER, UNWRAP
from pipeline.spec import PIPELINE_TYPES
from pipeline.weights import SMALL_CHECKPOINT, open_checkpoint

pytest.importorskip("warp", reason="Warp is not installed")

ROOT = Path(__file__).parents[1]

# In a process of its own, as a process loads a module once. Simplifies by kernels, as CUDA does.
SCRIPT = """
import json, sys, tempfile, threading
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import torch

from pipeline import stages
from pipeline.bench.mesh import _raw
from pipeline.runtime import Runtime
from pipeline.warp import launch

loaded, late, real = set(), {}, launch.load


def load(module, device):
    if module.name not in loaded:
        loaded.add(module.name)
        late.setdefault(case, []).append(module.name) if threading.current_thread() is threading.main_thread() else None
    return real(module, device)


launch.load = load
device = torch.device("cpu")
raw, voxels = _raw(24, device)
for case, export in {"usual": {}, "all": {"shells": "auto", "normal_map": True, "occlusion": True}}.items():
    export, backends = stages.ExportSettings(**export), stages.default_backends({"simplify": "warp-cpu"})
    stages.check_finish(export, backends=backends, device=device)
    for thread in threading.enumerate():
        if thread.name == "trellis2 prepare":
            thread.join()
    backends.raise_found()
    runtime = Runtime(device, backends, torch.float32)
    mesh = stages.process_mesh(runtime, raw, 1500, shells=export.shells, resolution=64)
    maps = {"normal_map": export.normal_map, "occlusion": export.occlusion}
    textured = stages.bake_texture(runtime, mesh, voxels, 128, original=raw, **maps)
    with tempfile.TemporaryDirectory() as folder:
        stages.export_mesh(runtime, textured, Path(folder, "a.glb"), export, {})
print(json.dumps({"loaded": sorted(loaded), "late": late}))
"""


def test_no_kernels_are_compiled_behind_the_samplers():
    """Faces that cross, which a decoded mesh has and a ball has not, had their kernels compiled in the run."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(ROOT)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "trellis2_flip_kernels" in found["loaded"] and "trellis2_unwrap_kernels" in found["loaded"]
    assert found["late"] == {}


class Prepared(Backends):
    """A table that tells what is to be tried and tries nothing."""

    def prepare(self, ops, device="cpu", workers=1):
        self.asked = list(ops)


@pytest.mark.parametrize(("uvs", "unwraps"), [("keep", False), ("new", True), ("fill", True)])
def test_texturing_a_mesh_prepares_what_it_runs(uvs, unwraps):
    """Encoding first, then baking, which had its kernels compiled behind the sampler."""
    backends = Prepared(stages.table().operations.values())
    settings = TextureSettings(pipeline_type=PIPELINE_TYPES["512"], uvs=uvs)
    settings.check(open_checkpoint(SMALL_CHECKPOINT), backends=backends, device="cpu")
    assert backends.asked[0] == MESH_TO_DUAL_GRID and {RASTER, NEAREST} < set(backends.asked)
    assert (UNWRAP in backends.asked) == unwraps
