"""Where a file is written: ComfyUI's output folder, with the %...% placeholders in a file's name replaced."""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path

import folder_paths

from ...pipeline.errors import OutputError, SettingsError

log = logging.getLogger(__name__)

DEFAULT_PREFIX = "3d/trellis2"
# Bytes of one part of the path. File systems take 255; a number, a suffix and, while it is written, more are added.
_LONGEST = 200
_UNSAFE = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')  # what the editor replaces in a widget's value
_DATE = {"d": "%d", "M": "%m", "h": "%H", "m": "%M", "s": "%S"}


def new_file(prefix: str, suffix: str, hidden) -> tuple[Path, str]:
    """A file that does not exist yet: its path, and that path below the output folder.

    Args:
        prefix: folder and start of the name; %date:yyyy-MM-dd% and %Node.widget% are replaced as in the editor.
        hidden: prompt and extra_pnginfo of the node that writes.

    Raises:
        SettingsError: the prefix cannot be the start of a file in the output folder.
        OutputError: the folder cannot be made or listed.
    """
    prefix = filled(prefix, hidden)
    if problem := why_not(prefix):
        raise SettingsError(problem)
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            _named(prefix), folder_paths.get_output_directory()
        )
    except OSError as error:
        raise OutputError(f"The folder of filename_prefix {prefix!r} cannot be used: {error}.") from error
    path = Path(folder) / f"{name}_{counter:05}_{suffix}"
    return path, (Path(subfolder) / path.name).as_posix()


def why_not(prefix: str) -> str:
    """Why a prefix cannot be the start of a file in the output folder, or "" if it can."""
    shown = prefix if len(prefix) <= 60 else f"{prefix[:57]}..."
    if found := re.search(r"[\x00-\x1f\x7f]", prefix):
        return f"filename_prefix {shown!r} has the control character {found.group()!r}; leave it out."
    output = os.path.abspath(folder_paths.get_output_directory())
    target = os.path.abspath(os.path.join(output, _named(prefix)))
    if not Path(target).is_relative_to(output):
        return f"filename_prefix {shown!r} leads out of the output folder {output}; name a place below it."
    size, part = max((len(os.fsencode(part)), part) for part in Path(target).relative_to(output).parts)
    if size > _LONGEST:
        return (
            f"filename_prefix {shown!r} is too long: {part[:20]}... has {size} bytes, and a name or folder may have "
            f"{_LONGEST}. Shorten it."
        )
    return ""


def filled(prefix: str, hidden) -> str:
    """A prefix with %date%, %date:FORMAT% and %Node.widget% replaced.

    The editor does so for ComfyUI's own save nodes before it queues a graph; here it also serves other clients. A node
    is found by its name for search and replace, its title or its class; what is not found stays as it is.
    """
    workflow = (hidden.extra_pnginfo or {}).get("workflow") or {}

    def value(match: re.Match) -> str:
        name, dot, widget = match.group(1).partition(".")
        if not dot and (name == "date" or name.startswith("date:")):
            return _date(name.partition(":")[2] or "yyyy-MM-dd")
        for node in _called(name, hidden.prompt or {}, workflow) if dot else ():
            found = node.get("inputs", {}).get(widget)
            if isinstance(found, (str, int, float)):
                return _UNSAFE.sub("_", str(found))
        if dot:
            log.warning("No node and widget for %s in the filename_prefix %r.", match.group(), prefix)
        return match.group()  # the host knows %year% and others

    return re.sub(r"%([^%]+)%", value, prefix)


def _called(name: str, prompt: dict, workflow: dict) -> list[dict]:
    """The prompt's nodes of a name, the surest matches first."""
    in_editor = [node for node in workflow.get("nodes", ()) if isinstance(node, dict)]
    ids = [node.get("id") for node in in_editor if (node.get("properties") or {}).get("Node name for S&R") == name]
    ids += [node.get("id") for node in in_editor if node.get("title") == name]
    named = [prompt[str(each)] for each in ids if str(each) in prompt]
    named += [node for node in prompt.values() if node.get("_meta", {}).get("title") == name]
    return named + [node for node in prompt.values() if node.get("class_type") == name]


def _date(form: str) -> str:
    """Now, in the editor's format: d, M, h, m, s, doubled with a leading zero, and yy or yyyy."""
    now = time.localtime()

    def part(match: re.Match) -> str:
        text = match.group()
        if text[0] == "y":
            return str(now.tm_year)[-2:] if text == "yy" else str(now.tm_year)
        number = int(time.strftime(_DATE[text[0]], now))
        return str(number).zfill(len(text))

    return re.sub("dd?|MM?|hh?|mm?|ss?|yyyy|yy", part, form)


def _named(prefix: str) -> str:
    """A prefix that ends in a name: an empty one, or one that ends in a folder, would make a hidden file."""
    prefix = prefix.strip()
    folder, name = os.path.split(prefix)
    if name in ("", "."):
        return os.path.join(folder, os.path.basename(DEFAULT_PREFIX)) if folder else DEFAULT_PREFIX
    return prefix
