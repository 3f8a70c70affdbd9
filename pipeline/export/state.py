"""State files: what stages made, as safetensors; written whole or not at all, and read tensor by tensor.

Names and meaning of the tensors are those of stages.state; this file knows how they are stored and what a tensor of a
stranger's file must be before anything is done with it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..beginnings import irregular
from ..errors import StateError, near_path
from ..sparse import Voxels
from .files import writing

VERSION = 1  # of the files that are written, and the newest that is read
_VERSION_KEY = "state_version"
_LARGEST_GRID = 1 << 13  # voxels along a side
_LARGEST_TEXT = 1 << 20  # characters of a setting


def save_state(path: Path, tensors: Mapping[str, torch.Tensor], settings: Mapping) -> None:
    """Write tensors with the settings as metadata (each value as JSON), whole or not at all."""
    metadata = {key: json.dumps(value) for key, value in {**settings, _VERSION_KEY: VERSION}.items()}
    data = save(_apart(tensors), metadata)
    # safetensors writes the metadata in another order each time; the same run must give the same bytes
    length = struct.unpack_from("<Q", data)[0]
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with writing(Path(path)) as temporary, open(temporary, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.write(memoryview(data)[8 + length :])


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors on the CPU, none in the memory of another, which the format forbids: values of a run share voxels."""
    found: dict[str, torch.Tensor] = {}
    taken: set[int] = set()
    for key, value in tensors.items():
        value = value.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        found[key] = value.clone() if place in taken else value
        taken.add(place)
    return found


class StateFile:
    """A state file that is open for reading; only what is asked for is read.

    settings: the metadata, decoded. names: of its tensors.

    Raises:
        StateError: there is no such file, it is no state file, or one of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if what := irregular(self.path):
            raise StateError(f"{path} is {what}. Name a file that --save-state or T2SaveState wrote.")
        try:
            with safe_open(self.path, "pt") as file:
                self.names = frozenset(file.keys())
                metadata = file.metadata() or {}
        except FileNotFoundError as error:
            raise StateError(
                f"{path} does not exist{near_path(self.path)} Name a file that --save-state or T2SaveState wrote."
            ) from error
        except (OSError, SafetensorError) as error:
            raise StateError(
                f"{path} cannot be read as a state file ({error}). It must be a safetensors file that --save-state or "
                "T2SaveState wrote; write it again if it was cut off."
            ) from error
        self.settings = {key: self._decoded(key, value) for key, value in metadata.items()}
        if not {_VERSION_KEY, "resolution"} & self.settings.keys():
            have = ", ".join(sorted(self.names)[:8]) or "no tensor at all"
            raise StateError(
                f"{path} names no version, so it is no state file (it has {have}). Name one that --save-state or "
                "T2SaveState wrote."
            )
        version = self.settings.pop(_VERSION_KEY, 0)  # a first release wrote none
        if type(version) is not int:
            raise StateError(
                f"{path}: the version is {json.dumps(version)[:60]}; expected a whole number. The file is damaged or "
                "not a state; write it again."
            )
        if not 0 <= version <= VERSION:
            raise StateError(
                f"{path} is a state of version {version}; this release reads versions up to {VERSION}. Update it, or "
                "write the state again."
            )

    def _decoded(self, key: str, value: str):
        try:
            if len(value) > _LARGEST_TEXT:
                raise ValueError(f"{len(value):,} characters")
            found = json.loads(value)
            # a file that is made of it could hold neither NaN nor half of a surrogate pair
            json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
            return found
        except (ValueError, RecursionError) as error:
            raise StateError(f"{self.path}: the setting {key[:60]!r} cannot be read ({error}).") from error

    def read(self, name: str, dtype: torch.dtype, shape: Sequence[int | None]) -> torch.Tensor:
        """A tensor, on the CPU.

        Args:
            shape: what it must have; None fits any length, 0 too.

        Raises:
            StateError: it is not there, of another type or shape, or holds NaN or infinity.
        """
        if name not in self.names:
            have = ", ".join(sorted(self.names)[:20])
            raise StateError(f"{self.path} has no {name}; it has {have or 'no tensor at all'}.")
        with safe_open(self.path, "pt") as file:
            found = file.get_slice(name)
            at, wanted = tuple(found.get_shape()), tuple(shape)
            fits = len(at) == len(wanted) and all(want in (None, have) for have, want in zip(at, wanted))
            tensor = file.get_tensor(name) if fits else None
        if tensor is None or tensor.dtype != dtype:
            expected = ", ".join("N" if want is None else str(want) for want in wanted)
            kind = "" if tensor is None else f" {str(tensor.dtype).removeprefix('torch.')}"
            raise StateError(
                f"{self.path}: {name} is {list(at)}{kind}; expected [{expected}] {str(dtype).removeprefix('torch.')}. "
                "The file is damaged or not a state; write it again."
            )
        if dtype.is_floating_point and not bool(tensor.isfinite().all()):
            raise StateError(f"{self.path}: {name} holds NaN or infinity. Write the state again.")
        return tensor

    def read_voxels(self, name: str, resolution: int) -> Voxels:
        """Voxels of one sample on a grid; int32 [T, 4] (0, x, y, z).

        Raises:
            StateError: as read; the grid is too large, a voxel lies outside of it, or one is there twice.
        """
        self.check_number(f"the resolution of {name}", resolution, 1, _LARGEST_GRID)
        coords = self.read(name, torch.int32, (None, 4))
        if len(coords):
            least, most = coords.amin(0).tolist(), coords.amax(0).tolist()
            if least[0] or most[0] or min(least) < 0 or max(most) >= resolution:
                raise StateError(
                    f"{self.path}: {name} reaches from {least} to {most}; expected sample 0 and a grid of {resolution} "
                    "voxels a side. Write the state again."
                )
        x, y, z = coords[:, 1:].long().unbind(1)
        distinct = len(torch.unique((x * resolution + y) * resolution + z))
        if distinct != len(coords):
            raise StateError(
                f"{self.path}: {name} names {len(coords) - distinct:,} of its {len(coords):,} voxels twice. Write the "
                "state again."
            )
        return Voxels(coords, (len(coords),))

    def check_number(self, what: str, value: object, least: int, most: int) -> int:
        """A whole number of the settings within bounds, or StateError."""
        if type(value) is not int or not least <= value <= most:
            raise StateError(
                f"{self.path}: {what} is {str(value)[:60]}; expected a whole number in {least}-{most}. Write the state "
                "again."
            )
        return value
