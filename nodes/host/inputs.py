"""Files that nodes read: only those below ComfyUI's output or input folder, whatever path a graph contains."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import folder_paths

from ...pipeline.errors import PipelineError


def existing(path: str, suffixes: Sequence[str], what: str, error: type[PipelineError]) -> Path:
    """A file below the output or the input folder.

    Args:
        what: it is, as the subject of a sentence. error: what to raise.

    Raises:
        PipelineError: the path leads out of both folders, ends otherwise, or is not there.
    """
    folders = [
        Path(os.path.realpath(one())) for one in (folder_paths.get_output_directory, folder_paths.get_input_directory)
    ]
    if not path.lower().endswith(tuple(suffixes)):
        raise error(f"{what} ends in {', '.join(suffixes)}, got {path[:100]!r}.")
    for folder in folders:
        found = Path(os.path.realpath(folder / path))
        if found.is_relative_to(folder) and found.is_file():
            return found
    raise error(
        f"There is no {path[:200]} in ComfyUI's output folder {folders[0]} or its input folder {folders[1]}. Name "
        "a file below one of them."
    )


def fingerprint(path: str, suffixes: Sequence[str], what: str, error: type[PipelineError]) -> str:
    """Changes with the file, for ComfyUI's cache; the path alone where there is none."""
    try:
        found = existing(path, suffixes, what, error)
        status = found.stat()
    except (OSError, PipelineError):
        return path
    return f"{found} {status.st_mtime_ns} {status.st_size}"
