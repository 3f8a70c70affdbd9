"""From files and folders of pictures to jobs: an object for each picture and seed, under the picture's name."""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import OutputError, SettingsError
from ..export import written_paths
from ..words import counted
from .recipe import Recipe

# how the names of pictures end; a file of another name can be named by itself
MAX_VARIATIONS = 100  # of a picture: their sheet has a row of renderings for each
PICTURES = frozenset([".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif"])


@dataclass(frozen=True)
class Job:
    """One object to make.

    name: of the object's file, below the output folder and without its suffix; parts are joined by "/".
    picture: the file that it is made of. sha256: of its contents, "" if it could not be read.
    group: the name that all objects of the picture begin with.
    """

    name: str
    picture: str
    sha256: str
    seed: int
    group: str


def find_pictures(given: Sequence[Path], output: Path) -> list[tuple[Path, str]]:
    """Pictures and the names that they ask for, each picture once; one in a subfolder has the subfolder in its name.

    Args:
        given: pictures, and folders, which are searched with all that is below them. Hidden files and what is in the
            output folder are left out.

    Raises:
        SettingsError: there is no picture. OutputError: the output folder is one of the given folders.
    """
    pictures: dict[Path, tuple[Path, str]] = {}
    for path in given:
        if path.is_dir():
            if path.resolve() == output.resolve():
                raise OutputError(f"{output} is the folder of the pictures; choose another one for the objects.")
            below = sorted(each for each in path.rglob("*") if _is_picture(each, path, output))
            each_name = [(each, each.relative_to(path).with_suffix("").as_posix()) for each in below]
        else:
            each_name = [(path, path.stem)]
        for each, name in each_name:
            place = Path(os.path.abspath(each))
            pictures.setdefault(place, (place, name))
    if not pictures:
        raise SettingsError(
            f"There is no picture in {', '.join(map(str, given))}; expected files that end in "
            f"{', '.join(sorted(PICTURES))}."
        )
    return list(pictures.values())


def plan_jobs(
    found: Sequence[tuple[Path, str]],
    output: Path,
    recipe: Recipe,
    seed: int,
    variations: int = 1,
    earlier: Mapping[str, tuple[str, str]] | None = None,
) -> list[Job]:
    """The jobs of a run: each picture in turn, with seeds seed, seed + 1, ...

    Args:
        found: of find_pictures.
        earlier: picture -> (group, SHA-256) of what earlier runs have made in the output folder. A picture keeps its
            name, also where its folder has moved; another one does not take it.

    Raises:
        SettingsError: no variation, more than MAX_VARIATIONS, or a seed would be too large.
    """
    if not 1 <= variations <= min(MAX_VARIATIONS, 2**64 - seed):
        raise SettingsError(
            f"{counted(variations, 'variation')} from seed {seed} cannot be made; give 1 to {MAX_VARIATIONS}, of seeds "
            "below 2^64."
        )
    seeds = [seed + number for number in range(variations)]
    digests = {path: file_hash(path) for path, _ in found}
    groups = _named(found, output, recipe, seeds, digests, earlier or {})
    return [
        Job(_object(group, one, seeds), str(path), digests[path], one, group)
        for (path, _), group in zip(found, groups)
        for one in seeds
    ]


def sheet_path(output: Path, group: str) -> Path:
    """The contact sheet of a picture's variations."""
    return output / f"{group}_sheet.png"


def views_path(path: Path) -> Path:
    """The picture of the object that is written to `path`."""
    return path.with_name(f"{path.stem}.png")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, "" if there is no such regular file or it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe waits for its other end
            return ""
        with open(path, "rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()
    except (OSError, ValueError):
        return ""


def _object(group: str, seed: int, seeds: Sequence[int]) -> str:
    return group if len(seeds) == 1 else f"{group}_seed{seed}"


def _is_picture(path: Path, folder: Path, output: Path) -> bool:
    if path.suffix.lower() not in PICTURES or path.is_dir():
        return False
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not hidden and not path.resolve().is_relative_to(output.resolve())


def _named(
    found: Sequence[tuple[Path, str]],
    output: Path,
    recipe: Recipe,
    seeds: Sequence[int],
    digests: Mapping[Path, str],
    earlier: Mapping[str, tuple[str, str]],
) -> list[str]:
    """A group for each picture, so that no two objects write the same file, and none writes over a picture."""
    place = Path(os.path.abspath(output))
    taken = {_folded(path.relative_to(place)) for path, _ in found if path.is_relative_to(place)}
    known = {picture: group for picture, (group, _) in earlier.items()}
    owner = dict(earlier.values())  # group -> SHA-256
    groups: dict[Path, str] = {}
    for path, name in sorted(found, key=lambda each: str(each[0]) not in known):  # those that have a name come first
        own = known.get(str(path))
        for candidate in _candidates(path, own or name, name):
            files = _files(candidate, recipe, seeds)
            is_free = candidate == own or owner.get(candidate, digests[path]) == digests[path]
            if is_free and not files & taken:
                taken |= files
                groups[path] = candidate
                break
    return [groups[path] for path, _ in found]


def _candidates(path: Path, first: str, name: str) -> Iterable[str]:
    """chair, chair_jpg, chair_jpg_2, ..."""
    longer = f"{name}_{path.suffix.lstrip('.').lower()}"
    yield first
    yield longer
    number = 2
    while True:
        yield f"{longer}_{number}"
        number += 1


def _files(group: str, recipe: Recipe, seeds: Sequence[int]) -> set[str]:
    """Everything that the objects of a group may write, as names that a file system cannot tell apart."""
    levels = 1 if recipe.export.lods_in_one_file else 1 + len(recipe.export.lods)
    files = [sheet_path(Path(), group)] if len(seeds) > 1 else []
    for seed in seeds:
        path = Path(_object(group, seed, seeds) + recipe.suffix)
        files += written_paths(path, recipe.export.image_format, levels)
        files += [views_path(path)] if recipe.pictures else []
    return {_folded(file) for file in files}


def _folded(path: Path) -> str:
    return unicodedata.normalize("NFC", PurePosixPath(path).as_posix()).casefold()
