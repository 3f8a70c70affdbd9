"""One model's files: its configuration, and its tensors checked and read strictly into a module."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import CheckpointError
from .damage import deleted
from .headers import header_text, read_header
from .text import parse

# Buffers that some checkpoints carry although they follow from the configuration, and an image
# upsampler that one repacked DINOv3 file holds beside the encoder.
_NOT_WEIGHTS = ("rope_phases",)
_NOT_OURS = ("naf.",)
# Number formats that hold no weights as they stand.
QUANTISED = frozenset({"BOOL", "U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64", "F4", "F6_E2M3", "F6_E3M2"})
QUANTISED |= {"F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}

Build = Callable[..., nn.Module]
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
        text, _ = header_text(self.path)
        header, first = parse(self.path, text), 8 + len(text)
        with open(self.path, "rb") as file:
            for key in sorted(key for key in header if key.startswith(self.prefix) and key != "__metadata__"):
                entry = header[key]
                begin, end = entry["data_offsets"]
                file.seek(first + max(begin, (begin + end) // 2 - _SAMPLE // 2))
                told = (key.removeprefix(self.prefix), entry["dtype"], entry["shape"])
                digest.update(repr(told).encode() + file.read(min(_SAMPLE, end - begin)))
        return digest.hexdigest()[:32]

    def verify(self, build: Build) -> None:
        """Check all that can be known without reading a weight: the configuration, the file's header and length, and
        that every tensor of the model is there with its shape. Takes a fraction of a second at any size.

        Args:
            build: models.build.

        Raises:
            CheckpointError: something is wrong; the text names the file, what it is and what to do.
        """
        self._keys(self._empty(build, None))

    def load(self, build: Build, device: torch.device, dtype: torch.dtype | None) -> nn.Module:
        """Build the module and fill it, each tensor read straight to its device and cast to its parameter's dtype.

        Args:
            build: models.build.
            dtype: torso dtype in place of the configuration's.

        Raises:
            CheckpointError: as verify.
        """
        module = self._empty(build, dtype)
        keys = self._keys(module)
        expected = module.state_dict()
        try:
            with safe_open(self.path, "pt", device=str(device)) as file:
                state = {key: file.get_tensor(stored).to(expected[key].dtype) for key, stored in keys.items()}
        except SafetensorError as error:  # changed since its header was read
            raise CheckpointError(f"{self.path} is damaged or truncated: {error}. {deleted(self.path)}.") from error
        module.load_state_dict(state, assign=True)
        return module.to(device).requires_grad_(False).eval()

    def _empty(self, build: Build, dtype: torch.dtype | None) -> nn.Module:
        try:
            with torch.device("meta"):
                return build(self.config, dtype)
        except CheckpointError as error:
            raise CheckpointError(f"The configuration of {self.path}: {error}") from error

    def _keys(self, module: nn.Module) -> dict[str, str]:
        """The module's keys -> those in the file; every one is there, and no other."""
        expected = module.state_dict()
        header = read_header(self.path)
        found = {
            key.removeprefix(self.prefix): key
            for key in header.shapes
            if key.startswith(self.prefix) and not key.endswith(_NOT_WEIGHTS) and not key.startswith(_NOT_OURS)
        }
        problems = [
            *(f"missing {key}" for key in expected if key not in found),
            *(f"unexpected {key[:100]}" for key in found if key not in expected),
            *(
                f"{key} has shape {list(header.shapes[found[key]])} instead of {list(tensor.shape)}"
                for key, tensor in expected.items()
                if key in found and header.shapes[found[key]] != tuple(tensor.shape)
            ),
            *(
                f"{key} is {header.dtypes[found[key]]}, which is quantised"
                for key in expected
                if key in found and header.dtypes[found[key]] in QUANTISED
            ),
        ]
        if problems:
            shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
            inside = f" under {self.prefix!r}" if self.prefix else ""
            raise CheckpointError(
                f"{self.path}{inside} does not fit {self.config['name']}: {shown}. "
                "The weights and the configuration beside them belong to different models; download both again."
            )
        return found
