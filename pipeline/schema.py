"""Checks of JSON that others wrote: every value has a type and bounds before anything is built from it.

A check is called with a value and the words for where it stands, and returns the value or raises CheckpointError.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from .errors import CheckpointError
from .words import counted

Check = Callable[[Any, str], Any]


def strict_json(text: bytes | str) -> Any:
    """As json.loads, without what Python reads and JSON has not: NaN and infinity, also by way of 1e999.

    Raises:
        ValueError, RecursionError: it is no JSON, or is nested too deeply.
    """
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:40]} is no number of JSON")
    return value


def whole(least: int, most: int) -> Check:
    """A whole number in a range."""

    def check(value: Any, where: str) -> int:
        if type(value) is not int or not least <= value <= most:
            raise wrong(value, where, f"a whole number in {least}-{most}")
        return value

    return check


def number(least: float, most: float) -> Check:
    """A number in a range of finite bounds."""

    def check(value: Any, where: str) -> float:
        if type(value) not in (int, float) or not least <= value <= most:  # so NaN neither
            raise wrong(value, where, f"a number in {least:g}-{most:g}")
        return float(value)

    return check


def flag(value: Any, where: str) -> bool:
    """true or false."""
    if type(value) is not bool:
        raise wrong(value, where, "true or false")
    return value


def text(longest: int) -> Check:
    """A string of bounded length."""

    def check(value: Any, where: str) -> str:
        if not isinstance(value, str) or not value or len(value) > longest:
            raise wrong(value, where, f"a text of 1-{longest} characters")
        return value

    return check


def one_of(*values: Any) -> Check:
    """One of these values, of the same type."""

    def check(value: Any, where: str) -> Any:
        if not any(type(value) is type(each) and value == each for each in values):
            raise wrong(value, where, "one of " + ", ".join(map(repr, values)))
        return value

    return check


def nullable(inner: Check) -> Check:
    """null, or what the inner check takes."""
    return lambda value, where: None if value is None else inner(value, where)


def items(inner: Check, least: int, most: int) -> Check:
    """A list of bounded length, each item checked."""

    def check(value: Any, where: str) -> list:
        if not isinstance(value, (list, tuple)) or not least <= len(value) <= most:
            length = f"{least}" if least == most else f"{least}-{most}"
            raise wrong(value, where, f"a list of {length} items")
        return [inner(item, f"{where}[{index}]") for index, item in enumerate(value)]

    return check


def record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with these entries; others are left out of the result."""
    known = {**required, **(optional or {})}

    def check(value: Any, where: str) -> dict:
        if not isinstance(value, Mapping):
            raise wrong(value, where, "an object")
        if missing := [key for key in required if key not in value]:
            raise CheckpointError(f"{where} lacks {', '.join(missing)}.")
        return {key: inner(value[key], f"{where}.{key}") for key, inner in known.items() if key in value}

    return check


def table(inner: Check, most: int) -> Check:
    """An object of any keys, each value checked."""

    def check(value: Any, where: str) -> dict:
        if not isinstance(value, Mapping) or len(value) > most:
            raise wrong(value, where, f"an object of up to {most} entries")
        return {key: inner(item, f"{where}.{key[:60]}") for key, item in value.items()}

    return check


def wrong(value: Any, where: str, expected: str) -> CheckpointError:
    """The error for a value; what is shown of it is bounded."""
    if isinstance(value, (list, tuple)):
        shown = f"a list of {counted(len(value), 'item')}"
    elif isinstance(value, Mapping):
        shown = f"an object of {counted(len(value), 'entry', 'entries')}"
    elif isinstance(value, int) and abs(value) >= 10**20:
        shown = f"a number of {int(math.log10(abs(value))) + 1} digits"
    else:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
    return CheckpointError(f"{where} is {shown}; expected {expected}.")
