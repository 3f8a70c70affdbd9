"""The state file: what each stage made, for tests and tools, as safetensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save

from .files import writing


def save_state(path: Path, tensors: Mapping[str, torch.Tensor], settings: Mapping) -> None:
    """Write tensors with the settings as metadata (each value as JSON), whole or not at all."""
    metadata = {key: json.dumps(value) for key, value in settings.items()}
    data = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, metadata)
    # safetensors writes the metadata in another order each time; the same run must give the same bytes
    length = struct.unpack_from("<Q", data)[0]
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with writing(Path(path)) as temporary, open(temporary, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.write(memoryview(data)[8 + length :])
