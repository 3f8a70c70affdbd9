"""One model's files: its configuration, and its tensors read strictly into a module."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import CheckpointError

# Buffers that some checkpoints carry although they follow from the configuration, and an image
# upsampler that one repacked DINOv3 file holds beside the encoder.
_NOT_WEIGHTS = ("rope_phases",)
_NOT_OURS = ("naf.",)
_SAMPLE = 64  # bytes of each tensor that tell it from another


@dataclass(frozen=True)
class ModelFiles:
    """A model in one safetensors file: every key, or those that begin with `prefix` (which is cut off)."""

    config: Mapping  # {"name", "args"}
    path: Path
    prefix: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """Tells networks apart without reading them whole: configuration, names, shapes and types of the tensors, and
        a few bytes from the middle of each. The same wherever the files lie.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True, default=str).encode())
        with open_tensors(self.path):  # for its errors
            pass
        with open(self.path, "rb") as file:
            first = 8 + int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(first - 8))
            for key in sorted(key for key in header if key.startswith(self.prefix) and key != "__metadata__"):
                entry = header[key]
                begin, end = entry["data_offsets"]
                file.seek(first + max(begin, (begin + end) // 2 - _SAMPLE // 2))
                told = (key.removeprefix(self.prefix), entry["dtype"], entry["shape"])
                digest.update(repr(told).encode() + file.read(min(_SAMPLE, end - begin)))
        return digest.hexdigest()[:32]

    def load(self, build: Callable[..., nn.Module], device: torch.device, dtype: torch.dtype | None) -> nn.Module:
        """Build the module and fill it, each tensor read straight to its device and cast to its parameter's dtype.

        Args:
            build: models.build.
            dtype: torso dtype in place of the configuration's.

        Raises:
            CheckpointError: a key is missing, unexpected or of another shape; the file is damaged.
        """
        with torch.device("meta"):
            module = build(self.config, dtype)
        expected = module.state_dict()
        with open_tensors(self.path, device) as file:
            keys = {
                key.removeprefix(self.prefix): key
                for key in file.keys()
                if key.startswith(self.prefix) and not key.endswith(_NOT_WEIGHTS) and not key.startswith(_NOT_OURS)
            }
            self._compare(keys, expected, lambda key: tuple(file.get_slice(keys[key]).get_shape()))
            state = {key: file.get_tensor(stored).to(expected[key].dtype) for key, stored in keys.items()}
        module.load_state_dict(state, assign=True)
        return module.to(device).requires_grad_(False).eval()

    def _compare(self, found: Iterable[str], expected: Mapping[str, torch.Tensor], shape_of: Callable) -> None:
        problems = [
            *(f"missing {key}" for key in expected if key not in found),
            *(f"unexpected {key}" for key in found if key not in expected),
            *(
                f"{key} has shape {list(shape_of(key))} instead of {list(expected[key].shape)}"
                for key in found
                if key in expected and shape_of(key) != tuple(expected[key].shape)
            ),
        ]
        if problems:
            shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
            inside = f" under {self.prefix!r}" if self.prefix else ""
            raise CheckpointError(
                f"{self.path}{inside} does not fit {self.config['name']}: {shown}. "
                "The weights and the configuration beside them belong to different models; download both again."
            )


def open_tensors(path: Path, device: torch.device | str = "cpu"):
    """safe_open with errors that name the cause and the cure."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist. Download it again, or name the complete folder.")
    try:
        return safe_open(path, "pt", device=str(device))
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) is damaged or truncated: {error}. Delete it and download it again."
        ) from error


def read_json(path: Path) -> dict:
    """A JSON object from a file, with errors that name the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist. Download it again, or name the complete folder.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}. Delete it and download it again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__} instead of a JSON object.")
    return value
