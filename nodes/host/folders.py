"""The choice of a checkpoint: names for what is there, and what each of them opens."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...pipeline.errors import CheckpointError
from ...pipeline.spec import IMAGE_ENCODER
from ...pipeline.weights import (
    RELEASED_CHECKPOINT,
    SMALL_CHECKPOINT,
    SMALL_IS,
    Checkpoint,
    open_bundles,
    open_checkpoint,
    survey,
)
from ...pipeline.weights.hub import cached_file, is_repo_id
from ...pipeline.weights.places import DESCRIPTION, walk
from .scan import DECODERS, FOLDER, OTHER_FOLDERS, found, holding

SMALL = "small (comes with the pack)"
OWN = "as the checkpoint says"
AUTOMATIC = "automatic"

_KINDS = (FOLDER, "diffusion_models")  # of model folders whose bundles are checkpoints


def register() -> None:
    """Make models/trellis2 a model folder, beside what extra_model_paths.yaml says of it."""
    own = Path(folder_paths.models_dir) / FOLDER
    folder_paths.add_model_folder_path(FOLDER, str(own))
    for name in OTHER_FOLDERS:
        other = own.with_name(name)
        if other.is_dir() and not (own.is_dir() and own.samefile(other)):  # the same one where case does not count
            folder_paths.add_model_folder_path(FOLDER, str(other))


def checkpoints() -> dict[str, str]:
    """Every checkpoint that can be chosen -> what it is, in words without a path of this machine."""
    there = found()
    listed = {SMALL: f"in the pack; {SMALL_IS}"}
    listed |= {name: f"a folder; {_summary(name)}" for name in there.released}
    for kind in _KINDS:
        listed |= {f"{kind}/{name}": f"a ComfyUI bundle; {_summary(f'{kind}/{name}')}" for name in there.bundles[kind]}
    listed |= {name: f"in the Hugging Face cache; {_summary(name)}" for name in there.repositories}
    listed.setdefault(RELEASED_CHECKPOINT, "not here; downloaded (16 GB) when a run asks for it")
    return listed


def decoder_bundles() -> list[str]:
    """ComfyUI bundles with decoders among the VAEs."""
    return holding("vae", DECODERS)


def image_encoders() -> list[str]:
    """DINOv3 files among the CLIP-vision models."""
    return holding("clip_vision", {IMAGE_ENCODER})


def searched() -> str:
    """Where checkpoints are looked for, in words."""
    folders = [str(path) for kind in _KINDS for path in folder_paths.get_folder_paths(kind)]
    return f"{', '.join(folders)} and the Hugging Face cache"


def open_choice(choice: str, decoders: str = AUTOMATIC, encoder: str = OWN, on_download=None) -> Checkpoint:
    """Open what the loader's widgets say. on_download as in weights.open_checkpoint.

    Raises:
        CheckpointError: a file behind a choice is gone, damaged or holds nothing of use.
    """
    image_encoder = None if encoder == OWN else _file("clip_vision", encoder)
    decoder_file = None if decoders == AUTOMATIC else _file("vae", decoders)
    if choice == SMALL:
        return open_checkpoint(SMALL_CHECKPOINT, image_encoder, on_download)
    if kind_and_name := _bundle(choice):
        bundle = _file(*kind_and_name)
        own = found().bundles[kind_and_name[0]].get(kind_and_name[1], frozenset())
        files = [bundle, *([decoder_file] if decoder_file else _completing(own))]
        if image_encoder is None and IMAGE_ENCODER not in own and (encoders := image_encoders()):
            image_encoder = _file("clip_vision", encoders[0])
        return open_bundles(files, image_encoder, on_download)
    opened = open_checkpoint(found().released.get(choice, choice), image_encoder, on_download)
    if image_encoder is None and not opened.here(IMAGE_ENCODER) and (encoders := image_encoders()):
        return open_checkpoint(found().released.get(choice, choice), _file("clip_vision", encoders[0]), on_download)
    return opened


def fingerprint(choice: str | None, decoders: str | None, encoder: str | None) -> str:
    """Changes when a local file behind the choice does; constant for a linked input (None), whose value is unknown."""
    paths = []
    if choice and (kind_and_name := _bundle(choice)):
        paths.append(folder_paths.get_full_path(*kind_and_name))
    elif choice in (there := found().released):
        paths.append(there[choice])
    if decoders not in (AUTOMATIC, None):
        paths.append(folder_paths.get_full_path("vae", decoders))
    if encoder not in (OWN, None):
        paths.append(folder_paths.get_full_path("clip_vision", encoder))
    stamps = []
    for path in map(Path, filter(None, paths)):
        for file in walk(path) if path.is_dir() else [path]:
            if file.suffix in (".json", ".safetensors", ".gguf"):
                stamps.append(_stamp(file))
    return "|".join(stamps)


def why_not(choice: str | None) -> str:
    """Why a checkpoint cannot be chosen, or "" if it can, or if it comes from another node and is not known yet."""
    if choice is None:
        return ""
    on_hub = is_repo_id(choice) and choice.partition("/")[0] not in _KINDS
    if on_hub or choice in checkpoints():
        return ""
    return (
        f"There is no checkpoint {choice!r}. Looked in {searched()}. Put its folder (pipeline.json and ckpts/) into "
        f"models/{FOLDER}, or choose {RELEASED_CHECKPOINT}, which is downloaded."
    )


def _bundle(choice: str) -> tuple[str, str] | None:
    """The kind of model folder and the name in it of a choice that is a bundle."""
    kind, _, name = choice.partition("/")
    return (kind, name) if name.endswith(".safetensors") and kind in _KINDS else None


def _file(kind: str, name: str) -> Path:
    if path := folder_paths.get_full_path(kind, name):
        return Path(path)
    raise CheckpointError(
        f"There is no file {name} in models/{kind} (or it is a link to nothing). Put it there, or choose another; "
        "refresh the lists with R."
    )


def _completing(roles: frozenset[str]) -> list[Path]:
    """The VAE files that contain the decoders which a bundle lacks."""
    return [_file("vae", name) for name, more in found().bundles["vae"].items() if more & DECODERS - roles]


_summaries: dict[str, tuple[tuple, str]] = {}  # choice -> what it was read from, and what was found


def _summary(choice: str) -> str:
    """What a checkpoint is, in a line without a path; read again only after its files have changed."""
    there = found()
    cached = cached_file(choice, DESCRIPTION) if choice in there.repositories else None
    others = tuple(decoder_bundles()), tuple(image_encoders())
    state = fingerprint(choice, AUTOMATIC, OWN), cached, others
    if _summaries.get(choice, (None, ""))[0] != state:
        try:
            line = survey(open_checkpoint(cached.parent) if cached else open_choice(choice)).line()
        except CheckpointError:
            line = "cannot be used as it is; choose it to learn why"
        _summaries[choice] = state, line
    return _summaries[choice][1]


def _stamp(file: Path) -> str:
    try:
        stat = file.stat()
    except OSError as error:
        return f"{file}:{error.strerror}"
    return f"{file}:{stat.st_size}:{stat.st_mtime_ns}"
