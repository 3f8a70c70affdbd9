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
from ..spec import IMAGE_ENCODER, RELEASED, ROUTES, SHAPE_ENCODER, CheckpointSpec, Route, route
from .bundle import bundled_models
from .files import ModelFiles, read_json
from .hub import fetch, is_repo_id

OnDownload = Callable[[str, int, int], None]  # file name, bytes here, bytes in all
Sources = dict[str, Callable[[], ModelFiles]]  # role -> its files, fetched if need be

SMALL_CHECKPOINT = Path(__file__).resolve().parents[2] / "checkpoints" / "small"  # comes along
SMALL_IS = "8 M parameters, trained on simple objects made by program (tables, mugs, rockets, ...)"
RELEASED_CHECKPOINT = "microsoft/TRELLIS.2-4B"  # on the Hugging Face hub

_TEXTURING = "texturing_pipeline.json"
_ENCODER = "DinoV3FeatureExtractor"
_RELEASED_ENCODER = "facebook/dinov3-vitl16-pretrain-lvd1689m"


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
        self._loaded: dict[str, tuple[nn.Module, tuple]] = {}

    @property
    def spec(self) -> CheckpointSpec:
        return self.checkpoint.spec

    def fetch(self, roles: Iterable[str]) -> None:
        """Make sure that the files of these models are here: what is missing is downloaded now, not in mid-run."""
        for role in roles:
            self.config(role)

    def config(self, role: str) -> Mapping:
        """{"name", "args"} of a model; fetches its files, loads no weights."""
        if role not in self._files:
            self._files[role] = self.checkpoint.files(role)
        return self._files[role].config

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
            (.safetensors) or a folder of bundles.
        image_encoder: the DINOv3 encoder in place of the checkpoint's: a folder with config.json and
            model.safetensors, a safetensors file, or a hub repository.
        on_download: called with a file's name, the bytes that are here and its size while it is
            downloaded; an exception it raises stops the download.

    Raises:
        CheckpointError: nothing usable is there.
    """
    path = Path(name)
    if path.is_file():
        return open_bundles([path], image_encoder, on_download)
    if (path / "pipeline.json").is_file():
        spec, sources = _from_released(_Folder(path, on_download))
    elif path.is_dir():
        spec, sources = RELEASED, _from_bundles(path, sorted(path.rglob("*.safetensors")), on_download)
    elif is_repo_id(str(name)):
        spec, sources = _from_released(_Repository(str(name), on_download))
    else:
        raise CheckpointError(
            f"{name} is neither a folder, nor a safetensors file, nor a Hugging Face repository (owner/name)."
        )
    return _with_encoder(
        Checkpoint(path.resolve().name if path.exists() else str(name), spec, sources), image_encoder, on_download
    )


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
    source = partial(_encoder, str(image_encoder), None, on_download)
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
        owner, _, rest = value.partition("/")
        repository, _, inside = rest.partition("/")
        candidates = [
            self.path / value,
            self.path / "ckpts" / base,  # copied beside the others
            self.path.parent / repository / inside,  # the other repository's folder beside this one
        ]
        for candidate in candidates:
            if candidate.with_name(candidate.name + ".json").is_file():
                return partial(_pair, candidate.with_name, candidate.name)
        if _names_other_repository(value):
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
        return partial(_pair, self.file, value)


def _names_other_repository(value: str) -> bool:
    return value.count("/") >= 2 and not value.startswith("ckpts/")


def _pair(file: Callable[[str], Path], base: str) -> ModelFiles:
    return ModelFiles(read_json(file(f"{base}.json")), file(f"{base}.safetensors"))


def _from_released(home: _Folder | _Repository) -> tuple[CheckpointSpec, Sources]:
    args = read_json(home.file("pipeline.json")).get("args", {})
    spec = CheckpointSpec.from_json(args)
    sources: Sources = {role: home.model(value) for role, value in args.get("models", {}).items()}
    encoder = args["image_cond_model"]
    if encoder.get("name") != _ENCODER:
        raise CheckpointError(f"pipeline.json asks for the image encoder {encoder.get('name')!r}; known is {_ENCODER}.")
    sources[IMAGE_ENCODER] = partial(_encoder, encoder["args"]["model_name"], home, home.on_download)
    if isinstance(home, _Repository) or home.file(_TEXTURING).is_file():
        sources.setdefault(SHAPE_ENCODER, partial(_texturing_model, home, SHAPE_ENCODER))
    return spec, sources


def _texturing_model(home: _Folder | _Repository, role: str) -> ModelFiles:
    """A model that only the second description, for texturing a mesh one has, names."""
    return home.model(read_json(home.file(_TEXTURING))["args"]["models"][role])()


def _encoder(name: str, home: _Folder | _Repository | None, on_download: OnDownload | None) -> ModelFiles:
    """A relative name is a folder inside the checkpoint; otherwise a path, a bundle or a hub repository."""
    inside = home.path / name if isinstance(home, _Folder) else Path(name)
    for path in (inside, Path(name)):
        if path.is_dir():
            return _encoder_folder(_Folder(path), "")
        if path.is_file():
            return _bundled_encoder(path)
    if isinstance(home, _Repository) and not is_repo_id(name):
        return _encoder_folder(home, f"{name}/")
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
    sources: Sources = {IMAGE_ENCODER: partial(_encoder, _RELEASED_ENCODER, None, on_download)}
    return sources | {role: partial(_known, files) for role, files in found.items()}


def _known(files: ModelFiles) -> ModelFiles:
    return files
