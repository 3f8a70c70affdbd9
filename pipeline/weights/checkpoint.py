"""A checkpoint in either layout: what it contains, where its files are, and its models once loaded.

Released layout: a folder or hub repository with pipeline.json and ckpts/<name>.{json,safetensors}.
ComfyUI layout: one or more safetensors bundles, alone or in a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ..errors import CheckpointError
from ..schema import record, table, text
from ..spec import IMAGE_ENCODER, RELEASED, ROUTES, SHAPE_ENCODER, CheckpointSpec, Route, route
from .agreement import check_role, check_together
from .bundle import bundled_models
from .files import ModelFiles
from .hub import fetch, is_repo_id
from .places import DESCRIPTION, find, is_file, is_folder, present
from .text import read_json

_NAMED = record({"models": table(text(512), 64)})
OnDownload = Callable[[str, int, int], None]  # file name, bytes here, bytes in all
Sources = dict[str, Callable[[], ModelFiles]]  # role -> its files, fetched if need be

SMALL_CHECKPOINT = Path(__file__).resolve().parents[2] / "checkpoints" / "small"  # comes along
SMALL_IS = "8 M parameters, trained on simple objects made by program (tables, mugs, rockets, ...)"
RELEASED_CHECKPOINT = "microsoft/TRELLIS.2-4B"  # on the Hugging Face hub

_TEXTURING = "texturing_pipeline.json"
_ENCODER = "DinoV3FeatureExtractor"
_RELEASED_ENCODER = "facebook/dinov3-vitl16-pretrain-lvd1689m"
# The one other repository that a released pipeline.json names; its folder may lie beside the checkpoint's.
_BESIDE = "microsoft/TRELLIS-image-large/"


@dataclass(frozen=True)
class _Remote:
    """A source whose files may have to be downloaded."""

    get: Callable[[], ModelFiles]

    def __call__(self) -> ModelFiles:
        return self.get()


@dataclass(frozen=True)
class Checkpoint:
    """Where each model comes from; nothing is read or downloaded before it is asked for.

    name: the hub repository, or the name of the folder or file without its path.
    """

    name: str
    spec: CheckpointSpec
    sources: Sources = field(repr=False)

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self.sources)

    @property
    def own_route(self) -> Route:
        """The route that it was made for."""
        return route(self.spec.default_route)

    def has(self, route: Route, texture: bool = True) -> bool:
        """Whether it has every model of the route."""
        return set(route.roles(texture)) <= set(self.sources)

    def require(self, route: Route, texture: bool = True, setting: str = "type") -> None:
        """Raises CheckpointError if the checkpoint lacks a model of the route. setting: what the user chose it by."""
        if lacking := [role for role in route.roles(texture) if role not in self.sources]:
            known = [f"{setting} {name}" for name, each in ROUTES.items() if self.has(each, texture)]
            raise CheckpointError(
                f"{setting.capitalize()} {route.name} needs {', '.join(lacking)}, which {self.name} lacks. "
                f"It has {', '.join(self.roles)}. Choose {' or '.join([*known, 'the complete checkpoint'])}."
            )

    def nearest_first(self, roles: Iterable[str]) -> list[str]:
        """The roles in their order, those whose files are on this machine before those to be downloaded: what is wrong
        here is then said before anything is downloaded."""
        return sorted(roles, key=lambda role: isinstance(self.sources.get(role), _Remote))

    def files(self, role: str) -> ModelFiles:
        """The files of one model, downloaded if need be."""
        if role not in self.sources:
            raise CheckpointError(f"{self.name} has no {role}. It has {', '.join(self.roles)}.")
        return self.sources[role]()


class Models:
    """The models of a checkpoint: each loaded when first used, kept until released."""

    def __init__(self, checkpoint: Checkpoint, build: Callable[..., nn.Module]) -> None:
        """build: models.build."""
        self.checkpoint, self._build = checkpoint, build
        self._files: dict[str, ModelFiles] = {}
        self._verified: set[str] = set()
        self._loaded: dict[str, tuple[nn.Module, tuple]] = {}

    @property
    def spec(self) -> CheckpointSpec:
        return self.checkpoint.spec

    def fetch(self, roles: Iterable[str]) -> None:
        """Make sure, before a run, that the files of these models are here, sound and of one checkpoint.

        What is missing is downloaded; headers, lengths, names and shapes of all tensors are checked; no weight is read.

        Raises:
            CheckpointError: a file is missing, damaged or does not fit; the text names it and the cure.
        """
        for role in self.checkpoint.nearest_first(roles):
            config = self.config(role)
            if role not in self._verified:
                check_role(role, config)
                self._files[role].verify(self._build)
                self._verified.add(role)
        known = {role: self._files[role].config for role in self._verified}
        check_together(self.checkpoint.name, self.spec, known)

    def config(self, role: str) -> Mapping:
        """{"name", "args"} of a model; fetches its files, loads no weights."""
        if role not in self._files:
            self._files[role] = self.checkpoint.files(role)
        return self._files[role].config

    def fingerprint(self, role: str) -> str:
        """Which network it is (see ModelFiles.fingerprint); fetches its files, loads no weights."""
        self.config(role)
        return self._files[role].fingerprint

    def get(self, role: str, device: torch.device, dtype: torch.dtype | None = None) -> nn.Module:
        """The module on that device with that torso dtype (None: the checkpoint's), loaded if it is not there yet."""
        self.config(role)
        want = (torch.device(device), dtype)
        if role not in self._loaded or self._loaded[role][1] != want:
            self.release(role)
            self._loaded[role] = (self._files[role].load(self._build, device, dtype), want)
        return self._loaded[role][0]

    def release(self, role: str | None = None) -> None:
        """Forget one model, or all of them."""
        if role is None:
            self._loaded.clear()
        else:
            self._loaded.pop(role, None)


def open_checkpoint(
    name: str | Path, image_encoder: str | Path | None = None, on_download: OnDownload | None = None
) -> Checkpoint:
    """Open a checkpoint.

    Args:
        name: a folder in the released layout, a hub repository (owner/name), a ComfyUI bundle
            (.safetensors) or a folder of bundles. A path that is one level off (pipeline.json itself, a folder or
            file inside the checkpoint, a folder that holds this one only) means the same.
        image_encoder: the DINOv3 encoder in place of the checkpoint's: a folder with config.json and
            model.safetensors, a safetensors file, or a hub repository.
        on_download: called with a file's name, the bytes that are here and its size while it is
            downloaded; an exception it raises stops the download.

    Raises:
        CheckpointError: nothing usable is there.
    """
    path = Path(name)
    if present(path):
        place = find(path)
        if place.folder is None:
            label = path.resolve().name if is_folder(path) else path.name
            opened = Checkpoint(label, RELEASED, _from_bundles(path, place.bundles, on_download))
        else:
            home = _Folder(place.folder, on_download)
            opened = Checkpoint(place.folder.resolve().name, *_from_released(home))
    elif is_repo_id(str(name)):
        opened = Checkpoint(str(name), *_from_released(_Repository(str(name), on_download)))
    else:
        raise CheckpointError(
            f"{name} is neither a folder, nor a safetensors file, nor a Hugging Face repository (owner/name)."
        )
    return _with_encoder(opened, image_encoder, on_download)


def open_bundles(
    paths: Sequence[Path], image_encoder: str | Path | None = None, on_download: OnDownload | None = None
) -> Checkpoint:
    """Open ComfyUI bundles that together are a checkpoint; the first gives it its name. Arguments as open_checkpoint.

    Raises:
        CheckpointError: none of them holds a model of ours, or two hold the same one.
    """
    checkpoint = Checkpoint(paths[0].name, RELEASED, _from_bundles(paths[0], paths, on_download))
    return _with_encoder(checkpoint, image_encoder, on_download)


def _with_encoder(checkpoint: Checkpoint, image_encoder, on_download: OnDownload | None) -> Checkpoint:
    if image_encoder is None:
        return checkpoint
    source = partial(_encoder, str(image_encoder), on_download)
    source = source if present(Path(image_encoder)) else _Remote(source)
    return replace(checkpoint, sources={**checkpoint.sources, IMAGE_ENCODER: source})


class _Folder:
    """Files of a local folder."""

    def __init__(self, path: Path, on_download: OnDownload | None = None) -> None:
        self.path, self.on_download = path, on_download

    def file(self, name: str) -> Path:
        return self.path / name

    def model(self, value: str) -> Callable[[], ModelFiles]:
        """The source of a `models` entry: in this folder, else the repository that the entry names."""
        base = Path(value).name
        candidates = [
            self.path / value,
            self.path / "ckpts" / base,  # copied beside the others
            self.path / value / base,  # in a folder of its own
            self.path / "ckpts" / base / base,
        ]
        if value.startswith(_BESIDE):  # the other repository's folder beside this one
            candidates.append(self.path.parent / value.partition("/")[2])
        for candidate in candidates:
            if is_file(candidate.with_name(candidate.name + ".json")):
                return partial(_pair, candidate.with_name, candidate.name)
        if _names_other_repository(value):
            owner, repository, inside = value.split("/", 2)
            return _Repository(f"{owner}/{repository}", self.on_download).model(inside)
        return partial(_pair, self.file, value)


class _Repository:
    """Files of a hub repository."""

    def __init__(self, repo: str, on_download: OnDownload | None = None) -> None:
        self.repo, self.on_download = repo, on_download

    def file(self, name: str) -> Path:
        return fetch(self.repo, name, self.on_download and partial(self.on_download, name))

    def model(self, value: str) -> Callable[[], ModelFiles]:
        if _names_other_repository(value):
            owner, repository, inside = value.split("/", 2)
            return _Repository(f"{owner}/{repository}", self.on_download).model(inside)
        return _Remote(partial(_pair, self.file, value))


def _names_other_repository(value: str) -> bool:
    return value.count("/") >= 2 and not value.startswith("ckpts/")


def _pair(file: Callable[[str], Path], base: str) -> ModelFiles:
    return ModelFiles(read_json(file(f"{base}.json")), file(f"{base}.safetensors"))


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


def _from_released(home: _Folder | _Repository) -> tuple[CheckpointSpec, Sources]:
    args = read_json(home.file(DESCRIPTION)).get("args")
    spec = CheckpointSpec.from_json(args)
    models = _NAMED(args, f"{DESCRIPTION}: args")["models"]
    sources: Sources = {role: home.model(_inside(value, role)) for role, value in models.items()}
    encoder = args["image_cond_model"]
    if encoder["name"] != _ENCODER:
        raise CheckpointError(f"pipeline.json asks for the image encoder {encoder['name']!r}; known is {_ENCODER}.")
    name = _inside(encoder["args"]["model_name"], IMAGE_ENCODER)
    own = partial(_own_encoder, name, home)
    sources[IMAGE_ENCODER] = own if isinstance(home, _Folder) and present(home.path / name) else _Remote(own)
    if isinstance(home, _Repository) or is_file(home.file(_TEXTURING)):
        sources.setdefault(SHAPE_ENCODER, partial(_texturing_model, home, SHAPE_ENCODER))
    return spec, sources


def _texturing_model(home: _Folder | _Repository, role: str) -> ModelFiles:
    """A model that only the second description, for texturing a mesh one has, names."""
    models = _NAMED(read_json(home.file(_TEXTURING)).get("args"), f"{_TEXTURING}: args")["models"]
    if role not in models:
        raise CheckpointError(f"{_TEXTURING} names no {role}. Take the file of the complete checkpoint.")
    return home.model(_inside(models[role], role))()


def _own_encoder(name: str, home: _Folder | _Repository) -> ModelFiles:
    """The encoder that a checkpoint names: a folder or file inside it, else a hub repository."""
    if isinstance(home, _Folder) and present(home.path / name):
        return _encoder(str(home.path / name), home.on_download)
    if is_repo_id(name):
        return _encoder_folder(_Repository(name, home.on_download), "")
    return _encoder_folder(home, f"{name}/")


def _encoder(name: str, on_download: OnDownload | None) -> ModelFiles:
    """The encoder that a user names: a folder, its config.json or model.safetensors, a bundle or a hub repository."""
    path = Path(name)
    if present(path):
        beside = is_file(path.parent / "config.json") and path.name in ("config.json", "model.safetensors")
        if is_folder(path) or beside:
            return _encoder_folder(_Folder(path.parent if beside else path), "")
        return _bundled_encoder(path)
    if is_repo_id(name):
        return _encoder_folder(_Repository(name, on_download), "")
    raise CheckpointError(
        f"The image encoder {name!r} is neither a folder, nor a safetensors file, nor a Hugging Face repository. "
        "Name one in place of the checkpoint's."
    )


def _encoder_folder(home: _Folder | _Repository, inside: str) -> ModelFiles:
    config = read_json(home.file(f"{inside}config.json"))
    return ModelFiles({"name": _ENCODER, "args": config}, home.file(f"{inside}model.safetensors"))


def _bundled_encoder(path: Path) -> ModelFiles:
    models = bundled_models(path)
    if IMAGE_ENCODER not in models:
        raise CheckpointError(f"{path} holds no DINOv3 image encoder.")
    return models[IMAGE_ENCODER]


def _from_bundles(path: Path, candidates: Iterable[Path], on_download: OnDownload | None) -> Sources:
    found: dict[str, ModelFiles] = {}
    for candidate in candidates:
        for role, files in bundled_models(candidate).items():
            if role in found:
                raise CheckpointError(
                    f"Both {found[role].path} and {candidate} hold {role}; keep one of them in {path}."
                )
            found[role] = files
    if not found:
        raise CheckpointError(
            f"{path} holds neither pipeline.json (the released layout) nor a ComfyUI bundle of TRELLIS.2 "
            "(*.safetensors with keys such as img2shape.* or shape_dec.*)."
        )
    sources: Sources = {IMAGE_ENCODER: _Remote(partial(_encoder, _RELEASED_ENCODER, on_download))}
    return sources | {role: partial(_known, files) for role, files in found.items()}


def _known(files: ModelFiles) -> ModelFiles:
    return files
