"""The ComfyUI that the pack lies in."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from .probe import ABSENT, BROKEN, USABLE, Found

PACK = Path(os.path.abspath(__file__)).parent.parent  # not resolved: the pack may be linked into custom_nodes
OLDEST_COMFYUI = (0, 3, 64)


def find_comfyui() -> Found:
    """The ComfyUI round this folder, or the one that COMFYUI_PATH names; its folder is facts["folder"]."""
    oldest = ".".join(map(str, OLDEST_COMFYUI))
    named = os.environ.get("COMFYUI_PATH", "")
    starts = [PACK, PACK.resolve()]
    if os.path.realpath(os.environ.get("PWD", "")) == str(PACK.resolve()):
        starts.append(Path(os.environ["PWD"]))  # the only trace of a link by which the shell came here
    for folder in [Path(named)] if named else [folder for start in starts for folder in start.parents]:
        with suppress(OSError):
            text = (folder / "comfyui_version.py").read_text(encoding="utf-8", errors="replace")
            if version := re.search(r"__version__\s*=\s*[\"']([^\"']+)", text):
                new = tuple(int(part) for part in re.findall(r"\d+", version[1])[:3]) >= OLDEST_COMFYUI
                reason = "" if new else f"too old, update ComfyUI to {oldest} or newer"
                return Found(USABLE if new else BROKEN, version[1], reason, {"folder": str(folder)})
    hint = f"no comfyui_version.py in {named}" if named else "name its folder in COMFYUI_PATH to have it checked"
    return Found(ABSENT, reason=f"{hint}; the nodes need ComfyUI {oldest} or newer", facts={"folder": named})
