"""Pipes where files are read: refused at once, since opening one waits for its other end."""

import json
import os
import threading

import numpy as np
import pytest

from pipeline.beginnings import irregular
from pipeline.errors import PipelineError
from pipeline.export.read import read_mesh
from pipeline.export.state import StateFile
from pipeline.image import read_picture
from pipeline.mesh.io import read_scene
from pipeline.render import read_environment

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")

PATIENCE = 10  # seconds; reading a pipe that nobody writes never ends


def ended(read, path):
    """The error of reading a path, in a thread that may wait for ever."""
    found = []

    def run():
        try:
            found.append(read(path))
        except PipelineError as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert found, f"{read.__name__} waits for {path.name}"
    return found[0]


@pytest.mark.parametrize(
    ("read", "name"),
    [
        *((read_mesh, name) for name in ("a.obj", "a.glb", "a.3mf", "a.off")),
        *((read_scene, name) for name in ("a.obj", "a.gltf")),
        *((read_environment, name) for name in ("a.hdr", "a.exr", "a.png")),
        *((read_picture, "a.png"), (StateFile, "a.safetensors")),
    ],
)
def test_a_pipe_is_not_waited_for(read, name, tmp_path):
    os.mkfifo(tmp_path / name)
    error = ended(read, tmp_path / name)
    assert isinstance(error, PipelineError)
    assert str(error).startswith(f"{tmp_path / name} is ")


@pytest.mark.parametrize("read", [read_mesh, read_scene])
def test_a_pipe_that_another_file_names_is_not_waited_for(read, tmp_path):
    size = 36  # bytes of a triangle
    root = {"asset": {"version": "2.0"}, "buffers": [{"uri": "a.bin", "byteLength": size}]}
    root["bufferViews"] = [{"buffer": 0, "byteLength": size}]
    root["accessors"] = [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}]
    root["meshes"] = [{"primitives": [{"attributes": {"POSITION": 0}}]}]
    root |= {"nodes": [{"mesh": 0}], "scenes": [{"nodes": [0]}], "scene": 0}
    (tmp_path / "a.gltf").write_text(json.dumps(root))
    (tmp_path / "a.bin").write_bytes(np.eye(3, dtype=np.float32).tobytes())
    assert not isinstance(ended(read, tmp_path / "a.gltf"), PipelineError)
    (tmp_path / "a.bin").unlink()
    os.mkfifo(tmp_path / "a.bin")
    error = ended(read, tmp_path / "a.gltf")
    assert isinstance(error, PipelineError) and "pipe" in str(error)


def test_files_and_what_is_missing_are_not_irregular(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "link").symlink_to("a")
    assert [irregular(tmp_path / name) for name in ("a", "link", "absent")] == ["", "", ""]
    assert irregular(tmp_path) == "a folder"
