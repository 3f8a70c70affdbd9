"""From training runs to a checkpoint folder in the released layout: fp16 weights, JSON, pipeline.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from pipeline.models import build
from pipeline.spec import IMAGE_ENCODER, RELEASED_ENCODERS
from pipeline.weights import Models, open_checkpoint

from .encoders import ENCODER_TASKS
from .networks import Design
from .tasks import SHAPE_VAE, TASKS, TEXTURE_VAE, Weights

_ENCODER = "image_encoder"  # folder of the image encoder inside the checkpoint
_GUIDED = "FlowEulerGuidanceIntervalSampler"


def export(design: Design, weights: Weights, folder: Path) -> int:
    """Write the checkpoint and read it back strictly.

    Args:
        weights: name of a run -> what it has made (train.load_weights).

    Returns:
        Bytes of all files together.

    Raises:
        CheckpointError: a network's weights and its configuration do not fit.
    """
    (folder / "ckpts").mkdir(parents=True, exist_ok=True)
    (folder / _ENCODER).mkdir(exist_ok=True)
    made = {name: weights(name) for name in TASKS}
    for name, task in TASKS.items():
        for module, role in task.ships.items():
            own = {key[len(module) + 1 :]: value for key, value in made[name].items() if key.startswith(f"{module}.")}
            _write_model(folder, role, design.config(role), own)
    normalisations = {
        "shape_slat_normalization": _normalisation(made[SHAPE_VAE]),
        "tex_slat_normalization": _normalisation(made[TEXTURE_VAE]),
    }
    _write_json(folder / "pipeline.json", pipeline_json(design, normalisations))
    _write_json(folder / "texturing_pipeline.json", _texturing())
    models = Models(open_checkpoint(folder), build)
    for role in (*design.models, *RELEASED_ENCODERS):
        models.get(role, torch.device("cpu"))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def add_encoders(design: Design, weights: Weights, folder: Path) -> int:
    """Write the encoders of meshes into a checkpoint that has all else, and read them back strictly.

    Args, returns and raises: as export; of the weights only those of the encoders' own runs are asked for.
    """
    for name, task in ENCODER_TASKS.items():
        own = {key.removeprefix("encoder."): value for key, value in weights(name).items() if "encoder." in key}
        _write_model(folder, task.ships["encoder"], design.config(task.ships["encoder"]), own)
    _write_json(folder / "texturing_pipeline.json", _texturing())
    models = Models(open_checkpoint(folder), build)
    for role in RELEASED_ENCODERS:
        models.get(role, torch.device("cpu"))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _texturing() -> dict:
    """The second description: what meshes as input need beside pipeline.json."""
    models = {role: f"ckpts/{role}" for role in RELEASED_ENCODERS}
    return {"name": "Trellis2TexturingPipeline", "args": {"models": models}}


def _write_model(folder: Path, role: str, config: Mapping, tensors: Mapping[str, torch.Tensor]) -> None:
    tensors = {key: value.half().contiguous() for key, value in tensors.items()}
    if role == IMAGE_ENCODER:
        _write_json(folder / _ENCODER / "config.json", config["args"])
        save_file(tensors, folder / _ENCODER / "model.safetensors")
    else:
        _write_json(folder / "ckpts" / f"{role}.json", config)
        save_file(tensors, folder / "ckpts" / f"{role}.safetensors")


def _normalisation(made: Mapping[str, torch.Tensor]) -> dict[str, list[float]]:
    return {name: [round(v, 6) for v in made[f"statistics.{name}"].tolist()] for name in ("mean", "std")}


def pipeline_json(design: Design, normalisations: Mapping) -> dict:
    """What a checkpoint of this design has as pipeline.json. normalisations: its `*_slat_normalization` entries."""
    shipped = {role: f"ckpts/{role}" for role in design.models if role != IMAGE_ENCODER}
    samplers = {
        key: {"name": _GUIDED, "args": {"sigma_min": 1e-5}, "params": params} for key, params in design.samplers.items()
    }
    encoder = {"model_name": _ENCODER, "image_size": design.image_size}
    return {
        "name": "Trellis2ImageTo3DPipeline",
        "args": {
            "models": shipped,
            **samplers,
            **normalisations,
            "image_cond_model": {"name": "DinoV3FeatureExtractor", "args": encoder},
            "rembg_model": {"name": "BiRefNet", "args": {"model_name": "none"}},
            "default_pipeline_type": "512",
        },
    }


def _write_json(path: Path, value: Mapping) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
