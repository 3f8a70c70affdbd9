"""One model's files: its configuration, and its tensors checked and read strictly into a module."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from ..errors import CheckpointError
from .ahead import read_ahead
from .contents import Contents, open_tensors, read_contents

# Buffers that some checkpoints carry although they follow from the configuration, and an image
# upsampler that one repacked DINOv3 file holds beside the encoder.
_NOT_WEIGHTS = ("rope_phases",)
_NOT_OURS = ("naf.",)

Build = Callable[..., nn.Module]
_SAMPLE = 64  # bytes of each tensor that enter the fingerprint


@dataclass(frozen=True)
class ModelFiles:
    """A model in one safetensors or GGUF file: every key, or those that begin with `prefix` (which is cut off)."""

    config: Mapping  # {"name", "args"}
    path: Path
    prefix: str = ""

    @property
    def contents(self) -> Contents:
        """The contents of its file. Raises CheckpointError if it is missing or damaged."""
        return read_contents(self.path)

    @cached_property
    def fingerprint(self) -> str:
        """Tells networks apart without reading them whole: configuration, names, shapes and types of the tensors, and
        a few bytes from the middle of each. The same wherever the files lie.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True, default=str).encode())
        header = self.contents.header
        with open(self.path, "rb") as file:
            for key in sorted(key for key in header.shapes if key.startswith(self.prefix)):
                begin, end = header.spans[key]
                file.seek(max(begin, (begin + end) // 2 - _SAMPLE // 2))
                entry = (key.removeprefix(self.prefix), header.dtypes[key], list(header.shapes[key]))
                digest.update(repr(entry).encode() + file.read(min(_SAMPLE, end - begin)))
        return digest.hexdigest()[:32]

    @property
    def precision(self) -> str:
        """The number format of most of its weights, e.g. "bf16", "int8", "Q4_K"; raises as contents."""
        contents = self.contents
        return contents.precision(self._own(contents))

    @property
    def size(self) -> int:
        """Bytes of its weights in the file; raises as contents."""
        contents = self.contents
        return contents.size(self._own(contents))

    def _own(self, contents: Contents) -> list[str]:
        """The keys of its weights in the file."""
        return [
            key
            for key in contents.shapes
            if key.startswith(self.prefix) and not key.endswith(_NOT_WEIGHTS) and not key.startswith(_NOT_OURS)
        ]

    def surveyed(self, build: Build | None) -> tuple[str, int]:
        """Its precision and its bytes of weights, once it is checked, all by one reading of the header.

        Args:
            build: models.build, to check what `verify` does; None: that the file is whole and its formats are read.

        Raises:
            CheckpointError: as verify.
        """
        contents = self.contents
        own = self._own(contents)
        if build is None:
            self._refuse(contents, own)
        else:
            self._keys(self._empty(build, None), contents)
        return contents.precision(own), contents.size(own)

    def verify(self, build: Build) -> None:
        """Check all that can be known without reading a weight: the configuration, the file's header and length, and
        that every tensor of the model is there with its shape. Takes a fraction of a second at any size.

        Args:
            build: models.build.

        Raises:
            CheckpointError: something is wrong; the text names the file, what it is and what to do.
        """
        self._keys(self._empty(build, None), self.contents)

    def load(self, build: Build, device: torch.device, dtype: torch.dtype | None) -> nn.Module:
        """Build the module and fill it, each tensor read straight to its device and cast to its parameter's dtype.

        Args:
            build: models.build.
            dtype: torso dtype in place of the configuration's.

        Raises:
            CheckpointError: as verify.
        """
        contents = self.contents
        module, keys = self._outline(build, dtype, contents)
        expected, state = module.state_dict(), {}
        with open_tensors(contents, device) as tensors:
            for key, stored in keys.items():
                if f"{key}_scale" in expected:
                    state[f"{key}_scale"] = tensors.scale(stored)
                if expected[key].is_floating_point():
                    state[key] = tensors.dense(stored, expected[key].dtype)
                else:  # the layer takes packed weights
                    state[key] = tensors.stored(stored)
        module.load_state_dict(state, assign=True)
        return module.to(device).requires_grad_(False).eval()

    def outline(self, build: Build, dtype: torch.dtype | None) -> nn.Module:
        """The module as `load` fills it, on "meta": so that it can be measured. Arguments and errors as load."""
        return self._outline(build, dtype, self.contents)[0]

    def _outline(self, build: Build, dtype: torch.dtype | None, contents: Contents) -> tuple[nn.Module, dict[str, str]]:
        """The module on "meta", and its keys -> those in the file."""
        module = self._empty(build, dtype)
        keys = self._keys(module, contents)
        packings = {
            key.removesuffix(".weight"): contents.packings[stored]
            for key, stored in keys.items()
            if stored in contents.packings and key.endswith(".weight")
        }
        return (self._empty(build, dtype, packings) if packings else module), keys

    def read_ahead(self) -> threading.Thread | None:
        """Have its part of the file read into the system's cache, in a thread, if memory allows; see ahead.py."""
        header = self.contents.header
        spans = [span for key, span in header.spans.items() if key.startswith(self.prefix)]
        return read_ahead(self.path, min(begin for begin, _ in spans), max(end for _, end in spans)) if spans else None

    def _empty(self, build: Build, dtype: torch.dtype | None, packings: Mapping | None = None) -> nn.Module:
        try:
            with torch.device("meta"):
                return build(self.config, dtype, packings) if packings else build(self.config, dtype)
        except CheckpointError as error:
            raise CheckpointError(f"The configuration of {self.path}: {error}") from error

    def _keys(self, module: nn.Module, contents: Contents) -> dict[str, str]:
        """The module's keys -> those in the file; every one is there, and no other."""
        expected = module.state_dict()
        found = {key.removeprefix(self.prefix): key for key in self._own(contents)}
        self._refuse(contents, found.values())
        if contents.header.architecture and not set(found) & set(expected):
            raise CheckpointError(
                f"{self.path} is a GGUF file of the architecture {contents.header.architecture!r} and holds nothing of "
                f"{self.config['name']}. Take the GGUF file of TRELLIS.2's network."
            )
        problems = [
            *(f"missing {key}" for key in expected if key not in found),
            *(f"unexpected {key[:100]}" for key in found if key not in expected),
            *(
                f"{key} has shape {list(contents.shapes[found[key]])} instead of {list(tensor.shape)}"
                for key, tensor in expected.items()
                if key in found and contents.shapes[found[key]] != tuple(tensor.shape)
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

    def _refuse(self, contents: Contents, keys: Iterable[str]) -> None:
        """Raises CheckpointError if one of the tensors is in a format that is not read."""
        if reasons := [f"{key} {contents.refused[key]}" for key in keys if key in contents.refused]:
            more = f" So are {len(reasons) - 1} more tensors." if len(reasons) > 1 else ""
            raise CheckpointError(f"{self.path} cannot be used for {self.config['name']}: {reasons[0]}.{more}")
