"""The settings in a state file, checked one by one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, SettingsError, StateError
from ..sampling import SOLVERS
from ..schema import Check, flag, items, nullable, number, one_of, record, table, text, whole
from ..spec import MAX_STEPS, PIPELINE_TYPES, SamplerSettings
from ..speed import SPEEDS

_LONGEST = 1 << 12  # characters of a text, and entries of a list
LARGEST_GRID = 1 << 13  # voxels a side; no pipeline type makes more than 1536, so a larger value means damage
MOST_VIEWS = 64  # pictures of a condition
_COUNT = whole(0, 1 << 40)
_NUMBER = number(-1e9, 1e9)
_NAME = text(256)
MIXING = record(
    {**dict.fromkeys(("structure", "shape", "texture"), text(64)), "carve": flag},
    {"weights": items(number(0, 1e9), 0, MOST_VIEWS), "proportions": flag},
)


def _sampler(value: Any, where: str) -> dict:
    """What SamplerSettings takes."""
    found = record(
        {},
        {
            "steps": whole(1, MAX_STEPS),
            **dict.fromkeys(("guidance_scale", "guidance_rescale", "time_shift", "sigma_min"), _NUMBER),
            "guidance_interval": items(number(0, 1), 2, 2),
            "solver": one_of(*SOLVERS),
        },
    )(value, where)
    try:
        SamplerSettings(**{**found, "guidance_interval": tuple(found.get("guidance_interval", (0, 1)))})
    except SettingsError as error:
        raise CheckpointError(f"{where} cannot be: {error}") from error
    return found


def _note(value: Any, where: str) -> str:
    return text(_LONGEST)(value, where) if value != "" else ""


_NOTES = items(_note, 0, _LONGEST)
_VIEWS = items(_NAME, 0, MOST_VIEWS)
_CHECKS: Mapping[str, Check] = {
    "backends": table(_NAME, 200),
    "checkpoint": text(_LONGEST),
    "max_num_tokens": whole(1, 1 << 62),
    "pipeline_type": one_of(*PIPELINE_TYPES),
    "plan": record({}, {**dict.fromkeys(("tiles", "finish_on_cpu", "stream"), flag), "lower": _note}),
    "resolution": whole(1, LARGEST_GRID),
    "samplers": table(nullable(_sampler), 3),
    "seed": whole(0, (1 << 64) - 1),
    "speed": one_of(*SPEEDS),
    "version": text(64),
    "views": lambda value, where: _COUNT(value, where) if type(value) is int else _VIEWS(value, where),
    "view_mixing": MIXING,
    **dict.fromkeys(("tokens", "voxels", "raw_vertices", "raw_faces"), _COUNT),
    **dict.fromkeys(("warnings", "remarks", "residuals"), _NOTES),
}


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Check the known settings; others are ignored, as another release may have written them.

    Raises:
        StateError: names the setting that cannot be, what it is and what was expected.
    """
    for name, check in _CHECKS.items():
        if name in settings:
            try:
                check(settings[name], f"the setting {name!r}")
            except CheckpointError as error:
                raise StateError(f"{path}: {error} Write the state again.") from error
