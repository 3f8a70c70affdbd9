"""Put a GLB of the unit cube where a scene lies: by its nodes, so that vertices lose nothing far from the origin."""

from __future__ import annotations

from pathlib import Path

from ..mesh.io import Frame, Gltf
from ..mesh.io.scene import SIDE
from .files import writing


def place_glb(path: Path, frame: Frame) -> None:
    """Scale and move the root nodes of a GLB that was written from the unit cube, whole or not at all."""
    document = Gltf.open(path)
    nodes = document.list("nodes")
    for number in document.list("scenes")[0]["nodes"]:
        nodes[number] |= {"scale": [frame.longest / SIDE] * 3, "translation": list(frame.centre)}
        for level in nodes[number].get("extensions", {}).get("MSFT_lod", {}).get("ids", ()):
            nodes[level] |= {key: nodes[number][key] for key in ("scale", "translation")}
    with writing(path) as temporary:
        temporary.write_bytes(document.glb())
