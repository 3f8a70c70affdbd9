"""What can be asked for: everything that decides a result beside the checkpoint and the pictures or the mesh."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ..backends import Backends
from ..plan import REFINE, TEXTURE, Demand
from ..project import Projection
from ..sampling import check_strength
from ..spec import CHECKPOINTS_OWN, MAX_TOKENS, PipelineType, Samplers
from ..stages import (
    ExportSettings,
    Keep,
    check_finish,
    check_texture_size,
    preflight,
    prepare_texturing,
    refining_roles,
    texturing_roles,
)
from ..weights import Checkpoint


@dataclass(frozen=True, kw_only=True)
class _Sampled:
    """What shape and texture are sampled with. texture: False makes the shape alone."""

    pipeline_type: PipelineType
    seed: int = 42
    texture: bool = True
    max_tokens: int = MAX_TOKENS
    samplers: Samplers = CHECKPOINTS_OWN


@dataclass(frozen=True, kw_only=True)
class ObjectSettings(_Sampled):
    """An object of pictures.

    export: how the raw mesh becomes a file; None: it stays as it is. projection: how the pictures are put onto the
    texture; None: they are not.
    """

    export: ExportSettings | None = None
    projection: Projection | None = None

    @property
    def roles(self) -> tuple[str, ...]:
        """The networks that it needs."""
        return self.pipeline_type.roles(self.texture)

    def check(
        self,
        checkpoint: Checkpoint,
        pictures: bool = False,
        backends: Backends | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """What it can be refused for before anything runs. Arguments and errors as stages.preflight."""
        preflight(
            checkpoint,
            self.pipeline_type,
            self.export,
            texture=self.texture,
            max_tokens=self.max_tokens,
            pictures=pictures,
            backends=backends,
            device=device,
        )

    def demand(self, views: int) -> Demand:
        """For the memory plan. views: pictures of the one object."""
        return Demand(
            self.pipeline_type,
            texture=self.texture,
            max_tokens=self.max_tokens,
            views=views,
            process=self.export is not None,
            texture_size=self.export.baked_size(self.texture) if self.export else 0,
        )


@dataclass(frozen=True, kw_only=True)
class RefineSettings(_Sampled):
    """An object of a rough mesh and pictures. strength: how far the shape may leave the mesh's, 0-1; keep: what may
    not."""

    export: ExportSettings = field(default_factory=ExportSettings)
    strength: float = 0.6
    keep: Keep = field(default_factory=Keep)

    def __post_init__(self) -> None:
        check_strength(self.strength)

    @property
    def roles(self) -> tuple[str, ...]:
        """The networks that it needs."""
        return refining_roles(self.pipeline_type, self.texture)

    def check(
        self,
        checkpoint: Checkpoint,
        pictures: bool = False,
        backends: Backends | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """As ObjectSettings.check."""
        check_finish(self.export, self.texture, pictures, backends, device)
        checkpoint.require_models(self.roles, "Refining a mesh")

    def demand(self, views: int) -> Demand:
        """As ObjectSettings.demand."""
        return Demand(
            self.pipeline_type,
            texture=self.texture,
            max_tokens=self.max_tokens,
            views=views,
            texture_size=self.export.baked_size(self.texture),
            source=REFINE,
        )


@dataclass(frozen=True, kw_only=True)
class TextureSettings:
    """New textures of a scene. Fields as the arguments of stages.texture_scene; projection as ObjectSettings.

    samplers: only the texture's has an effect.
    """

    pipeline_type: PipelineType
    seed: int = 42
    texture_size: int = 2048
    uvs: str = "keep"
    strength: float = 1.0
    keep: Keep = field(default_factory=Keep)
    samplers: Samplers = CHECKPOINTS_OWN
    projection: Projection | None = None

    def __post_init__(self) -> None:
        check_texture_size(self.texture_size)
        check_strength(self.strength)

    @property
    def roles(self) -> tuple[str, ...]:
        """The networks that it needs."""
        return texturing_roles(self.pipeline_type, self.strength < 1 or bool(self.keep))

    def check(
        self,
        checkpoint: Checkpoint,
        pictures: bool = False,
        backends: Backends | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """As ObjectSettings.check."""
        check_finish(None, pictures=pictures)
        checkpoint.require_models(self.roles, "Texturing a mesh")
        if backends is not None:
            prepare_texturing(backends, device, self.uvs != "keep")

    def demand(self, views: int) -> Demand:
        """As ObjectSettings.demand."""
        return Demand(self.pipeline_type, views=views, process=False, texture_size=self.texture_size, source=TEXTURE)
