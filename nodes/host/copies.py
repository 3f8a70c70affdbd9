"""Other copies of the pack in the same ComfyUI: a clone beside the Manager's installation, a backup folder."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from pathlib import Path

log = logging.getLogger(__name__)

_MARK = "T2LoadModels"  # a node that every version of the pack has


def _mappings() -> dict[str, type]:
    """ComfyUI's table of nodes, in its own module `nodes`."""
    return import_module("nodes").NODE_CLASS_MAPPINGS


def registered(node_id: str, package: str) -> type | None:
    """Who else in ComfyUI has a node id; None if nobody or the package itself does."""
    found = _mappings().get(node_id)
    return None if found is None or found.__module__.startswith(f"{package}.") else found


def in_use(package: str, here: Path) -> bool:
    """Whether another copy of the pack was loaded before this one, which should then register nothing.

    Args:
        package: the name under which ComfyUI imported this copy.
        here: its folder, for the log.
    """
    first = registered(_MARK, package)
    if first is None:
        return False
    file = getattr(sys.modules.get(first.__module__), "__file__", None)
    log.warning(
        "ComfyUI-TRELLIS2-Stages is installed twice: the nodes of %s are used, those of %s are not. Remove one of the "
        "two folders and restart ComfyUI.",
        Path(file).parents[1] if file else first.__module__,
        here,
    )
    return True


def free_ids(classes: list[type], package: str) -> list[type]:
    """The classes whose node ids no other pack has; the others are named in the log."""
    if not any(name.startswith("T2") for name in _mappings()):
        return classes
    free = {each: registered(each.GET_SCHEMA().node_id, package) is None for each in classes}
    taken = [each.GET_SCHEMA().node_id for each in classes if not free[each]]
    if taken:
        log.warning("Another pack has nodes of these ids, which it keeps: %s.", ", ".join(taken))
    return [each for each in classes if free[each]]
