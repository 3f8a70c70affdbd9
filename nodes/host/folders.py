"""Where checkpoints are: ComfyUI's model folders and the Hugging Face cache."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import folder_paths

from ...pipeline.weights import (
    RELEASED_CHECKPOINT,
    SMALL_CHECKPOINT,
    SMALL_IS,
    Checkpoint,
    open_bundles,
    open_checkpoint,
)
from ...pipeline.weights.hub import cached_file, cached_repositories, is_repo_id

FOLDER = "trellis2"  # models/trellis2
SMALL = "small (comes with the pack)"
OWN = "as the checkpoint says"
AUTOMATIC = "automatic"

_DESCRIPTION = "pipeline.json"
_DECODER_KEYS = (b'"shape_dec.', b'"txt_dec.', b'"struct_dec.', b".shape_dec.")
_FLOW_KEYS = (b'"img2shape', b'"shape2txt.', b'"structure_model.', b".img2shape")
_ENCODER_KEYS = (b'"embeddings.register_tokens"',)
_HEADER_LIMIT = 16 << 20  # bytes; larger headers are not ours


def register() -> None:
    """Make models/trellis2 a model folder, beside what extra_model_paths.yaml says of it."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))


def checkpoints() -> dict[str, str]:
    """Every checkpoint that can be chosen -> where it is, in words."""
    found = {SMALL: f"in the pack; {SMALL_IS}"}
    for path in _released_folders():
        found[_label(path)] = str(path)
    for kind, keys in ((FOLDER, _FLOW_KEYS + _DECODER_KEYS), ("diffusion_models", _FLOW_KEYS)):
        for name in _files(kind, keys):
            found[f"{kind}/{name}"] = folder_paths.get_full_path(kind, name)
    for repo in cached_repositories():
        if _is_ours(cached_file(repo, _DESCRIPTION)):
            found[repo] = "in the Hugging Face cache"
    found.setdefault(RELEASED_CHECKPOINT, "not here; downloaded (16 GB) when a run asks for it")
    return found


def decoder_bundles() -> list[str]:
    """ComfyUI bundles with decoders among the VAEs."""
    return _files("vae", _DECODER_KEYS)


def image_encoders() -> list[str]:
    """DINOv3 files among the CLIP-vision models."""
    return _files("clip_vision", _ENCODER_KEYS)


def searched() -> str:
    """Where checkpoints are looked for, in words."""
    folders = [str(path) for kind in (FOLDER, "diffusion_models") for path in folder_paths.get_folder_paths(kind)]
    return f"{', '.join(folders)} and the Hugging Face cache"


def open_choice(choice: str, decoders: str = AUTOMATIC, encoder: str = OWN, on_download=None) -> Checkpoint:
    """Open what the loader's widgets say. on_download as in weights.open_checkpoint."""
    image_encoder = None if encoder == OWN else folder_paths.get_full_path_or_raise("clip_vision", encoder)
    decoder_file = None if decoders == AUTOMATIC else Path(folder_paths.get_full_path_or_raise("vae", decoders))
    if choice == SMALL:
        return open_checkpoint(SMALL_CHECKPOINT, image_encoder, on_download)
    if bundle := _bundle(choice):
        files = [bundle]
        if decoder_file:
            files.append(decoder_file)
        elif not _has(bundle, _DECODER_KEYS):
            files += [Path(folder_paths.get_full_path_or_raise("vae", name)) for name in decoder_bundles()[:1]]
        if image_encoder is None and (encoders := image_encoders()):
            image_encoder = folder_paths.get_full_path_or_raise("clip_vision", encoders[0])
        return open_bundles(files, image_encoder, on_download)
    for path in _released_folders():
        if _label(path) == choice:
            return open_checkpoint(path, image_encoder, on_download)
    return open_checkpoint(choice, image_encoder, on_download)


def fingerprint(choice: str, decoders: str, encoder: str) -> str:
    """Changes when a local file behind the choice does."""
    paths = [_bundle(choice)] if _bundle(choice) else [p for p in _released_folders() if _label(p) == choice]
    if decoders != AUTOMATIC:
        paths.append(folder_paths.get_full_path("vae", decoders))
    if encoder != OWN:
        paths.append(folder_paths.get_full_path("clip_vision", encoder))
    stamps = []
    for path in map(Path, filter(None, paths)):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.suffix in (".json", ".safetensors"):
                stat = file.stat()
                stamps.append(f"{file}:{stat.st_size}:{stat.st_mtime_ns}")
    return "|".join(stamps)


def why_not(choice: str) -> str:
    """Why a checkpoint cannot be chosen, or "" if it can."""
    on_hub = is_repo_id(choice) and choice.partition("/")[0] not in (FOLDER, "diffusion_models")
    if on_hub or choice in checkpoints():
        return ""
    return (
        f"There is no checkpoint {choice!r}. Looked in {searched()}. Put its folder (pipeline.json and ckpts/) into "
        f"models/{FOLDER}, or choose {RELEASED_CHECKPOINT}, which is downloaded."
    )


def _released_folders() -> list[Path]:
    """Folders in the released layout under models/trellis2."""
    found = []
    for base in map(Path, folder_paths.get_folder_paths(FOLDER)):
        files, _ = folder_paths.recursive_search(str(base))  # which follows links, as people put models elsewhere
        paths = sorted(base / file for file in files if Path(file).name == _DESCRIPTION)
        found += [path.parent for path in paths if _is_ours(path)]
    return found


def _is_ours(description: Path | None) -> bool:
    """Whether a pipeline.json is one of TRELLIS.2; the first TRELLIS has one too."""
    return description is not None and b"shape_slat" in description.read_bytes()


def _label(path: Path) -> str:
    for base in map(Path, folder_paths.get_folder_paths(FOLDER)):
        if path.is_relative_to(base):
            return f"{FOLDER}/{path.relative_to(base).as_posix()}".removesuffix("/.")
    return str(path)


def _bundle(choice: str) -> Path | None:
    kind, _, name = choice.partition("/")
    if name.endswith(".safetensors") and kind in (FOLDER, "diffusion_models"):
        return Path(folder_paths.get_full_path_or_raise(kind, name))
    return None


def _files(kind: str, keys: tuple[bytes, ...]) -> list[str]:
    names = [name for name in folder_paths.get_filename_list(kind) if name.endswith(".safetensors")]
    return [name for name in names if (path := folder_paths.get_full_path(kind, name)) and _has(Path(path), keys)]


def _has(path: Path, keys: tuple[bytes, ...]) -> bool:
    stat = path.stat()
    return any(key in _header(str(path), stat.st_size, stat.st_mtime_ns) for key in keys)


@lru_cache(4096)
def _header(path: str, size: int, changed: int) -> bytes:
    """The JSON in front of a safetensors file, unparsed; b"" if it is none."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return file.read(length) if 2 <= length <= min(size, _HEADER_LIMIT) else b""
