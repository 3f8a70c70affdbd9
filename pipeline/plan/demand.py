"""What a run is to make, as far as its memory depends on it."""

from __future__ import annotations

from dataclasses import dataclass

from ..spec import IMAGE_ENCODER, MAX_TOKENS, SHAPE_DECODER, SHAPE_ENCODER, TEXTURE_DECODER, PipelineType

# What a run starts from and makes: pictures to an object, a mesh to a finer one, a mesh to its textures, a saved state
# to a file.
GENERATE, REFINE, TEXTURE, STATE = "generate", "refine", "texture", "state"


@dataclass(frozen=True)
class Demand:
    """What a run is to make.

    source: GENERATE, REFINE, TEXTURE or STATE. views: pictures of the one object. process: whether a raw mesh is
    processed; texture_size: pixels a side, 0 where nothing is baked. tokens, voxels, raw_faces: latent voxels of the
    finest pass, fine voxels and faces of the raw mesh, where they are known.
    """

    pipeline_type: PipelineType
    texture: bool = True
    max_tokens: int = MAX_TOKENS
    views: int = 1
    process: bool = True
    texture_size: int = 2048
    tokens: int | None = None
    voxels: int | None = None
    raw_faces: int | None = None
    source: str = GENERATE

    @property
    def roles(self) -> tuple[str, ...]:
        """The networks that it runs."""
        kind = self.pipeline_type
        if self.source == GENERATE:
            return kind.roles(self.texture)
        if self.source == STATE:
            return ()
        shape = (kind.shape[-1].model, SHAPE_DECODER) if self.source == REFINE else ()
        return (IMAGE_ENCODER, SHAPE_ENCODER, *shape, *((kind.texture.model, TEXTURE_DECODER) if self.texture else ()))

    @property
    def image_scales(self) -> tuple[int, ...]:
        """The scales at which pictures are encoded."""
        kind = self.pipeline_type
        return (kind.texture.image_scale,) if self.source == TEXTURE else kind.image_scales(self.texture)
