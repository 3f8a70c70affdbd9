"""The layouts that a checkpoint comes in: from a folder, a hub repository or bundles to the source of each model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from ..errors import CheckpointError
from ..schema import record, table, text
from ..spec import (
    IMAGE_ENCODER,
    RELEASED,
    RELEASED_ENCODERS,
    RELEASED_FILES,
    SHAPE_DECODER,
    STRUCTURE_DECODER,
    TEXTURE_DECODER,
    CheckpointSpec,
)
from .bundle import bundled_models, bundled_roles, configured
from .contents import GGUF, read_contents
from .encoder import ENCODER, encoder_of, nearby_encoder
from .files import ModelFiles
from .hub import cached_file, fetch, is_repo_id
from .places import DESCRIPTION, is_file, present, walk
from .text import read_json

OnDownload = Callable[[str, int, int], None]  # file name, bytes here, bytes in all

_NAMED = record({"models": table(text(512), 64)})
_TEXTURING = "texturing_pipeline.json"
# The one other repository that a released pipeline.json names; its folder may lie beside the checkpoint's.
_BESIDE = "microsoft/TRELLIS-image-large/"
_DECODERS = frozenset({STRUCTURE_DECODER, SHAPE_DECODER, TEXTURE_DECODER})
_BELOW = 3  # levels below a checkpoint's folder in which its files are looked for
# formats, the exact first
_PRECISIONS = ("bf16", "f16", "f32", "Q8_0", "int8", "Q6_K", "Q5_K", "Q4_K")


@dataclass(frozen=True)
class Source:
    """Where a model comes from. get: its files, downloaded if need be; here: whether they are on this machine; look:
    as get, for those that are here, without asking the hub."""

    get: Callable[[], ModelFiles]
    here: Callable[[], bool] = lambda: True
    look: Callable[[], ModelFiles] | None = None

    def __call__(self) -> ModelFiles:
        return self.get()


Sources = dict[str, Source]  # by role


def known(files: ModelFiles) -> Source:
    """The source of a model whose files have been looked at."""
    return Source(lambda: files)


def rank(role: str, files: ModelFiles) -> int:
    """How exact the number format of a model's weights is; the lower the better. Decoders are released in fp16, which
    bf16 rounds, and flows in bf16."""
    order = ("f16", "f32", *_PRECISIONS) if role in _DECODERS else _PRECISIONS
    return order.index(files.precision) if files.precision in order else len(order)


class Folder:
    """Files of a local folder."""

    def __init__(self, path: Path, on_download: OnDownload | None = None) -> None:
        self.path, self.on_download = path, on_download

    def file(self, name: str) -> Path:
        return self.path / name

    @cached_property
    def _below(self) -> dict[str, Path]:
        """The files in the folder and the folders below it, by name; the upper ones win."""
        found: dict[str, Path] = {}
        for path in walk(self.path, deepest=_BELOW):
            found.setdefault(path.name, path)
        return found

    def model(self, role: str, value: str) -> Source:
        """The source of a `models` entry: in this folder or beside it, else the repository that the entry names."""
        base = Path(value).name
        for candidate in self._candidates(value, base):
            if is_file(candidate.with_name(f"{base}.json")) and is_file(candidate.with_name(f"{base}.safetensors")):
                return Source(partial(_pair, candidate.with_name, base))
        if weights := self._weights(base):
            config = self._below.get(f"{base}.json")
            return Source(partial(_best, role, config, weights))
        for candidate in self._candidates(value, base):
            if is_file(candidate.with_name(f"{base}.json")):  # without its weights, which then are what is missed
                return Source(partial(_pair, candidate.with_name, base), lambda: False)
        if _names_other_repository(value):
            owner, repository, inside = value.split("/", 2)
            return Repository(f"{owner}/{repository}", self.on_download).model(role, inside)
        return Source(partial(_pair, self.file, value), lambda: False)

    def _candidates(self, value: str, base: str) -> list[Path]:
        found = [
            self.path / value,
            self.path / "ckpts" / base,  # copied beside the others
            self.path / value / base,  # in a folder of its own
            self.path / "ckpts" / base / base,
        ]
        if value.startswith(_BESIDE):  # the other repository's folder beside this one, or beside this one's owner
            owner, repository, inside = value.split("/", 2)
            around = [self.path.parent, self.path.parent / owner, self.path.absolute().parent.parent / owner]
            found += [above / repository / inside for above in around]
        return found

    def _weights(self, base: str) -> list[Path]:
        """Files that hold a network under its own name, or with the name of a format behind it."""
        exact = self._below.get(f"{base}.safetensors")
        quantised = [
            path
            for name, path in self._below.items()
            if name.lower().endswith(GGUF) and name[: len(base)] == base and name[len(base)] in "._-"
        ]
        return [*([exact] if exact else []), *quantised]


class Repository:
    """Files of a hub repository."""

    def __init__(self, repo: str, on_download: OnDownload | None = None) -> None:
        self.repo, self.on_download = repo, on_download

    def file(self, name: str) -> Path:
        return fetch(self.repo, name, self.on_download and partial(self.on_download, name))

    def local(self, name: str) -> Path:
        """A file that has been downloaded."""
        found = cached_file(self.repo, name)
        if found is None:
            raise CheckpointError(f"{name} of {self.repo} is not in the cache.")
        return found

    def cached(self, *names: str) -> bool:
        """Whether these files have been downloaded."""
        return all(cached_file(self.repo, name) is not None for name in names)

    def model(self, role: str, value: str) -> Source:
        if _names_other_repository(value):
            owner, repository, inside = value.split("/", 2)
            return Repository(f"{owner}/{repository}", self.on_download).model(role, inside)
        return Source(
            partial(_pair, self.file, value),
            partial(self.cached, f"{value}.json", f"{value}.safetensors"),
            partial(_pair, self.local, value),
        )


def _names_other_repository(value: str) -> bool:
    return value.count("/") >= 2 and not value.startswith("ckpts/")


def _pair(file: Callable[[str], Path], base: str) -> ModelFiles:
    return ModelFiles(read_json(file(f"{base}.json")), file(f"{base}.safetensors"))


def _best(role: str, config: Path | None, weights: list[Path]) -> ModelFiles:
    """The most exact of several files of one network; without a JSON its configuration is read off the shapes."""
    found = []
    for path in weights:
        described = read_json(config) if config else configured(role, path, read_contents(path).shapes)
        found.append(ModelFiles(described, path))
    return min(found, key=partial(rank, role)) if len(found) > 1 else found[0]


def _inside(value: str, where: str) -> str:
    """A name in a description, which must be a path inside the checkpoint or in a repository. Links inside may lead
    out, as people put large files elsewhere; the text may not.

    Raises:
        CheckpointError: it leaves the checkpoint.
    """
    parts = value.split("/")
    if any(part in ("", "..") for part in parts) or any(each in "\\:" or ord(each) < 32 for each in value):
        raise CheckpointError(
            f"pipeline.json names {value[:100]!r} for {where}, which is no path inside the checkpoint. Put the file "
            "inside or link it there; an image encoder elsewhere can be named beside the checkpoint."
        )
    return value


def from_released(home: Folder | Repository) -> tuple[CheckpointSpec, Sources]:
    """Spec and sources of the released layout; a folder without pipeline.json is taken for the released checkpoint."""
    if isinstance(home, Folder) and not present(home.file(DESCRIPTION)):
        sources = {role: home.model(role, value) for role, value in RELEASED_FILES.items() if role != IMAGE_ENCODER}
        sources[IMAGE_ENCODER] = encoder_source(RELEASED_FILES[IMAGE_ENCODER], home)
        return RELEASED, {**_mesh_encoders(home), **sources}
    args = read_json(home.file(DESCRIPTION)).get("args") or {}
    spec = CheckpointSpec.from_json(args)
    models = _NAMED(args, f"{DESCRIPTION}: args")["models"]
    sources: Sources = {role: home.model(role, _inside(value, role)) for role, value in models.items()}
    encoder = args["image_cond_model"]
    if encoder["name"] != ENCODER:
        raise CheckpointError(f"pipeline.json asks for the image encoder {encoder['name']!r}; known is {ENCODER}.")
    sources[IMAGE_ENCODER] = encoder_source(_inside(encoder["args"]["model_name"], IMAGE_ENCODER), home)
    return spec, {**_mesh_encoders(home), **sources}


def _mesh_encoders(home: Folder | Repository) -> Sources:
    """The encoders of shape and texture, which only a mesh as input needs.

    The released pipeline.json names neither; a second description, for texturing a mesh one has, names the first, and
    the second is only known by its file's name.
    """
    if isinstance(home, Repository):
        return {role: Source(partial(_mesh_encoder, home, role), lambda: False) for role in RELEASED_ENCODERS}
    found: Sources = {}
    if is_file(home.file(_TEXTURING)):
        try:
            named = _texturing_names(home)
        except CheckpointError as error:  # of whoever needs an encoder, not of whoever opens the checkpoint
            return {role: Source(partial(_raise, error)) for role in RELEASED_ENCODERS}
        found = {role: home.model(role, named[role]) for role in RELEASED_ENCODERS if role in named}
    for role, value in RELEASED_ENCODERS.items():
        if role not in found and (source := home.model(role, value)).here():
            found[role] = source
    return found


def _raise(error: CheckpointError) -> ModelFiles:
    raise error


def _texturing_names(home: Folder | Repository) -> dict[str, str]:
    """Paths by role, of the second description."""
    models = _NAMED(read_json(home.file(_TEXTURING)).get("args"), f"{_TEXTURING}: args")["models"]
    return {role: _inside(value, role) for role, value in models.items()}


def _mesh_encoder(home: Repository, role: str) -> ModelFiles:
    """As _mesh_encoders, of a repository that is asked only now."""
    named = {**RELEASED_ENCODERS, **_texturing_names(home)}
    return home.model(role, named[role])()


def encoder_source(name: str, home: Folder | Repository) -> Source:
    """The encoder that a checkpoint names: a folder or file inside it, one near it, else a hub repository."""
    if isinstance(home, Folder):
        inside = home.path / name
        if present(inside):
            return Source(partial(encoder_of, str(inside), home.on_download))
        if name == RELEASED_FILES[IMAGE_ENCODER] and (near := nearby_encoder(home.path)):
            return known(near)
    if is_repo_id(name):
        return remote_encoder(name, home.on_download)
    names = f"{name}/config.json", f"{name}/model.safetensors"
    here = partial(home.cached, *names) if isinstance(home, Repository) else lambda: False
    return Source(partial(_described, home, *names), here)


def _described(home: Folder | Repository, config: str, weights: str) -> ModelFiles:
    return ModelFiles({"name": ENCODER, "args": read_json(home.file(config))}, home.file(weights))


def remote_encoder(name: str, on_download: OnDownload | None) -> Source:
    """An encoder of a hub repository."""
    home, names = Repository(name), ("config.json", "model.safetensors")
    return Source(
        partial(encoder_of, name, on_download),
        partial(home.cached, *names),
        lambda: ModelFiles({"name": ENCODER, "args": read_json(home.local(names[0]))}, home.local(names[1])),
    )


def from_bundles(path: Path, candidates: Iterable[Path], chosen: Path | None = None) -> tuple[Sources, list[str]]:
    """The models of ComfyUI bundles, of each the most exact, and what is to be said about the choice.

    Args:
        path: what the user named, for errors.
        chosen: the file whose models count whatever others hold.

    Raises:
        CheckpointError: there is none, one is damaged that is needed, or two hold different models for one role.
    """
    found: dict[str, ModelFiles] = {}
    trouble: list[tuple[Path, CheckpointError]] = []
    notes: list[str] = []
    for candidate in candidates:
        try:
            models = bundled_models(candidate)
        except CheckpointError as error:
            if candidate == chosen:
                raise
            trouble.append((candidate, error))
            continue
        for role, files in models.items():
            if role not in found:
                found[role] = files
            elif found[role].path != chosen:
                found[role], other = _better(path, role, found[role], files)
                said = f"{role}: {found[role].path.name} ({found[role].precision}) is used, not {other.path.name}"
                notes.append(f"{said} ({other.precision}).")
    for candidate, error in trouble:
        if not found or bundled_roles(candidate) - set(found):
            raise error
        notes.append(f"Left out: {error}")
    if not found:
        raise CheckpointError(
            f"{path} holds neither pipeline.json (the released layout) nor a ComfyUI bundle of TRELLIS.2 "
            "(*.safetensors with keys such as img2shape.* or shape_dec.*)."
        )
    return {role: known(files) for role, files in found.items()}, notes


def _better(path: Path, role: str, one: ModelFiles, other: ModelFiles) -> tuple[ModelFiles, ModelFiles]:
    """Two files with a model for one role, the more exact one first."""
    same = one.config == other.config
    if same and one.precision != other.precision:
        return (one, other) if rank(role, one) <= rank(role, other) else (other, one)
    if same and one.fingerprint == other.fingerprint:
        return one, other
    raise CheckpointError(
        f"Both {one.path} and {other.path} hold {role}, and they are different models; keep one of them in {path}, or "
        "name the file."
    )
