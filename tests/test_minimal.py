"""Machines on which optional packages are missing: processes of their own in which they cannot be imported."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import trimesh
from hidden import environment_without

# what pip has no wheel for on some machine; what only the tests need; what our users may have and we never need
WITHOUT_WHEELS = ("warp", "xatlas", "triton")
TESTS_ONLY = ("trimesh", "pytest", "selenium", "websocket", "transformers")
SLOW = ("sympy",)  # which torch._dynamo needs: its import takes seconds, and no run may wait for it
NOT_OURS = ("rembg", "onnxruntime", "gguf", "numba", "cv2", "timm")
CALLS = """
import json, sys
from pipeline.__main__ import main
for arguments in json.loads(sys.argv[1]):
    print("code", main(arguments), file=sys.stderr)
"""


@pytest.fixture
def without(tmp_path):
    """The environment in which the packages named are not installed."""

    def hide(*packages):
        folder = tmp_path / "hidden"
        folder.mkdir()
        return environment_without(folder, *packages)

    return hide


def test_what_is_hidden_is_hidden(without):
    """From a process and from its children, and nothing else is."""
    tried = "import importlib.util, subprocess, sys\nassert importlib.util.find_spec('xatlas') is None\nimport numpy\n"
    tried += "child = subprocess.run([sys.executable, '-c', 'import xatlas'], capture_output=True, text=True)\n"
    tried += "assert 'ModuleNotFoundError' in child.stderr"
    environment = {**os.environ, **without("xatlas")}
    done = subprocess.run([sys.executable, "-c", tried], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_glb_without_warp_and_xatlas(cli, root, tmp_path, without):
    """And without anything else that pip does not bring everywhere: textured, said to be coarse, and wound well."""
    glb, report = tmp_path / "rocket.glb", tmp_path / "report.json"
    options = ("--output", glb, "--texture-size", 256, "--faces", 10_000, "--report", report)
    options += ("--structure-steps", 4, "--shape-steps", 4, "--texture-steps", 2)
    hidden = without(*WITHOUT_WHEELS, *TESTS_ONLY, *NOT_OURS, *SLOW)
    done = cli("generate", root / "assets" / "rocket.png", *options, environment=hidden)
    assert done.returncode == 0, done.stderr
    (mesh,) = trimesh.load(glb, process=False).geometry.values()
    assert len(mesh.vertices) == 3 * len(mesh.faces) and "Unwrapped triangle by triangle" in done.stdout
    assert np.asarray(mesh.visual.material.baseColorTexture).std() > 10
    facts = json.loads(report.read_text())
    assert {facts["backends"][op] for op in ("clean", "raster", "nearest", "trilinear")} == {"torch"}
    assert (facts["backends"]["simplify"], facts["backends"]["unwrap"]) == ("fast-simplification", "triangles")
    assert "Inner shells stay: warp is not installed" in facts["warnings"][0]
    assert 0 < facts["mesh"]["inconsistent_edges"] < 250  # 77; after 12 steps 147, or 2,044 as faces come


@pytest.mark.parametrize(
    ("hidden", "refused"),
    [
        (
            ["warp"],
            {
                "--shells solid": "A solid mesh needs Warp: warp is not installed",
                "--normal-map": "Normal maps and occlusion need Warp: warp is not installed",
                "--picture views.png": "Pictures of the result need Warp: warp is not installed",
                "--backend unwrap=warp": "'unwrap' cannot be used on cpu: warp is not installed",
            },
        ),
        (
            ["warp", "fast_simplification"],
            {
                "--faces 1000": "fast_simplification is not installed; pip install fast-simplification",
                "--backend simplify=hybrid": "'hybrid' of 'simplify' cannot be used on cpu: warp is not installed",
            },
        ),
    ],
)
def test_what_is_missing_is_said_before_the_first_stage(root, tmp_path, without, hidden, refused):
    glb = tmp_path / "rocket.glb"
    calls = [f"generate assets/rocket.png --device cpu --output {glb} {options}".split() for options in refused]
    done = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps(calls)],
        cwd=root,
        env={**os.environ, **without(*hidden)},
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stderr.splitlines() if line]
    assert lines[1::2] == ["code 1"] * len(refused), done.stderr  # nothing else was said, no stage has begun
    for line, message in zip(lines[::2], refused.values()):
        assert message in line
    assert not glb.exists()
