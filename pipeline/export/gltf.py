"""glTF 2.0 as readable JSON with its buffer (.bin) and its textures in files beside it."""

from __future__ import annotations

import json
from urllib.parse import quote, unquote

from .formats import Contents, Files, Format, joined, unspaced
from .gltf_document import Buffer, contents, document
from .scene import Scene

_IMAGES = ("base_color", "occlusion_roughness_metallic", "normal")


def render(scene: Scene, stem: str) -> Files:
    suffix, images = scene.material.image_format, {}

    def beside(buffer: Buffer, what: str, data: bytes) -> dict:
        name = joined(stem, f"{what}.{suffix}")
        images[name] = data
        return {"uri": quote(name)}

    root, buffer = document(scene, beside)
    root["buffers"][0]["uri"] = quote(f"{unspaced(stem)}.bin")
    text = json.dumps(root, indent=1, allow_nan=False).encode()
    return {f"{stem}.gltf": text, f"{unspaced(stem)}.bin": bytes(buffer.binary), **images}


def read(files: Files) -> Contents:
    root = json.loads(next(iter(files.values())))
    binary = files[unquote(root["buffers"][0]["uri"])]
    return contents(root, binary, lambda entry: files[unquote(entry["uri"])])


def _beside(stem: str, image_format: str) -> list[str]:
    return [f"{unspaced(stem)}.bin", *(joined(stem, f"{what}.{image_format}") for what in _IMAGES)]


FORMAT = Format(
    "glTF with .bin and textures beside it",
    render,
    read,
    y_up=True,
    unit=1.0,
    image_formats=("png", "webp"),
    lods=True,
    beside=_beside,
)
