"""A real ComfyUI with the pack in it, for the tests that need one. COMFYUI_PATH names the checkout."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).resolve().parent.parent
GRAPHS = ROOT / "workflows" / "api"
COMFYUI = os.environ.get("COMFYUI_PATH")
needs_comfyui = pytest.mark.skipif(
    not COMFYUI, reason="COMFYUI_PATH names no checkout of ComfyUI whose requirements this Python has"
)
OTHER_PACK = {
    "__init__.py": "from .nodes import NODE_CLASS_MAPPINGS\n",
    "nodes/__init__.py": (
        "from ..pipeline import VALUE\n\n\nclass Other:\n    RETURN_TYPES = ('INT',)\n    FUNCTION = 'go'\n"
        "    CATEGORY = 'other'\n\n    @classmethod\n    def INPUT_TYPES(cls):\n        return {'required': {}}\n\n"
        "    def go(self):\n        return (VALUE,)\n\n\n"
        "class Text(Other):\n    RETURN_TYPES = ('*',)\n\n    @classmethod\n    def INPUT_TYPES(cls):\n"
        "        return {'required': {'text': ('STRING', {})}}\n\n    def go(self, text):\n        return (text,)\n\n\n"
        "NODE_CLASS_MAPPINGS = {'OtherNode': Other, 'OtherText': Text}\n"
    ),
    "pipeline/__init__.py": "VALUE = 7\n",
}


# In place of ComfyUI's background removal model, which is too large to come along: the corner's colour is background.
MATTE = """
import nodes


class Matte:
    def encode_image(self, image):
        return ((image[..., :3] - image[:, :1, :1, :3]).abs().amax(-1) > 0.05).float()


loader = nodes.NODE_CLASS_MAPPINGS.get("LoadBackgroundRemovalModel")
if loader:
    loader.execute.__func__.__globals__["load"] = lambda path: Matte()
NODE_CLASS_MAPPINGS = {}
"""


def stand_in_matte(base: Path) -> None:
    """Let ComfyUI's Remove Background work without its model."""
    for path, text in (("custom_nodes/matte.py", MATTE), ("models/background_removal/birefnet.safetensors", "")):
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_text(text)


@cache
def api():
    """The client that the README shows."""
    spec = spec_from_file_location("trellis2_api_client", GRAPHS / "run.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Server:
    """A ComfyUI on a free port, with the pack and another one that has rooms of the same names.

    Without api_nodes no node of it asks another machine, but pages that it serves may not read blob: URLs. cpu: whether
    it leaves a GPU alone.
    """

    def __init__(
        self, base: Path, *flags: str, environment: dict | None = None, api_nodes: bool = False, cpu: bool = True
    ) -> None:
        packs = base / "custom_nodes"
        if not packs.exists():
            packs.mkdir(parents=True)
            (packs / "ComfyUI TRELLIS2-Stages").symlink_to(ROOT, target_is_directory=True)
            for name, text in OTHER_PACK.items():
                (packs / "aaa_other" / name).parent.mkdir(parents=True, exist_ok=True)
                (packs / "aaa_other" / name).write_text(text)
            stand_in_matte(base)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.base, self.log = base, base / f"log-{port}.txt"
        command = [
            sys.executable,
            str(Path(COMFYUI) / "main.py"),
            "--listen",
            "127.0.0.1",
            *(("--cpu",) if cpu else ()),
        ]
        command += ["--port", str(port), "--disable-auto-launch", "--base-directory", str(base), "--log-stdout", *flags]
        command += [] if api_nodes else ["--disable-api-nodes"]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                command, cwd=base, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
            )
        self.client = api().Client(f"127.0.0.1:{port}")
        limit = time.monotonic() + 180
        while True:
            try:
                self.get("/system_stats")
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() > limit:
                    pytest.fail(f"ComfyUI did not start:\n{self.log.read_text()[-3000:]}")
                time.sleep(0.3)

    def get(self, path: str):
        with urlopen(f"http://{self.client.server}{path}", timeout=60) as answer:
            return json.loads(answer.read())

    def run(self, graph: dict) -> "Run":
        events = []
        outputs = self.client.run(graph, lambda kind, data: events.append((kind, data)))
        return Run(self, outputs, events)

    def accepts(self, graph: dict) -> None:
        """Have a graph queued in which nothing is wrong, and take it back."""
        answer = self.client._json("/prompt", json.dumps({"prompt": graph}).encode())
        self.client._send("/queue", json.dumps({"delete": [answer["prompt_id"]]}).encode())
        self.client.interrupt()
        assert not answer["node_errors"]
        while any(self.get("/queue").values()):
            time.sleep(0.2)

    def said(self) -> str:
        """The log so far."""
        return self.log.read_text()

    def forget(self) -> None:
        """Empty the cache of results."""
        self.client._send("/free", b'{"unload_models": true, "free_memory": true}')
        time.sleep(1.5)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Run:
    """What a finished run gave."""

    def __init__(self, server: Server, outputs: dict, events: list) -> None:
        self.outputs, self.events = outputs, events
        self.glbs = [server.client.fetch(file) for file in api().glb_files(outputs)]

    def cached(self) -> set[str]:
        return {node for kind, data in self.events if kind == "execution_cached" for node in data["nodes"]}

    def executed(self) -> set[str]:
        return {data["node"] for kind, data in self.events if kind == "executing" and data["node"]}


def graph(name: str, **changes) -> dict:
    """A shipped graph in API form; changes are {"n<node>_<input>": value}."""
    loaded = json.loads((GRAPHS / f"{name}.json").read_text(encoding="utf-8"))
    for place, value in changes.items():
        node, key = place.removeprefix("n").split("_", 1)
        loaded[node]["inputs"][key] = value
    return loaded


def needs(server: Server, loaded: dict) -> None:
    """Skip if this ComfyUI lacks one of its own nodes that a graph uses."""
    missing = {node["class_type"] for node in loaded.values()} - set(server.get("/object_info"))
    if missing and not any(name.startswith("T2") for name in missing):
        pytest.skip(f"this ComfyUI has no {', '.join(sorted(missing))}")


def facts(glb: bytes) -> dict:
    """asset.extras of a GLB."""
    length = struct.unpack_from("<I", glb, 12)[0]
    return json.loads(glb[20 : 20 + length])["asset"]["extras"]
