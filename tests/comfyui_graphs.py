"""Small graphs for tests in a real ComfyUI."""

import json

from comfy_server import ROOT, Server, graph
from PIL import Image

INTERFACE = json.loads((ROOT / "tests" / "interface.json").read_text(encoding="utf-8"))


def save(server: Server, name: str, picture: Image.Image) -> str:
    picture.save(server.base / "input" / name)
    return name


def opaque(size=64):
    return Image.new("RGB", (size, size), (200, 30, 30))


def node(kind, **inputs):
    """A node with the defaults of the widgets that are not named."""
    defaults = {name: spec["default"] for name, spec in INTERFACE[kind]["inputs"].items() if "default" in spec}
    return {"class_type": kind, "inputs": defaults | inputs}


def quick(**changes):
    """Image to GLB as fast as it goes: the shape alone, of few faces."""
    return graph("image_to_glb", **{"n2_texture": False, "n2_faces": 2000, **changes})
