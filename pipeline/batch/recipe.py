"""What is made of a picture, and how: everything that decides a result beside the picture and its seed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from ..errors import SettingsError
from ..image import DEFAULT_MODEL
from ..spec import CHECKPOINTS_OWN, MAX_TOKENS, Samplers
from ..speed import EXACT
from ..stages import ExportSettings
from ..weights import SMALL_CHECKPOINT


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Can be pickled, and sent to another process or machine that sees the same checkpoint.

    checkpoint, image_encoder: as for weights.open_checkpoint.
    pipeline_type: its name; "": the checkpoint's own.
    texture: False makes the shape alone.
    suffix: of the files, with its dot; it chooses the format.
    pictures: whether each object is drawn from four sides, into a PNG beside its file.
    background, background_model: as for image.background_remover. reduce_first: as for image.prepare.
    dtype: a name of torch's, or "auto". backends: {operation: row of the table}. speed: a name of speed.SPEEDS.
    allow_lower: as for plan.choose.
    """

    checkpoint: str = str(SMALL_CHECKPOINT)
    image_encoder: str | None = None
    pipeline_type: str = ""
    texture: bool = True
    max_tokens: int = MAX_TOKENS
    samplers: Samplers = CHECKPOINTS_OWN
    export: ExportSettings = field(default_factory=ExportSettings)
    suffix: str = ".glb"
    pictures: bool = False
    background: str = "auto"
    background_model: str = DEFAULT_MODEL
    reduce_first: bool = False
    dtype: str = "auto"
    speed: str = EXACT.name
    backends: Mapping[str, str] = field(default_factory=dict)
    allow_lower: bool = False

    def settings(self, **known: Any) -> dict:
        """The recipe as JSON, with what is known by now in place of what was asked for."""
        return json.loads(json.dumps({**asdict(self), **known}, default=_as_json))


def _as_json(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    raise SettingsError(f"A recipe cannot hold {value!r}: it does not go into a manifest. Give plain values.")


# Of a sampler, in manifests of 0.1.
_OLDER_NAMES = {
    "guidance": "guidance_scale",
    "rescale": "guidance_rescale",
    "interval": "guidance_interval",
    "rescale_t": "time_shift",
}


def same(one: Mapping, other: Mapping) -> bool:
    """Whether settings of two manifests mean the same results. What one of them lacks, as a manifest of an older
    release does, counts as the default."""
    defaults = _flat(Recipe().settings())
    return _changes(one, defaults) == _changes(other, defaults)


def _changes(settings: Mapping, defaults: Mapping[str, str]) -> dict[str, str]:
    named = {_renamed(key): value for key, value in _flat(settings).items()}
    return {key: value for key, value in named.items() if value != defaults.get(key, "null")}


def _renamed(key: str) -> str:
    """A key of any release as this one has it."""
    start, _, name = key.rpartition(".")
    return f"{start}.{_OLDER_NAMES.get(name, name)}" if start.startswith("samplers.") else key


def _flat(settings: Mapping, start: str = "") -> dict[str, str]:
    """{"export.faces": "500000", ...}"""
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{start}{key}.")
        else:
            found[f"{start}{key}"] = json.dumps(value)
    return found
