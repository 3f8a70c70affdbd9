"""The image encoder: DINOv3 as a folder, a single file with or without config.json, or a hub repository."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..errors import CheckpointError
from ..spec import IMAGE_ENCODER
from .bundle import bundled_models, bundled_roles
from .files import ModelFiles
from .hub import fetch, is_repo_id
from .places import is_file, is_folder, present
from .text import read_json

ENCODER = "DinoV3FeatureExtractor"
# Folders in which people have the released encoder, beside or above a checkpoint's.
_NEAR = (
    "facebook/dinov3-vitl16-pretrain-lvd1689m",
    "dinov3-vitl16-pretrain-lvd1689m",
    "dinov3",
    "Dinov3",
    "DINOv3",
    "Vision",
    "clip_vision",
)
_NAME = (
    "Name a folder with config.json and model.safetensors, or a safetensors file with all of its weights, such as "
    "clip_vision/dino_v3_vit_l.safetensors of Comfy-Org/TRELLIS.2."
)
_MOST = 100  # files of such a folder that are looked into


def encoder_of(name: str, on_download=None) -> ModelFiles:
    """The encoder that a user or a checkpoint names.

    Args:
        name: a folder, its config.json or model.safetensors, a safetensors file or a hub repository.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(name)
    if present(path):
        beside = is_file(path.parent / "config.json") and path.name in ("config.json", "model.safetensors")
        if is_folder(path) or beside:
            return _in_folder(path.parent if beside else path)
        return _in_file(path)
    if is_repo_id(name):

        def file(inside: str) -> Path:
            return fetch(name, inside, partial(on_download, inside) if on_download else None)

        return ModelFiles({"name": ENCODER, "args": read_json(file("config.json"))}, file("model.safetensors"))
    raise CheckpointError(
        f"The image encoder {name!r} is neither a folder, nor a safetensors file, nor a Hugging Face repository. "
        "Name one in place of the checkpoint's."
    )


def nearby_encoder(home: Path) -> ModelFiles | None:
    """The encoder in one of the folders where people have it: inside a checkpoint's folder, beside it, or beside the
    folder above."""
    home = home.absolute()
    for above in (home, home.parent, home.parent.parent):
        for name in _NEAR:
            folder = above / name
            if is_folder(folder) and (found := _found(folder)):
                return found
    return None


def _found(folder: Path) -> ModelFiles | None:
    try:
        found = _in_folder(folder)
    except CheckpointError:  # a folder of that name with something else
        return None
    return found if is_file(found.path) else None


def _in_folder(folder: Path) -> ModelFiles:
    """With a config.json the model.safetensors beside it, else the first file that holds an encoder."""
    config, weights = folder / "config.json", folder / "model.safetensors"
    if is_file(config):
        return ModelFiles({"name": ENCODER, "args": read_json(config)}, weights)
    for path in [weights, *sorted(folder.glob("*.safetensors"))[:_MOST]]:
        if is_file(path) and _holds_one(path):
            return _in_file(path)
    raise CheckpointError(
        f"{folder} holds no DINOv3 image encoder: neither config.json nor a file with its keys. {_NAME}"
    )


def _holds_one(path: Path) -> bool:
    try:
        return IMAGE_ENCODER in bundled_roles(path)
    except CheckpointError:
        return False


def _in_file(path: Path) -> ModelFiles:
    models = bundled_models(path)
    if IMAGE_ENCODER not in models:
        raise CheckpointError(f"{path} holds no DINOv3 image encoder. {_NAME}")
    return models[IMAGE_ENCODER]
