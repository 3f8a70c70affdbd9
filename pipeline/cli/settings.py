"""From options to settings: the fields of a dataclass are the options of their names, but for the rows of a table."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from ..errors import SettingsError
from ..export import AlphaMode
from ..stages import Hollowing
from .options import backend_choices

_Settings = TypeVar("_Settings")


def settings_of(kind: Callable[..., _Settings], options: argparse.Namespace, **known: Any) -> _Settings:
    """An instance of a dataclass of settings.

    Each field is what `known` says, else what its row in FIELDS reads, else the option of its name, else its default.

    Raises:
        SettingsError: options that contradict each other, or whatever the dataclass refuses.
    """
    found = {}
    for each in fields(kind):  # type: ignore[arg-type]
        if each.name in known:
            found[each.name] = known[each.name]
        elif each.name in FIELDS:
            found[each.name] = FIELDS[each.name](options)
        elif hasattr(options, each.name):
            found[each.name] = getattr(options, each.name)
    return kind(**found)


def _hollowing(options: argparse.Namespace) -> Hollowing | None:
    """Raises SettingsError for a drain alone."""
    if options.hollow is None:
        if options.drain is not None:
            raise SettingsError("--drain would have no effect without --hollow: give the thickness of the wall too.")
        return None
    return Hollowing(options.hollow, options.drain, options.size, options.flat_base)


# Field of settings -> how it is read, where it is not the option of the same name.
FIELDS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "alpha_mode": lambda options: AlphaMode[options.alpha_mode.upper()],
    "double_sided": lambda options: not options.single_sided,
    "image_format": lambda options: options.texture_format,
    "flat_base": lambda options: 0.0 if options.hollow else options.flat_base,
    "hollow": _hollowing,
    "texture": lambda options: not options.geometry_only,
    "suffix": lambda options: f".{options.format}",
    "backends": backend_choices,
}
