"""Where a checkpoint is: the files below a folder, and the checkpoint meant by a path that is one level off."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..spec import IMAGE_ENCODER, RELEASED_FILES
from .bundle import PIXAL3D, bundled_roles
from .damage import open_regular
from .headers import header_text
from .text import read_json

DESCRIPTION = "pipeline.json"
_DEEPEST, _MOST = 8, 20_000  # folders below each other, entries in all: what a search looks at
_BELOW = 3  # levels below a named folder in which a checkpoint is looked for: a folder of the hub's cache has three

_TENSORS = (".safetensors", ".sft")
_NETWORKS = tuple(value.rpartition("/")[2] for role, value in RELEASED_FILES.items() if role != IMAGE_ENCODER)
_ALONE = frozenset({IMAGE_ENCODER})  # what is found beside the networks in every layout

OnProblem = Callable[[Path, str], object]


def walk(base: Path, on_problem: OnProblem = lambda path, why: None, deepest: int = _DEEPEST) -> Iterator[Path]:
    """The files below a folder, the upper ones first, each folder's sorted; links are followed, hidden ones left out.

    It ends whatever is there: a folder inside itself is left out, and so is what lies deeper than `deepest` or
    comes after 20,000 entries. Nothing is raised.

    Args:
        on_problem: called for what is left out: its path, and why.
    """
    seen = 0
    waiting = deque([(base, _identity(base), 0, frozenset())])  # folder, identity, depth, identities of those above
    while waiting:
        folder, identity, depth, above = waiting.popleft()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                on_problem(folder, error.strerror or str(error))
            continue
        for entry in entries:
            seen += 1
            if seen > _MOST:
                on_problem(base, f"more than {_MOST:,} entries; the rest is not searched")
                return
            if entry.name.startswith("."):
                continue
            path = folder / entry.name
            try:
                if entry.is_dir():
                    own = _identity(path)
                    if own in above or own == identity:
                        on_problem(path, "a link to a folder above it")
                    elif depth < deepest:
                        waiting.append((path, own, depth + 1, above | {identity}))
                elif entry.is_file():
                    yield path
                elif entry.is_symlink():
                    on_problem(path, "a link to nothing")
            except OSError as error:
                on_problem(path, error.strerror or str(error))


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def present(path: Path) -> bool:
    """Whether something is there, be it a link to nothing or what may not be looked at; a name that the system refuses
    is not there."""
    try:
        path.lstat()
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True


def is_file(path: Path) -> bool:
    """Path.is_file, which raises for some names and folders."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Path.is_dir, which raises for some names and folders."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_ours(description: Path) -> bool:
    """Whether a pipeline.json is one of TRELLIS.2; the first TRELLIS has one too.

    Raises:
        CheckpointError: it cannot be read.
    """
    args = read_json(description).get("args")
    return isinstance(args, dict) and "shape_slat_sampler" in args


def network_of(file: Path) -> str:
    """The released network that a file of weights is called after, or ""."""
    if file.suffix not in (".safetensors", ".gguf"):
        return ""
    return next((name for name in _NETWORKS if file.name.startswith(name)), "")


def home_of(file: Path) -> Path:
    """The checkpoint's folder for a network's file: the one above `ckpts`, else the file's own."""
    return file.parent.parent if file.parent.name == "ckpts" else file.parent


@dataclass(frozen=True)
class Place:
    """A checkpoint on the disk: a folder in the released layout, or bundles."""

    folder: Path | None = None
    bundles: tuple[Path, ...] = ()


def find(path: Path) -> Place:
    """The checkpoint that a path names, or one level off means: its pipeline.json, a folder or file inside it, or a
    folder above it that holds no other.

    Raises:
        CheckpointError: there is none, there are several, or a file on the way is damaged.
    """
    if is_file(path / DESCRIPTION):
        return Place(path)
    if path.name == DESCRIPTION:
        return Place(path.parent)
    return _below(path) if is_folder(path) else _at_file(path)


def _at_file(path: Path) -> Place:
    around = _around(path)
    if path.suffix in _TENSORS:
        roles = bundled_roles(path)
        if roles and (around is None or not roles <= _ALONE):
            return Place(bundles=(path,))
        if around is None:
            if PIXAL3D in header_text(path)[0]:
                raise CheckpointError(
                    f"{path} is Pixal3D, another model whose layers are called alike. Take the file of TRELLIS.2, e.g. "
                    "trellis_2_bf16.safetensors of Comfy-Org/TRELLIS.2."
                )
            raise CheckpointError(
                f"{path} is no ComfyUI bundle of TRELLIS.2 (keys such as img2shape.* or shape_dec.*). If it is one "
                f"network of the released layout, name the folder above that holds {DESCRIPTION}."
            )
    elif around is None:
        open_regular(path)[0].close()  # says what is wrong with it
        raise CheckpointError(
            f"{path} is neither a checkpoint nor inside one. Name a folder with {DESCRIPTION}, or a ComfyUI bundle "
            "(*.safetensors)."
        )
    return Place(around)


def _around(path: Path) -> Path | None:
    """The folder in the released layout that a file or a folder is in, one or two levels up."""
    for above in list(path.absolute().parents)[:2]:
        if is_file(above / DESCRIPTION) and is_ours(above / DESCRIPTION):
            return above
    return None


def _below(path: Path) -> Place:
    homes, bundles, named, trouble = [], [], [], []
    for file in walk(path):
        try:
            if network_of(file) and len(file.relative_to(path).parts) <= _BELOW + 1:
                named.append(home_of(file))
            if file.name == DESCRIPTION and len(file.relative_to(path).parts) <= _BELOW + 1 and is_ours(file):
                homes.append(file.parent)
            elif file.suffix in _TENSORS and (roles := bundled_roles(file)):
                bundles.append((file, roles))
        except CheckpointError as error:
            trouble.append(error)
    networks = [file for file, roles in bundles if not roles <= _ALONE]
    if len(homes) + bool(networks) > 1:
        found = ", ".join(map(str, homes + networks))
        raise CheckpointError(f"{path} holds several checkpoints: {found}. Name one of them.")
    if homes:
        return Place(homes[0])
    if not networks and named:  # the released files, without their description
        return Place(named[0])
    if not networks and (around := _around(path)):
        return Place(around)
    if trouble:
        raise trouble[0]
    if bundles:
        return Place(bundles=tuple(file for file, _ in bundles))
    raise CheckpointError(
        f"{path} holds neither {DESCRIPTION} (the released layout) nor a ComfyUI bundle of TRELLIS.2 "
        "(*.safetensors with keys such as img2shape.* or shape_dec.*). Name the folder that does."
    )
