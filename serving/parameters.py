"""The parameters of requests: the command line's own options as JSON, without those that belong to the server.

No parameter is listed here: name, kind, choices, default and text are the parser's, and its own converters read the
values. A new option is a parameter at once, unless it is a path, free text, or one of the server's.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.cli.main import parser
from pipeline.errors import SettingsError
from pipeline.words import counted

# What a first user sees, as the nodes have it; all else is for experts.
BASIC = ("type", "seed", "speed", "preset", "views", "faces", "shells", "texture_size", "geometry_only", "background")
# Options about the server's machine and resources, which clients may not set.
SERVERS_OWN = (
    "help",
    "checkpoint",
    "image_encoder",
    "device",
    "dtype",
    "memory_limit",
    "memory_plan",
    "backend",
    "background_model",
    "environment_rotation",  # of a file that a client cannot name
)
# Options that name an output file: the service chooses the name, and a client only whether it wants the file.
FILES = {"turntable": Path("preview.mp4")}
# Text without choices that cannot name a file: the pipeline checks it word by word.
FREE_TEXT = ("type", "views")
_WORDS = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False, "": False}
_ASIDE = {"generate": ["picture.png"], "finish": ["state.safetensors"]}  # the command's positional argument


@dataclass(frozen=True)
class Parameter:
    """One option of a command: `action` is the parser's own."""

    action: argparse.Action
    group: str

    @property
    def name(self) -> str:
        return self.action.dest

    @property
    def tier(self) -> str:
        return "basic" if self.name in BASIC else "expert"

    @property
    def is_flag(self) -> bool:
        return self.action.nargs == 0 or self.name in FILES

    @property
    def many(self) -> bool:
        return self.action.nargs not in (None, 0, "?")

    def schema(self) -> dict[str, Any]:
        """JSON schema of its values; "x-tier" is basic or expert, "x-group" the parser's heading."""
        one = {"type": "boolean"} if self.is_flag else self._schema_of_one()
        if self.many:
            count = self.action.nargs
            bounds = {"minItems": count, "maxItems": count} if isinstance(count, int) else {}
            one = {"type": "array", "items": one, **bounds}
        elif self.action.nargs == "?":
            one = {"anyOf": [one, {"type": "boolean"}], "x-true": self.action.const}
        default = {} if self.action.default is None else {"default": self.action.default}
        said = (self.action.help or "") % {"default": self.action.default, "prog": ""}
        text = {"description": named_as_parameters(said)}
        return {**one, **default, **text, "x-tier": self.tier, "x-group": self.group}

    def _schema_of_one(self) -> dict[str, Any]:
        kind = self.action.type
        if kind is None and (words := self._words()):
            return {"type": "string", "enum": words}
        for known, name in ((int, "integer"), (float, "number")):
            if kind is known or isinstance(self.action.default, known):
                return {"type": name}
        return {"type": ["string", "number"]} if kind is not None else {"type": "string"}

    def _words(self) -> list[str]:
        """The values that it can have: its choices, or those that its placeholder lists."""
        if self.action.choices is not None:
            return [str(choice) for choice in self.action.choices]
        shown = self.action.metavar
        return shown[1:-1].split(",") if isinstance(shown, str) and shown.startswith("{") else []

    def read(self, value: Any) -> Any:
        """The value as the parser would read it.

        Raises:
            SettingsError: it is no value of this option.
        """
        if self.is_flag:
            return self._switch(value)
        if self.many:
            values = value if isinstance(value, list) else [value]
            if isinstance(self.action.nargs, int) and len(values) != self.action.nargs:
                raise SettingsError(f"{self.name}: takes {counted(self.action.nargs, 'value')}, got {len(values)}.")
            return [self._one(each) for each in values]
        if isinstance(value, list):
            raise SettingsError(f"{self.name}: takes one value, got a list of {len(value)}.")
        if self.action.nargs == "?" and isinstance(value, bool):
            return self.action.const if value else self.action.default
        return self._one(value)

    def _switch(self, value: Any) -> Any:
        word = _WORDS.get(str(value).strip().lower())
        if word is None:
            raise SettingsError(f"{self.name}: takes true or false, got {_shown(value)}.")
        if self.name in FILES:
            return FILES[self.name] if word else None
        return self.action.const if word else self.action.default

    def _one(self, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise SettingsError(f"{self.name}: takes {self._expected()}, got {_shown(value)}.")
        if value == "":
            raise SettingsError(f"{self.name}: is empty; it takes {self._expected()}. Or leave it out.")
        if isinstance(value, float) and value.is_integer() and self._schema_of_one().get("type") == "integer":
            value = int(value)  # JavaScript has no other numbers
        convert = self.action.type or str
        try:
            read = convert(str(value))  # type: ignore[operator]
        except argparse.ArgumentTypeError as error:
            raise SettingsError(f"{self.name}: {error}") from error
        except (ValueError, TypeError, OverflowError) as error:
            raise SettingsError(f"{self.name}: takes {self._expected()}, got {_shown(value)}.") from error
        if isinstance(read, float) and not math.isfinite(read):
            raise SettingsError(f"{self.name}: must be a finite number, got {_shown(value)}.")
        if self.action.choices is not None and read not in self.action.choices:
            raise SettingsError(f"{self.name}: takes {self._expected()}, got {_shown(value)}.")
        return read

    def _expected(self) -> str:
        if words := self._words():
            return "one of " + ", ".join(words)
        kind = self._schema_of_one()["type"]
        return {"integer": "a whole number", "number": "a number", "string": "a text"}.get(str(kind), "a text")


@cache
def parameters(command: str) -> dict[str, Parameter]:
    """{name: parameter} of a command of `python -m pipeline`, in the parser's order."""
    found = {}
    for group in _parser(command)._action_groups:
        for action in group._group_actions:
            if action.option_strings and _is_public(action):
                found[action.dest] = Parameter(action, group.title or "")
    return {name: found[name] for name in sorted(found, key=lambda name: found[name].tier)}


def _is_public(action: argparse.Action) -> bool:
    if action.dest in FILES:
        return True
    if action.dest in SERVERS_OWN or action.type is Path:
        return False
    free = action.nargs != 0 and action.type in (None, str) and action.choices is None
    return not free or action.dest in FREE_TEXT


def named_as_parameters(text: str) -> str:
    """A message of the pipeline as clients read it: options of the command line that are parameters by their names."""
    known = {name for command in _ASIDE for name in parameters(command)}

    def named(option: re.Match[str]) -> str:
        name = option[1].replace("-", "_")
        return name if name in known else option[0]

    return re.sub(r"--([a-z][a-z0-9]*(?:-[a-z0-9]+)*)", named, text)


def schema(command: str) -> dict[str, Any]:
    """JSON schema of all parameters of a command."""
    properties = {name: parameter.schema() for name, parameter in parameters(command).items()}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def options_of(command: str, given: Mapping[str, Any]) -> argparse.Namespace:
    """The options of a command with what a request says; all else as if the command line had not named it.

    Raises:
        SettingsError: an unknown name, or a value that the option does not take.
    """
    known = parameters(command)
    if unknown := sorted(set(given) - set(known)):
        raise SettingsError(f"There is no parameter {', '.join(unknown)}. There are {', '.join(known)}.")
    options = _parser(command).parse_args(_ASIDE[command])
    for name, value in given.items():
        if value is not None:
            setattr(options, name, known[name].read(value))
    return options


def from_form(command: str, fields: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The parameters of a form, whose fields are texts; one that takes many may stand several times or hold words."""
    known, given = parameters(command), {}
    for name, text in fields:
        if name in known and known[name].many:
            given.setdefault(name, []).extend(text.split())
        elif name in given:
            raise SettingsError(f"{name}: stands twice in the form.")
        elif name not in known or text != "" or known[name].is_flag:
            given[name] = _WORDS.get(text, text) if name in known and known[name].action.nargs == "?" else text
    return given


@cache
def _parser(command: str) -> argparse.ArgumentParser:
    (commands,) = [each for each in parser()._actions if isinstance(each, argparse._SubParsersAction)]
    return commands.choices[command]


def _shown(value: Any) -> str:
    return repr(value)[:80]
