"""The checkpoints in ComfyUI's model folders and in the Hugging Face cache, among whatever else is there.

A listing is asked for whenever ComfyUI declares a node, so it must neither fail nor take long: what cannot be read is
left out and said once, headers are searched and not kept, and the bytes that one listing reads have a bound.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ...pipeline.errors import CheckpointError
from ...pipeline.spec import (
    IMAGE_ENCODER,
    SHAPE_DECODER,
    SHAPE_FLOW_512,
    SHAPE_FLOW_1024,
    STRUCTURE_DECODER,
    STRUCTURE_FLOW,
    TEXTURE_DECODER,
    TEXTURE_FLOW_1024,
)
from ...pipeline.weights.bundle import roles_in
from ...pipeline.weights.headers import header_text
from ...pipeline.weights.hub import cached_file, cached_repositories
from ...pipeline.weights.places import DESCRIPTION, home_of, is_ours, network_of, walk

log = logging.getLogger(__name__)

FOLDER = "trellis2"  # models/trellis2
OTHER_FOLDERS = ("Trellis2", "microsoft")  # in which other packs keep the released files
FLOWS = frozenset({STRUCTURE_FLOW, SHAPE_FLOW_512, SHAPE_FLOW_1024, TEXTURE_FLOW_1024})
DECODERS = frozenset({STRUCTURE_DECODER, SHAPE_DECODER, TEXTURE_DECODER})
# kind of model folder -> roles for which a bundle there is listed
_WANTED = {
    FOLDER: FLOWS | DECODERS,
    "diffusion_models": FLOWS,
    "vae": DECODERS,
    "clip_vision": frozenset({IMAGE_ENCODER}),
}
_FRESH = 1.0  # seconds for which a listing is reused; ComfyUI asks for several in a row
_BUDGET = 128 << 20  # bytes of headers that one listing reads; the next one continues
_SHOWN = 5  # of what was left out


@dataclass(frozen=True)
class Found:
    """Checkpoints by the names that a node's list has for them.

    released: folders in the released layout. bundles: by kind of model folder and name, what roles each file has.
    repositories: in the hub's cache.
    """

    released: dict[str, Path]
    bundles: dict[str, dict[str, frozenset[str]]]
    repositories: tuple[str, ...]


class _Scanner:
    """Keeps the last listing, and of each file the roles only, for as long as the file is as it was."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[float, Found] | None = None
        self._roles: dict[tuple, frozenset[str]] = {}  # (path, size, time of change) -> roles
        self._said: set[str] = set()

    def found(self, fresh: float = _FRESH) -> Found:
        with self._lock:
            if self._last is None or time.monotonic() - self._last[0] > fresh:
                self._last = (time.monotonic(), self._scan())
            return self._last[1]

    def _scan(self) -> Found:
        problems: dict[str, str] = {}
        released: dict[str, Path] = {}
        bare: dict[str, Path] = {}  # folders with the released files, but without their description
        files: list[tuple[str, str, Path]] = []  # kind, name, path
        for kind in _WANTED:
            names: set[str] = set()
            for base in map(Path, _folders(kind)):
                for path in walk(base, lambda path, why: problems.setdefault(str(path), why)):
                    name = str(path.relative_to(base))
                    if kind == FOLDER and path.name == DESCRIPTION and _ours(path, problems):
                        released.setdefault(_label(base, path.parent), path.parent)
                    elif kind == FOLDER and network_of(path):
                        home = home_of(path) if home_of(path).is_relative_to(base) else path.parent
                        bare.setdefault(_label(base, home), home)
                    elif path.suffix == ".safetensors" and name not in names:  # the first folder counts, as for ComfyUI
                        names.add(name)
                        files.append((kind, name, path))
        described = set(released.values())
        released |= {label: home for label, home in bare.items() if described.isdisjoint((home, *home.parents))}
        bundles = self._bundles(files, problems)
        descriptions = ((repo, cached_file(repo, DESCRIPTION)) for repo in cached_repositories())
        repositories = tuple(repo for repo, path in descriptions if path and _ours(path, problems))
        self._say(problems)
        return Found(released, bundles, repositories)

    def _bundles(self, files, problems: dict[str, str]) -> dict[str, dict[str, frozenset[str]]]:
        seen: dict[tuple, frozenset[str]] = {}
        budget = _BUDGET
        bundles: dict[str, dict[str, frozenset[str]]] = {kind: {} for kind in _WANTED}
        # files with our names first, in case the budget does not suffice for all
        for kind, name, path in sorted(files, key=lambda file: "trellis" not in file[1].lower()):
            key: tuple = (str(path),)
            try:
                stat = path.stat()
                key = (str(path), stat.st_size, stat.st_mtime_ns)
                if (roles := self._roles.get(key)) is None:
                    if budget <= 0:
                        problems.setdefault("more files", "too many large headers; the next listing reads on")
                        continue
                    text, _ = header_text(path)
                    budget -= len(text)
                    roles = roles_in(text, _WANTED[kind])
            except OSError as error:
                problems.setdefault(str(path), error.strerror or str(error))
                continue
            except CheckpointError as error:
                problems.setdefault(str(path), str(error))
                roles = frozenset()
            seen[key] = roles
            if roles:
                bundles[kind][name] = roles
        self._roles = seen
        return {kind: dict(sorted(names.items())) for kind, names in bundles.items()}

    def _say(self, problems: dict[str, str]) -> None:
        """Each of them once, in one line."""
        new = {path: why for path, why in problems.items() if path not in self._said}
        self._said |= new.keys()
        if new:
            shown = [why if path in why else f"{path}: {why}" for path, why in list(new.items())[:_SHOWN]]
            more = f"; and {len(new) - _SHOWN} more" if len(new) > _SHOWN else ""
            log.warning("Left out of the lists of TRELLIS.2 checkpoints: %s%s", "; ".join(shown), more)


_scanner = _Scanner()


def found(fresh: float = _FRESH) -> Found:
    """The checkpoints on this machine. fresh: seconds for which an earlier listing may be reused."""
    return _scanner.found(fresh)


def holding(kind: str, roles: Collection[str]) -> list[str]:
    """The names of bundles in a kind of model folder that hold one of the roles."""
    return [name for name, each in found().bundles[kind].items() if not each.isdisjoint(roles)]


def _folders(kind: str) -> list[str]:
    try:
        return folder_paths.get_folder_paths(kind)
    except KeyError:  # a host without that kind
        return []


def _ours(description: Path, problems: dict[str, str]) -> bool:
    try:
        return is_ours(description)
    except CheckpointError as error:
        problems.setdefault(str(description), str(error))
        return False


def _label(base: Path, folder: Path) -> str:
    kind = base.name if base.name in OTHER_FOLDERS else FOLDER
    return f"{kind}/{folder.relative_to(base).as_posix()}".removesuffix("/.")
