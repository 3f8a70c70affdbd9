"""A checkpoint in either layout: what it contains, where its files are, and its models once loaded.

Released layout: a folder or hub repository with pipeline.json and ckpts/<name>.{json,safetensors}.
ComfyUI layout: one or more safetensors bundles, alone, in a folder, or in ComfyUI's repository.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ..errors import CheckpointError, near_path
from ..spec import (
    IMAGE_ENCODER,
    PIPELINE_TYPES,
    RELEASED,
    SHAPE_DECODER,
    SHAPE_FLOW_512,
    SHAPE_FLOW_1024,
    STRUCTURE_DECODER,
    STRUCTURE_FLOW,
    TEXTURE_DECODER,
    TEXTURE_FLOW_1024,
    CheckpointSpec,
    PipelineType,
)
from .agreement import check_role, check_together
from .bundle import bundled_models
from .encoder import encoder_of, nearby_encoder
from .files import ModelFiles
from .hub import is_repo_id
from .layouts import Folder, OnDownload, Repository, Source, Sources, from_bundles, from_released, known, remote_encoder
from .origins import COMFY_ORG, where_to_get
from .places import find, is_folder, present

_COMFY_FLOWS = ("diffusion_models/trellis_2_bf16.safetensors", "diffusion_models/trellis_2_int8_convrot.safetensors")
_COMFY_ENCODER = "clip_vision/dino_v3_vit_l.safetensors"

SMALL_CHECKPOINT = Path(__file__).resolve().parents[2] / "checkpoints" / "small"  # part of the repository
SMALL_IS = "8 M parameters, trained on simple, procedurally generated objects (tables, mugs, rockets, ...)"


@dataclass(frozen=True)
class Checkpoint:
    """Where each model comes from; nothing is read or downloaded before it is asked for.

    name: the hub repository, or the name of the folder or file without its path.
    """

    name: str
    spec: CheckpointSpec
    sources: Sources = field(repr=False)
    notes: tuple[str, ...] = ()  # what was chosen among several files, or left out

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self.sources)

    @property
    def default_pipeline_type(self) -> PipelineType:
        """The pipeline type that it was made for."""
        return PipelineType.named(self.spec.default_pipeline_type)

    own_route = default_pipeline_type  # its name in 0.1

    def has(self, pipeline_type: PipelineType, texture: bool = True) -> bool:
        """Whether it has every model of the pipeline type."""
        return set(pipeline_type.roles(texture)) <= set(self.sources)

    def require(self, pipeline_type: PipelineType, texture: bool = True, setting: str = "type") -> None:
        """Raises CheckpointError if a model of the pipeline type is missing. setting: what the user chose it by."""
        if lacking := [role for role in pipeline_type.roles(texture) if role not in self.sources]:
            known = [f"{setting} {name}" for name, each in PIPELINE_TYPES.items() if self.has(each, texture)]
            raise CheckpointError(
                f"{setting.capitalize()} {pipeline_type.name} needs {', '.join(lacking)}, which {self.name} lacks. "
                f"It has {', '.join(self.roles)}. Choose {' or '.join([*known, 'the complete checkpoint'])}. "
                f"{' '.join(dict.fromkeys(map(where_to_get, lacking)))}"
            )

    def require_models(self, roles: Iterable[str], purpose: str) -> None:
        """Raises CheckpointError if it lacks one of these models; it says which, and where it is to be had.

        purpose: what they are needed for, as the subject of the sentence.
        """
        if lacking := [role for role in dict.fromkeys(roles) if role not in self.sources]:
            raise CheckpointError(
                f"{purpose} needs {', '.join(lacking)}, which {self.name} lacks. It has {', '.join(self.roles)}. "
                f"{' '.join(dict.fromkeys(map(where_to_get, lacking)))}"
            )

    def nearest_first(self, roles: Iterable[str]) -> list[str]:
        """The roles in their order, those whose files are on this machine before those to be downloaded: what is wrong
        here is then said before anything is downloaded."""
        return sorted(roles, key=lambda role: not self.here(role))

    def here(self, role: str) -> bool:
        """Whether the files of a model are on this machine, as far as can be told without opening them."""
        source = self.sources.get(role)
        return source is not None and source.here()

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
        self._expected: list[str] = []
        self._outlines: dict[tuple[str, torch.dtype | None], nn.Module] = {}

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

    def is_fetched(self, role: str) -> bool:
        """Whether the files of a model are known to be here."""
        return role in self._files

    def fingerprint(self, role: str) -> str:
        """Which network it is (see ModelFiles.fingerprint); fetches its files, loads no weights."""
        self.config(role)
        return self._files[role].fingerprint

    def outline(self, role: str, dtype: torch.dtype | None = None) -> nn.Module:
        """The module on "meta", with the tensors that it will have; no weight is read. dtype as for get."""
        self.config(role)
        if (role, dtype) not in self._outlines:
            self._outlines[role, dtype] = self._files[role].outline(self._build, dtype)
        return self._outlines[role, dtype]

    def get(self, role: str, device: torch.device, dtype: torch.dtype | None = None) -> nn.Module:
        """The module on that device with that torso dtype (None: the checkpoint's), loaded if it is not there yet."""
        self.config(role)
        want = (torch.device(device), dtype)
        if role not in self._loaded or self._loaded[role][1] != want:
            self.release(role)
            self._loaded[role] = (self._files[role].load(self._build, device, dtype), want)
        return self._loaded[role][0]

    def held_bytes(self) -> int:
        """Bytes of the networks that are loaded."""
        tensors = (tensor for model, _ in self._loaded.values() for tensor in (*model.parameters(), *model.buffers()))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def move(self, device: torch.device) -> None:
        """Move what is loaded to another device, with the dtypes it has: no file is read again."""
        for role, (model, (_, dtype)) in self._loaded.items():
            self._loaded[role] = (model.to(device), (torch.device(device), dtype))

    def expect(self, roles: Iterable[str]) -> None:
        """Say which models a run will use, in about their order; `read_ahead` then knows the next one."""
        self._expected = list(roles)

    def read_ahead(self, role: str) -> None:
        """A model is in use: read the weights of the next expected one, if it is not loaded, in a thread."""
        if role in self._expected:
            self._expected.remove(role)
            if self._expected and not self.is_loaded(self._expected[0]) and self._expected[0] in self._files:
                self._files[self._expected[0]].read_ahead()

    def is_loaded(self, role: str) -> bool:
        """Whether the weights of a model are in memory."""
        return role in self._loaded

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
            opened = _of_bundles(label, path, place.bundles, on_download)
        else:
            opened = Checkpoint(place.folder.resolve().name, *from_released(Folder(place.folder, on_download)))
    elif str(name) == COMFY_ORG:
        opened = _of_comfy_org(on_download)
    elif is_repo_id(str(name)):
        try:
            opened = Checkpoint(str(name), *from_released(Repository(str(name), on_download)))
        except CheckpointError as error:
            raise CheckpointError(f"{error}{_misspelt(path)}") from error
    else:
        raise CheckpointError(
            f"{name} is neither a folder, nor a safetensors file, nor a Hugging Face repository (owner/name)."
        )
    return _with_encoder(opened, image_encoder, on_download)


def _misspelt(path: Path) -> str:
    """The end of a message about a repository whose name is nearly that of something here; "" if it is not."""
    near = near_path(path) if path.parent.is_dir() else "."
    return f" As a path, {path} is not there{near}" if near != "." else ""


def open_bundles(
    paths: Sequence[Path], image_encoder: str | Path | None = None, on_download: OnDownload | None = None
) -> Checkpoint:
    """Open ComfyUI bundles that together are a checkpoint; the first gives it its name. Arguments as open_checkpoint.

    Raises:
        CheckpointError: none of them holds a model of ours, or two hold the same one.
    """
    checkpoint = _of_bundles(paths[0].name, paths[0], paths, on_download, chosen=paths[0])
    return _with_encoder(checkpoint, image_encoder, on_download)


def _of_bundles(name: str, path: Path, files, on_download, chosen: Path | None = None) -> Checkpoint:
    """A checkpoint of bundles; an encoder that they lack is one near them, or ComfyUI's, which is not gated."""
    sources, notes = from_bundles(path, files, chosen)
    if IMAGE_ENCODER not in sources:
        near = nearby_encoder(path if is_folder(path) else path.parent)
        sources[IMAGE_ENCODER] = known(near) if near else _comfy_org_file(_COMFY_ENCODER, IMAGE_ENCODER, on_download)
    return Checkpoint(name, RELEASED, sources, tuple(notes))


def _of_comfy_org(on_download: OnDownload | None) -> Checkpoint:
    """The repository that ComfyUI's template downloads; of its flows those that are here, else the exact ones."""
    repository = Repository(COMFY_ORG)
    flows = next((name for name in _COMFY_FLOWS if repository.cached(name)), _COMFY_FLOWS[0])
    files = dict.fromkeys((STRUCTURE_FLOW, SHAPE_FLOW_512, SHAPE_FLOW_1024, TEXTURE_FLOW_1024), flows)
    files |= dict.fromkeys((STRUCTURE_DECODER, SHAPE_DECODER), "vae/trellis_2_shape_vae_bf16.safetensors")
    files |= {TEXTURE_DECODER: "vae/trellis_2_texture_vae_bf16.safetensors", IMAGE_ENCODER: _COMFY_ENCODER}
    sources = {role: _comfy_org_file(name, role, on_download) for role, name in files.items()}
    return Checkpoint(COMFY_ORG, RELEASED, sources, (f"The flows are those of {flows}.",))


def _comfy_org_file(name: str, role: str, on_download: OnDownload | None) -> Source:
    repository = Repository(COMFY_ORG, on_download)

    def get(file=repository.file) -> ModelFiles:
        models = bundled_models(file(name))
        if role not in models:
            raise CheckpointError(
                f"{name} of {COMFY_ORG} has no {role}. Delete it from the cache and download it again."
            )
        return models[role]

    return Source(get, partial(repository.cached, name), partial(get, repository.local))


def _with_encoder(checkpoint: Checkpoint, image_encoder, on_download: OnDownload | None) -> Checkpoint:
    if image_encoder is None:
        return checkpoint
    name = str(image_encoder)
    if present(Path(name)):
        source = Source(partial(encoder_of, name, on_download))
    else:
        source = remote_encoder(name, on_download)
    return replace(checkpoint, sources={**checkpoint.sources, IMAGE_ENCODER: source})
