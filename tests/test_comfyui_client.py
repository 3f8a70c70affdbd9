"""The client of the API graphs against a real ComfyUI."""

import re
import shutil
import subprocess
import sys

import pytest
from comfy_server import GRAPHS, ROOT, needs_comfyui

pytestmark = needs_comfyui


WRONG_CALLS = {
    "no server": (
        ["{graph}", "{picture}", "{output}", "--server", "127.0.0.1:9"],
        1,
        "No ComfyUI answers at 127.0.0.1:9",
    ),
    "no graph": (["{folder}/no.json", "{picture}", "{output}"], 2, "The graph .*no.json cannot be read"),
    "no JSON": (["{picture}", "{picture}", "{output}"], 2, "is no graph"),
    "an editor graph": (["{editor}", "{picture}", "{output}"], 2, "editor's format.* Use .*api.image_to_glb.json"),
    "no picture": (["{graph}", "{folder}/no.png", "{output}"], 2, "There is no picture .*no.png"),
    "no folder": (["{graph}", "{picture}", "{folder}/no/x.glb"], 2, "The folder .*no does not exist"),
    "a folder as output": (["{graph}", "{picture}", "{folder}"], 2, "is a folder; name a file"),
    "no such node": (["{graph}", "{picture}", "{output}", "--set", "9.seed=7"], 2, "no node 9. It has 1 .LoadImage"),
    "no equals sign": (["{graph}", "{picture}", "{output}", "--set", "2.seed"], 2, "write NODE.INPUT=VALUE"),
    "no such input": (["{graph}", "{picture}", "{output}", "--set", "2.sed=7"], 2, "no such input. It has image, "),
    "no JSON value": (
        ["{graph}", "{picture}", "{output}", "--set", "2.texture=False"],
        2,
        "is BOOLEAN; write a JSON value",
    ),
    "no such choice": (["{graph}", "{picture}", "{output}", "--set", "2.preset=low"], 1, "preset: 'low' not in"),
}


@pytest.mark.parametrize("case", WRONG_CALLS)
def test_the_client_explains_wrong_calls(server, tmp_path, case):
    arguments, code, message = WRONG_CALLS[case]
    places = {
        "graph": GRAPHS / "image_to_glb.json",
        "editor": ROOT / "workflows" / "image_to_glb.json",
        "picture": ROOT / "assets" / "rocket.png",
        "output": tmp_path / "x.glb",
        "folder": tmp_path,
    }
    command = [sys.executable, GRAPHS / "run.py", *(each.format(**places) for each in arguments)]
    command += [] if "--server" in command else ["--server", f"http://{server.client.server}/"]
    queued = len(server.get("/history"))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code and re.search(message, done.stderr) and "Traceback" not in done.stderr, done.stderr
    assert len(server.get("/history")) == queued and not (tmp_path / "x.glb").exists()


def test_the_client_gets_the_model_every_time(server, tmp_path):
    for name in ("a.glb", "b.glb"):
        command = [sys.executable, GRAPHS / "run.py", GRAPHS / "image_to_glb.json", ROOT / "assets" / "rocket.png"]
        command += [
            tmp_path / name,
            "--server",
            server.client.server,
            "--set",
            "2.preset=draft",
            "--set",
            "2.faces=2000",
        ]
        done = subprocess.run([*command, "--set", "2.texture=false"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.glb").read_bytes() == (tmp_path / "b.glb").read_bytes() != b""


def test_the_client_makes_an_object_of_each_picture_of_a_folder(server, tmp_path):
    """One that is none is told and skipped, and what is there is not made again."""
    (tmp_path / "in").mkdir()
    for name in ("a.png", "a.PNG", "b.png"):
        shutil.copy(ROOT / "assets" / "rocket.png", tmp_path / "in" / name)
    (tmp_path / "in" / "b.png").write_text("no picture")
    command = [sys.executable, GRAPHS / "run.py", GRAPHS / "image_to_glb.json", tmp_path / "in", tmp_path / "out"]
    command += ["--server", server.client.server, "--set", "2.preset=draft", "--set", "2.texture=false"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "b.png: LoadImage (1): " in done.stderr, done.stderr
    assert "1 of 3 pictures failed" in done.stderr and "Traceback" not in done.stderr
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert sorted(path.name for path in made) == ["a_PNG.glb", "a_png.glb"]
    shutil.copy(tmp_path / "in" / "a.png", tmp_path / "in" / "b.png")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "a.png" not in done.stderr and (tmp_path / "out" / "b.glb").exists(), done.stderr
    assert all(path.stat().st_mtime_ns == changed for path, changed in made.items())
