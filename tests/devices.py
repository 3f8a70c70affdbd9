"""Property tests on every device: what they call runs there, what they look at is on the CPU.

A file says `pytestmark = pytest.mark.usefixtures("device")` and calls the functions under test through `on_device`, so
that a test makes its meshes and compares its results as if there were the CPU alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import wraps

import torch

from pipeline.mesh.query.surface import Surface

CPU = torch.device("cpu")
DEVICES = ("cpu", *(["cuda"] if torch.cuda.is_available() else []))


class _Current:
    device = CPU
    moves = False  # whether values are moved: not within a call that has moved them


@contextmanager
def running_on(device: torch.device | str, moves: bool = True):
    """Within the block, what on_device wraps runs there."""
    before = _Current.device, _Current.moves
    _Current.device, _Current.moves = torch.device(device), moves
    try:
        yield _Current.device
    finally:
        _Current.device, _Current.moves = before


class There:
    """An object that stays on the device: its methods take and give values of the CPU."""

    def __init__(self, value) -> None:
        self.value = value

    def __getattr__(self, name):
        found = getattr(self.value, name)
        return on_device(found) if callable(found) else back(found)


def there(value):
    """A value's tensors on the device."""
    return _moved(value, _Current.device) if _Current.moves else value


def back(value):
    """A value's tensors on the CPU; a Surface, which no copy is made of, stays where it is."""
    if not _Current.moves:
        return value
    return There(value) if isinstance(value, Surface) else _moved(value, CPU)


def _moved(value, device):
    if isinstance(value, There):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        moved = {each.name: _moved(getattr(value, each.name), device) for each in fields(value) if each.init}
        return replace(value, **moved)
    if hasattr(value, "to"):  # tensors, voxels
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(each, device) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_moved(each, device) for each in value)
    return value


def on_device(function: Callable) -> Callable:
    """The function, run on the fixture's device, with values of the CPU."""

    @wraps(function)
    def run(*arguments, **options):
        arguments, options = there(arguments), there(options)
        with running_on(_Current.device, moves=False):
            result = function(*arguments, **options)
        return back(result)

    return run
